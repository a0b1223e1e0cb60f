//! The gradient of the products of one chunk, and the chunk's share of the temperature's.

use super::{Chunk, Statistics, cube_grid};
use crate::{
    FloatKind, Handle, KernelError,
    launch::{UNITS, grid},
    reduce::{Split, cube_sum, lane_sum},
    with_float,
};
use cubecl::prelude::*;

/// Rows a unit handles, all loaded before the first is stored.
const ROWS_PER_UNIT: u32 = 4;

/// A unit has one vector of columns in `ROWS_PER_UNIT` rows.
#[cube(launch_unchecked)]
fn cubes_kernel<O: Float, N: Size>(
    products: &mut Array<Vector<f32, N>>,
    logit_scale: &Array<f32>,
    row_lse: &Array<f32>,
    column_lse: &Array<Vector<f32, N>>,
    partials: &mut Array<f32>,
    out: &mut Array<Vector<O, N>>,
    first_row: u32,
    rows: u32,
    row_vectors: u32,
    half_mean: f32,
    #[comptime] lanes: u32,
    #[comptime] in_place: bool,
    #[comptime] with_scale: bool,
) {
    let scale = logit_scale[0usize].exp();
    let unit = CUBE_POS as u32 * UNITS + UNIT_POS;
    let column = unit % row_vectors;
    let row0 = unit / row_vectors * ROWS_PER_UNIT;
    let mut share = Vector::<f32, N>::new(0.0);
    if row0 < rows {
        let mut logits = Array::<Vector<f32, N>>::new(ROWS_PER_UNIT as usize);
        #[unroll]
        for k in 0..ROWS_PER_UNIT {
            let row = min(row0 + k, rows - 1);
            logits[k as usize] = products[(row * row_vectors + column) as usize] * Vector::new(scale);
        }
        let over_columns = column_lse[column as usize];
        #[unroll]
        for k in 0..ROWS_PER_UNIT {
            let row = row0 + k;
            if row < rows {
                let logit = logits[k as usize];
                let diagonal = first_row + row;
                let mut target = Vector::<f32, N>::new(0.0);
                #[unroll]
                for lane in 0..lanes {
                    target[lane as usize] = select(column * lanes + lane == diagonal, f32::new(2.0), f32::new(0.0));
                }
                let over_rows = Vector::<f32, N>::new(row_lse[diagonal as usize]);
                let probabilities = (logit - over_rows).exp() + (logit - over_columns).exp();
                let d = (probabilities - target) * Vector::new(half_mean);
                share += d * logit;
                let d = d * Vector::new(scale);
                let at = (row * row_vectors + column) as usize;
                if comptime!(in_place) {
                    products[at] = d;
                } else {
                    out[at] = Vector::cast_from(d);
                }
            }
        }
    }
    if comptime!(with_scale) {
        let mut scratch = SharedMemory::<f32>::new(UNITS as usize);
        let total = cube_sum(lane_sum::<N>(share), &mut scratch);
        if UNIT_POS == 0 {
            partials[CUBE_POS] = total;
        }
    }
}

/// A unit has one row.
#[cube(launch_unchecked)]
fn units_kernel<O: Float>(
    products: &mut Array<f32>,
    logit_scale: &Array<f32>,
    row_lse: &Array<f32>,
    column_lse: &Array<f32>,
    partials: &mut Array<f32>,
    out: &mut Array<O>,
    first_row: u32,
    rows: u32,
    n: u32,
    half_mean: f32,
    #[comptime] in_place: bool,
    #[comptime] with_scale: bool,
) {
    let row = ABSOLUTE_POS as u32;
    if row < rows {
        let scale = logit_scale[0usize].exp();
        let diagonal = first_row + row;
        let over_row = row_lse[diagonal as usize];
        let mut share = f32::new(0.0);
        for column in 0..n {
            let at = (row * n + column) as usize;
            let logit = products[at] * scale;
            let target = select(column == diagonal, f32::new(2.0), f32::new(0.0));
            let probabilities = (logit - over_row).exp() + (logit - column_lse[column as usize]).exp();
            let d = (probabilities - target) * half_mean;
            share += d * logit;
            if comptime!(in_place) {
                products[at] = d * scale;
            } else {
                out[at] = O::cast_from(d * scale);
            }
        }
        if comptime!(with_scale) {
            partials[row as usize] = share;
        }
    }
}

