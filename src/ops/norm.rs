//! LayerNorm over the last dimension; statistics in f32 whatever the input's type.

use super::tensor::{T, cast};
use crate::model::params::Weight;
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;

/// Gain, bias and epsilon of one LayerNorm.
#[derive(Clone)]
pub struct Norm<R: CubeRuntime> {
    pub weight: Weight<R>,
    pub bias: Weight<R>,
    pub eps: f32,
}

/// Mean and reciprocal standard deviation of each row, `[rows, 1]`, f32.
pub struct Stats<R: CubeRuntime> {
    pub mean: T<R, 2>,
    pub rstd: T<R, 2>,
}

/// Normalises each row over `width`, then scales and shifts. Biased variance, as everywhere in the field.
///
/// # Shapes
/// - `x`: `[rows, width]`; returns `y` like `x`, and the statistics
///
/// Source: Ba et al. 2016, arXiv:1607.06450.
pub fn forward<R: CubeRuntime>(x: T<R, 2>, norm: &Norm<R>) -> (T<R, 2>, Stats<R>) {
    let dtype = x.dtype();
    let x = cast(x, DType::F32);
    let mean = x.clone().mean_dim(1);
    let centred = x - mean.clone();
    let variance = (centred.clone() * centred.clone()).mean_dim(1);
    let rstd = (variance + norm.eps).sqrt().recip();
    let y = centred * rstd.clone() * norm.weight.value::<1>().unsqueeze() + norm.bias.value::<1>().unsqueeze();
    (cast(y, dtype), Stats { mean, rstd })
}

/// Input gradient; adds the gradients of gain and bias to theirs.
///
/// With `n = (x - mean) * rstd` and `g = dy * gain`: `dx = rstd * (g - mean(g) - n * mean(g * n))`.
///
/// # Shapes
/// - `x`, `dy`: `[rows, width]`; returns `dx` in `dy`'s type
pub fn backward<R: CubeRuntime>(x: T<R, 2>, stats: Stats<R>, dy: T<R, 2>, norm: &Norm<R>) -> T<R, 2> {
    let dtype = dy.dtype();
    let dy = cast(dy, DType::F32);
    let n = (cast(x, DType::F32) - stats.mean) * stats.rstd.clone();
    norm.weight.accumulate_rows(dy.clone() * n.clone());
    norm.bias.accumulate_rows(dy.clone());
    let g = dy * norm.weight.value::<1>().unsqueeze();
    let projection = (g.clone() * n.clone()).mean_dim(1);
    let dx = (g.clone() - g.mean_dim(1) - n * projection) * stats.rstd;
    cast(dx, dtype)
}
