//! Transformer blocks one after another: what every tower is made of.

use super::params::{ParamStore, Weight};
use super::shape::TowerShape;
use crate::config::recipe::Activation;
use crate::data::rng::{Purpose, keyed};
use crate::ops::block::{Block, BlockSpec, BlockWeights, DropPath, Keep, Kept};
use crate::ops::linear;
use crate::ops::norm::Norm;
use crate::ops::workspace::{Matrix, Stream, Workspace};
use avion_kernels::attention::AttentionShape;
use burn_cubecl::CubeRuntime;
use rand::Rng;
use std::ops::Range;

/// Whose names the parameters of a block have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockNames {
    /// OpenAI CLIP's, as AVION's: `ln_1`, `attn.in_proj_weight`, `mlp.c_fc`.
    Clip,
    /// VideoMAE's, as timm's: `norm1`, `attn.qkv`, `mlp.fc1`.
    VideoMae,
}

impl BlockNames {
    /// Names of the two norms, of the four linear layers' weights, and of their biases.
    pub(super) fn parts(self) -> ([&'static str; 2], [[&'static str; 2]; 4]) {
        match self {
            BlockNames::Clip => (
                ["ln_1", "ln_2"],
                [
                    ["attn.in_proj_weight", "attn.in_proj_bias"],
                    ["attn.out_proj.weight", "attn.out_proj.bias"],
                    ["mlp.c_fc.weight", "mlp.c_fc.bias"],
                    ["mlp.c_proj.weight", "mlp.c_proj.bias"],
                ],
            ),
            BlockNames::VideoMae => (
                ["norm1", "norm2"],
                [
                    ["attn.qkv.weight", "attn.qkv.bias"],
                    ["attn.proj.weight", "attn.proj.bias"],
                    ["mlp.fc1.weight", "mlp.fc1.bias"],
                    ["mlp.fc2.weight", "mlp.fc2.bias"],
                ],
            ),
        }
    }
}

/// The blocks of one tower.
pub struct Stack<R: CubeRuntime> {
    ws: Workspace<R>,
    blocks: Vec<BlockWeights<R>>,
    shape: TowerShape,
    causal: bool,
    activation: Activation,
    /// Drop path's rate per block; empty = none.
    drop_path: Vec<f32>,
}

/// Keys drop path by step and by place in the batch, so that chunks of a batch draw what the whole batch would.
#[derive(Debug, Clone, Copy)]
pub struct DropKey {
    pub seed: u64,
    pub step: u64,
    /// Place in the batch of this chunk's first clip.
    pub first: u64,
}

/// How a matrix `[batch * tokens, width]` divides into samples.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    pub batch: usize,
    pub tokens: usize,
}

/// What some blocks left for their backward pass: the input and the kept pieces of each.
pub type StackKept = Vec<(Matrix, Kept)>;

impl<R: CubeRuntime> Stack<R> {
    /// The blocks `{prefix}.0`, `{prefix}.1`, ...
    pub fn new(
        ws: &Workspace<R>,
        params: &ParamStore<R>,
        prefix: &str,
        names: BlockNames,
        shape: TowerShape,
        causal: bool,
        activation: Activation,
        drop_path: Vec<f32>,
    ) -> Self {
        let (norms, layers) = names.parts();
        let blocks = (0..shape.layers).map(|layer| {
            let weight = |part: &str| params.weight(&format!("{prefix}.{layer}.{part}"));
            let [ln_1, ln_2] = norms.map(|part| norm(params, &format!("{prefix}.{layer}.{part}"), shape.eps));
            let [[in_proj, in_proj_bias], [out_proj, out_proj_bias], [c_fc, c_fc_bias], [c_proj, c_proj_bias]] =
                layers.map(|parts| parts.map(weight));
            BlockWeights {
                ln_1,
                in_proj,
                in_proj_bias,
                out_proj,
                out_proj_bias,
                ln_2,
                c_fc,
                c_fc_bias,
                c_proj,
                c_proj_bias,
            }
        });
        Stack { ws: ws.clone(), blocks: blocks.collect(), shape, causal, activation, drop_path }
    }

    /// Number of blocks.
    pub fn layers(&self) -> usize {
        self.blocks.len()
    }

    pub fn weights(&self, layer: usize) -> &BlockWeights<R> {
        &self.blocks[layer]
    }

