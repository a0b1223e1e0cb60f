//! From a tower's pooled tokens to its features: LayerNorm, projection, length 1.

use super::linear;
use super::norm::{Norm, Stats};
use super::tensor::{T, from_handle, primitive};
use super::workspace::{Matrix, Stream, Workspace};
use crate::model::params::Weight;
use avion_kernels::arena::Buffer;
use avion_kernels::reduce::Split;
use avion_kernels::rows;
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;

/// Parameters of one tower's head.
#[derive(Clone)]
pub struct Head<R: CubeRuntime> {
    pub norm: Norm<R>,
    /// `[width, embed]`.
    pub projection: Weight<R>,
}

/// What the forward pass left for the backward pass.
pub struct HeadKept<R: CubeRuntime> {
    pooled: Matrix,
    stats: Stats,
    normed: Matrix,
    feature: T<R, 2>,
    /// Lengths before normalising, `[batch]`, f32.
    length: Buffer,
}

impl<R: CubeRuntime> Head<R> {
    /// # Shapes
    /// - `pooled`: `[batch, width]`; returns features of length 1, `[batch, embed]`, f32
    pub fn forward(&self, ws: &Workspace<R>, pooled: Matrix) -> (T<R, 2>, HeadKept<R>) {
        let (normed, stats) = self.norm.forward(ws, &pooled);
        let projected = linear::project(ws, &normed, &self.projection);
        let (batch, embed) = (projected.rows, projected.columns);
        // Burn's graph holds the feature, so its memory is Burn's.
        let feature = ws.client.empty(batch * embed * 4);
        let length = ws.floats(batch);
        let from = projected.handle();
        let split = Split::of(&ws.client);
        rows::normalize(&ws.client, split, projected.kind, from, &feature, length.handle(), batch, embed);
        let feature: T<R, 2> = from_handle(&ws.client, &ws.device, feature, [batch, embed], DType::F32);
        (feature.clone(), HeadKept { pooled, stats, normed, feature, length })
    }

    /// Gradient of the pooled tokens from that of the features, `[batch, embed]`, f32; adds the parameters'.
    pub fn backward(&self, ws: &Workspace<R>, kept: HeadKept<R>, d_feature: T<R, 2>) -> Stream {
        let HeadKept { pooled, stats, normed, feature, length } = kept;
        let [batch, embed] = feature.dims();
        let (feature, gradient) = (primitive(feature), super::tensor::contiguous(d_feature));
        let d = ws.matrix(batch, embed);
        let inputs = [&feature.handle, length.handle(), &gradient.handle];
        rows::normalize_backward(&ws.client, Split::of(&ws.client), d.kind, inputs, d.handle(), batch, embed);
        let d_normed = linear::project_backward(ws, &normed, &d, &self.projection);
        self.norm.begin_stream(ws, &pooled, &stats, &d_normed, None)
    }
}
