//! A stack of transformer blocks, for vision and text alike.

use super::params::{ParamStore, Weight};
use super::shape::TowerShape;
use crate::config::recipe::{Activation, Recompute};
use crate::data::rng::{Purpose, keyed};
use crate::ops::attention::AttentionShape;
use crate::ops::block::{BlockSpec, BlockWeights, DropPath, block};
use crate::ops::norm::Norm;
use crate::ops::tensor::AdT;
use burn::tensor::Tensor;
use burn_cubecl::CubeRuntime;
use rand::Rng;
use std::sync::Arc;

/// Blocks of one tower.
pub struct Tower<R: CubeRuntime> {
    blocks: Vec<Arc<BlockWeights<R>>>,
    shape: TowerShape,
    causal: bool,
    activation: Activation,
    /// Drop path's rate per block; empty = none.
    drop_path: Vec<f32>,
    device: R::Device,
}

/// How one pass through the model is to be run.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    pub recompute: Recompute,
    /// Training only: what keys drop path.
    pub drop_path: Option<DropKey>,
}

/// Keys drop path by step and by place in the batch, so that chunks of a batch draw what the whole batch would.
#[derive(Debug, Clone, Copy)]
pub struct DropKey {
    pub seed: u64,
    pub step: u64,
    /// Place in the batch of this chunk's first clip.
    pub first: u64,
}

impl Pass {
    /// No gradients, nothing dropped.
    pub const INFERENCE: Pass = Pass { recompute: Recompute::None, drop_path: None };
}

impl<R: CubeRuntime> Tower<R> {
    /// The blocks `{prefix}.0`, `{prefix}.1`, ...
    pub fn new(
        params: &ParamStore<R>,
        prefix: &str,
        shape: TowerShape,
        causal: bool,
        activation: Activation,
        drop_path: Vec<f32>,
    ) -> Self {
        let blocks = (0..shape.layers).map(|layer| {
            let weight = |part: &str| params.weight(&format!("{prefix}.{layer}.{part}"));
            Arc::new(BlockWeights {
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
            })
        });
        Tower { blocks: blocks.collect(), shape, causal, activation, drop_path, device: params.device.clone() }
    }

    /// # Shapes
    /// - `x`: `[batch * tokens, width]`; returns the same
    pub fn forward(&self, x: AdT<R, 2>, batch: usize, tokens: usize, pass: Pass) -> AdT<R, 2> {
        let spec = BlockSpec {
            shape: AttentionShape {
                batch,
                tokens,
                heads: self.shape.heads,
                head_dim: self.shape.width / self.shape.heads,
                causal: self.causal,
            },
            activation: self.activation,
            recompute: pass.recompute,
        };
        let dropped = self.draw_drop_path(batch, pass);
        let blocks = self.blocks.iter().enumerate();
        blocks.fold(x, |x, (layer, weights)| block(x, weights, spec, dropped.get(layer).cloned()))
    }

    /// Factors of every block's two branches; empty when nothing is dropped.
    fn draw_drop_path(&self, batch: usize, pass: Pass) -> Vec<DropPath<R>> {
        let Some(key) = pass.drop_path else { return Vec::new() };
        if self.drop_path.iter().all(|rate| *rate == 0.0) {
            return Vec::new();
        }
        // Drawn clip by clip, so a clip's fate does not depend on the chunk it is in: [clip][block][branch].
        let mut factors = vec![vec![0.0f32; batch]; 2 * self.drop_path.len()];
        for clip in 0..batch {
            let mut rng = keyed(key.seed, key.step, key.first + clip as u64, Purpose::DropPath);
            for (branch, column) in factors.iter_mut().enumerate() {
                let keep = 1.0 - self.drop_path[branch / 2];
                column[clip] = if rng.random::<f32>() < keep { 1.0 / keep } else { 0.0 };
            }
        }
        let mut columns = factors.into_iter().map(|f| Tensor::from_floats(f.as_slice(), &self.device));
        let mut paths = Vec::new();
        while let (Some(attention), Some(mlp)) = (columns.next(), columns.next()) {
            paths.push(DropPath { attention, mlp });
        }
        paths
    }
}

/// The LayerNorm whose parameters start with `prefix`.
pub fn norm<R: CubeRuntime>(params: &ParamStore<R>, prefix: &str, eps: f32) -> Norm<R> {
    let weight: Weight<R> = params.weight(&format!("{prefix}.weight"));
    Norm { weight, bias: params.weight(&format!("{prefix}.bias")), eps }
}
