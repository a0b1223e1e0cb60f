//! Row and column statistics of one chunk, in one launch.

use super::{Chunk, LOWEST, Statistics, cube_grid};
use crate::{
    Handle, KernelError,
    launch::{UNITS, grid},
    reduce::{Split, cube_max, cube_sum, lane_max, lane_sum},
};
use cubecl::prelude::*;

/// Vectors side by side and rows at once in a cube that reduces columns: 256 bytes of 16 rows, or 64 where `n` does not
/// divide into vectors.
const COLUMN_UNITS: u32 = 16;
const ROW_GROUPS: u32 = UNITS / COLUMN_UNITS;
/// Values a unit loads before it uses the first.
const IN_FLIGHT: u32 = 4;

/// Merges `IN_FLIGHT` vectors into a running maximum and sum, lane by lane, with one rescaling.
#[cube]
fn merge<N: Size>(
    largest: Vector<f32, N>,
    sum: Vector<f32, N>,
    next: &Array<Vector<f32, N>>,
) -> (Vector<f32, N>, Vector<f32, N>) {
    let mut top = largest;
    #[unroll]
    for k in 0..IN_FLIGHT as usize {
        top = max(top, next[k]);
    }
    let mut total = sum * (largest - top).exp();
    #[unroll]
    for k in 0..IN_FLIGHT as usize {
        total += (next[k] - top).exp();
    }
    (top, total)
}

/// Cubes `0..column_cubes` reduce columns, the others one row each.
#[cube(launch_unchecked)]
fn cubes_kernel<N: Size>(
    products: &Array<Vector<f32, N>>,
    logit_scale: &Array<f32>,
    row_lse: &mut Array<f32>,
    column_max: &mut Array<Vector<f32, N>>,
    column_sum: &mut Array<Vector<f32, N>>,
    own: &mut Array<f32>,
    row_hit: &mut Array<f32>,
    first_row: u32,
    rows: u32,
    row_vectors: u32,
    column_cubes: u32,
    #[comptime] lanes: u32,
) {
    let scale = Vector::<f32, N>::new(logit_scale[0usize].exp());
    let mut largest = Vector::<f32, N>::new(LOWEST);
    let mut sum = Vector::<f32, N>::new(0.0);
    let mut next = Array::<Vector<f32, N>>::new(IN_FLIGHT as usize);
    let cube = CUBE_POS as u32;
    if cube < column_cubes {
        let mut tops = SharedMemory::<Vector<f32, N>>::new(UNITS as usize);
        let mut sums = SharedMemory::<Vector<f32, N>>::new(UNITS as usize);
        let column = cube * COLUMN_UNITS + UNIT_POS % COLUMN_UNITS;
        if column < row_vectors {
            let mut row = UNIT_POS / COLUMN_UNITS;
            while row < rows {
                #[unroll]
                for k in 0..IN_FLIGHT {
                    let at = row + comptime!(k * ROW_GROUPS);
                    let logit = products[(min(at, rows - 1) * row_vectors + column) as usize] * scale;
                    next[k as usize] = select(at < rows, logit, Vector::new(LOWEST));
                }
                let (top, total) = merge::<N>(largest, sum, &next);
                largest = top;
                sum = total;
                row += comptime!(IN_FLIGHT * ROW_GROUPS);
            }
        }
        tops[UNIT_POS as usize] = largest;
        sums[UNIT_POS as usize] = sum;
        sync_cube();
        if UNIT_POS < COLUMN_UNITS && column < row_vectors {
            let at = column as usize;
            if first_row > 0 {
                largest = column_max[at];
                sum = column_sum[at];
            } else {
                largest = Vector::new(LOWEST);
                sum = Vector::new(0.0);
            }
            for group in 0..ROW_GROUPS {
                let other = tops[(group * COLUMN_UNITS + UNIT_POS) as usize];
                let top = max(largest, other);
                sum = sum * (largest - top).exp()
                    + sums[(group * COLUMN_UNITS + UNIT_POS) as usize] * (other - top).exp();
                largest = top;
            }
            column_max[at] = largest;
            column_sum[at] = sum;
        }
    } else {
        let row = cube - column_cubes;
        if row < rows {
            let mut scratch = SharedMemory::<f32>::new(UNITS as usize);
            let start = row * row_vectors;
            let mut column = UNIT_POS;
            while column < row_vectors {
                #[unroll]
                for k in 0..IN_FLIGHT {
                    let at = column + comptime!(k * UNITS);
                    let logit = products[(start + min(at, row_vectors - 1)) as usize] * scale;
                    next[k as usize] = select(at < row_vectors, logit, Vector::new(LOWEST));
                }
                let (top, total) = merge::<N>(largest, sum, &next);
                largest = top;
                sum = total;
                column += comptime!(IN_FLIGHT * UNITS);
            }
            let top = cube_max(lane_max::<N>(largest), &mut scratch);
            let total = cube_sum(lane_sum::<N>(sum * (largest - Vector::new(top)).exp()), &mut scratch);
            let diagonal = first_row + row;
            if UNIT_POS == 0 {
                let own_logits = products[(start + diagonal / lanes) as usize] * scale;
                let mut own_logit = own_logits[0usize];
                #[unroll]
                for lane in 1..lanes {
                    own_logit = select(diagonal % lanes == lane, own_logits[lane as usize], own_logit);
                }
                let at = diagonal as usize;
                row_lse[at] = top + total.ln();
                own[at] = own_logit;
                row_hit[at] = select(own_logit >= top, f32::new(1.0), f32::new(0.0));
            }
        }
    }
}

