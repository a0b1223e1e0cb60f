//! Sum over the rows of a tall matrix, added to an f32 vector: the gradient of a bias or of a norm's gain.
//!
//! Bytes: the matrix once; memory bound. Two launches in a fixed order, so the result repeats to the bit: chunks of rows
//! are summed side by side, then the chunks' sums are folded into the destination.

use crate::{FloatKind, Handle, launch::UNITS, with_float};
use cubecl::prelude::*;

/// Rows one unit sums in the first pass, unless that would make more chunks than [`MAX_CHUNKS`].
const ROWS_PER_CHUNK: usize = 256;
const MAX_CHUNKS: usize = 1024;

#[cube(launch_unchecked)]
fn chunk_sums<F: Float>(src: &Array<F>, partials: &mut Array<f32>, rows: u32, columns: u32, rows_per_chunk: u32) {
    let column = CUBE_POS_X * UNITS + UNIT_POS;
    if column < columns {
        let first = CUBE_POS_Y * rows_per_chunk;
        let last = min(first + rows_per_chunk, rows);
        let mut sum = f32::new(0.0);
        for row in first..last {
            sum += f32::cast_from(src[(row * columns + column) as usize]);
        }
        partials[(CUBE_POS_Y * columns + column) as usize] = sum;
    }
}

#[cube(launch_unchecked)]
fn fold_chunks(partials: &Array<f32>, dst: &mut Array<f32>, chunks: u32, columns: u32) {
    let column = CUBE_POS_X * UNITS + UNIT_POS;
    if column < columns {
        let mut sum = f32::new(0.0);
        for chunk in 0..chunks {
            sum += partials[(chunk * columns + column) as usize];
        }
        dst[column as usize] += sum;
    }
}

/// `dst[column] += sum over rows of src[row, column]`, in f32.
///
/// # Shapes
/// - `src`: `[rows, columns]`, contiguous, of `kind`, fewer than 2^32 elements
/// - `dst`: `[columns]`, f32
pub fn column_sum<R: Runtime>(
    client: &ComputeClient<R>,
    src: Handle,
    kind: FloatKind,
    rows: usize,
    columns: usize,
    dst: Handle,
) {
    let rows_per_chunk = ROWS_PER_CHUNK.max(rows.div_ceil(MAX_CHUNKS));
    let chunks = rows.div_ceil(rows_per_chunk).max(1);
    let partials = client.empty(chunks * columns * 4);
    let cubes = (columns as u32).div_ceil(UNITS);
    with_float!(kind, F => unsafe {
        // SAFETY: rows and columns are those of the buffers, and both kernels check their positions against them.
        chunk_sums::launch_unchecked::<F, R>(
            client,
            CubeCount::Static(cubes, chunks as u32, 1),
            CubeDim::new_1d(UNITS),
            ArrayArg::from_raw_parts(src, rows * columns),
            ArrayArg::from_raw_parts(partials.clone(), chunks * columns),
            rows as u32,
            columns as u32,
            rows_per_chunk as u32,
        );
        fold_chunks::launch_unchecked::<R>(
            client,
            CubeCount::Static(cubes, 1, 1),
            CubeDim::new_1d(UNITS),
            ArrayArg::from_raw_parts(partials, chunks * columns),
            ArrayArg::from_raw_parts(dst, columns),
            chunks as u32,
            columns as u32,
        );
    });
}

/// The same in f64, added to `dst`.
pub fn reference(src: &[f32], columns: usize, dst: &mut [f64]) {
    for row in src.chunks(columns) {
        for (sum, value) in dst.iter_mut().zip(row) {
            *sum += f64::from(*value);
        }
    }
}
