//! From u8 frames to the vision tower's tokens: ingest, patch embedding, class token, positions.

use super::differentiable::differentiable;
use super::tensor::{AdT, T, cast, dense, float_kind, from_handle};
use super::{column_sum, linear};
use crate::model::params::Weight;
pub use avion_kernels::patch_ingest::{PatchGrid, PixelNorm};
use avion_kernels::{Handle, patch_ingest};
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeRuntime;
use cubecl::prelude::ComputeClient;

/// Parameters of the embedding.
#[derive(Clone)]
pub struct PatchEmbedWeights<R: CubeRuntime> {
    /// `[width, 3 * patch * patch]`, columns ordered (channel, row, column).
    pub conv1: Weight<R>,
    /// `[width]`.
    pub class_embedding: Weight<R>,
    /// `[1 + patches, width]`; row 0 belongs to the class token.
    pub positional_embedding: Weight<R>,
    /// `[frames, width]`; absent for single images.
    pub temporal_embedding: Option<Weight<R>>,
}

/// Frames on the device, and how to read them.
#[derive(Clone)]
pub struct Frames<R: CubeRuntime> {
    pub client: ComputeClient<R>,
    pub device: R::Device,
    /// u8 `[batch, frames, height, width, 3]`, padded to whole 4-byte words.
    pub pixels: Handle,
    pub batch: usize,
    pub frames: usize,
    pub grid: PatchGrid,
    pub norm: PixelNorm,
    /// Type of the tokens.
    pub dtype: DType,
}

impl<R: CubeRuntime> Frames<R> {
    /// Normalised patches, `[batch * frames * patches, 3 * patch * patch]`.
    fn patches(&self) -> T<R, 2> {
        let shape = [self.grid.images * self.grid.patches(), self.grid.columns()];
        let Some(kind) = float_kind(self.dtype) else { unreachable!("tokens are f32, f16 or bf16") };
        let out = self.client.empty(shape[0] * shape[1] * kind.size());
        let launched =
            patch_ingest::patch_ingest(&self.client, self.pixels.clone(), self.grid, self.norm, out.clone(), kind);
        if let Err(error) = launched {
            unreachable!("the recipe's validation bounds the frames held at once: {error}");
        }
        from_handle(&self.client, &self.device, out, shape, self.dtype)
    }
}

/// Tokens of a batch of clips: the class token with position 0, then patch `n` of frame `t` at `1 + t * patches + n`
/// with `positional_embedding[1 + n] + temporal_embedding[t]`.
///
/// The patches are made from the frames again in the backward pass: cheaper than keeping them.
///
/// # Shapes
/// - `anchor`: any leaf that makes the graph reach this node; it gets no gradient
/// - returns `[batch * (1 + frames * patches), width]`
///
/// Source: AVION `transformer.py`, `VisionTransformer.forward` (with "fast conv1").
pub fn patch_embed<R: CubeRuntime>(anchor: AdT<R, 1>, frames: Frames<R>, weights: &PatchEmbedWeights<R>) -> AdT<R, 2> {
    let weights = weights.clone();
    differentiable(anchor, move |_| {
        let tokens = forward(&frames, &weights);
        (tokens, move |dy| {
            backward(&frames, dy, &weights);
            None
        })
    })
}

fn forward<R: CubeRuntime>(frames: &Frames<R>, w: &PatchEmbedWeights<R>) -> T<R, 2> {
    let (batch, count, patches) = (frames.batch, frames.frames, frames.grid.patches());
    let x = linear::forward(frames.patches(), &w.conv1, None);
    let width = x.dims()[1];
    let position = w.positional_embedding.value::<2>();
    let patch_position = position.clone().slice([1..1 + patches]).reshape([1, patches, width]);
    let patch_position = match &w.temporal_embedding {
        Some(temporal) => patch_position + temporal.value::<2>().reshape([count, 1, width]),
        None => patch_position,
    };
    let x = x.reshape([batch, count, patches, width]);
    let x = x + cast(patch_position, frames.dtype).unsqueeze();
    let class = w.class_embedding.value::<1>().unsqueeze() + position.slice([0..1]);
    let class = cast(class, frames.dtype).reshape([1, 1, width]).repeat_dim(0, batch);
    Tensor::cat(vec![class, x.reshape([batch, count * patches, width])], 1)
        .reshape([batch * (1 + count * patches), width])
}

fn backward<R: CubeRuntime>(frames: &Frames<R>, dy: T<R, 2>, w: &PatchEmbedWeights<R>) {
    let (batch, count, patches) = (frames.batch, frames.frames, frames.grid.patches());
    let width = dy.dims()[1];
    let dy = dy.reshape([batch, 1 + count * patches, width]);
    let d_class = column_sum(dy.clone().slice([0..batch, 0..1]).reshape([batch, width]));
    let d_patches = dense(dy.slice([0..batch, 1..1 + count * patches]));
    // [frames, patches, width]: summed over clips, from which both position gradients follow.
    let per_token = column_sum(d_patches.clone().reshape([batch, count * patches * width]));
    let per_token = per_token.reshape([count, patches, width]);
    let d_position = per_token.clone().sum_dim(0).reshape([patches, width]);
    w.class_embedding.accumulate(d_class.clone());
    w.positional_embedding.accumulate(Tensor::cat(vec![d_class, d_position], 0));
    if let Some(temporal) = &w.temporal_embedding {
        temporal.accumulate(per_token.sum_dim(1));
    }
    let rows = d_patches.reshape([batch * count * patches, width]);
    linear::backward_weights(frames.patches(), rows, &w.conv1, None);
}
