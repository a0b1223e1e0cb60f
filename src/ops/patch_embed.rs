//! From u8 frames to the vision tower's tokens: ingest, patch embedding, class token, positions.

use super::linear;
use super::tensor::{T, from_handle, primitive};
use super::tubelet_embed::{TubeletGrid, checked};
use super::workspace::{Matrix, Workspace};
use crate::model::params::Weight;
use avion_kernels::masking::{self, Counts};
pub use avion_kernels::patch_ingest::{PatchGrid, PixelNorm};
use avion_kernels::{Handle, column_sum, flat, patch_ingest, residual};
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeRuntime;

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
pub struct Frames {
    /// u8 `[batch, frames, height, width, 3]`, padded to whole 4-byte words.
    pub pixels: Handle,
    pub batch: usize,
    /// How the frames are cut; each clip starts with a row of zeros for its class token.
    pub grid: PatchGrid,
    pub norm: PixelNorm,
    /// The patches that are used, where some are left out.
    pub kept: Option<KeptPatches>,
}

/// Some patches of each clip, ascending.
#[derive(Clone)]
pub struct KeptPatches {
    /// u32 `[batch, visible]`: numbers of patches within the clip, `frame * patches + patch`.
    pub order: Handle,
    pub counts: Counts,
}

impl Frames {
    fn frames(&self) -> usize {
        self.grid.frames_per_clip
    }

    /// Tokens of a clip that are used, the class token among them.
    pub fn tokens(&self) -> usize {
        1 + self.kept.as_ref().map_or(self.all_patches(), |kept| kept.counts.visible)
    }

    /// Patches of a clip, left out or not.
    fn all_patches(&self) -> usize {
        self.frames() * self.grid.patches()
    }

    /// Normalised patches, `[batch * tokens, 3 * patch * patch]`.
    fn patches<R: CubeRuntime>(&self, ws: &Workspace<R>) -> Matrix {
        let out = ws.matrix(self.batch * self.tokens(), self.grid.columns());
        let pixels = self.pixels.clone();
        if let Some(KeptPatches { order, counts }) = &self.kept {
            let PatchGrid { image_px, patch_px, frames_per_clip: frames, .. } = self.grid;
            let (client, grid) = (&ws.client, TubeletGrid { frames, image_px, patch_px, tubelet: 1 });
            let (order, to) = (Some(order), out.handle());
            checked(masking::ingest(client, out.kind, &pixels, grid, self.norm, order, *counts, true, to));
            return out;
        }
        let launched =
            patch_ingest::patch_ingest(&ws.client, pixels, self.grid, self.norm, out.handle().clone(), out.kind);
        if let Err(error) = launched {
            unreachable!("the recipe's validation bounds the frames held at once: {error}");
        }
        out
    }
}

impl<R: CubeRuntime> PatchEmbedWeights<R> {
    /// Tokens of a batch of clips: the class token with position 0, then patch `n` of frame `t` at `1 + t * patches + n`
    /// with `positional_embedding[1 + n] + temporal_embedding[t]`.
    ///
    /// # Shapes
    /// - returns `[batch * tokens, width]`
    ///
    /// Source: AVION `transformer.py`, `VisionTransformer.forward` (with "fast conv1").
    pub fn forward(&self, ws: &Workspace<R>, frames: &Frames) -> Matrix {
        let x = linear::forward(ws, &frames.patches(ws), &self.conv1, None, None);
        let table = primitive(self.positions(frames)).handle;
        let client = &ws.client;
        checked(match &frames.kept {
            Some(KeptPatches { order, counts }) => {
                let sizes = [frames.all_patches(), x.columns];
                masking::positions(client, x.kind, x.handle(), &table, order, *counts, true, sizes)
            }
            None => residual::add_table(client, x.kind, x.handle(), &table, x.rows, frames.tokens(), x.columns),
        });
        x
    }

    /// Adds the gradients of every parameter; the patches are made from the frames again, which is cheaper than keeping
    /// them.
    pub fn backward(&self, ws: &Workspace<R>, frames: &Frames, dy: &Matrix) {
        linear::weight_gradient(ws, &frames.patches(ws), dy, &self.conv1);
        let (tokens, width) = (1 + frames.all_patches(), dy.columns);
        // Summed over clips: the gradient of the table, from which those of its parts follow.
        let table = ws.floats(tokens * width);
        flat::clear(&ws.client, table.handle(), tokens * width);
        let (client, rows, columns) = (&ws.client, frames.batch, tokens * width);
        match &frames.kept {
            Some(KeptPatches { order, counts }) => {
                let (from, to, sizes) = (dy.handle(), table.handle(), [tokens - 1, width]);
                checked(masking::positions_backward(client, dy.kind, from, to, order, *counts, true, sizes));
            }
            None => column_sum::column_sum(client, dy.handle().clone(), dy.kind, rows, columns, table.handle().clone()),
        }
        let d_table: T<R, 2> = from_handle(&ws.client, &ws.device, table.handle().clone(), [tokens, width], DType::F32);
        let (count, patches) = (frames.frames(), frames.grid.patches());
        let d_class = d_table.clone().slice([0..1]);
        let d_patches = d_table.slice([1..tokens]).reshape([count, patches, width]);
        let d_position = d_patches.clone().sum_dim(0).reshape([patches, width]);
        self.class_embedding.accumulate(d_class.clone());
        self.positional_embedding.accumulate(Tensor::cat(vec![d_class, d_position], 0));
        if let Some(temporal) = &self.temporal_embedding {
            temporal.accumulate(d_patches.sum_dim(1));
        }
    }

    /// What is added to the tokens of every clip, `[tokens, width]`, f32, without gaps.
    fn positions(&self, frames: &Frames) -> T<R, 2> {
        let (count, patches) = (frames.frames(), frames.grid.patches());
        let position = self.positional_embedding.value::<2>();
        let width = position.dims()[1];
        let by_patch = position.clone().slice([1..1 + patches]).reshape([1, patches, width]);
        let by_patch = match &self.temporal_embedding {
            Some(temporal) => by_patch + temporal.value::<2>().reshape([count, 1, width]),
            None => by_patch,
        };
        let class = self.class_embedding.value::<1>().reshape([1, width]) + position.slice([0..1]);
        super::tensor::dense(Tensor::cat(vec![class, by_patch.reshape([count * patches, width])], 0))
    }
}
