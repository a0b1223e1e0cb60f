//! LayerNorm with its parameters, over the kernels of [`avion_kernels::layer_norm`].

use super::workspace::{Matrix, Stream, Workspace};
use crate::model::params::Weight;
use avion_kernels::arena::Buffer;
use avion_kernels::layer_norm::{self, Backward, NormShape};
use burn_cubecl::CubeRuntime;

/// Gain, bias and epsilon of one LayerNorm.
#[derive(Clone)]
pub struct Norm<R: CubeRuntime> {
    pub weight: Weight<R>,
    pub bias: Weight<R>,
    pub eps: f32,
}

/// Mean and reciprocal standard deviation of each row, `[rows, 2]`, f32.
pub type Stats = Buffer;

impl<R: CubeRuntime> Norm<R> {
    fn shape(&self, x: &Matrix) -> NormShape {
        NormShape { rows: x.rows, width: x.columns, kind: x.kind, eps: self.eps }
    }

    /// Normalises each row over `width`, then scales and shifts; biased variance.
    ///
    /// # Shapes
    /// - `x`: `[rows, width]`; returns `y` like `x`, and the statistics
    pub fn forward(&self, ws: &Workspace<R>, x: &Matrix) -> (Matrix, Stats) {
        let (y, stats) = (ws.matrix_of(x.kind, x.rows, x.columns), ws.floats(2 * x.rows));
        let (gain, bias) = (self.weight.value_handle(), self.bias.value_handle());
        layer_norm::forward(&ws.client, &self.shape(x), x.handle(), gain, bias, y.handle(), stats.handle());
        (y, stats)
    }

    /// Backward pass of a norm that feeds a branch of the residual stream: adds the input's gradient to `stream`, the
    /// stream's gradient so far, in place; with `again` turns `dy` into the forward pass's output, in place; and adds the gradients of
    /// gain and bias, and of `below`, the bias whose gradient is the column sum of the stream's.
    pub fn backward(
        &self,
        ws: &Workspace<R>,
        x: &Matrix,
        stats: &Stats,
        dy: &Matrix,
        stream: &Stream,
        again: bool,
        below: Option<&Weight<R>>,
    ) {
        self.run_backward(ws, x, stats, dy, stream, again, below, false);
    }

    /// As [`backward`](Self::backward), with `again`, and nothing beside the norm: returns its input's gradient.
    pub fn branch_only(
        &self,
        ws: &Workspace<R>,
        x: &Matrix,
        stats: &Stats,
        dy: &Matrix,
        below: Option<&Weight<R>>,
    ) -> Matrix {
        self.fresh(ws, x, stats, dy, below, false).value
    }

    /// As [`branch_only`](Self::branch_only), where a residual stream's way down begins.
    pub fn begin_stream(
        &self,
        ws: &Workspace<R>,
        x: &Matrix,
        stats: &Stats,
        dy: &Matrix,
        below: Option<&Weight<R>>,
    ) -> Stream {
        self.fresh(ws, x, stats, dy, below, ws.residues)
    }

    fn fresh(
        &self,
        ws: &Workspace<R>,
        x: &Matrix,
        stats: &Stats,
        dy: &Matrix,
        below: Option<&Weight<R>>,
        residue: bool,
    ) -> Stream {
        let dx = || ws.matrix_of(x.kind, x.rows, x.columns);
        let stream = Stream { value: dx(), residue: residue.then(dx) };
        self.run_backward(ws, x, stats, dy, &stream, true, below, true);
        stream
    }

    fn run_backward(
        &self,
        ws: &Workspace<R>,
        x: &Matrix,
        stats: &Stats,
        dy: &Matrix,
        stream: &Stream,
        again: bool,
        below: Option<&Weight<R>>,
        fresh: bool,
    ) {
        let backward = Backward {
            x: x.handle(),
            stats: stats.handle(),
            gain: self.weight.value_handle(),
            bias: self.bias.value_handle(),
            dy: dy.handle(),
            gradient: stream.value.handle(),
            residue: stream.residue.as_ref().map(Matrix::handle),
            fresh,
            write_normed: again,
            d_gain: self.weight.gradient_to_add(),
            d_bias: self.bias.gradient_to_add(),
            d_sum: below.map(Weight::gradient_to_add),
        };
        layer_norm::backward(&ws.client, &self.shape(x), backward);
    }
}
