//! The two products around an MLP's activation: in one kernel each where the device has them, else a product and a pass of its
//! own.

use super::linear;
use super::workspace::{Matrix, Workspace};
use crate::config::recipe;
use crate::model::params::Weight;
use avion_kernels::activation::{self, Activation};
#[cfg(feature = "cuda")]
use avion_kernels::gemm::hopper::{self, ProductShape};
use burn_cubecl::CubeRuntime;

/// The kernels' name of a recipe's nonlinearity.
impl From<recipe::Activation> for Activation {
    fn from(activation: recipe::Activation) -> Self {
        match activation {
            recipe::Activation::Gelu => Activation::Gelu,
            recipe::Activation::QuickGelu => Activation::QuickGelu,
        }
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
    // Both everywhere, though in one kernel what is not kept is not written: a step takes the same memory.
    let [hidden, activated] = [(); 2].map(|()| ws.matrix(x.rows, weight.rows()));
    #[cfg(feature = "cuda")]
    if let Some(shape) = in_one(ws, x, weight.rows()) {
        let operands = [x.handle(), weight.compute_handle(), bias.compute_handle()];
        let kept = keep.then_some(hidden.handle());
        hopper::activated(&ws.client, &shape, activation, operands, kept, activated.handle());
        return (keep.then_some(hidden), activated);
    }
    linear::forward_into(ws, x, weight, Some(bias), None, &hidden);
    activation::forward(&ws.client, x.kind, activation, hidden.handle(), activated.handle(), hidden.len());
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
    let d_hidden = ws.matrix(hidden.rows, hidden.columns);
    // Everywhere, so that a step takes the same memory.
    let sums = ws.floats(activation::sums_len(hidden.rows, hidden.columns));
    #[cfg(feature = "cuda")]
    if let Some(shape) = in_one(ws, dy, hidden.columns) {
        let operands = [dy.handle(), weight.compute_handle(), hidden.handle()];
        let sums = (bias.gradient_to_add(), sums.handle());
        hopper::activation_gradient(&ws.client, &shape, activation, operands, d_hidden.handle(), sums, write_activated);
        return d_hidden;
    }
    drop(sums);
    linear::input_gradient_into(ws, dy, weight, &d_hidden);
    activation::backward(
        &ws.client,
        hidden.kind,
        activation,
        hidden.rows,
        hidden.columns,
        hidden.handle(),
        d_hidden.handle(),
        Some(bias.gradient_to_add()),
        write_activated,
    );
    d_hidden
}

/// The product of `x` with `n` columns, where one kernel does both.
#[cfg(feature = "cuda")]
fn in_one<R: CubeRuntime>(ws: &Workspace<R>, x: &Matrix, n: usize) -> Option<ProductShape> {
    let shape = ProductShape { m: x.rows, n, k: x.columns, kind: x.kind };
    hopper::supported(&ws.client, &shape).then_some(shape)
}
