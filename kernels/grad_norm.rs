//! Global gradient norm, clip factor and finiteness of one flat gradient, without a read-back.
//!
//! Two launches in a fixed order, so the result is the same on every run. Bytes: 4 per element, memory bound.
//!
//! Source: `torch.nn.utils.clip_grad_norm_` (clip factor `max_norm / (norm + 1e-6)`, at most 1).

use crate::{Handle, launch::UNITS};
use cubecl::prelude::*;

/// f32 values in the statistics buffer: norm, gradient factor, finite flag (1 or 0), unused.
pub const STATS_LEN: usize = 4;

/// Cubes of the first pass; also the number of partial sums, which one cube folds in the second.
const PARTIALS: u32 = 1024;

/// Sum of a value over the cube, returned to every unit. `scratch` holds `UNITS` values.
#[cube]
fn cube_sum(value: f32, scratch: &mut SharedMemory<f32>) -> f32 {
    scratch[UNIT_POS as usize] = value;
    sync_cube();
    #[unroll]
    for halving in 0..comptime!(UNITS.ilog2()) {
        let stride = comptime!(UNITS >> (halving + 1));
        if UNIT_POS < stride {
            let other = scratch[(UNIT_POS + stride) as usize];
            scratch[UNIT_POS as usize] += other;
        }
        sync_cube();
    }
    scratch[0usize]
}

#[cube(launch_unchecked)]
fn partial_squares(gradient: &Array<f32>, partials: &mut Array<f32>, len: u32) {
    let mut scratch = SharedMemory::<f32>::new(UNITS as usize);
    let mut sum = f32::new(0.0);
    let mut i = CUBE_POS_X * UNITS + UNIT_POS;
    while i < len {
        let g = gradient[i as usize];
        sum += g * g;
        i += PARTIALS * UNITS;
    }
    let total = cube_sum(sum, &mut scratch);
    if UNIT_POS == 0 {
        partials[CUBE_POS_X as usize] = total;
    }
}

#[cube(launch_unchecked)]
fn finish_norm(partials: &Array<f32>, stats: &mut Array<f32>, factor: f32, max_norm: f32) {
    let mut scratch = SharedMemory::<f32>::new(UNITS as usize);
    let mut sum = f32::new(0.0);
    let mut i = UNIT_POS;
    while i < PARTIALS {
        sum += partials[i as usize];
        i += UNITS;
    }
    let total = cube_sum(sum, &mut scratch);
    if UNIT_POS == 0 {
        let norm = total.sqrt() * factor;
        let mut scale = factor;
        if max_norm > 0.0 {
            let clip = max_norm / (norm + 1.0e-6);
            if clip < 1.0 {
                scale = factor * clip;
            }
        }
        // A NaN fails every comparison; infinity fails this one.
        let mut finite = f32::new(0.0);
        if norm <= 3.0e38 {
            finite = f32::new(1.0);
        }
        stats[0usize] = norm;
        stats[1usize] = scale;
        stats[2usize] = finite;
        stats[3usize] = f32::new(0.0);
    }
}

/// Writes `[norm, scale, finite, 0]` to `stats`: the L2 norm of `factor * gradient`, the number every gradient is to be
/// multiplied by (`factor`, times the clip factor when `max_norm > 0` and the norm exceeds it), and 1 if the norm is finite.
///
/// # Shapes
/// - `gradient`: `[len]`, f32
/// - `stats`: `[STATS_LEN]`, f32
pub fn grad_norm<R: Runtime>(
    client: &ComputeClient<R>,
    gradient: Handle,
    len: usize,
    factor: f32,
    max_norm: f32,
    stats: Handle,
) {
    let partials = client.empty(PARTIALS as usize * 4);
    // SAFETY: lengths are those of the buffers; every index is checked against them in the kernels.
    unsafe {
        partial_squares::launch_unchecked::<R>(
            client,
            CubeCount::Static(PARTIALS, 1, 1),
            CubeDim::new_1d(UNITS),
            ArrayArg::from_raw_parts(gradient, len),
            ArrayArg::from_raw_parts(partials.clone(), PARTIALS as usize),
            len as u32,
        );
        finish_norm::launch_unchecked::<R>(
            client,
            CubeCount::Static(1, 1, 1),
            CubeDim::new_1d(UNITS),
            ArrayArg::from_raw_parts(partials, PARTIALS as usize),
            ArrayArg::from_raw_parts(stats, STATS_LEN),
            factor,
            max_norm,
        );
    }
}

/// The same in f64: `(norm, scale, finite)`.
pub fn reference(gradient: &[f32], factor: f64, max_norm: f64) -> (f64, f64, bool) {
    let norm = gradient.iter().map(|&g| (g as f64).powi(2)).sum::<f64>().sqrt() * factor;
    let clip = if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
    (norm, factor * clip, norm.is_finite())
}
