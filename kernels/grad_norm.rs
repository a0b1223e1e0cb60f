//! Global gradient norm, clip factor and finiteness of one flat gradient, without a read-back.
//!
//! Two launches in a fixed order, so the result is the same on every run. Bytes: 4 per element, memory bound; 16 at a
//! time.
//!
//! Source: `torch.nn.utils.clip_grad_norm_` (clip factor `max_norm / (norm + 1e-6)`, at most 1).

use crate::{
    Handle,
    flat::lanes,
    launch::UNITS,
    reduce::{cube_sum, lane_sum},
};
use cubecl::prelude::*;

/// f32 values in the statistics buffer: norm, gradient factor, finite flag (1 or 0), updates applied, this one included
/// (exact up to 2^24), and the bias corrections `1 - beta1^updates` and `sqrt(1 - beta2^updates)` of Adam. The count is
/// kept here so that no step has to be read back before the next is queued.
pub const STATS_LEN: usize = 6;

/// Most cubes of the first pass, and so the most partial sums that one cube folds in the second.
const MAX_PARTIALS: usize = 1024;

/// Vectors per unit of the first pass, below [`MAX_PARTIALS`]: short gradients take few cubes.
const VECTORS_PER_UNIT: usize = 16;

#[cube(launch_unchecked)]
fn partial_squares<N: Size>(gradient: &Array<Vector<f32, N>>, partials: &mut Array<f32>, vectors: u32) {
    let mut scratch = SharedMemory::<f32>::new(UNITS as usize);
    let stride = CUBE_COUNT_X * UNITS;
    let mut i = CUBE_POS_X * UNITS + UNIT_POS;
    let mut sum = Vector::<f32, N>::new(0.0);
    // Four loads in flight before the first is used.
    while i + 3 * stride < vectors {
        let a = gradient[i as usize];
        let b = gradient[(i + stride) as usize];
        let c = gradient[(i + 2 * stride) as usize];
        let d = gradient[(i + 3 * stride) as usize];
        sum += (a * a + b * b) + (c * c + d * d);
        i += 4 * stride;
    }
    while i < vectors {
        let a = gradient[i as usize];
        sum += a * a;
        i += stride;
    }
    let total = cube_sum(lane_sum::<N>(sum), &mut scratch);
    if UNIT_POS == 0 {
        partials[CUBE_POS_X as usize] = total;
    }
}

/// `1 - exp(x)` for `x <= 0`, to f32 rounding also near 0, where the difference would cancel.
#[cube]
fn one_minus_exp(x: f32) -> f32 {
    // The series of exp to x^8, without its 1.
    let mut series = f32::new(1.0);
    series = 1.0 + x / 8.0 * series;
    series = 1.0 + x / 7.0 * series;
    series = 1.0 + x / 6.0 * series;
    series = 1.0 + x / 5.0 * series;
    series = 1.0 + x / 4.0 * series;
    series = 1.0 + x / 3.0 * series;
    series = 1.0 + x / 2.0 * series;
    select(x > -0.4, -x * series, 1.0 - x.exp())
}

#[cube(launch_unchecked)]
fn finish_norm(
    partials: &Array<f32>,
    stats: &mut Array<f32>,
    count: u32,
    factor: f32,
    max_norm: f32,
    ln_beta1: f32,
    ln_beta2: f32,
) {
    let mut scratch = SharedMemory::<f32>::new(UNITS as usize);
    let mut sum = f32::new(0.0);
    let mut i = UNIT_POS;
    while i < count {
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
        let updates = stats[3usize] + finite;
        stats[3usize] = updates;
        stats[4usize] = one_minus_exp(updates * ln_beta1);
        stats[5usize] = one_minus_exp(updates * ln_beta2).sqrt();
    }
}

/// Writes `stats`: the L2 norm of `factor * gradient`, the number every gradient is to be multiplied by (`factor`, times
/// the clip factor when `max_norm > 0` and the norm exceeds it), 1 if the norm is finite, the count of updates, one more
/// if so, and its bias corrections for `betas`, which lie in `[0, 1)`.
///
/// # Shapes
/// - `gradient`: `[len]`, f32
/// - `stats`: `[STATS_LEN]`, f32
pub fn grad_norm<R: Runtime>(
    client: &ComputeClient<R>,
    gradient: &Handle,
    len: usize,
    factor: f32,
    max_norm: f32,
    betas: [f64; 2],
    stats: &Handle,
) {
    // The logarithm of 0 would make 0 * infinity; e^-100 is 0 all the same.
    let ln = |beta: f64| beta.ln().max(-100.0) as f32;
    let lanes = lanes(len);
    let vectors = len / lanes;
    let cubes = vectors.div_ceil(UNITS as usize * VECTORS_PER_UNIT).clamp(1, MAX_PARTIALS);
    let partials = client.empty(MAX_PARTIALS * 4);
    // SAFETY: lengths are those of the buffers; every index is checked against them in the kernels.
    unsafe {
        partial_squares::launch_unchecked::<R>(
            client,
            CubeCount::Static(cubes as u32, 1, 1),
            CubeDim::new_1d(UNITS),
            lanes,
            ArrayArg::from_raw_parts(gradient.clone(), len),
            ArrayArg::from_raw_parts(partials.clone(), MAX_PARTIALS),
            vectors as u32,
        );
        finish_norm::launch_unchecked::<R>(
            client,
            CubeCount::Static(1, 1, 1),
            CubeDim::new_1d(UNITS),
            ArrayArg::from_raw_parts(partials, MAX_PARTIALS),
            ArrayArg::from_raw_parts(stats.clone(), STATS_LEN),
            cubes as u32,
            factor,
            max_norm,
            ln(betas[0]),
            ln(betas[1]),
        );
    }
}

/// The same in f64: `(norm, scale, finite)`.
pub fn reference(gradient: &[f32], factor: f64, max_norm: f64) -> (f64, f64, bool) {
    let norm = gradient.iter().map(|&g| (g as f64).powi(2)).sum::<f64>().sqrt() * factor;
    let clip = if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
    (norm, factor * clip, norm.is_finite())
}
