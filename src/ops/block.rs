//! The pre-norm transformer block that every tower is made of, as one node of the graph:
//! `x1 = x + s1 * attention(ln_1(x))`, `y = x1 + s2 * mlp(ln_2(x1))`.
//!
//! Source: OpenAI CLIP `model.py`, `ResidualAttentionBlock`; AVION `transformer.py`. `s1`, `s2` are 1, or drop path's
//! per-clip factors (Huang et al. 2016, arXiv:1603.09382).

use super::attention::{self, AttentionShape};
use super::differentiable::differentiable;
use super::norm::{self, Norm, Stats};
use super::tensor::{AdT, T};
use super::{activation, linear};
use crate::config::recipe::{Activation, Recompute};
use crate::model::params::Weight;
use burn::tensor::Tensor;
use burn_cubecl::CubeRuntime;
use std::sync::Arc;

/// The twelve parameters of a block, under the names OpenAI gave them.
#[derive(Clone)]
pub struct BlockWeights<R: CubeRuntime> {
    pub ln_1: Norm<R>,
    /// `[3 * width, width]`, rows ordered (q|k|v, head, dim).
    pub in_proj: Weight<R>,
    pub in_proj_bias: Weight<R>,
    pub out_proj: Weight<R>,
    pub out_proj_bias: Weight<R>,
    pub ln_2: Norm<R>,
    pub c_fc: Weight<R>,
    pub c_fc_bias: Weight<R>,
    pub c_proj: Weight<R>,
    pub c_proj_bias: Weight<R>,
}

/// How a block computes, beside its weights.
#[derive(Debug, Clone, Copy)]
pub struct BlockSpec {
    pub shape: AttentionShape,
    pub activation: Activation,
    pub recompute: Recompute,
}

/// Drop path's factors of the two branches for each clip, `[batch]`: 0 or `1 / (1 - rate)`.
#[derive(Clone)]
pub struct DropPath<R: CubeRuntime> {
    pub attention: T<R, 1>,
    pub mlp: T<R, 1>,
}

/// What the backward pass needs beside the block's input.
struct Kept<R: CubeRuntime> {
    ln_1: Stats<R>,
    /// `ln_1(x)`, `[rows, width]`.
    normed_1: T<R, 2>,
    /// `[rows, 3 * width]`.
    qkv: T<R, 2>,
    /// The attention's output, `[rows, width]`, and what its own backward pass needs.
    attended: T<R, 2>,
    attention: attention::Kept<R>,
    /// `x1`, `[rows, width]`.
    middle: T<R, 2>,
    ln_2: Stats<R>,
    normed_2: T<R, 2>,
    /// Before and after the activation, `[rows, 4 * width]`.
    hidden: T<R, 2>,
    activated: T<R, 2>,
}

/// One block.
///
/// # Shapes
/// - `x`: `[batch * tokens, width]`; returns the same
pub fn block<R: CubeRuntime>(
    x: AdT<R, 2>,
    weights: &Arc<BlockWeights<R>>,
    spec: BlockSpec,
    drop_path: Option<DropPath<R>>,
) -> AdT<R, 2> {
    let weights = weights.clone();
    differentiable(x, move |x| {
        let (y, kept) = forward(x.clone(), &weights, &spec, drop_path.as_ref());
        let kept = match spec.recompute {
            Recompute::None => Some(kept),
            Recompute::Blocks => None,
        };
        let backward = move |dy| {
            let kept = match kept {
                Some(kept) => kept,
                None => forward(x.clone(), &weights, &spec, drop_path.as_ref()).1,
            };
            Some(backward(x, kept, dy, &weights, &spec, drop_path.as_ref()))
        };
        (y, backward)
    })
}

fn forward<R: CubeRuntime>(
    x: T<R, 2>,
    w: &BlockWeights<R>,
    spec: &BlockSpec,
    drop_path: Option<&DropPath<R>>,
) -> (T<R, 2>, Kept<R>) {
    let (normed_1, ln_1) = norm::forward(x.clone(), &w.ln_1);
    let qkv = linear::forward(normed_1.clone(), &w.in_proj, Some(&w.in_proj_bias));
    let (attended, kept_attention) = attention::forward(qkv.clone(), &spec.shape);
    let branch = linear::forward(attended.clone(), &w.out_proj, Some(&w.out_proj_bias));
    let middle = x + scaled(branch, spec, drop_path.map(|d| &d.attention));

    let (normed_2, ln_2) = norm::forward(middle.clone(), &w.ln_2);
    let hidden = linear::forward(normed_2.clone(), &w.c_fc, Some(&w.c_fc_bias));
    let activated = activation::forward(hidden.clone(), spec.activation);
    let branch = linear::forward(activated.clone(), &w.c_proj, Some(&w.c_proj_bias));
    let y = middle.clone() + scaled(branch, spec, drop_path.map(|d| &d.mlp));
    (y, Kept { ln_1, normed_1, qkv, attended, attention: kept_attention, middle, ln_2, normed_2, hidden, activated })
}

fn backward<R: CubeRuntime>(
    x: T<R, 2>,
    kept: Kept<R>,
    dy: T<R, 2>,
    w: &BlockWeights<R>,
    spec: &BlockSpec,
    drop_path: Option<&DropPath<R>>,
) -> T<R, 2> {
    let branch = scaled(dy.clone(), spec, drop_path.map(|d| &d.mlp));
    let d = linear::backward(kept.activated, branch, &w.c_proj, Some(&w.c_proj_bias));
    let d = activation::backward(kept.hidden, d, spec.activation);
    let d = linear::backward(kept.normed_2, d, &w.c_fc, Some(&w.c_fc_bias));
    let d_middle = dy + norm::backward(kept.middle, kept.ln_2, d, &w.ln_2);

    let branch = scaled(d_middle.clone(), spec, drop_path.map(|d| &d.attention));
    let d = linear::backward(kept.attended, branch, &w.out_proj, Some(&w.out_proj_bias));
    let d = attention::backward(kept.qkv, kept.attention, d, &spec.shape);
    let d = linear::backward(kept.normed_1, d, &w.in_proj, Some(&w.in_proj_bias));
    d_middle + norm::backward(x, kept.ln_1, d, &w.ln_1)
}

/// A residual branch times its clip's drop-path factor.
fn scaled<R: CubeRuntime>(branch: T<R, 2>, spec: &BlockSpec, factor: Option<&T<R, 1>>) -> T<R, 2> {
    let Some(factor) = factor else { return branch };
    let ([rows, width], dtype) = (branch.dims(), branch.dtype());
    let factor = super::tensor::cast(factor.clone(), dtype).reshape([spec.shape.batch, 1, 1]);
    let branch: Tensor<_, 3> = branch.reshape([spec.shape.batch, spec.shape.tokens, width]);
    (branch * factor).reshape([rows, width])
}
