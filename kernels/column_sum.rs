//! Sum over the rows of a tall matrix, added to an f32 vector: the gradient of a bias, of a norm's gain or of a table of
//! positions (a matrix of `[clips, tokens * width]`).
//!
//! Bytes: the matrix once, in 16-byte accesses, eight of them in flight per unit; memory bound. Two launches in a
//! fixed order, so the result repeats to the bit: units sum chunks of rows side by side, then the chunks' sums are folded
//! into the destination. The partial sums are a few MB at most (one f32 vector for each unit of a single wave).

use crate::walk::{Grain, Walk, planes_of_32, vector_width};
use crate::{FloatKind, Handle, launch::UNITS, with_float};
use cubecl::prelude::*;

const GRAIN: Grain = Grain { unroll: 8, cubes_per_sm: 4 };

/// Partial sums that a unit folds at a time, and the most units that share a column.
const FOLD_UNROLL: u32 = 8;
const MAX_SLICES: u32 = 32;

#[cube(launch_unchecked)]
pub(crate) fn partial_sums<F: Float, N: Size>(
    src: &Array<Vector<F, N>>,
    partials: &mut Array<Vector<f32, N>>,
    rows: u32,
    vectors: u32,
    rows_per_chunk: u32,
    #[comptime] unroll: u32,
) {
    let column = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    if column < vectors {
        let last = min((CUBE_POS_Y + 1) * rows_per_chunk, rows);
        let mut row = CUBE_POS_Y * rows_per_chunk + UNIT_POS_Y;
        let mut sum = Vector::<f32, N>::new(0.0);
        while row < last {
            let mut values = Array::<Vector<F, N>>::new(unroll as usize);
            #[unroll]
            for i in 0..unroll {
                let at = min(row + i * CUBE_DIM_Y, last - 1) * vectors + column;
                values[i as usize] = src[at as usize];
            }
            #[unroll]
            for i in 0..unroll {
                if row + i * CUBE_DIM_Y < last {
                    sum += Vector::cast_from(values[i as usize]);
                }
            }
            row += unroll * CUBE_DIM_Y;
        }
        partials[((CUBE_POS_Y * CUBE_DIM_Y + UNIT_POS_Y) * vectors + column) as usize] = sum;
    }
}

/// Adds the column sums of `partials`, `[count, columns * destinations]`, to one to three destinations of `[columns]`.
/// `slices` units share a column and meet in shared memory; one slice needs no barrier.
#[cube(launch_unchecked)]
pub(crate) fn fold_kernel(
    partials: &Array<f32>,
    first: &mut Array<f32>,
    second: &mut ComptimeOption<Array<f32>>,
    third: &mut ComptimeOption<Array<f32>>,
    count: u32,
    columns: u32,
    total: u32,
    #[comptime] slices: u32,
) {
    let across = comptime!(UNITS / slices);
    let column = CUBE_POS_X * across + UNIT_POS % across;
    let slice = UNIT_POS / across;
    let mut sum = f32::new(0.0);
    if column < total {
        let mut row = slice;
        while row < count {
            // Independent loads, then additions in order.
            let mut values = Array::<f32>::new(FOLD_UNROLL as usize);
            #[unroll]
            for i in 0..FOLD_UNROLL {
                values[i as usize] = partials[(min(row + i * slices, count - 1) * total + column) as usize];
            }
            #[unroll]
            for i in 0..FOLD_UNROLL {
                if row + i * slices < count {
                    sum += values[i as usize];
                }
            }
            row += FOLD_UNROLL * slices;
        }
    }
    if comptime!(slices > 1) {
        let mut scratch = SharedMemory::<f32>::new(UNITS as usize);
        scratch[UNIT_POS as usize] = sum;
        sync_cube();
        if slice == 0 {
            #[unroll]
            for other in 1..slices {
                sum += scratch[(other * across + UNIT_POS) as usize];
            }
        }
    }
    if slice == 0 && column < total {
        if column < columns {
            first[column as usize] += sum;
        } else {
            let column = column - columns;
            if column < columns {
                #[comptime]
                match second {
                    ComptimeOption::Some(second) => second[column as usize] += sum,
                    ComptimeOption::None => {}
                }
            } else {
                #[comptime]
                match third {
                    ComptimeOption::Some(third) => third[(column - columns) as usize] += sum,
                    ComptimeOption::None => {}
                }
            }
        }
    }
}

/// Adds the column sums of `partials`, `[count, 1 to 3, columns]`, to as many `destinations` of `[columns]`, in order.
pub(crate) fn fold<R: Runtime>(
    client: &ComputeClient<R>,
    partials: &Handle,
    count: usize,
    columns: usize,
    destinations: [Option<&Handle>; 3],
) {
    let [Some(first), second, third] = destinations else { return };
    let total = columns * destinations.iter().flatten().count();
    // Where barriers are cheap, as many units as have something to load.
    let wanted = (count as u32).div_ceil(FOLD_UNROLL).next_power_of_two().min(MAX_SLICES);
    let slices = if planes_of_32(client) { wanted } else { 1 };
    let array = |handle: &Handle| {
        // SAFETY: the callers' contract; the kernel checks each column against `columns`.
        unsafe { ArrayArg::from_raw_parts(handle.clone(), columns) }
    };
    // SAFETY: rows and columns are those of the buffers, and the kernel checks its positions against them.
    unsafe {
        fold_kernel::launch_unchecked::<R>(
            client,
            CubeCount::Static((total as u32).div_ceil(UNITS / slices), 1, 1),
            CubeDim::new_1d(UNITS),
            ArrayArg::from_raw_parts(partials.clone(), count * total),
            array(first),
            second.map(array).into(),
            third.map(array).into(),
            count as u32,
            columns as u32,
            total as u32,
            slices,
        )
    };
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
    let width = vector_width(client, kind, columns);
    let walk = Walk::new(client, rows, columns / width, GRAIN);
    let partials = client.empty(walk.partial_rows() * columns * 4);
    with_float!(kind, F => unsafe {
        // SAFETY: rows and columns are those of the buffers, and the kernel checks its positions against them.
        partial_sums::launch_unchecked::<F, R>(
            client,
            walk.count(),
            walk.dim(),
            width,
            ArrayArg::from_raw_parts(src, rows * columns),
            ArrayArg::from_raw_parts(partials.clone(), walk.partial_rows() * columns),
            rows as u32,
            walk.vectors as u32,
            walk.rows_per_chunk,
            GRAIN.unroll,
        )
    });
    fold(client, &partials, walk.partial_rows(), columns, [Some(&dst), None, None]);
}

/// The same in f64, added to `dst`.
pub fn reference(src: &[f32], columns: usize, dst: &mut [f64]) {
    for row in src.chunks(columns) {
        for (sum, value) in dst.iter_mut().zip(row) {
            *sum += f64::from(*value);
        }
    }
}