#[cube(launch_unchecked)]
fn fold_kernel(partials: &Array<f32>, total: &mut Array<f32>, count: u32) {
    let mut scratch = SharedMemory::<f32>::new(UNITS as usize);
    let mut sum = f32::new(0.0);
    let mut i = UNIT_POS;
    while i < count {
        sum += partials[i as usize];
        i += UNITS;
    }
    let sum = cube_sum(sum, &mut scratch);
    if UNIT_POS == 0 {
        total[0usize] += sum;
    }
}

/// Where the gradient of a chunk goes.
#[derive(Debug, Clone, Copy)]
pub enum Gradient<'a> {
    /// Over the products, f32.
    InPlace,
    /// `[chunk.rows, n]` of another type; the products stay.
    Into(&'a Handle, FloatKind),
}

/// `d loss / d products` of one chunk, after [`super::finish`]; with `d_logit_scale` (`[1]`, f32) also adds the chunk's
/// share of `d loss / d logit_scale` to it, in a second launch.
///
/// # Shapes
/// - `products`: `[chunk.rows, n]`, f32, as given to [`super::statistics`]
/// - `logit_scale`: `[1]`, f32
///
/// # Errors
/// [`KernelError::Shape`] when the chunk does not lie within `0..n` or holds 2^32 products or more.
pub fn gradient<R: Runtime>(
    client: &ComputeClient<R>,
    split: Split,
    chunk: Chunk,
    products: &Handle,
    logit_scale: &Handle,
    statistics: &Statistics,
    gradient: Gradient,
    d_logit_scale: Option<&Handle>,
) -> Result<(), KernelError> {
    chunk.check("contrastive::gradient")?;
    let Chunk { first_row, rows, n } = chunk;
    let lanes = chunk.lanes(split);
    let with_scale = d_logit_scale.is_some();
    let count = match split {
        Split::Cube => (n / lanes * rows.div_ceil(ROWS_PER_UNIT as usize)).div_ceil(UNITS as usize),
        Split::Unit => rows,
    };
    let partials = client.empty(4 * if with_scale { count } else { 1 });
    // Neither the partial sums nor the output are touched when they are not wanted.
    let (out, kind, in_place) = match gradient {
        Gradient::InPlace => (client.empty(16), FloatKind::F32, true),
        Gradient::Into(handle, kind) => (handle.clone(), kind, false),
    };
    let half_mean = 0.5 / n as f32;
    // SAFETY: the arrays have these lengths, and the kernels check row and column against them.
    unsafe {
        let array = |handle: &Handle, len: usize| ArrayArg::from_raw_parts(handle.clone(), len);
        with_float!(kind, O => match split {
            Split::Cube => cubes_kernel::launch_unchecked::<O, R>(
                client,
                cube_grid(count),
                CubeDim::new_1d(UNITS),
                lanes,
                array(products, rows * n),
                array(logit_scale, 1),
                array(&statistics.row_lse, n),
                array(&statistics.column_lse, n),
                array(&partials, count),
                array(&out, rows * n),
                first_row as u32,
                rows as u32,
                (n / lanes) as u32,
                half_mean,
                lanes as u32,
                in_place,
                with_scale,
            ),
            Split::Unit => {
                let (cubes, dim) = grid(rows);
                units_kernel::launch_unchecked::<O, R>(
                    client,
                    cubes,
                    dim,
                    array(products, rows * n),
                    array(logit_scale, 1),
                    array(&statistics.row_lse, n),
                    array(&statistics.column_lse, n),
                    array(&partials, count),
                    array(&out, rows * n),
                    first_row as u32,
                    rows as u32,
                    n as u32,
                    half_mean,
                    in_place,
                    with_scale,
                )
            }
        });
        if let Some(total) = d_logit_scale {
            fold_kernel::launch_unchecked::<R>(
                client,
                CubeCount::Static(1, 1, 1),
                CubeDim::new_1d(UNITS),
                array(&partials, count),
                array(total, 1),
                count as u32,
            );
        }
    }
    Ok(())
}
