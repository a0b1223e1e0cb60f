//! The vision tower: frames to features, forward and backward.

use super::params::ParamStore;
use super::plan::TowerPlan;
use super::shape::ClipShape;
use super::stack::{DropKey, Extent, norm};
use super::tower::{Samples, Tower, TowerKept};
use crate::data::rng::{Purpose, keyed};
use crate::ops::head::{Head, HeadKept};
use crate::ops::norm::{Norm, Stats};
use crate::ops::patch_embed::{Frames, KeptPatches, PatchEmbedWeights};
use crate::ops::tensor::T;
use crate::ops::tubelet_embed::{MaskKind, MaskShape, checked};
use crate::ops::workspace::{Matrix, Workspace};
use avion_kernels::masking;
use burn_cubecl::CubeRuntime;
use rand::RngCore;

/// A ViT over all frames' patches that pools at the class token.
///
/// Source: AVION `transformer.py`, `VisionTransformer`.
pub struct VisionTower<R: CubeRuntime> {
    ws: Workspace<R>,
    embed: PatchEmbedWeights<R>,
    ln_pre: Norm<R>,
    tower: Tower<R>,
    head: Head<R>,
    /// Which patches training leaves out, and how many.
    dropout: Option<MaskShape>,
}

/// What the forward pass left for the backward pass.
pub struct VisionKept<R: CubeRuntime> {
    frames: Frames,
    embedded: Matrix,
    stats: Stats,
    tower: TowerKept,
    head: HeadKept<R>,
}

impl<R: CubeRuntime> VisionTower<R> {
    pub fn new(ws: &Workspace<R>, params: &ParamStore<R>, shape: &ClipShape) -> Self {
        let weight = |name: &str| params.weight(name);
        VisionTower {
            ws: ws.clone(),
            embed: PatchEmbedWeights {
                conv1: weight("visual.conv1.weight"),
                class_embedding: weight("visual.class_embedding"),
                positional_embedding: weight("visual.positional_embedding"),
                temporal_embedding: (shape.frames > 1).then(|| weight("visual.temporal_embedding")),
            },
            ln_pre: norm(params, "visual.ln_pre", shape.vision.eps),
            tower: Tower::new(
                ws,
                params,
                "visual.transformer.resblocks",
                shape.vision,
                false,
                shape.activation,
                shape.drop_path.clone(),
            ),
            head: Head {
                norm: norm(params, "visual.ln_post", shape.vision.eps),
                projection: weight("visual.image_projection"),
            },
            dropout: (shape.patch_dropout > 0.0).then(|| {
                let side = shape.image_px / shape.patch_px;
                let masked = shape.frames * shape.patches() - shape.kept_patches();
                let (kind, frames) = (MaskKind::Random, shape.frames);
                MaskShape { kind, frames, rows: side, columns: side, masked, decoded: 0 }
            }),
        }
    }

    /// Features of clips, `[batch, embed]`, f32, rows of length 1; with a `plan` also what [`backward`](Self::backward)
    /// needs.
    pub fn forward(
        &self,
        frames: Frames,
        plan: Option<&TowerPlan>,
        drop_path: Option<DropKey>,
    ) -> (T<R, 2>, Option<VisionKept<R>>) {
        let frames = self.drop_patches(frames, drop_path);
        let (ws, batch, tokens) = (&self.ws, frames.batch, frames.tokens());
        let classes: Vec<u32> = (0..batch).map(|clip| (clip * tokens) as u32).collect();
        let samples = Samples { batch, tokens, picks: ws.upload(&classes) };
        let embedded = self.embed.forward(ws, &frames);
        let (x, stats) = self.ln_pre.forward(ws, &embedded);
        let kept = plan.map(|_| (embedded, stats));
        let (pooled, tower) = self.tower.forward(x, &samples, plan, drop_path);
        let (feature, head) = self.head.forward(ws, pooled);
        let kept =
            kept.zip(tower).map(|((embedded, stats), tower)| VisionKept { frames, embedded, stats, tower, head });
        (feature, kept)
    }

    /// Queries, keys and values of block `layer`, `[batch * tokens, 3 * width]`, columns ordered (q|k|v, head, dim); each
    /// clip's first row is its class token's.
    pub fn qkv(&self, frames: &Frames, layer: usize) -> Matrix {
        let extent = Extent { batch: frames.batch, tokens: frames.tokens() };
        let (x, _) = self.ln_pre.forward(&self.ws, &self.embed.forward(&self.ws, frames));
        self.tower.qkv(x, layer, extent)
    }

    /// Leaves out patches of each clip, in training.
    fn drop_patches(&self, frames: Frames, key: Option<DropKey>) -> Frames {
        let Some((key, shape)) = key.zip(self.dropout) else { return frames };
        let words = |clip: u64| {
            let word = keyed(key.seed, key.step, key.first + clip, Purpose::Mask).next_u64();
            [word as u32, (word >> 32) as u32]
        };
        let keys: Vec<[u32; 2]> = (0..frames.batch as u64).map(words).collect();
        let (client, counts) = (&self.ws.client, shape.counts(frames.batch));
        let order = client.empty(counts.rows() * 4);
        checked(masking::generate(client, &shape, &self.ws.upload(&keys), &order, frames.batch));
        Frames { kept: Some(KeptPatches { order, counts }), ..frames }
    }

    /// Adds the gradients of all parameters, from that of the features, `[batch, embed]`, f32.
    pub fn backward(&self, kept: VisionKept<R>, d_feature: T<R, 2>) {
        let VisionKept { frames, embedded, stats, tower, head } = kept;
        let ws = &self.ws;
        let d_pooled = self.head.backward(ws, head, d_feature);
        let d = self.tower.backward(tower, d_pooled);
        let d_embedded = self.ln_pre.branch_only(ws, &embedded, &stats, &d, None);
        drop((d, embedded));
        self.embed.backward(ws, &frames, &d_embedded);
    }
}
