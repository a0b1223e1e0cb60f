//! Layer normalisation of rows, and its backward pass fused with the residual stream and the column sums around it.
//!
//! `y = (x - mean) rstd gain + bias`, with `rstd = 1 / sqrt(variance + eps)` and both moments over the row, in f32.
//! Memory bound. Bytes per element: forward one read and one write; backward three reads (x, dy, the stream's gradient)
//! and two writes (the stream's gradient and y again, for the weight gradient of the product that read it).
//!
//! The backward pass's column sums are partial sums per cube, folded in a fixed order: results repeat to the bit.
//!
//! Source: Ba, Kiros, Hinton 2016, arXiv:1607.06450; gradient as in PyTorch's `native_layer_norm_backward`.

pub(crate) mod backward;
pub(crate) mod forward;

use crate::column_sum::{column_sum, fold};
use crate::launch::{UNITS, grid};
use crate::walk::{Walk, cubes_per_wave, planes_of_32, vector_width};
use crate::{FloatKind, Handle, with_float};
use backward::{backward_planes, backward_units, parameter_sums};
use cubecl::prelude::*;
use forward::{forward_planes, forward_units};

/// Planes of a cube; each has a row at a time.
const PLANES: u32 = UNITS / 32;

/// Values of a row per lane that fit in registers, and that fit beside three column sums of as many.
const REGISTERS: usize = 128;
const REGISTERS_WITH_SUMS: usize = 40;

/// Rows to normalise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormShape {
    pub rows: usize,
    pub width: usize,
    /// Type of the activations; parameters, statistics and sums are f32.
    pub kind: FloatKind,
    pub eps: f32,
}

impl NormShape {
    /// Activations, one of the parameters or of the sums, and the statistics.
    fn len(&self) -> usize {
        self.rows * self.width
    }

    /// Values per lane when a plane holds a row in vectors of `n`; `None` when the device has no planes of 32.
    fn per_lane<R: Runtime>(&self, client: &ComputeClient<R>, n: usize) -> Option<usize> {
        planes_of_32(client).then(|| (self.width / n).div_ceil(32) * n)
    }
}

/// Normalises rows, and keeps their statistics for [`backward`].
///
/// # Shapes
/// - `x`, `y`: `[rows, width]`, contiguous, of `shape.kind`, fewer than 2^32 elements
/// - `gain`, `bias`: `[width]`, f32
/// - `stats`: `[rows, 2]`, f32: mean and reciprocal standard deviation
pub fn forward<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &NormShape,
    x: &Handle,
    gain: &Handle,
    bias: &Handle,
    y: &Handle,
    stats: &Handle,
) {
    let NormShape { rows, width, kind, eps } = *shape;
    let n = vector_width(client, kind, width);
    let planes = shape.per_lane(client, n).is_some_and(|values| values <= REGISTERS);
    let (count, dim) = grid(if planes { rows * 32 } else { rows });
    with_float!(kind, F => unsafe {
        // SAFETY: lengths are those of the contract above; rows and columns past the end are not touched.
        let activations = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), shape.len());
        let parameters = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), width);
        let stats = ArrayArg::from_raw_parts(stats.clone(), rows * 2);
        let (x, y, gain, bias) = (activations(x), activations(y), parameters(gain), parameters(bias));
        if planes {
            forward_planes::launch_unchecked::<F, R>(
                client, count, dim, n, x, gain, bias, y, stats, rows as u32, eps, width as u32,
            )
        } else {
            forward_units::launch_unchecked::<F, R>(
                client, count, dim, n, x, gain, bias, y, stats, rows as u32, width as u32, eps,
            )
        }
    });
}

/// Arguments of [`backward`]; activations are `[rows, width]` of the shape's kind, the others f32.
#[derive(Clone, Copy)]
pub struct Backward<'a> {
    /// The input of [`forward`].
    pub x: &'a Handle,
    /// `[rows, 2]`, from [`forward`].
    pub stats: &'a Handle,
    /// `[width]`.
    pub gain: &'a Handle,
    /// `[width]`.
    pub bias: &'a Handle,
    /// In: gradient of the output. Out, with `write_normed`: the output itself again.
    pub dy: &'a Handle,
    /// In: gradient of the residual stream (ignored when `fresh`). Out: that plus the gradient of `x`.
    pub gradient: &'a Handle,
    /// Whether `gradient` is only written.
    pub fresh: bool,
    pub write_normed: bool,
    /// `[width]`; increased.
    pub d_gain: &'a Handle,
    /// `[width]`; increased.
    pub d_bias: &'a Handle,
    /// `[width]`; increased by the column sums of the final gradient, which is the gradient of the bias of the linear
    /// layer whose output the residual stream took up last.
    pub d_sum: Option<&'a Handle>,
}

/// Backward pass of [`forward`]; see [`Backward`] for what is read and written.
pub fn backward<R: Runtime>(client: &ComputeClient<R>, shape: &NormShape, args: Backward) {
    let NormShape { rows, width, kind, .. } = *shape;
    let n = vector_width(client, kind, width);
    match shape.per_lane(client, n) {
        Some(values) if values <= REGISTERS_WITH_SUMS => {
            let cubes = rows.div_ceil(PLANES as usize).min(cubes_per_wave(client));
            let sums = 2 + usize::from(args.d_sum.is_some());
            let partials = client.empty(cubes * sums * width * 4);
            rows_by_planes(client, shape, &args, n, cubes, Some((&partials, sums)));
            fold(client, &partials, cubes, width, [Some(args.d_gain), Some(args.d_bias), args.d_sum]);
        }
        per_lane => {
            sum_parameters(client, shape, &args, n);
            if per_lane.is_some_and(|values| values <= REGISTERS) {
                let cubes = rows.div_ceil(PLANES as usize).min(65_535);
                rows_by_planes(client, shape, &args, n, cubes, None);
            } else {
                rows_by_units(client, shape, &args, n);
            }
            if let Some(d_sum) = args.d_sum {
                column_sum(client, args.gradient.clone(), kind, rows, width, d_sum.clone());
            }
        }
    }
}

