//! Kernels of the backward pass.
//!
//! With planes: one kernel reads each row once, and keeps the column sums of the rows it walks in registers.
//! Without, or for rows wider than a cube: column sums in a pass of their own, then a unit per row.

use super::forward::{lane_sum, standardise};
use crate::launch::UNITS;
use cubecl::prelude::*;

/// Rows in flight per group: they share the latency of memory and of the exchange between planes. Measured at width 768:
/// one row 510 us, two 415 us, four 560 us (too many registers).
pub(crate) const ROWS: u32 = 2;

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

/// Rounds `total` to `values`, and what rounding takes from it to `residue`.
#[cube]
pub(crate) fn store_rounded<F: Float, N: Size>(
    total: Vector<f32, N>,
    to: usize,
    values: &mut Array<Vector<F, N>>,
    residue: &mut ComptimeOption<Array<Vector<F, N>>>,
) {
    let rounded = Vector::<F, N>::cast_from(total);
    values[to] = rounded;
    #[comptime]
    match residue {
        ComptimeOption::Some(residue) => {
            residue[to] = Vector::cast_from(total - Vector::<f32, N>::cast_from(rounded));
        }
        ComptimeOption::None => {}
    }
}

/// `x`, `dy`, `gradient`, `residue`: `[rows, width]`; `stats`: `[rows, 2]`; `partials`: `[cubes * groups, sums, width]`, the column
/// sums of `dy n`, `dy` and (with three sums) the final gradient.
///
/// A group of planes, one vector per lane, walks `rows_per_group` rows, [`ROWS`] at a time: column sums, gain and bias stay
/// in registers, and only two sums a row cross between the planes, through shared memory. A group is a whole cube (one
/// plane of a cube of several for narrow rows).
#[cube(launch_unchecked)]
pub(crate) fn backward_planes<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    stats: &Array<f32>,
    gain: &Array<Vector<f32, N>>,
    bias: &Array<Vector<f32, N>>,
    dy: &mut Array<Vector<F, N>>,
    gradient: &mut Array<Vector<F, N>>,
    residue: &mut ComptimeOption<Array<Vector<F, N>>>,
    partials: &mut Array<Vector<f32, N>>,
    rows: u32,
    rows_per_group: u32,
    #[comptime] width: u32,
    #[comptime] groups: u32,
    #[comptime] fresh: bool,
    #[comptime] write_normed: bool,
    #[comptime] sums: u32,
) {
    let lanes = N::value();
    let vectors = comptime!(width / lanes as u32);
    let planes = comptime!(vectors.div_ceil(32));
    let lane = UNIT_POS % 32;
    let plane = (UNIT_POS / 32) % planes;
    let group = UNIT_POS / comptime!(32 * planes);
    let column = plane * 32 + lane;
    let active = if comptime!(vectors.is_multiple_of(32)) { true.runtime() } else { column < vectors };
    // Lanes past the end of the row repeat its last vector, count for nothing and store nothing.
    let at = min(column, vectors - 1);
    let scale = gain[at as usize];
    let shift = bias[at as usize];
    let mut d_gain = Vector::<f32, N>::new(0.0);
    let mut d_bias = Vector::<f32, N>::new(0.0);
    let mut d_sum = Vector::<f32, N>::new(0.0);

    let mut scratch = SharedMemory::<f32>::new(comptime!((4 * ROWS * planes * groups) as usize));
    let first = (CUBE_POS_X * groups + group) * rows_per_group;
    let last = min(first + rows_per_group, rows);
    for step in 0..rows_per_group / ROWS {
        let top = first + step * ROWS;
        // All loads first: they are in flight together.
        let mut xs = Array::<Vector<F, N>>::new(ROWS as usize);
        let mut dys = Array::<Vector<F, N>>::new(ROWS as usize);
        let mut olds = Array::<Vector<F, N>>::new(ROWS as usize);
        let mut old_residues = Array::<Vector<F, N>>::new(ROWS as usize);
        let mut means = Array::<f32>::new(ROWS as usize);
        let mut rstds = Array::<f32>::new(ROWS as usize);
        #[unroll]
        for i in 0..ROWS {
            let row = min(top + i, rows - 1);
            let from = (row * vectors + at) as usize;
            xs[i as usize] = x[from];
            dys[i as usize] = dy[from];
            if comptime!(!fresh) {
                olds[i as usize] = gradient[from];
                #[comptime]
                match residue {
                    ComptimeOption::Some(residue) => old_residues[i as usize] = residue[from],
                    ComptimeOption::None => {}
                }
            }
            means[i as usize] = stats[(row * 2) as usize];
            rstds[i as usize] = stats[(row * 2 + 1) as usize];
        }
        let mut g_sums = Array::<f32>::new(ROWS as usize);
        let mut gn_sums = Array::<f32>::new(ROWS as usize);
        #[unroll]
        for i in 0..ROWS {
            let n = standardise::<N>(Vector::cast_from(xs[i as usize]), means[i as usize], rstds[i as usize]);
            let d = Vector::<f32, N>::cast_from(dys[i as usize]);
            let g = d * scale;
            g_sums[i as usize] = select(active, lane_sum::<N>(g), 0.0);
            gn_sums[i as usize] = select(active, lane_sum::<N>(g * n), 0.0);
            if top + i < last {
                d_gain += d * n;
                d_bias += d;
            }
        }
        // Halving over the plane, the rows' sums side by side.
        #[unroll]
        for halving in 0..5u32 {
            #[unroll]
            for i in 0..ROWS {
                g_sums[i as usize] += plane_shuffle_xor(g_sums[i as usize], comptime!(1u32 << halving));
                gn_sums[i as usize] += plane_shuffle_xor(gn_sums[i as usize], comptime!(1u32 << halving));
            }
        }
        if comptime!(planes > 1) {
            // Two buffers in turn: a buffer is written again only after the barrier that follows its last read.
            let base = ((step % 2) * groups + group) * comptime!(2 * ROWS * planes);
            if lane == 0 {
                #[unroll]
                for i in 0..ROWS {
                    scratch[(base + comptime!(2 * i * planes) + plane) as usize] = g_sums[i as usize];
                    scratch[(base + comptime!((2 * i + 1) * planes) + plane) as usize] = gn_sums[i as usize];
                }
            }
            sync_cube();
            #[unroll]
            for i in 0..ROWS {
                let mut g_sum = scratch[(base + comptime!(2 * i * planes)) as usize];
                let mut gn_sum = scratch[(base + comptime!((2 * i + 1) * planes)) as usize];
                #[unroll]
                for other in 1..planes {
                    g_sum += scratch[(base + comptime!(2 * i * planes + other)) as usize];
                    gn_sum += scratch[(base + comptime!((2 * i + 1) * planes + other)) as usize];
                }
                g_sums[i as usize] = g_sum;
                gn_sums[i as usize] = gn_sum;
            }
        }
        #[unroll]
        for i in 0..ROWS {
            if active && top + i < last {
                let rstd = rstds[i as usize];
                let n = standardise::<N>(Vector::cast_from(xs[i as usize]), means[i as usize], rstd);
                let g = Vector::<f32, N>::cast_from(dys[i as usize]) * scale;
                let mean_g = g_sums[i as usize] / comptime!(width as f32);
                let mean_gn = gn_sums[i as usize] / comptime!(width as f32);
                let mut total = input_gradient::<N>(g, n, mean_g, mean_gn, rstd);
                if comptime!(!fresh) {
                    total += Vector::cast_from(olds[i as usize]);
                    #[comptime]
                    match residue {
                        ComptimeOption::Some(_) => {
                            total += Vector::cast_from(old_residues[i as usize]);
                        }
                        ComptimeOption::None => {}
                    }
                }
                if comptime!(sums > 2) {
                    d_sum += total;
                }
                let to = ((top + i) * vectors + column) as usize;
                store_rounded::<F, N>(total, to, gradient, residue);
                if comptime!(write_normed) {
                    dy[to] = Vector::cast_from(n * scale + shift);
                }
            }
        }
    }
    if active {
        let to = (CUBE_POS_X * groups + group) * comptime!(sums * vectors) + column;
        partials[to as usize] = d_gain;
        partials[(to + vectors) as usize] = d_bias;
        if comptime!(sums > 2) {
            partials[(to + comptime!(2 * vectors)) as usize] = d_sum;
        }
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
    residue: &mut ComptimeOption<Array<Vector<F, N>>>,
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
            let to = (base + at) as usize;
            if comptime!(!fresh) {
                total += Vector::cast_from(gradient[to]);
                #[comptime]
                match residue {
                    ComptimeOption::Some(residue) => {
                        total += Vector::cast_from(residue[to]);
                    }
                    ComptimeOption::None => {}
                }
            }
            store_rounded::<F, N>(total, to, gradient, residue);
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
