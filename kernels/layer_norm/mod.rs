//! Layer normalisation of rows, and its backward pass fused with the residual stream and the column sums around it.
//!
//! `y = (x - mean) rstd gain + bias`, with `rstd = 1 / sqrt(variance + eps)` and both moments over the row, in f32.
//! Memory bound. Bytes per element: forward one read and one write; backward three reads (x, dy, the stream's gradient)
//! and two writes (the stream's gradient and y again, for the weight gradient of the product that read it).
//!
//! On Hopper GPUs, in half precision, kernels in CUDA C++ take most widths (`hopper`). The others, measured on an H200 at
//! [200960, 768], bf16: forward 171 us (3.6 TB/s), backward with all sums 415 us (3.7 TB/s), where a plain copy reaches 4.0 TB/s.
//!
//! The backward pass's column sums are partial sums per cube, folded in a fixed order: results repeat to the bit.
//!
//! Source: Ba, Kiros, Hinton 2016, arXiv:1607.06450; gradient as in PyTorch's `native_layer_norm_backward`.

pub(crate) mod backward;
pub(crate) mod forward;
#[cfg(feature = "cuda")]
pub mod hopper;

use crate::column_sum::{column_sum, fold};
use crate::launch::{UNITS, grid};
use crate::walk::{Grain, Walk, multiprocessors, planes_of_32, vector_width};
use crate::{FloatKind, Handle, with_float};
use backward::{ROWS, backward_planes, backward_units, parameter_sums};
use cubecl::prelude::*;
use forward::{forward_planes, forward_units};

/// Planes of a cube; each has a row at a time.
const PLANES: u32 = UNITS / 32;

/// Values of a row per lane that fit in registers.
const REGISTERS: usize = 128;

/// Units of the backward kernel that a multiprocessor holds at a time, by their registers (112 to 128 each). Measured at
/// width 768: 256 units 697 us, 512 415 us, 1024 (two waves) 436 us.
const RESIDENT_UNITS: usize = 512;

/// Of the parameters' sums in a pass of their own.
const GRAIN: Grain = Grain { unroll: 1, cubes_per_sm: 4 };

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
    /// Activations.
    fn len(&self) -> usize {
        self.rows * self.width
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
    if rows * width == 0 {
        return;
    }
    #[cfg(feature = "cuda")]
    if hopper::supported(client, shape) {
        return hopper::forward(client, shape, [x, gain, bias, y, stats]);
    }
    let n = vector_width(client, kind, width);
    let planes = planes_of_32(client) && (width / n).div_ceil(32) * n <= REGISTERS;
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
    /// What rounding to the shape's kind took from `gradient`: their sum is the stream's gradient to twice the digits.
    /// In and out like `gradient`. `None`: it is lost.
    pub residue: Option<&'a Handle>,
    /// Whether `gradient` and `residue` are only written.
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
    if rows * width == 0 {
        return;
    }
    #[cfg(feature = "cuda")]
    if hopper::supported(client, shape) {
        return hopper::backward(client, shape, &args);
    }
    let n = vector_width(client, kind, width);
    let units = (width / n).next_multiple_of(32);
    if planes_of_32(client) && units <= client.properties().hardware.max_units_per_cube as usize {
        rows_by_planes(client, shape, &args, n, units);
    } else {
        sum_parameters(client, shape, &args, n);
        rows_by_units(client, shape, &args, n);
        if let Some(d_sum) = args.d_sum {
            for part in [Some(args.gradient), args.residue].into_iter().flatten() {
                column_sum(client, part.clone(), kind, rows, width, d_sum.clone());
            }
        }
    }
}

fn rows_by_planes<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &NormShape,
    args: &Backward,
    n: usize,
    units_per_row: usize,
) {
    let NormShape { rows, width, kind, .. } = *shape;
    // Planes that share a row meet at a barrier, so they get a cube of their own.
    let groups = if units_per_row == 32 { PLANES as usize } else { 1 };
    let resident = (RESIDENT_UNITS / (groups * units_per_row)).max(1) * multiprocessors(client) * groups;
    let rows_per_group = rows.div_ceil(resident).next_multiple_of(ROWS as usize);
    let cubes = rows.div_ceil(rows_per_group * groups);
    let sums = 2 + usize::from(args.d_sum.is_some());
    let len = cubes * groups * sums * width;
    let partials = client.empty(len * 4);
    with_float!(kind, F => unsafe {
        // SAFETY: lengths are those of `Backward`'s contract; rows and columns past the end are not touched.
        let activations = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), shape.len());
        let parameters = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), width);
        backward_planes::launch_unchecked::<F, R>(
            client,
            CubeCount::Static(cubes as u32, 1, 1),
            CubeDim::new_1d((groups * units_per_row) as u32),
            n,
            activations(args.x),
            ArrayArg::from_raw_parts(args.stats.clone(), rows * 2),
            parameters(args.gain),
            parameters(args.bias),
            activations(args.dy),
            activations(args.gradient),
            args.residue.map(activations).into(),
            ArrayArg::from_raw_parts(partials.clone(), len),
            rows as u32,
            rows_per_group as u32,
            width as u32,
            groups as u32,
            args.fresh,
            args.write_normed,
            sums as u32,
        )
    });
    fold(client, &partials, cubes * groups, width, [Some(args.d_gain), Some(args.d_bias), args.d_sum]);
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
            args.residue.map(activations).into(),
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
    let walk = Walk::new(client, rows, width / n, GRAIN);
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