fn rows_by_planes<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &NormShape,
    args: &Backward,
    n: usize,
    cubes: usize,
    partials: Option<(&Handle, usize)>,
) {
    let NormShape { rows, width, kind, .. } = *shape;
    with_float!(kind, F => unsafe {
        // SAFETY: lengths are those of `Backward`'s contract; rows and columns past the end are not touched.
        let activations = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), shape.len());
        let parameters = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), width);
        backward_planes::launch_unchecked::<F, R>(
            client,
            CubeCount::Static(cubes as u32, 1, 1),
            CubeDim::new_1d(UNITS),
            n,
            activations(args.x),
            ArrayArg::from_raw_parts(args.stats.clone(), rows * 2),
            parameters(args.gain),
            parameters(args.bias),
            activations(args.dy),
            activations(args.gradient),
            partials.map(|(to, sums)| ArrayArg::from_raw_parts(to.clone(), cubes * sums * width)).into(),
            rows as u32,
            width as u32,
            args.fresh,
            args.write_normed,
            partials.map_or(0, |(_, sums)| sums as u32),
        )
    });
}

fn rows_by_units<R: Runtime>(client: &ComputeClient<R>, shape: &NormShape, args: &Backward, n: usize) {
    let NormShape { rows, width, kind, .. } = *shape;
    let (count, dim) = grid(rows);
    with_float!(kind, F => unsafe {
        // SAFETY: as in `rows_by_planes`.
        let activations = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), shape.len());
        let parameters = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), width);
        backward_units::launch_unchecked::<F, R>(
            client,
            count,
            dim,
            n,
            activations(args.x),
            ArrayArg::from_raw_parts(args.stats.clone(), rows * 2),
            parameters(args.gain),
            parameters(args.bias),
            activations(args.dy),
            activations(args.gradient),
            rows as u32,
            width as u32,
            args.fresh,
            args.write_normed,
        )
    });
}

/// `d_gain` and `d_bias` in a pass of their own, before `dy` is overwritten.
fn sum_parameters<R: Runtime>(client: &ComputeClient<R>, shape: &NormShape, args: &Backward, n: usize) {
    let NormShape { rows, width, kind, .. } = *shape;
    let walk = Walk::new(client, rows, width / n, 1);
    let partials = client.empty(walk.partial_rows() * 2 * width * 4);
    with_float!(kind, F => unsafe {
        // SAFETY: as in `rows_by_planes`.
        parameter_sums::launch_unchecked::<F, R>(
            client,
            walk.count(),
            walk.dim(),
            n,
            ArrayArg::from_raw_parts(args.x.clone(), shape.len()),
            ArrayArg::from_raw_parts(args.stats.clone(), rows * 2),
            ArrayArg::from_raw_parts(args.dy.clone(), shape.len()),
            ArrayArg::from_raw_parts(partials.clone(), walk.partial_rows() * 2 * width),
            rows as u32,
            walk.vectors as u32,
            walk.rows_per_chunk,
        )
    });
    fold(client, &partials, walk.partial_rows(), width, [Some(args.d_gain), Some(args.d_bias), None]);
}

pub mod reference {
    //! The same in f64, as the definitions read.

    /// Output, and the (mean, reciprocal standard deviation) of each row.
    pub fn forward(x: &[f64], gain: &[f64], bias: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
        let width = gain.len();
        let (mut y, mut stats) = (Vec::with_capacity(x.len()), Vec::new());
        for row in x.chunks(width) {
            let mean = row.iter().sum::<f64>() / width as f64;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
            let rstd = 1.0 / (variance + eps).sqrt();
            y.extend(row.iter().zip(gain).zip(bias).map(|((v, g), b)| (v - mean) * rstd * g + b));
            stats.extend([mean, rstd]);
        }
        (y, stats)
    }

    /// Gradients of `x`, of the gain and of the bias.
    pub fn backward(x: &[f64], gain: &[f64], dy: &[f64], eps: f64) -> [Vec<f64>; 3] {
        let width = gain.len();
        let (_, stats) = forward(x, gain, &vec![0.0; width], eps);
        let (mut dx, mut d_gain, mut d_bias) = (Vec::with_capacity(x.len()), vec![0.0; width], vec![0.0; width]);
        for ((row, dy), stats) in x.chunks(width).zip(dy.chunks(width)).zip(stats.chunks(2)) {
            let n: Vec<f64> = row.iter().map(|v| (v - stats[0]) * stats[1]).collect();
            let g: Vec<f64> = dy.iter().zip(gain).map(|(d, w)| d * w).collect();
            let mean_g = g.iter().sum::<f64>() / width as f64;
            let mean_gn = g.iter().zip(&n).map(|(g, n)| g * n).sum::<f64>() / width as f64;
            for i in 0..width {
                dx.push(stats[1] * (g[i] - mean_g - n[i] * mean_gn));
                d_gain[i] += dy[i] * n[i];
                d_bias[i] += dy[i];
            }
        }
        [dx, d_gain, d_bias]
    }
}
