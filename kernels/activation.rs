//! Activations between the two products of an MLP, and their gradient with the bias gradient of the first product.
//!
//! GELU: `x P(X <= x)` for a standard normal X, exact up to f32; QuickGELU: `x sigmoid(1.702 x)`. Memory bound: one read and
//! one write of each array, in 16-byte accesses.
//!
//! Sources: Hendrycks, Gimpel 2016, arXiv:1606.08415; QuickGELU from OpenAI's CLIP (`model.py`).

use crate::column_sum::fold;
use crate::launch::{UNITS, grid};
use crate::walk::{Grain, Walk, vector_width};
use crate::{FloatKind, Handle, with_float};
use cubecl::{ir::FastMath, prelude::*};

/// Vectors per unit of the forward pass.
const UNROLL: u32 = 2;

/// Of the backward pass.
const GRAIN: Grain = Grain { unroll: 4, cubes_per_sm: 4 };

/// Function applied to each element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    Gelu,
    QuickGelu,
}

/// The factor `s` of `activation(x) = x s(x)`, and the derivative of the activation, `s(x) + x s'(x)`.
///
/// GELU's `s` is the normal distribution function, `1 - erfc(|x| / sqrt 2) / 2` for `x >= 0`, by Abramowitz and Stegun
/// 7.1.26 (a polynomial in `1 / (1 + p z)` times `exp(-z^2)`, at most 7.5e-8 off): its exponential is also the
/// derivative's, and it does not cancel where `s` is small.
#[cube]
fn gate(x: f32, #[comptime] activation: Activation) -> (f32, f32) {
    if comptime!(activation == Activation::Gelu) {
        let bell = (x * x * -0.5).exp();
        let t = 1.0 / (x.abs() * comptime!(0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2) + 1.0);
        let half_erfc =
            bell * t * (t * (t * (t * (t * 0.530_702_7 - 0.726_576_04) + 0.710_706_9) - 0.142_248_37) + 0.127_414_8);
        let s = select(x >= 0.0, 1.0 - half_erfc, half_erfc);
        (s, s + x * bell * 0.398_942_3)
    } else {
        let s = 1.0 / ((x * -1.702).exp() + 1.0);
        (s, s + x * 1.702 * s * (1.0 - s))
    }
}

#[cube]
fn forward_body<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    y: &mut Array<Vector<F, N>>,
    vectors: u32,
    #[comptime] activation: Activation,
    #[comptime] unroll: u32,
) {
    let first = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * comptime!(UNITS * unroll) + UNIT_POS;
    let mut inputs = Array::<Vector<F, N>>::new(unroll as usize);
    #[unroll]
    for i in 0..unroll {
        inputs[i as usize] = x[min(first + i * UNITS, vectors - 1) as usize];
    }
    #[unroll]
    for i in 0..unroll {
        if first + i * UNITS < vectors {
            let mut values = Vector::<f32, N>::cast_from(inputs[i as usize]);
            #[unroll]
            for lane in 0..N::value() {
                let value = values[lane];
                values[lane] = value * gate(value, activation).0;
            }
            y[(first + i * UNITS) as usize] = Vector::cast_from(values);
        }
    }
}

