//! `y = x W^T + b`, PyTorch's Linear: weights `[out, in]`.

use super::gemm::{Epilogue, View, multiply};
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
    let epilogue = Epilogue { bias, residual, accumulate: false };
    multiply(ws, &View::of(x), &weight.view().transposed(), &View::of(&y), epilogue);
    y
}

/// Gradient of the input from the output's, `[rows, in]`: `dy W`.
pub fn input_gradient<R: CubeRuntime>(ws: &Workspace<R>, dy: &Matrix, weight: &Weight<R>) -> Matrix {
    let dx = ws.matrix(dy.rows, weight.columns());
    multiply(ws, &View::of(dy), &weight.view(), &View::of(&dx), Epilogue::default());
    dx
}

/// Adds the weight's gradient, `dy^T x`, to what has been added before.
///
/// # Shapes
/// - `x`: `[rows, in]`, the forward pass's input; `dy`: `[rows, out]`
pub fn weight_gradient<R: CubeRuntime>(ws: &Workspace<R>, x: &Matrix, dy: &Matrix, weight: &Weight<R>) {
    let gradient = View::new(weight.gradient_handle(), weight.rows(), weight.columns(), FloatKind::F32);
    let accumulate = Epilogue { accumulate: true, ..Epilogue::default() };
    multiply(ws, &View::of(dy).transposed(), &View::of(x), &gradient, accumulate);
}

/// `x W` with weights `[in, out]`: the projections into the shared space, stored as OpenAI stores them.
pub fn project<R: CubeRuntime>(ws: &Workspace<R>, x: &Matrix, weight: &Weight<R>) -> Matrix {
    let y = ws.matrix(x.rows, weight.columns());
    multiply(ws, &View::of(x), &weight.view(), &View::of(&y), Epilogue::default());
    y
}

/// Backward of [`project`]: adds the weight's gradient and returns the input's.
pub fn project_backward<R: CubeRuntime>(ws: &Workspace<R>, x: &Matrix, dy: &Matrix, weight: &Weight<R>) -> Matrix {
    let gradient = View::new(weight.gradient_handle(), weight.rows(), weight.columns(), FloatKind::F32);
    let accumulate = Epilogue { accumulate: true, ..Epilogue::default() };
    multiply(ws, &View::of(x).transposed(), &View::of(dy), &gradient, accumulate);
    let dx = ws.matrix(dy.rows, weight.rows());
    multiply(ws, &View::of(dy), &weight.view().transposed(), &View::of(&dx), Epilogue::default());
    dx
}
