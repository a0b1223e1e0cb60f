//! Multi-head self-attention on packed queries, keys and values: the reference composition.
//!
//! Scores are materialised, a few clips at a time so that they never need more than [`MAX_SCORES`] elements; the fused
//! kernels replace this and are tested against it.

use super::gemm::gemm;
use super::tensor::{T, cast, dense};
use burn::tensor::{DType, Int, Tensor};
use burn_cubecl::CubeRuntime;

/// Score elements held at once: 256 MiB in f32.
const MAX_SCORES: usize = 1 << 26;

/// Sizes of one attention call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    pub batch: usize,
    pub tokens: usize,
    pub heads: usize,
    pub head_dim: usize,
    /// Token `i` sees tokens `0..=i` only.
    pub causal: bool,
}

impl AttentionShape {
    fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }

    fn clips_at_once(&self) -> usize {
        (MAX_SCORES / (self.heads * self.tokens * self.tokens)).clamp(1, self.batch.max(1))
    }
}

/// `[clips, tokens, 3, heads, head_dim]` to one of q, k, v as `[clips, heads, tokens, head_dim]`.
fn part<R: CubeRuntime>(qkv: &T<R, 5>, which: usize) -> T<R, 4> {
    let [clips, tokens, _, heads, head_dim] = qkv.dims();
    let x = qkv.clone().slice([0..clips, 0..tokens, which..which + 1, 0..heads, 0..head_dim]);
    dense(x.reshape([clips, tokens, heads, head_dim]).swap_dims(1, 2))
}

/// `[clips, heads, tokens, head_dim]` back to `[clips, tokens, heads, head_dim]`.
fn merge<R: CubeRuntime>(x: T<R, 4>) -> T<R, 4> {
    dense(x.swap_dims(1, 2))
}

/// Attention probabilities, `[clips, heads, tokens, tokens]`, f32.
fn probabilities<R: CubeRuntime>(q: T<R, 4>, k: T<R, 4>, shape: &AttentionShape) -> T<R, 4> {
    let scores = gemm(q, k.swap_dims(2, 3), DType::F32) * shape.scale();
    let scores = if shape.causal {
        let bias = causal_bias(shape.tokens, &scores.device());
        scores + bias
    } else {
        scores
    };
    let shifted = scores.clone() - scores.max_dim(3);
    let weights = shifted.exp();
    weights.clone() / weights.sum_dim(3)
}

/// 0 where a token may look, a large negative number where it may not: `[1, 1, tokens, tokens]`.
fn causal_bias<R: CubeRuntime>(tokens: usize, device: &R::Device) -> T<R, 4> {
    let position = Tensor::<super::tensor::Inner<R>, 1, Int>::arange(0..tokens as i64, device).float();
    let future = position.clone().reshape([1, 1, 1, tokens]) - position.reshape([1, 1, tokens, 1]);
    future.clamp(0.0, 1.0) * -1.0e30
}

/// Softmax attention.
///
/// # Shapes
/// - `qkv`: `[batch * tokens, 3 * heads * head_dim]`, columns ordered (q|k|v, head, dim)
/// - returns `[batch * tokens, heads * head_dim]`
pub fn forward<R: CubeRuntime>(qkv: T<R, 2>, shape: &AttentionShape) -> T<R, 2> {
    let AttentionShape { batch, tokens, heads, head_dim, .. } = *shape;
    let dtype = qkv.dtype();
    let qkv = qkv.reshape([batch, tokens, 3, heads, head_dim]);
    let outputs = chunks(shape)
        .map(|clips| {
            let chunk = qkv.clone().slice([clips]);
            let p = probabilities(part(&chunk, 0), part(&chunk, 1), shape);
            merge(gemm(cast(p, dtype), part(&chunk, 2), dtype))
        })
        .collect();
    Tensor::cat(outputs, 0).reshape([batch * tokens, heads * head_dim])
}

/// Gradient of the packed `qkv` from the output's, recomputing the probabilities.
///
/// `dv = P^T do`, `dP = do v^T`, `dS = P * (dP - rowsum(P * dP))`, `dq = scale dS k`, `dk = scale dS^T q`.
///
/// # Shapes
/// - `qkv` as in [`forward`]; `dy`: `[batch * tokens, heads * head_dim]`; returns `dqkv` like `qkv`
pub fn backward<R: CubeRuntime>(qkv: T<R, 2>, dy: T<R, 2>, shape: &AttentionShape) -> T<R, 2> {
    let AttentionShape { batch, tokens, heads, head_dim, .. } = *shape;
    let dtype = qkv.dtype();
    let qkv = qkv.reshape([batch, tokens, 3, heads, head_dim]);
    let dy = dy.reshape([batch, tokens, heads, head_dim]);
    let gradients = chunks(shape)
        .map(|clips| {
            let chunk = qkv.clone().slice([clips.clone()]);
            let count = clips.len();
            let dy = dense(dy.clone().slice([clips]).swap_dims(1, 2));
            let (q, k, v) = (part(&chunk, 0), part(&chunk, 1), part(&chunk, 2));
            let p = probabilities(q.clone(), k.clone(), shape);
            let dv = gemm(cast(p.clone(), dtype).swap_dims(2, 3), dy.clone(), dtype);
            let dp = gemm(dy, v.swap_dims(2, 3), DType::F32);
            let row = (p.clone() * dp.clone()).sum_dim(3);
            let ds = cast(p * (dp - row) * shape.scale(), dtype);
            let dq = gemm(ds.clone(), k, dtype);
            let dk = gemm(ds.swap_dims(2, 3), q, dtype);
            let parts = [dq, dk, dv].map(|g| merge(g).reshape([count, tokens, 1, heads, head_dim]));
            Tensor::cat(parts.to_vec(), 2)
        })
        .collect();
    Tensor::cat(gradients, 0).reshape([batch * tokens, 3 * heads * head_dim])
}

fn chunks(shape: &AttentionShape) -> impl Iterator<Item = std::ops::Range<usize>> {
    let (step, batch) = (shape.clips_at_once(), shape.batch);
    (0..batch).step_by(step).map(move |start| start..(start + step).min(batch))
}
