//! A branch's last product, added to the residual stream, with drop path or without.

use super::gemm::{Epilogue, View, multiply};
use super::linear;
use super::workspace::{Matrix, Workspace};
use crate::model::params::Weight;
use avion_kernels::Handle;
use avion_kernels::residual::{self, Finish};
use burn_cubecl::CubeRuntime;

/// The last linear layer of a branch.
pub struct Branch<'a, R: CubeRuntime> {
    pub weight: &'a Weight<R>,
    pub bias: &'a Weight<R>,
    /// Drop path's factor of each clip, `[batch]`, f32.
    pub factor: Option<&'a Handle>,
    pub rows_per_clip: usize,
}

/// `stream + factor * (x W^T + bias)`, `[rows, width]`; without drop path the product's own epilogue.
pub fn add_branch<R: CubeRuntime>(ws: &Workspace<R>, x: &Matrix, branch: &Branch<R>, stream: &Matrix) -> Matrix {
    let Some(factor) = branch.factor else {
        return linear::forward(ws, x, branch.weight, Some(branch.bias), Some(stream));
    };
    let y = ws.matrix(x.rows, branch.weight.rows());
    multiply(ws, &View::of(x), &branch.weight.view().transposed(), &View::of(&y), Epilogue::default());
    let finish = Finish {
        y: y.handle(),
        bias: Some(branch.bias.value_handle()),
        factor: Some((factor, branch.rows_per_clip)),
        residual: Some(stream.handle()),
        rows: y.rows,
        columns: y.columns,
    };
    residual::finish(&ws.client, y.kind, finish);
    y
}

/// Gradient of `x W^T + bias` from the stream's: the same rows, times drop path's factors.
pub fn branch_gradient<R: CubeRuntime>(ws: &Workspace<R>, stream: &Matrix, branch: &Branch<R>) -> Matrix {
    let Some(factor) = branch.factor else { return stream.clone() };
    let scaled = ws.matrix(stream.rows, stream.columns);
    residual::scale_rows(
        &ws.client,
        stream.kind,
        stream.handle(),
        scaled.handle(),
        factor,
        branch.rows_per_clip,
        stream.rows,
        stream.columns,
    );
    scaled
}
