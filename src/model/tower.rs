//! A stack of transformer blocks of which one token a sample goes on, for video and text alike.

use super::params::{ParamStore, Weight};
use super::plan::TowerPlan;
use super::shape::TowerShape;
use crate::config::recipe::Activation;
use crate::data::rng::{Purpose, keyed};
use crate::ops::block::{Block, BlockSpec, BlockWeights, DropPath, Keep, Kept};
use crate::ops::norm::Norm;
use crate::ops::pooled_block::{PooledBlock, PooledKept};
use crate::ops::workspace::{Matrix, Workspace};
use avion_kernels::Handle;
use avion_kernels::attention::AttentionShape;
use burn_cubecl::CubeRuntime;
use rand::Rng;

/// Blocks of one tower.
pub struct Tower<R: CubeRuntime> {
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

/// Samples of one call, and the token of each that goes on.
#[derive(Clone)]
pub struct Samples {
    pub batch: usize,
    pub tokens: usize,
    /// `[batch]`, u32: row of each sample's token in `[batch * tokens, width]`.
    pub picks: Handle,
}

/// What the forward pass left for the backward pass: inputs and pieces of every block.
pub struct TowerKept {
    blocks: Vec<(Matrix, Kept)>,
    last: (Matrix, PooledKept),
    samples: Samples,
    dropped: Vec<DropPath>,
}

impl<R: CubeRuntime> Tower<R> {
    /// The blocks `{prefix}.0`, `{prefix}.1`, ...
    pub fn new(
        ws: &Workspace<R>,
        params: &ParamStore<R>,
        prefix: &str,
        shape: TowerShape,
        causal: bool,
        activation: Activation,
        drop_path: Vec<f32>,
    ) -> Self {
        let blocks = (0..shape.layers).map(|layer| {
            let weight = |part: &str| params.weight(&format!("{prefix}.{layer}.{part}"));
            BlockWeights {
                ln_1: norm(params, &format!("{prefix}.{layer}.ln_1"), shape.eps),
                in_proj: weight("attn.in_proj_weight"),
                in_proj_bias: weight("attn.in_proj_bias"),
                out_proj: weight("attn.out_proj.weight"),
                out_proj_bias: weight("attn.out_proj.bias"),
                ln_2: norm(params, &format!("{prefix}.{layer}.ln_2"), shape.eps),
                c_fc: weight("mlp.c_fc.weight"),
                c_fc_bias: weight("mlp.c_fc.bias"),
                c_proj: weight("mlp.c_proj.weight"),
                c_proj_bias: weight("mlp.c_proj.bias"),
            }
        });
        Tower { ws: ws.clone(), blocks: blocks.collect(), shape, causal, activation, drop_path }
    }

    /// # Shapes
    /// - `x`: `[batch * tokens, width]`; returns the picked tokens, `[batch, width]`, and with a `plan` what the backward
    ///   pass needs
    pub fn forward(
        &self,
        mut x: Matrix,
        samples: &Samples,
        plan: Option<&TowerPlan>,
        drop_path: Option<DropKey>,
    ) -> (Matrix, Option<TowerKept>) {
        let dropped = self.draw_drop_path(samples.batch, drop_path);
        let mut blocks = Vec::new();
        let full = self.blocks.len() - 1;
        for layer in 0..full {
            let keep = plan.map_or(Keep::NOTHING, |plan| plan.blocks[layer]);
            let (y, kept) = self.block(layer, samples, &dropped).forward(&x, keep);
            let input = std::mem::replace(&mut x, y);
            if plan.is_some() {
                blocks.push((input, kept));
            }
        }
        let (y, kept) = self.last(samples, &dropped).forward(&x, plan.is_some_and(|plan| plan.last_kv));
        let kept = plan.map(|_| TowerKept { blocks, last: (x, kept), samples: samples.clone(), dropped });
        (y, kept)
    }

    /// Gradient of the tower's input, `[batch * tokens, width]`, from that of the picked tokens, `stream`,
    /// `[batch, width]`, which is used up.
    pub fn backward(&self, kept: TowerKept, stream: Matrix) -> Matrix {
        let TowerKept { blocks, last: (x, last), samples, dropped } = kept;
        // With drop path a bias's gradient is no plain column sum of the stream's gradient: each block makes its own.
        let below = |layer: usize| -> Option<&Weight<R>> {
            let before = layer.checked_sub(1).filter(|_| dropped.is_empty())?;
            Some(&self.blocks[before].c_proj_bias)
        };
        let full = self.blocks.len() - 1;
        let stream = self.last(&samples, &dropped).backward(&x, last, &stream, below(full));
        drop(x);
        for (layer, (x, kept)) in blocks.into_iter().enumerate().rev() {
            self.block(layer, &samples, &dropped).backward(&x, kept, &stream, below(layer));
        }
        stream
    }

    fn spec(&self, samples: &Samples) -> BlockSpec {
        BlockSpec {
            shape: AttentionShape {
                batch: samples.batch,
                tokens: samples.tokens,
                heads: self.shape.heads,
                head_dim: self.shape.width / self.shape.heads,
                causal: self.causal,
                kind: self.ws.kind,
            },
            activation: self.activation,
        }
    }

    fn block<'a>(&'a self, layer: usize, samples: &Samples, dropped: &'a [DropPath]) -> Block<'a, R> {
        let (spec, drop_path) = (self.spec(samples), dropped.get(layer));
        Block { ws: &self.ws, weights: &self.blocks[layer], spec, drop_path }
    }

    fn last<'a>(&'a self, samples: &'a Samples, dropped: &'a [DropPath]) -> PooledBlock<'a, R> {
        let last = self.blocks.len() - 1;
        let (spec, drop_path) = (self.spec(samples), dropped.get(last));
        PooledBlock { ws: &self.ws, weights: &self.blocks[last], spec, drop_path, picks: &samples.picks }
    }

    /// Factors of every block's two branches; empty when nothing is dropped.
    fn draw_drop_path(&self, batch: usize, key: Option<DropKey>) -> Vec<DropPath> {
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
