//! `y = x W^T + b`, PyTorch's Linear: weights `[out, in]`.

use super::gemm::{Epilogue, View, multiply};
use super::norm::Norm;
use super::workspace::{Matrix, Workspace};
use crate::model::params::Weight;
use avion_kernels::FloatKind;
use burn_cubecl::CubeRuntime;

/// `x W^T + bias + residual`, `[rows, out]`.
///
/// # Shapes
/// - `x`: `[rows, in]`; `weight`: `[out, in]`; `bias`: `[out]`; `residual`: `[rows, out]`
pub fn forward<R: CubeRuntime>(
    ws: &Workspace<R>,
    x: &Matrix,
    weight: &Weight<R>,
    bias: Option<&Weight<R>>,
    residual: Option<&Matrix>,
) -> Matrix {
    let y = ws.matrix(x.rows, weight.rows());
    forward_into(ws, x, weight, bias, residual, &y);
    y
}

/// The same, into `y`.
pub(super) fn forward_into<R: CubeRuntime>(
    ws: &Workspace<R>,
    x: &Matrix,
    weight: &Weight<R>,
    bias: Option<&Weight<R>>,
    residual: Option<&Matrix>,
    y: &Matrix,
) {
    let epilogue = Epilogue { bias, residual, accumulate: false };
    multiply(ws, &View::of(x), &weight.view().transposed(), &View::of(y), epilogue);
}

/// `norm(x) W^T + bias`, `[rows, out]`, where a block makes again what it did not keep and wants the norm's output for
/// nothing else. The product takes its memory first, since it keeps it longer: with nothing kept, the arena's slab is then 1
/// to 4% larger than what is in it at the most, and 3 to 7% the other way round (ViT-L/14, ViT-B/16). The last block's keys
/// and values are the exception ([`super::pooled_block`]): there this order adds 5 to 7%.
pub fn of_norm<R: CubeRuntime>(
    ws: &Workspace<R>,
    norm: &Norm<R>,
    x: &Matrix,
    weight: &Weight<R>,
    bias: &Weight<R>,
) -> Matrix {
    let y = ws.matrix(x.rows, weight.rows());
    let (normed, _) = norm.forward(ws, x);
    forward_into(ws, &normed, weight, Some(bias), None, &y);
    y
}

/// Gradient of the input from the output's, `[rows, in]`: `dy W`.
pub fn input_gradient<R: CubeRuntime>(ws: &Workspace<R>, dy: &Matrix, weight: &Weight<R>) -> Matrix {
    let dx = ws.matrix(dy.rows, weight.columns());
    input_gradient_into(ws, dy, weight, &dx);
    dx
}

/// The same, into `dx`.
pub(super) fn input_gradient_into<R: CubeRuntime>(ws: &Workspace<R>, dy: &Matrix, weight: &Weight<R>, dx: &Matrix) {
    multiply(ws, &View::of(dy), &weight.view(), &View::of(dx), Epilogue::default());
}

/// Adds the weight's gradient, `dy^T x`, to what the step has added before; its first product is written, not added.
///
/// # Shapes
/// - `x`: `[rows, in]`, the forward pass's input; `dy`: `[rows, out]`
pub fn weight_gradient<R: CubeRuntime>(ws: &Workspace<R>, x: &Matrix, dy: &Matrix, weight: &Weight<R>) {
    add_product(ws, &View::of(dy).transposed(), &View::of(x), weight);
}

/// Adds `a b`, as large as the weight, to its gradient.
fn add_product<R: CubeRuntime>(ws: &Workspace<R>, a: &View, b: &View, weight: &Weight<R>) {
    let (gradient, accumulate) = weight.gradient_to_write();
    let gradient = View::new(gradient, weight.rows(), weight.columns(), FloatKind::F32);
    multiply(ws, a, b, &gradient, Epilogue { accumulate, ..Epilogue::default() });
}

/// `x W` with weights `[in, out]`: the projections into the shared space, stored as OpenAI stores them.
pub fn project<R: CubeRuntime>(ws: &Workspace<R>, x: &Matrix, weight: &Weight<R>) -> Matrix {
    let y = ws.matrix(x.rows, weight.columns());
    multiply(ws, &View::of(x), &weight.view(), &View::of(&y), Epilogue::default());
    y
}

/// Backward of [`project`]: adds the weight's gradient and returns the input's.
pub fn project_backward<R: CubeRuntime>(ws: &Workspace<R>, x: &Matrix, dy: &Matrix, weight: &Weight<R>) -> Matrix {
    add_product(ws, &View::of(x).transposed(), &View::of(dy), weight);
    let dx = ws.matrix(dy.rows, weight.rows());
    multiply(ws, &View::of(dy), &weight.view().transposed(), &View::of(&dx), Epilogue::default());
    dx
}