/// `hidden` becomes the activated value if asked for, `gradient` the gradient of what `hidden` was; `partials`: `[partial rows,
/// columns]`, sums of that gradient. See [`crate::walk`].
#[cube]
fn backward_body<F: Float, N: Size>(
    hidden: &mut Array<Vector<F, N>>,
    gradient: &mut Array<Vector<F, N>>,
    partials: &mut ComptimeOption<Array<Vector<f32, N>>>,
    rows: u32,
    vectors: u32,
    rows_per_chunk: u32,
    #[comptime] activation: Activation,
    #[comptime] write_activated: bool,
    #[comptime] unroll: u32,
) {
    let column = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    if column < vectors {
        let last = min((CUBE_POS_Y + 1) * rows_per_chunk, rows);
        let mut row = CUBE_POS_Y * rows_per_chunk + UNIT_POS_Y;
        let mut sum = Vector::<f32, N>::new(0.0);
        while row < last {
            let mut inputs = Array::<Vector<F, N>>::new(unroll as usize);
            let mut outputs = Array::<Vector<F, N>>::new(unroll as usize);
            #[unroll]
            for i in 0..unroll {
                let at = (min(row + i * CUBE_DIM_Y, last - 1) * vectors + column) as usize;
                inputs[i as usize] = hidden[at];
                outputs[i as usize] = gradient[at];
            }
            #[unroll]
            for i in 0..unroll {
                let here = row + i * CUBE_DIM_Y;
                if here < last {
                    let at = (here * vectors + column) as usize;
                    let mut values = Vector::<f32, N>::cast_from(inputs[i as usize]);
                    let mut slopes = Vector::<f32, N>::cast_from(outputs[i as usize]);
                    #[unroll]
                    for lane in 0..N::value() {
                        let value = values[lane];
                        let (s, derivative) = gate(value, activation);
                        values[lane] = value * s;
                        slopes[lane] *= derivative;
                    }
                    if comptime!(write_activated) {
                        hidden[at] = Vector::cast_from(values);
                    }
                    gradient[at] = Vector::cast_from(slopes);
                    sum += slopes;
                }
            }
            row += unroll * CUBE_DIM_Y;
        }
        #[comptime]
        match partials {
            ComptimeOption::Some(partials) => {
                partials[((CUBE_POS_Y * CUBE_DIM_Y + UNIT_POS_Y) * vectors + column) as usize] = sum;
            }
            ComptimeOption::None => {}
        }
    }
}

/// The kernels, with the function's own exponential and division or with the device's fast ones (relative error about 1e-6,
/// far below a half's rounding). CubeCL marks fast kernels in SPIR-V in a way that drivers may refuse: see [`fast`].
macro_rules! kernels {
    ($forward:ident, $backward:ident $(, $fast:ident = $math:expr)?) => {
        #[cube(launch_unchecked $(, $fast = $math)?)]
        pub(crate) fn $forward<F: Float, N: Size>(
            x: &Array<Vector<F, N>>,
            y: &mut Array<Vector<F, N>>,
            vectors: u32,
            #[comptime] activation: Activation,
            #[comptime] unroll: u32,
        ) {
            forward_body::<F, N>(x, y, vectors, activation, unroll);
        }

        #[cube(launch_unchecked $(, $fast = $math)?)]
        pub(crate) fn $backward<F: Float, N: Size>(
            hidden: &mut Array<Vector<F, N>>,
            gradient: &mut Array<Vector<F, N>>,
            partials: &mut ComptimeOption<Array<Vector<f32, N>>>,
            rows: u32,
            vectors: u32,
            rows_per_chunk: u32,
            #[comptime] activation: Activation,
            #[comptime] write_activated: bool,
            #[comptime] unroll: u32,
        ) {
            backward_body::<F, N>(
                hidden, gradient, partials, rows, vectors, rows_per_chunk, activation, write_activated, unroll,
            );
        }
    };
}

kernels!(forward_kernel, backward_kernel);
kernels!(forward_fast, backward_fast, fast_math = FastMath::all());

/// Launches one of two kernels that take the same arguments.
macro_rules! launch {
    ($fast:expr, $quick:ident, $plain:ident, $F:ident, ($($argument:expr),* $(,)?)) => {
        if $fast {
            $quick::launch_unchecked::<$F, R>($($argument),*)
        } else {
            $plain::launch_unchecked::<$F, R>($($argument),*)
        }
    };
}

/// Whether to take the fast kernels: on devices with asynchronous copies, which are those that CubeCL compiles CUDA for.
fn fast<R: Runtime>(client: &ComputeClient<R>) -> bool {
    client.features().copy_async
}

/// `y = activation(x)`.
///
/// # Shapes
/// - `x`, `y`: `[len]`, contiguous, of `kind`, fewer than 2^32 elements; two buffers
pub fn forward<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    activation: Activation,
    x: &Handle,
    y: &Handle,
    len: usize,
) {
    if len == 0 {
        return;
    }
    let n = vector_width(client, kind, len);
    let vectors = len / n;
    let (count, dim) = grid(vectors.div_ceil(UNROLL as usize));
    let arrays = || {
        // SAFETY: the contract above.
        unsafe { [x, y].map(|handle| ArrayArg::from_raw_parts(handle.clone(), len)) }
    };
    with_float!(kind, F => unsafe {
        // SAFETY: both arrays hold `len` elements; reads are clamped to them and writes checked.
        let [x, y] = arrays();
        launch!(
            fast(client), forward_fast, forward_kernel, F,
            (client, count, dim, n, x, y, vectors as u32, activation, UNROLL)
        )
    });
}