/// Units `0..rows` have a row each, the next `n` a column each.
#[cube(launch_unchecked)]
fn units_kernel(
    products: &Array<f32>,
    logit_scale: &Array<f32>,
    row_lse: &mut Array<f32>,
    column_max: &mut Array<f32>,
    column_sum: &mut Array<f32>,
    own: &mut Array<f32>,
    row_hit: &mut Array<f32>,
    first_row: u32,
    rows: u32,
    n: u32,
) {
    let unit = ABSOLUTE_POS as u32;
    if unit < rows + n {
        let is_row = unit < rows;
        let column = unit - select(is_row, unit, rows);
        let start = select(is_row, unit * n, column);
        let step = select(is_row, 1u32.runtime(), n);
        let count = select(is_row, n, rows);
        let scale = logit_scale[0usize].exp();
        let mut largest = f32::new(LOWEST);
        let mut sum = f32::new(0.0);
        if !is_row && first_row > 0 {
            largest = column_max[column as usize];
            sum = column_sum[column as usize];
        }
        for k in 0..count {
            let logit = products[(start + k * step) as usize] * scale;
            let top = max(largest, logit);
            sum = sum * (largest - top).exp() + (logit - top).exp();
            largest = top;
        }
        if is_row {
            let diagonal = first_row + unit;
            let own_logit = products[(start + diagonal) as usize] * scale;
            let at = diagonal as usize;
            row_lse[at] = largest + sum.ln();
            own[at] = own_logit;
            row_hit[at] = select(own_logit >= largest, f32::new(1.0), f32::new(0.0));
        } else {
            column_max[column as usize] = largest;
            column_sum[column as usize] = sum;
        }
    }
}

/// Statistics of one chunk: those of its rows, whole, and its share of the columns'. One launch.
///
/// The chunk with `first_row == 0` starts the columns' running statistics; call it first, each chunk once.
///
/// # Shapes
/// - `products`: `[chunk.rows, n]`, f32, `V T^T` without the scale
/// - `logit_scale`: `[1]`, f32, the natural logarithm of the scale
/// - `out`: see [`Statistics`]; `column_lse` is not touched
///
/// # Errors
/// [`KernelError::Shape`] when the chunk does not lie within `0..n` or holds 2^32 products or more.
pub fn statistics<R: Runtime>(
    client: &ComputeClient<R>,
    split: Split,
    chunk: Chunk,
    products: &Handle,
    logit_scale: &Handle,
    out: &Statistics,
) -> Result<(), KernelError> {
    chunk.check("contrastive::statistics")?;
    let Chunk { first_row, rows, n } = chunk;
    let per_column = |handle: &Handle| {
        // SAFETY: `[n]` by contract; the kernels index below `n`.
        unsafe { ArrayArg::from_raw_parts(handle.clone(), n) }
    };
    let lanes = chunk.lanes(split);
    // SAFETY: the arrays have these lengths, and both kernels check row and column against them.
    unsafe {
        let products = ArrayArg::from_raw_parts(products.clone(), rows * n);
        let scale = ArrayArg::from_raw_parts(logit_scale.clone(), 1);
        match split {
            Split::Cube => {
                let column_cubes = (n / lanes).div_ceil(COLUMN_UNITS as usize);
                cubes_kernel::launch_unchecked::<R>(
                    client,
                    cube_grid(column_cubes + rows),
                    CubeDim::new_1d(UNITS),
                    lanes,
                    products,
                    scale,
                    per_column(&out.row_lse),
                    per_column(&out.column_max),
                    per_column(&out.column_sum),
                    per_column(&out.own),
                    per_column(&out.row_hit),
                    first_row as u32,
                    rows as u32,
                    (n / lanes) as u32,
                    column_cubes as u32,
                    lanes as u32,
                );
            }
            Split::Unit => {
                let (count, dim) = grid(rows + n);
                units_kernel::launch_unchecked::<R>(
                    client,
                    count,
                    dim,
                    products,
                    scale,
                    per_column(&out.row_lse),
                    per_column(&out.column_max),
                    per_column(&out.column_sum),
                    per_column(&out.own),
                    per_column(&out.row_hit),
                    first_row as u32,
                    rows as u32,
                    n as u32,
                );
            }
        }
    }
    Ok(())
}
