//! The text tower: captions to features, forward and backward.

use super::params::ParamStore;
use super::plan::TowerPlan;
use super::shape::ClipShape;
use super::stack::norm;
use super::tower::{Samples, Tower, TowerKept};
use crate::ops::head::{Head, HeadKept};
use crate::ops::tensor::T;
use crate::ops::token_embed::{TokenEmbedWeights, TokenIds};
use crate::ops::workspace::Workspace;
use avion_kernels::Handle;
use burn_cubecl::CubeRuntime;

/// A causal transformer that pools at the end-of-text token.
///
/// Source: AVION `transformer.py`, `TextTransformer`.
pub struct TextTower<R: CubeRuntime> {
    ws: Workspace<R>,
    embed: TokenEmbedWeights<R>,
    tower: Tower<R>,
    head: Head<R>,
}

/// Captions on the device: ids cut to the longest, and where each ends.
#[derive(Clone)]
pub struct Captions {
    pub ids: TokenIds,
    /// `[batch]`, u32, row of each caption's end-of-text token in `[batch * tokens, width]`.
    pub ends: Handle,
}

/// What the forward pass left for the backward pass.
pub struct TextKept<R: CubeRuntime> {
    captions: Captions,
    tower: TowerKept,
    head: HeadKept<R>,
}

impl<R: CubeRuntime> TextTower<R> {
    pub fn new(ws: &Workspace<R>, params: &ParamStore<R>, shape: &ClipShape) -> Self {
        let weight = |name: &str| params.weight(name);
        let prefix = "textual.transformer.resblocks";
        TextTower {
            ws: ws.clone(),
            embed: TokenEmbedWeights {
                embedding: weight("textual.token_embedding.weight"),
                position: weight("textual.positional_embedding"),
            },
            tower: Tower::new(ws, params, prefix, shape.text, true, shape.activation, Vec::new()),
            head: Head {
                norm: norm(params, "textual.ln_final", shape.text.eps),
                projection: weight("textual.text_projection"),
            },
        }
    }

    /// Features of captions, `[batch, embed]`, f32, rows of length 1; with a `plan` also what
    /// [`backward`](Self::backward) needs.
    pub fn forward(&self, captions: Captions, plan: Option<&TowerPlan>) -> (T<R, 2>, Option<TextKept<R>>) {
        let TokenIds { batch, tokens, .. } = captions.ids;
        let samples = Samples { batch, tokens, picks: captions.ends.clone() };
        let x = self.embed.forward(&self.ws, &captions.ids);
        let (pooled, tower) = self.tower.forward(x, &samples, plan, None);
        let (feature, head) = self.head.forward(&self.ws, pooled);
        (feature, tower.map(|tower| TextKept { captions, tower, head }))
    }

    /// Adds the gradients of all parameters, from that of the features, `[batch, embed]`, f32.
    pub fn backward(&self, kept: TextKept<R>, d_feature: T<R, 2>) {
        let TextKept { captions, tower, head } = kept;
        let d_pooled = self.head.backward(&self.ws, head, d_feature);
        let d = self.tower.backward(tower, d_pooled);
        self.embed.backward(&self.ws, &captions.ids, &d);
    }
}
