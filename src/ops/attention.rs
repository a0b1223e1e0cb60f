//! Multi-head self-attention on packed queries, keys and values.
//!
//! On tensor cores with half-precision activations the fused kernels of [`avion_kernels::attention::flash`] do the work.
//! Elsewhere scores are materialised, a few clips at a time so that they never need more than [`MAX_SCORES`] elements:
//! the reference that the fused kernels are tested against.

use super::gemm::gemm;
use super::tensor::{T, cast, dense, float_kind, from_handle, primitive};
use avion_kernels::Handle;
use avion_kernels::attention::flash::{self, FlashShape};
use burn::tensor::{DType, Int, Tensor};
use burn_cubecl::CubeRuntime;

/// Score elements held at once: 256 MiB in f32.
const MAX_SCORES: usize = 1 << 26;

/// Matrices multiplied in one launch: WebGPU's limit on a dispatch's second dimension.
const MAX_MATRICES: usize = 65_535;

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
        let by_memory = MAX_SCORES / (self.heads * self.tokens * self.tokens);
        by_memory.min(MAX_MATRICES / self.heads).clamp(1, self.batch.max(1))
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

/// What the backward pass needs beside `qkv`: the fused kernels' output and softmax sums, or nothing.
pub struct Kept<R: CubeRuntime>(Option<FlashKept<R>>);

struct FlashKept<R: CubeRuntime> {
    /// `[batch, heads, tokens, head_dim]`.
    output: T<R, 4>,
    lse: Handle,
}

/// The fused kernels' shape, where they can take the call.
fn flash_shape<R: CubeRuntime>(qkv: &T<R, 5>, shape: &AttentionShape) -> Option<FlashShape> {
    let kind = float_kind(qkv.dtype())?;
    let flash = FlashShape { heads: shape.batch * shape.heads, tokens: shape.tokens, causal: shape.causal, kind };
    let client = R::client(&qkv.device());
    flash::supported(&client, &flash, shape.head_dim).then_some(flash)
}

/// Softmax attention.
///
/// # Shapes
/// - `qkv`: `[batch * tokens, 3 * heads * head_dim]`, columns ordered (q|k|v, head, dim)
/// - returns `[batch * tokens, heads * head_dim]`
pub fn forward<R: CubeRuntime>(qkv: T<R, 2>, shape: &AttentionShape) -> (T<R, 2>, Kept<R>) {
    let AttentionShape { batch, tokens, heads, head_dim, .. } = *shape;
    let dtype = qkv.dtype();
    let qkv = qkv.reshape([batch, tokens, 3, heads, head_dim]);
    let rows = [batch * tokens, heads * head_dim];
    if let Some(flash_shape) = flash_shape(&qkv, shape) {
        let [q, k, v] = [0, 1, 2].map(|which| primitive(part(&qkv, which)));
        let (output, lse) = flash::forward(&q.client, &flash_shape, [&q.handle, &k.handle, &v.handle]);
        let output = from_handle(&q.client, &q.device, output, [batch, heads, tokens, head_dim], dtype);
        let kept = Kept(Some(FlashKept { output: output.clone(), lse }));
        return (merge(output).reshape(rows), kept);
    }
    let outputs = chunks(shape).map(|clips| {
        let chunk = qkv.clone().slice([clips]);
        let p = probabilities(part(&chunk, 0), part(&chunk, 1), shape);
        merge(gemm(cast(p, dtype), part(&chunk, 2), dtype))
    });
    (Tensor::cat(outputs.collect(), 0).reshape(rows), Kept(None))
}

/// Gradient of the packed `qkv` from the output's, recomputing the probabilities.
///
/// `dv = P^T do`, `dP = do v^T`, `dS = P * (dP - rowsum(P * dP))`, `dq = scale dS k`, `dk = scale dS^T q`.
///
/// # Shapes
/// - `qkv` as in [`forward`]; `dy`: `[batch * tokens, heads * head_dim]`; returns `dqkv` like `qkv`
pub fn backward<R: CubeRuntime>(qkv: T<R, 2>, kept: Kept<R>, dy: T<R, 2>, shape: &AttentionShape) -> T<R, 2> {
    let AttentionShape { batch, tokens, heads, head_dim, .. } = *shape;
    let dtype = qkv.dtype();
    let qkv = qkv.reshape([batch, tokens, 3, heads, head_dim]);
    let dy = dy.reshape([batch, tokens, heads, head_dim]);
    let packed = |parts: [T<R, 4>; 3]| {
        let count = parts[0].dims()[0];
        Tensor::cat(parts.map(|g| merge(g).reshape([count, tokens, 1, heads, head_dim])).to_vec(), 2)
    };
    if let (Some(flash_shape), Kept(Some(FlashKept { output, lse }))) = (flash_shape(&qkv, shape), kept) {
        let [q, k, v] = [0, 1, 2].map(|which| primitive(part(&qkv, which)));
        let (output, dy) = (primitive(output), primitive(dense(dy.swap_dims(1, 2))));
        let inputs = [&q.handle, &k.handle, &v.handle];
        let gradients = flash::backward(&q.client, &flash_shape, inputs, &output.handle, &lse, &dy.handle);
        let shape = [batch, heads, tokens, head_dim];
        let gradients = gradients.map(|handle| from_handle(&q.client, &q.device, handle, shape, dtype));
        return packed(gradients).reshape([batch * tokens, 3 * heads * head_dim]);
    }
    let gradients = chunks(shape).map(|clips| {
        let chunk = qkv.clone().slice([clips.clone()]);
        let dy = dense(dy.clone().slice([clips]).swap_dims(1, 2));
        let (q, k, v) = (part(&chunk, 0), part(&chunk, 1), part(&chunk, 2));
        let p = probabilities(q.clone(), k.clone(), shape);
        let dv = gemm(cast(p.clone(), dtype).swap_dims(2, 3), dy.clone(), dtype);
        let dp = gemm(dy, v.swap_dims(2, 3), DType::F32);
        let row = (p.clone() * dp.clone()).sum_dim(3);
        let ds = cast(p * (dp - row) * shape.scale(), dtype);
        let dq = gemm(ds.clone(), k, dtype);
        let dk = gemm(ds.swap_dims(2, 3), q, dtype);
        packed([dq, dk, dv])
    });
    Tensor::cat(gradients.collect(), 0).reshape([batch * tokens, 3 * heads * head_dim])
}

fn chunks(shape: &AttentionShape) -> impl Iterator<Item = std::ops::Range<usize>> {
    let (step, batch) = (shape.clips_at_once(), shape.batch);
    (0..batch).step_by(step).map(move |start| start..(start + step).min(batch))
}
