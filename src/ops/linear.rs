//! `y = x W^T + b`, PyTorch's Linear: weights `[out, in]`.

use super::gemm::{gemm, gemm_accumulate};
use super::tensor::T;
use crate::model::params::Weight;
use burn_cubecl::CubeRuntime;

/// Forward pass.
///
/// # Shapes
/// - `x`: `[rows, in]` in the compute type; `weight`: `[out, in]`; `bias`: `[out]`; returns `[rows, out]`
pub fn forward<R: CubeRuntime>(x: T<R, 2>, weight: &Weight<R>, bias: Option<&Weight<R>>) -> T<R, 2> {
    let dtype = x.dtype();
    let y = gemm(x, weight.compute::<2>().transpose(), dtype);
    match bias {
        Some(bias) => y + bias.compute::<1>().unsqueeze(),
        None => y,
    }
}

/// Backward pass: adds the gradients of weight and bias to theirs and returns the input's, `[rows, in]`.
///
/// # Shapes
/// - `x`: `[rows, in]`, the forward pass's input; `dy`: `[rows, out]`
pub fn backward<R: CubeRuntime>(x: T<R, 2>, dy: T<R, 2>, weight: &Weight<R>, bias: Option<&Weight<R>>) -> T<R, 2> {
    backward_weights(x, dy.clone(), weight, bias);
    let dtype = dy.dtype();
    gemm(dy, weight.compute::<2>(), dtype)
}

/// The part of [`backward`] for an input that needs no gradient.
pub fn backward_weights<R: CubeRuntime>(x: T<R, 2>, dy: T<R, 2>, weight: &Weight<R>, bias: Option<&Weight<R>>) {
    gemm_accumulate(dy.clone().transpose(), x, weight);
    if let Some(bias) = bias {
        bias.accumulate_rows(dy);
    }
}

/// `x W` with weights `[in, out]`: the projections into the shared space, stored as OpenAI stores them.
pub fn project<R: CubeRuntime>(x: T<R, 2>, weight: &Weight<R>) -> T<R, 2> {
    let dtype = x.dtype();
    gemm(x, weight.compute::<2>(), dtype)
}

/// Backward of [`project`].
pub fn project_backward<R: CubeRuntime>(x: T<R, 2>, dy: T<R, 2>, weight: &Weight<R>) -> T<R, 2> {
    gemm_accumulate(x.transpose(), dy.clone(), weight);
    let dtype = dy.dtype();
    gemm(dy, weight.compute::<2>().transpose(), dtype)
}
