//! How a kernel walks a tall matrix column by column: each unit owns one vector of columns and goes down the rows.
//!
//! What belongs to a column (a bias, a running sum) then stays in registers, and neighbouring units read neighbouring
//! bytes. A cube is `across` vectors by `down` rows; a chunk of rows goes to each cube of the grid's second dimension.

use crate::{FloatKind, launch::UNITS};
use cubecl::features::Plane;
use cubecl::prelude::*;

/// Multiprocessors assumed where the runtime does not tell.
const UNKNOWN_SMS: u32 = 32;

/// Rows of a cube at most; bounds the partial sums of narrow matrices.
const MAX_DOWN: u32 = 16;

pub(crate) fn multiprocessors<R: Runtime>(client: &ComputeClient<R>) -> usize {
    client.properties().hardware.num_streaming_multiprocessors.unwrap_or(UNKNOWN_SMS) as usize
}

/// Whether planes of exactly 32 units can reduce values. Software adapters report no plane operations; barriers and
/// shared memory are expensive there too, so kernels take this as the sign to avoid all three.
pub(crate) fn planes_of_32<R: Runtime>(client: &ComputeClient<R>) -> bool {
    let hardware = &client.properties().hardware;
    client.features().plane.contains(Plane::Ops) && hardware.plane_size_min == 32 && hardware.plane_size_max == 32
}

/// Elements per access: the most the device loads at once that divides `columns`.
pub(crate) fn vector_width<R: Runtime>(client: &ComputeClient<R>, kind: FloatKind, columns: usize) -> usize {
    client.io_optimized_vector_sizes(kind.size()).find(|n| columns.is_multiple_of(*n)).unwrap_or(1)
}

/// How finely a walk is cut up, chosen by measurement (H200, 200,960 rows, bf16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grain {
    /// Rows that a unit has in flight at a time.
    pub unroll: u32,
    /// Cubes per multiprocessor. Few for kernels with column sums, which write a partial sum for each: all of them then
    /// run at a time, and none is left for the end.
    pub cubes_per_sm: usize,
}

/// A matrix of `rows` by `vectors` shared out over cubes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Walk {
    pub rows: usize,
    /// Vectors per row.
    pub vectors: usize,
    across: u32,
    down: u32,
    chunks: u32,
    pub rows_per_chunk: u32,
}

impl Walk {
    pub fn new<R: Runtime>(client: &ComputeClient<R>, rows: usize, vectors: usize, grain: Grain) -> Self {
        Self::shared_over(multiprocessors(client) * grain.cubes_per_sm, rows, vectors, grain.unroll)
    }

    fn shared_over(cubes: usize, rows: usize, vectors: usize, unroll: u32) -> Self {
        let across = across(vectors);
        let down = (UNITS / across).clamp(1, MAX_DOWN);
        let blocks = vectors.div_ceil(across as usize).max(1);
        let step = (unroll * down) as usize;
        let rows_per_chunk = rows.div_ceil(cubes.div_ceil(blocks)).next_multiple_of(step).max(step);
        let chunks = rows.div_ceil(rows_per_chunk).max(1);
        Self { rows, vectors, across, down, chunks: chunks as u32, rows_per_chunk: rows_per_chunk as u32 }
    }

    pub fn count(&self) -> CubeCount {
        CubeCount::Static((self.vectors as u32).div_ceil(self.across), self.chunks, 1)
    }

    pub fn dim(&self) -> CubeDim {
        CubeDim::new_2d(self.across, self.down)
    }

    /// Rows of partial sums when every unit writes its own: row `CUBE_POS_Y * CUBE_DIM_Y + UNIT_POS_Y`.
    pub fn partial_rows(&self) -> usize {
        (self.chunks * self.down) as usize
    }
}

/// Units across a cube: all vectors, else the divisor of their number that fills planes best, else a full cube whose
/// last block is ragged.
fn across(vectors: usize) -> u32 {
    if vectors <= UNITS as usize {
        return vectors.max(1) as u32;
    }
    let divisor = (32..=UNITS as usize).filter(|n| vectors.is_multiple_of(*n)).max_by_key(|n| (n % 32 == 0, *n));
    divisor.unwrap_or(UNITS as usize) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_covers_every_row_and_vector_within_the_limits_of_a_grid() {
        for (rows, vectors) in [(1, 1), (77, 3), (785, 96), (200_960, 288), (200_960, 384), (256, 75_360), (9, 257)] {
            for unroll in [1, 2, 4] {
                let walk = Walk::shared_over(528, rows, vectors, unroll);
                assert!(walk.across * walk.down <= UNITS, "{walk:?}");
                assert!(walk.chunks as usize * walk.rows_per_chunk as usize >= rows, "{walk:?}");
                assert!((walk.chunks as usize - 1) * (walk.rows_per_chunk as usize) < rows, "{walk:?}");
                assert!(walk.chunks <= 65_535, "{walk:?}");
            }
        }
        let across = [96, 288, 384, 257, 320].map(across);
        assert_eq!(across, [96, 96, 192, 256, 160]);
    }
}
