//! The second half of a block: `y = x + s * mlp(ln_2(x))`, for every token or for one a sample.

use super::activated;
use super::block::{BlockWeights, Keep};
use super::linear;
use super::norm::Stats;
use super::residual::{Branch, add_branch, branch_gradient};
use super::workspace::{Matrix, Stream, Workspace};
use crate::config::recipe::Activation;
use crate::model::params::Weight;
use burn_cubecl::CubeRuntime;

/// The MLP with its norm, on one device.
pub struct Mlp<'a, R: CubeRuntime> {
    pub ws: &'a Workspace<R>,
    pub weights: &'a BlockWeights<R>,
    pub activation: Activation,
    pub branch: Branch<'a, R>,
}

/// What the forward pass left for the backward pass.
pub struct MlpKept {
    stats: Stats,
    normed: Option<Matrix>,
    hidden: Option<Matrix>,
    activated: Option<Matrix>,
}

impl<R: CubeRuntime> Mlp<'_, R> {
    /// # Shapes
    /// - `x`: `[rows, width]`; returns the same
    pub fn forward(&self, x: &Matrix, keep: Keep) -> (Matrix, MlpKept) {
        let ws = self.ws;
        let (normed, stats) = self.weights.ln_2.forward(ws, x);
        let (c_fc, bias) = (&self.weights.c_fc, &self.weights.c_fc_bias);
        let (hidden, activated) = activated::forward(ws, self.activation.into(), &normed, c_fc, bias, keep.hidden);
        let normed = keep.normed.then_some(normed);
        let y = add_branch(ws, &activated, &self.branch, x);
        (y, MlpKept { stats, normed, hidden, activated: keep.activated.then_some(activated) })
    }

    /// Gradient of `x` from that of the output, `stream`, which becomes it, in place. Adds every weight's gradient to its
    /// own; that of the last bias, which is the column sum of `stream` without drop path, only with `own_bias`. `below`
    /// is the bias whose gradient is the column sum of the gradient of `x`.
    pub fn backward(&self, x: &Matrix, kept: MlpKept, stream: &Stream, own_bias: bool, below: Option<&Weight<R>>) {
        let (ws, w) = (self.ws, self.weights);
        let MlpKept { stats, normed, hidden, activated } = kept;
        let hidden = hidden.unwrap_or_else(|| match &normed {
            Some(normed) => linear::forward(ws, normed, &w.c_fc, Some(&w.c_fc_bias), None),
            None => linear::of_norm(ws, &w.ln_2, x, &w.c_fc, &w.c_fc_bias),
        });
        let branch = branch_gradient(ws, &stream.value, &self.branch);
        let weight_gradient = |activated: &Matrix| linear::weight_gradient(ws, activated, &branch, &w.c_proj);
        // First, if it can be: that memory is then free, and the gradient of the hidden layer still in the cache where it is read.
        let done = activated.map(|activated| weight_gradient(&activated)).is_some();
        let (nonlinearity, bias) = (self.activation.into(), &w.c_fc_bias);
        let d_hidden = activated::backward(ws, nonlinearity, &branch, &w.c_proj, &hidden, bias, !done);
        if !done {
            // The hidden layer has become what it was activated to.
            weight_gradient(&hidden);
        }
        if own_bias {
            w.c_proj_bias.accumulate_columns(ws, &branch);
        }
        drop((hidden, branch));
        let d_normed = linear::input_gradient(ws, &d_hidden, &w.c_fc);
        w.ln_2.backward(ws, x, &stats, &d_normed, stream, normed.is_none(), below);
        linear::weight_gradient(ws, normed.as_ref().unwrap_or(&d_normed), &d_hidden, &w.c_fc);
    }
}
