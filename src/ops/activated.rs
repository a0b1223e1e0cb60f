//! The two products around an MLP's activation: in one kernel each where the device has them, else a product and a pass of its
//! own.

use super::gemm::{Epilogue, View, multiply};
use super::linear;
use super::workspace::{Matrix, Workspace};
use crate::config::recipe;
use crate::model::params::Weight;
use avion_kernels::activation::{self, Activation};
use avion_kernels::gemm::activated::{self, ActivatedShape};
use burn_cubecl::CubeRuntime;

/// The kernels' name of a nonlinearity.
pub fn function(activation: recipe::Activation) -> Activation {
    match activation {
        recipe::Activation::Gelu => Activation::Gelu,
        recipe::Activation::QuickGelu => Activation::QuickGelu,
    }
}

/// `hidden = x W^T + bias`, if it is to be kept, and `activation(hidden)`.
///
/// # Shapes
/// - `x`: `[rows, in]`; `weight`: `[hidden, in]`; `bias`: `[hidden]`; both results: `[rows, hidden]`
pub fn forward<R: CubeRuntime>(
    ws: &Workspace<R>,
    activation: Activation,
    x: &Matrix,
    weight: &Weight<R>,
    bias: &Weight<R>,
    keep: bool,
) -> (Option<Matrix>, Matrix) {
    let [hidden, activated] = [(); 2].map(|()| ws.matrix(x.rows, weight.rows()));
    let shape = ActivatedShape { rows: x.rows, n: weight.rows(), k: x.columns, kind: x.kind, activation };
    if activated::supported(&ws.client, &shape) {
        let [x, weight, bias] = [x.handle(), weight.compute_handle(), bias.compute_handle()];
        activated::forward(&ws.client, &shape, x, weight, bias, keep.then_some(hidden.handle()), activated.handle());
    } else {
        let epilogue = Epilogue { bias: Some(bias), ..Epilogue::default() };
        multiply(ws, &View::of(x), &weight.view().transposed(), &View::of(&hidden), epilogue);
        activation::forward(&ws.client, x.kind, activation, hidden.handle(), activated.handle(), hidden.len());
    }
    (keep.then_some(hidden), activated)
}

/// Gradient of `hidden` from `dy`, that of `activation(hidden) W^T`; adds its column sums to the gradient of `bias`. With
/// `write_activated`, `hidden` becomes `activation(hidden)`.
///
/// # Shapes
/// - `dy`: `[rows, out]`; `weight`: `[out, hidden]`; `hidden` and the result: `[rows, hidden]`; `bias`: `[hidden]`
pub fn backward<R: CubeRuntime>(
    ws: &Workspace<R>,
    activation: Activation,
    dy: &Matrix,
    weight: &Weight<R>,
    hidden: &Matrix,
    bias: &Weight<R>,
    write_activated: bool,
) -> Matrix {
    let (rows, n, kind) = (hidden.rows, hidden.columns, hidden.kind);
    let (h, d_bias) = (hidden.handle(), bias.gradient_handle());
    let shape = ActivatedShape { rows, n, k: dy.columns, kind, activation };
    if activated::supported(&ws.client, &shape) {
        let d_hidden = ws.matrix(rows, n);
        let (dy, weight, out) = (dy.handle(), weight.compute_handle(), d_hidden.handle());
        activated::backward(&ws.client, &shape, dy, weight, h, out, d_bias, write_activated);
        return d_hidden;
    }
    let d_hidden = linear::input_gradient(ws, dy, weight);
    let out = d_hidden.handle();
    activation::backward(&ws.client, kind, activation, rows, n, h, out, Some(d_bias), write_activated);
    d_hidden
}