    /// Runs the blocks of `layers`, over every token.
    ///
    /// # Shapes
    /// - `x`: `[batch * tokens, width]`; returns the same, and with `keep`, an entry a block, what the backward pass
    ///   needs
    pub fn forward(
        &self,
        mut x: Matrix,
        layers: Range<usize>,
        extent: Extent,
        keep: Option<&[Keep]>,
        dropped: &[DropPath],
    ) -> (Matrix, StackKept) {
        let mut blocks = Vec::new();
        for layer in layers {
            let pieces = keep.map_or(Keep::NOTHING, |keep| keep[layer]);
            let (y, kept) = self.block(layer, extent, dropped).forward(&x, pieces);
            let input = std::mem::replace(&mut x, y);
            if keep.is_some() {
                blocks.push((input, kept));
            }
        }
        (x, blocks)
    }

    /// Queries, keys and values of block `layer`, `[batch * tokens, 3 * width]`, columns ordered (q|k|v, head, dim), from
    /// the input of the first block: what its attention is made of.
    pub fn qkv(&self, x: Matrix, layer: usize, extent: Extent) -> Matrix {
        let (x, _) = self.forward(x, 0..layer, extent, None, &[]);
        let weights = &self.blocks[layer];
        let (normed, _) = weights.ln_1.forward(&self.ws, &x);
        linear::forward(&self.ws, &normed, &weights.in_proj, Some(&weights.in_proj_bias), None)
    }

    /// Turns the gradient of the output of the blocks that left `kept`, the first ones, into that of their input, in
    /// place. Whoever made `stream` has added [`below`](Self::below)'s gradient.
    pub fn backward(&self, kept: StackKept, extent: Extent, stream: &Stream, dropped: &[DropPath]) {
        for (layer, (x, kept)) in kept.into_iter().enumerate().rev() {
            let below = layer.checked_sub(1).and_then(|before| self.below(before, dropped));
            self.block(layer, extent, dropped).backward(&x, kept, stream, below);
        }
    }

    /// The bias of block `layer` whose gradient is the column sum of its output's gradient. With drop path it is no plain
    /// column sum: the block then makes its own.
    pub fn below(&self, layer: usize, dropped: &[DropPath]) -> Option<&Weight<R>> {
        dropped.is_empty().then(|| &self.blocks[layer].c_proj_bias)
    }

    pub fn spec(&self, extent: Extent) -> BlockSpec {
        BlockSpec {
            shape: AttentionShape {
                batch: extent.batch,
                tokens: extent.tokens,
                heads: self.shape.heads,
                head_dim: self.shape.width / self.shape.heads,
                causal: self.causal,
                kind: self.ws.kind,
            },
            activation: self.activation,
        }
    }

    fn block<'a>(&'a self, layer: usize, extent: Extent, dropped: &'a [DropPath]) -> Block<'a, R> {
        let (spec, drop_path) = (self.spec(extent), dropped.get(layer));
        Block { ws: &self.ws, weights: &self.blocks[layer], spec, drop_path }
    }

    /// Factors of every block's two branches; empty when nothing is dropped.
    pub fn draw_drop_path(&self, batch: usize, key: Option<DropKey>) -> Vec<DropPath> {
        let Some(key) = key else { return Vec::new() };
        if self.drop_path.iter().all(|rate| *rate == 0.0) {
            return Vec::new();
        }
        // Drawn clip by clip, so a clip's fate does not depend on the chunk it is in: [block][branch][clip].
        let mut factors = vec![[vec![0.0f32; batch], vec![0.0f32; batch]]; self.drop_path.len()];
        for clip in 0..batch {
            let mut rng = keyed(key.seed, key.step, key.first + clip as u64, Purpose::DropPath);
            for (rate, branches) in self.drop_path.iter().zip(&mut factors) {
                let keep = 1.0 - rate;
                for branch in branches {
                    branch[clip] = if rng.random::<f32>() < keep { 1.0 / keep } else { 0.0 };
                }
            }
        }
        let upload = |factors: &Vec<f32>| self.ws.upload(factors);
        factors.iter().map(|[a, b]| DropPath { attention: upload(a), mlp: upload(b) }).collect()
    }
}

/// The LayerNorm whose parameters start with `prefix`.
pub fn norm<R: CubeRuntime>(params: &ParamStore<R>, prefix: &str, eps: f32) -> Norm<R> {
    let weight: Weight<R> = params.weight(&format!("{prefix}.weight"));
    Norm { weight, bias: params.weight(&format!("{prefix}.bias")), eps }
}
