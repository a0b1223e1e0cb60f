//! Kernels of the forward pass: a plane per row with the row in registers, or a unit per row.

use super::PLANES;
use crate::launch::UNITS;
use cubecl::prelude::*;

/// Sum of a vector's lanes.
#[cube]
pub(crate) fn lane_sum<N: Size>(x: Vector<f32, N>) -> f32 {
    let mut sum = x[0usize];
    #[unroll]
    for i in 1..N::value() {
        sum += x[i];
    }
    sum
}

/// `(x - mean) rstd`.
#[cube]
pub(crate) fn standardise<N: Size>(x: Vector<f32, N>, mean: f32, rstd: f32) -> Vector<f32, N> {
    (x - Vector::new(mean)) * Vector::new(rstd)
}

/// Whether vector `at` of a plane's step `i` lies in the row; known while compiling for all but a ragged last step.
#[cube]
pub(crate) fn inside(at: u32, #[comptime] i: u32, #[comptime] vectors: u32) -> bool {
    if comptime!((i + 1) * 32 <= vectors) { true.runtime() } else { at < vectors }
}

/// `x`, `y`: `[rows, width]`; `stats`: `[rows, 2]`. The row is read once: mean, then centred variance from registers.
#[cube(launch_unchecked)]
pub(crate) fn forward_planes<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    gain: &Array<Vector<f32, N>>,
    bias: &Array<Vector<f32, N>>,
    y: &mut Array<Vector<F, N>>,
    stats: &mut Array<f32>,
    rows: u32,
    eps: f32,
    #[comptime] width: u32,
) {
    let lanes = N::value();
    let vectors = comptime!(width / lanes as u32);
    let steps = comptime!(vectors.div_ceil(32));
    let wanted = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * PLANES + UNIT_POS / 32;
    let lane = UNIT_POS % 32;
    // Planes past the end repeat the last row without storing it, so that every unit reaches the plane operations.
    let row = min(wanted, rows - 1);
    let base = row * vectors;
    let mut values = Array::<Vector<f32, N>>::new(steps as usize);
    let mut sums = Vector::<f32, N>::new(0.0);
    #[unroll]
    for i in 0..steps {
        let at = comptime!(i * 32) + lane;
        let mut value = Vector::<f32, N>::new(0.0);
        if inside(at, i, vectors) {
            value = Vector::cast_from(x[(base + at) as usize]);
        }
        values[i as usize] = value;
        sums += value;
    }
    let mean = plane_sum(lane_sum::<N>(sums)) / comptime!(width as f32);
    let mut squares = Vector::<f32, N>::new(0.0);
    #[unroll]
    for i in 0..steps {
        if inside(comptime!(i * 32) + lane, i, vectors) {
            let centred = values[i as usize] - Vector::new(mean);
            squares += centred * centred;
        }
    }
    let variance = plane_sum(lane_sum::<N>(squares)) / comptime!(width as f32);
    let rstd = (variance + eps).inverse_sqrt();
    if wanted < rows {
        #[unroll]
        for i in 0..steps {
            let at = comptime!(i * 32) + lane;
            if inside(at, i, vectors) {
                let n = standardise::<N>(values[i as usize], mean, rstd);
                y[(base + at) as usize] = Vector::cast_from(n * gain[at as usize] + bias[at as usize]);
            }
        }
        if lane == 0 {
            stats[(row * 2) as usize] = mean;
            stats[(row * 2 + 1) as usize] = rstd;
        }
    }
}

/// The same with a unit per row and no communication: three walks over the row.
#[cube(launch_unchecked)]
pub(crate) fn forward_units<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    gain: &Array<Vector<f32, N>>,
    bias: &Array<Vector<f32, N>>,
    y: &mut Array<Vector<F, N>>,
    stats: &mut Array<f32>,
    rows: u32,
    width: u32,
    eps: f32,
) {
    let vectors = width / (N::value() as u32);
    let row = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * UNITS + UNIT_POS;
    if row < rows {
        let base = row * vectors;
        let mut sums = Vector::<f32, N>::new(0.0);
        for at in 0..vectors {
            sums += Vector::cast_from(x[(base + at) as usize]);
        }
        let mean = lane_sum::<N>(sums) / f32::cast_from(width);
        let mut squares = Vector::<f32, N>::new(0.0);
        for at in 0..vectors {
            let centred = Vector::<f32, N>::cast_from(x[(base + at) as usize]) - Vector::new(mean);
            squares += centred * centred;
        }
        let rstd = (lane_sum::<N>(squares) / f32::cast_from(width) + eps).inverse_sqrt();
        for at in 0..vectors {
            let n = standardise::<N>(Vector::cast_from(x[(base + at) as usize]), mean, rstd);
            y[(base + at) as usize] = Vector::cast_from(n * gain[at as usize] + bias[at as usize]);
        }
        stats[(row * 2) as usize] = mean;
        stats[(row * 2 + 1) as usize] = rstd;
    }
}