/// Gradient of the activation, and, with `write_activated`, the activated values again.
///
/// # Shapes
/// - `hidden`: `[rows, columns]` of `kind`, fewer than 2^32 elements. In: what was activated. Out, with `write_activated`:
///   `activation(hidden)`
/// - `gradient`: like `hidden`. In: gradient of the activated values. Out: gradient of `hidden`
/// - `d_bias`: `[columns]`, f32, increased by the column sums of the gradient of `hidden`
pub fn backward<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    activation: Activation,
    rows: usize,
    columns: usize,
    hidden: &Handle,
    gradient: &Handle,
    d_bias: Option<&Handle>,
    write_activated: bool,
) {
    let n = vector_width(client, kind, columns);
    let walk = Walk::new(client, rows, columns / n, GRAIN);
    let partials = d_bias.map(|_| client.empty(walk.partial_rows() * columns * 4));
    let array = |handle: &Handle, len| {
        // SAFETY: the contract above, and `partials` as just made; the kernel checks its positions.
        unsafe { ArrayArg::from_raw_parts(handle.clone(), len) }
    };
    with_float!(kind, F => unsafe {
        // SAFETY: as above.
        let [hidden, gradient] = [hidden, gradient].map(|handle| array(handle, rows * columns));
        let sums = partials.as_ref().map(|to| array(to, walk.partial_rows() * columns));
        let (rows, vectors, step) = (rows as u32, walk.vectors as u32, walk.rows_per_chunk);
        launch!(
            fast(client), backward_fast, backward_kernel, F,
            (
                client,
                walk.count(),
                walk.dim(),
                n,
                hidden,
                gradient,
                sums.into(),
                rows,
                vectors,
                step,
                activation,
                write_activated,
                GRAIN.unroll,
            )
        )
    });
    if let Some(partials) = &partials {
        fold(client, partials, walk.partial_rows(), columns, [d_bias, None, None]);
    }
}

/// Rows whose sums make one row of scratch where the gradient's product and the derivative are one kernel.
pub const ROWS_PER_SUM: usize = 64;

/// Floats of scratch for the sums of `[rows, columns]` there (`gemm::hopper`). Of every device and kind alike.
pub fn sums_len(rows: usize, columns: usize) -> usize {
    rows.div_ceil(ROWS_PER_SUM) * columns
}

/// Value and derivative in f64.
pub fn reference(activation: Activation, x: f64) -> (f64, f64) {
    match activation {
        Activation::Gelu => {
            let cdf = 0.5 * erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
            let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            (x * cdf, cdf + x * density)
        }
        Activation::QuickGelu => {
            let s = 1.0 / (1.0 + (-1.702 * x).exp());
            (x * s, s + 1.702 * x * s * (1.0 - s))
        }
    }
}

/// `2 / sqrt(pi)` times the integral of `exp(-t^2)` from x to infinity: by its series for small x, else by its continued
/// fraction (Abramowitz and Stegun 7.1.6 and 7.1.14).
fn erfc(x: f64) -> f64 {
    let z = x.abs();
    let tail = if z < 2.5 {
        let (mut term, mut sum) = (z, z);
        for n in 1..80 {
            term *= 2.0 * z * z / (2 * n + 1) as f64;
            sum += term;
        }
        1.0 - 2.0 / std::f64::consts::PI.sqrt() * (-z * z).exp() * sum
    } else {
        let fraction = (1..80).rev().fold(z, |below, n| z + n as f64 / 2.0 / below);
        (-z * z).exp() / std::f64::consts::PI.sqrt() / fraction
    };
    if x < 0.0 { 2.0 - tail } else { tail }
}

#[cfg(test)]
mod tests {
    #[test]
    fn erfc_has_the_tabulated_values() {
        for (x, expected) in [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (2.0, 0.004_677_734_981_047_266),
            (3.0, 2.209_049_699_858_544e-5),
            (-1.0, 1.842_700_792_949_715),
        ] {
            assert!((super::erfc(x) - expected).abs() < 1e-14, "{x}");
        }
    }
}
