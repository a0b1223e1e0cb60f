//! Kernels of the backward pass.
//!
//! With planes: one kernel reads each row once, and keeps the column sums of the rows its planes walk in registers.
//! Without, or for rows too wide for that: column sums in a pass of their own, then the rows.

use super::PLANES;
use super::forward::{inside, lane_sum, standardise};
use crate::launch::UNITS;
use cubecl::prelude::*;

/// The gradient that reaches a row's input: `rstd (g - mean(g) - n mean(g n))`.
#[cube]
fn input_gradient<N: Size>(
    g: Vector<f32, N>,
    n: Vector<f32, N>,
    mean_g: f32,
    mean_gn: f32,
    rstd: f32,
) -> Vector<f32, N> {
    (g - Vector::new(mean_g) - n * Vector::new(mean_gn)) * Vector::new(rstd)
}

/// `x`, `dy`, `gradient`: `[rows, width]`; `stats`: `[rows, 2]`; `partials`: `[cubes, sums, width]`, the column sums of
/// `dy n`, `dy` and (with three sums) the final gradient over the rows of each cube.
#[cube(launch_unchecked)]
pub(crate) fn backward_planes<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    stats: &Array<f32>,
    gain: &Array<Vector<f32, N>>,
    bias: &Array<Vector<f32, N>>,
    dy: &mut Array<Vector<F, N>>,
    gradient: &mut Array<Vector<F, N>>,
    partials: &mut ComptimeOption<Array<Vector<f32, N>>>,
    rows: u32,
    #[comptime] width: u32,
    #[comptime] fresh: bool,
    #[comptime] write_normed: bool,
    #[comptime] sums: u32,
) {
    let lanes = N::value();
    let vectors = comptime!(width / lanes as u32);
    let steps = comptime!(vectors.div_ceil(32));
    let lane = UNIT_POS % 32;
    let mut columns = Array::<Vector<f32, N>>::new(comptime!((sums * steps) as usize));
    #[unroll]
    for i in 0..comptime!(sums * steps) {
        columns[i as usize] = Vector::new(0.0);
    }
    let mut row = CUBE_POS_X * PLANES + UNIT_POS / 32;
    while row < rows {
        let base = row * vectors;
        let mean = stats[(row * 2) as usize];
        let rstd = stats[(row * 2 + 1) as usize];
        // All loads first: they are in flight together.
        let mut xs = Array::<Vector<F, N>>::new(steps as usize);
        let mut dys = Array::<Vector<F, N>>::new(steps as usize);
        let mut olds = Array::<Vector<F, N>>::new(steps as usize);
        #[unroll]
        for i in 0..steps {
            let at = comptime!(i * 32) + lane;
            xs[i as usize] = Vector::new(F::new(0.0));
            dys[i as usize] = Vector::new(F::new(0.0));
            if inside(at, i, vectors) {
                xs[i as usize] = x[(base + at) as usize];
                dys[i as usize] = dy[(base + at) as usize];
                if comptime!(!fresh) {
                    olds[i as usize] = gradient[(base + at) as usize];
                }
            }
        }
        let mut g_sums = Vector::<f32, N>::new(0.0);
        let mut gn_sums = Vector::<f32, N>::new(0.0);
        #[unroll]
        for i in 0..steps {
            let at = comptime!(i * 32) + lane;
            if inside(at, i, vectors) {
                let n = standardise::<N>(Vector::cast_from(xs[i as usize]), mean, rstd);
                let d = Vector::<f32, N>::cast_from(dys[i as usize]);
                let g = d * gain[at as usize];
                g_sums += g;
                gn_sums += g * n;
                if comptime!(sums > 0) {
                    columns[i as usize] += d * n;
                    columns[comptime!((steps + i) as usize)] += d;
                }
            }
        }
        let mean_g = plane_sum(lane_sum::<N>(g_sums)) / comptime!(width as f32);
        let mean_gn = plane_sum(lane_sum::<N>(gn_sums)) / comptime!(width as f32);
        #[unroll]
        for i in 0..steps {
            let at = comptime!(i * 32) + lane;
            if inside(at, i, vectors) {
                let n = standardise::<N>(Vector::cast_from(xs[i as usize]), mean, rstd);
                let scale = gain[at as usize];
                let g = Vector::<f32, N>::cast_from(dys[i as usize]) * scale;
                let mut total = input_gradient::<N>(g, n, mean_g, mean_gn, rstd);
                if comptime!(!fresh) {
                    total += Vector::cast_from(olds[i as usize]);
                }
                if comptime!(sums > 2) {
                    columns[comptime!((2 * steps + i) as usize)] += total;
                }
                gradient[(base + at) as usize] = Vector::cast_from(total);
                if comptime!(write_normed) {
                    dy[(base + at) as usize] = Vector::cast_from(n * scale + bias[at as usize]);
                }
            }
        }
        row += CUBE_COUNT_X * PLANES;
    }
    // The planes' column sums meet in shared memory, one vector per lane at a time.
    #[comptime]
    match partials {
        ComptimeOption::Some(partials) => {
            let mut scratch = SharedMemory::<Vector<f32, N>>::new(UNITS as usize);
            #[unroll]
            for i in 0..comptime!(sums * steps) {
                let at = comptime!((i % steps) * 32) + lane;
                scratch[UNIT_POS as usize] = columns[i as usize];
                sync_cube();
                if UNIT_POS < 32 && inside(at, comptime!(i % steps), vectors) {
                    let mut total = scratch[lane as usize];
                    #[unroll]
                    for plane in 1..PLANES {
                        total += scratch[(comptime!(plane * 32) + lane) as usize];
                    }
                    partials[((CUBE_POS_X * sums + comptime!(i / steps)) * vectors + at) as usize] = total;
                }
                sync_cube();
            }
        }
        ComptimeOption::None => {}
    }
}

