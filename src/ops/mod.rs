//! Every heavy computation of a step, forward and backward, behind one set of functions.
//!
//! Here each is a plain composition of tensor operations with a hand-written backward pass: the reference that fused
//! kernels are tested against, and what runs where there is no kernel yet. Layers call these and nothing below them.
//!
//! Axis names: `batch` (clips), `frames`, `patches` (per frame), `tokens` (per clip or caption), `heads`, `head_dim`,
//! `width` (of a tower), `embed` (of the space both towers share). `rows` is `batch * tokens`: activations are kept
//! two-dimensional, `[rows, width]`, so that every linear layer is one matrix product.

pub mod activation;
pub mod attention;
pub mod block;
pub mod differentiable;
pub mod gemm;
pub mod head;
pub mod linear;
pub mod norm;
pub mod patch_embed;
pub mod tensor;
pub mod token_embed;

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use tensor::{AdT, T, cast};

/// Sum over rows, in f32: `[rows, width]` to `[1, width]`.
pub(crate) fn column_sum<R: CubeRuntime>(x: T<R, 2>) -> T<R, 2> {
    cast(x, DType::F32).sum_dim(0)
}

/// LayerNorm as one node of the graph. `x`: `[rows, width]`.
pub fn layer_norm<R: CubeRuntime>(x: AdT<R, 2>, norm: &norm::Norm<R>) -> AdT<R, 2> {
    let norm = norm.clone();
    differentiable::differentiable(x, move |x| {
        let (y, stats) = norm::forward(x.clone(), &norm);
        (y, move |dy| Some(norm::backward(x, stats, dy, &norm)))
    })
}