/// A unit per row: dx and the normed output, in two walks over the row.
#[cube(launch_unchecked)]
pub(crate) fn backward_units<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    stats: &Array<f32>,
    gain: &Array<Vector<f32, N>>,
    bias: &Array<Vector<f32, N>>,
    dy: &mut Array<Vector<F, N>>,
    gradient: &mut Array<Vector<F, N>>,
    rows: u32,
    width: u32,
    #[comptime] fresh: bool,
    #[comptime] write_normed: bool,
) {
    let vectors = width / (N::value() as u32);
    let row = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * UNITS + UNIT_POS;
    if row < rows {
        let base = row * vectors;
        let mean = stats[(row * 2) as usize];
        let rstd = stats[(row * 2 + 1) as usize];
        let mut g_sums = Vector::<f32, N>::new(0.0);
        let mut gn_sums = Vector::<f32, N>::new(0.0);
        for at in 0..vectors {
            let n = standardise::<N>(Vector::cast_from(x[(base + at) as usize]), mean, rstd);
            let g = Vector::<f32, N>::cast_from(dy[(base + at) as usize]) * gain[at as usize];
            g_sums += g;
            gn_sums += g * n;
        }
        let mean_g = lane_sum::<N>(g_sums) / f32::cast_from(width);
        let mean_gn = lane_sum::<N>(gn_sums) / f32::cast_from(width);
        for at in 0..vectors {
            let n = standardise::<N>(Vector::cast_from(x[(base + at) as usize]), mean, rstd);
            let scale = gain[at as usize];
            let g = Vector::<f32, N>::cast_from(dy[(base + at) as usize]) * scale;
            let mut total = input_gradient::<N>(g, n, mean_g, mean_gn, rstd);
            if comptime!(!fresh) {
                total += Vector::cast_from(gradient[(base + at) as usize]);
            }
            gradient[(base + at) as usize] = Vector::cast_from(total);
            if comptime!(write_normed) {
                dy[(base + at) as usize] = Vector::cast_from(n * scale + bias[at as usize]);
            }
        }
    }
}

/// Column sums of `dy n` and `dy` over chunks of rows, `[partial rows, 2, width]`; see [`crate::walk`].
#[cube(launch_unchecked)]
pub(crate) fn parameter_sums<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    stats: &Array<f32>,
    dy: &Array<Vector<F, N>>,
    partials: &mut Array<Vector<f32, N>>,
    rows: u32,
    vectors: u32,
    rows_per_chunk: u32,
) {
    let column = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    if column < vectors {
        let last = min((CUBE_POS_Y + 1) * rows_per_chunk, rows);
        let mut row = CUBE_POS_Y * rows_per_chunk + UNIT_POS_Y;
        let mut d_gain = Vector::<f32, N>::new(0.0);
        let mut d_bias = Vector::<f32, N>::new(0.0);
        while row < last {
            let at = (row * vectors + column) as usize;
            let (mean, rstd) = (stats[(row * 2) as usize], stats[(row * 2 + 1) as usize]);
            let d = Vector::<f32, N>::cast_from(dy[at]);
            d_gain += d * standardise::<N>(Vector::cast_from(x[at]), mean, rstd);
            d_bias += d;
            row += CUBE_DIM_Y;
        }
        let to = (CUBE_POS_Y * CUBE_DIM_Y + UNIT_POS_Y) * 2 * vectors + column;
        partials[to as usize] = d_gain;
        partials[(to + vectors) as usize] = d_bias;
    }
}
