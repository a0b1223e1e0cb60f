//! Softmax attention, forward and backward, on queries, keys and values as the QKV product wrote them.
//!
//! `output = softmax(q k^T / sqrt(head_dim)) v` for every clip and head, read by stride from the packed
//! `[batch, tokens, 3, heads, head_dim]` and written to `[batch, tokens, heads, head_dim]`: nothing is transposed, and
//! scores are never in memory. [`path`] says which kernels a device gets: `hopper` on GPUs that multiply by
//! warpgroup, [`flash`] with matrix instructions, else [`portable`].

pub mod flash;
#[cfg(feature = "cuda")]
pub mod hopper;
pub mod pooled;
pub mod portable;

use crate::column_sum::column_sum;
use crate::{FloatKind, Handle, KernelError};
use cubecl::prelude::*;

/// Cubes along any dimension of a grid: WebGPU's limit.
const MAX_CUBES: usize = 65_535;

/// One call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttentionShape {
    pub batch: usize,
    pub tokens: usize,
    pub heads: usize,
    pub head_dim: usize,
    /// Token `i` sees tokens `0..=i` only.
    pub causal: bool,
    /// Of the packed buffers; softmax and sums are f32 always.
    pub kind: FloatKind,
}

impl AttentionShape {
    /// Elements of the packed `qkv`.
    pub fn qkv_len(&self) -> usize {
        3 * self.output_len()
    }

    /// Elements of `output`.
    pub fn output_len(&self) -> usize {
        self.batch * self.tokens * self.heads * self.head_dim
    }

    /// Elements of `lse` and of `delta`.
    pub fn lse_len(&self) -> usize {
        self.batch * self.heads * self.tokens
    }

    /// Elements of [`backward`]'s `sums`: each warpgroup's sums over the 64 rows it has of the gradients, on Hopper GPUs.
    pub fn sums_len(&self) -> usize {
        self.sum_rows() * 3 * self.heads * self.head_dim
    }

    /// Rows of `sums`: for each clip as many as warpgroups have rows of it.
    fn sum_rows(&self) -> usize {
        self.batch * self.tokens.div_ceil(64)
    }

    /// What scores are multiplied by.
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    fn refuse(&self, what: &'static str, expected: &str) -> KernelError {
        let AttentionShape { batch, tokens, heads, head_dim, causal, kind } = self;
        let mask = if *causal { "causal" } else { "full" };
        KernelError::Shape {
            kernel: "attention",
            what,
            expected: expected.to_owned(),
            got: format!("qkv [{batch}, {tokens}, 3, {heads}, {head_dim}] of {kind:?}, {mask}"),
        }
    }

    /// That indices fit in 32 bits and grids in every device's.
    fn check(&self) -> Result<(), KernelError> {
        let sizes = [self.batch, self.tokens, self.heads, self.head_dim];
        let len = sizes.iter().try_fold(3usize, |product, size| product.checked_mul(*size));
        if len.is_none_or(|len| len == 0 || len > u32::MAX as usize) {
            return Err(self.refuse("elements", "1 to 2^32 - 1"));
        }
        if self.batch > MAX_CUBES || self.heads > MAX_CUBES {
            return Err(self.refuse("batch and heads", "at most 65,535 each"));
        }
        Ok(())
    }
}

/// Which kernels run a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// [`hopper`]: products on warpgroups.
    #[cfg(feature = "cuda")]
    Hopper,
    /// [`flash`]: 16 x 8 x 16 matrix instructions and asynchronous copies.
    Matrix,
    /// [`portable`].
    Portable,
}

/// The kernels that [`forward`] and [`backward`] use for a shape.
///
/// # Errors
/// If no kernel takes the head width, the type or the sizes on this device: nothing would be launched.
pub fn path<R: Runtime>(client: &ComputeClient<R>, shape: &AttentionShape) -> Result<Path, KernelError> {
    shape.check()?;
    #[cfg(feature = "cuda")]
    if hopper::supported(client, shape) {
        return Ok(Path::Hopper);
    }
    if flash::supported(client, shape) {
        return Ok(Path::Matrix);
    }
    if !portable::supported(shape.head_dim) {
        return Err(shape.refuse("head_dim", "a multiple of 8 up to 128"));
    }
    let ty = crate::with_float!(shape.kind, F => F::as_type_native_unchecked());
    if !client.properties().supports_type(ty) {
        return Err(shape.refuse("element type", "one that the device can compute with"));
    }
    Ok(Path::Portable)
}

/// Softmax attention.
///
/// # Shapes
/// - `qkv`: `[batch, tokens, 3, heads, head_dim]` of `shape.kind`, contiguous
/// - `output`: `[batch, tokens, heads, head_dim]` of `shape.kind`, written
/// - `lse`: `[batch, heads, tokens]`, f32, written: the natural logarithm of each row's sum of exponentials of scores
///
/// # Errors
/// As [`path`].
pub fn forward<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &AttentionShape,
    qkv: &Handle,
    output: &Handle,
    lse: &Handle,
) -> Result<(), KernelError> {
    match path(client, shape)? {
        #[cfg(feature = "cuda")]
        Path::Hopper => hopper::forward(client, shape, qkv, output, lse),
        Path::Matrix => flash::forward(client, shape, qkv, output, lse),
        Path::Portable => {
            portable::forward(client, shape, portable::Plan::forward(client, shape.head_dim), qkv, output, lse)
        }
    }
    Ok(())
}

/// The gradient of `qkv`, and of the bias that was added to it.
///
/// # Shapes
/// - `qkv`, `output`, `lse`: as [`forward`] took and wrote them
/// - `d_output`: like `output`
/// - `d_qkv`: like `qkv`, written completely
/// - `delta`: like `lse`, scratch; afterwards each row's sum of `output * d_output`
/// - `sums`: f32 `[shape.sums_len()]`, scratch
/// - `d_bias`: `[3, heads, head_dim]`, f32; increased by the sum of `d_qkv` over batch and tokens
///
/// # Errors
/// As [`path`].
pub fn backward<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &AttentionShape,
    qkv: &Handle,
    output: &Handle,
    lse: &Handle,
    d_output: &Handle,
    d_qkv: &Handle,
    delta: &Handle,
    sums: &Handle,
    d_bias: &Handle,
) -> Result<(), KernelError> {
    match path(client, shape)? {
        #[cfg(feature = "cuda")]
        Path::Hopper => {
            hopper::backward(client, shape, qkv, output, lse, d_output, d_qkv, delta, sums, d_bias);
            return Ok(());
        }
        Path::Matrix => flash::backward(client, shape, qkv, output, lse, d_output, d_qkv, delta),
        Path::Portable => {
            let plans = portable::Plan::backward(client, shape.head_dim);
            portable::backward(client, shape, plans, qkv, output, lse, d_output, d_qkv, delta);
        }
    }
    let (rows, columns) = (shape.batch * shape.tokens, 3 * shape.heads * shape.head_dim);
    column_sum(client, d_qkv.clone(), shape.kind, rows, columns, d_bias.clone());
    Ok(())
}

/// What [`reference`] computes.
pub struct Reference {
    pub output: Vec<f64>,
    pub lse: Vec<f64>,
    pub d_qkv: Vec<f64>,
}

/// The same in f64: shapes as in [`forward`] and [`backward`].
pub fn reference(shape: &AttentionShape, qkv: &[f32], d_output: &[f32]) -> Reference {
    let AttentionShape { batch, tokens, heads, head_dim: d, causal, .. } = *shape;
    let scale = 1.0 / (d as f64).sqrt();
    let mut result = Reference {
        output: vec![0.0; shape.output_len()],
        lse: vec![0.0; shape.lse_len()],
        d_qkv: vec![0.0; shape.qkv_len()],
    };
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum() };
    for (clip, head) in (0..batch).flat_map(|clip| (0..heads).map(move |head| (clip, head))) {
        let part = |which: usize, token: usize| (((clip * tokens + token) * 3 + which) * heads + head) * d;
        let of = |which: usize, token: usize| &qkv[part(which, token)..part(which, token) + d];
        for i in 0..tokens {
            let seen = if causal { i + 1 } else { tokens };
            let scores: Vec<f64> = (0..seen).map(|j| dot(of(0, i), of(1, j)) * scale).collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let lse = max + scores.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
            result.lse[(clip * heads + head) * tokens + i] = lse;
            let at = ((clip * tokens + i) * heads + head) * d;
            let gradient = &d_output[at..at + d];
            for (j, score) in scores.iter().enumerate() {
                let p = (score - lse).exp();
                for (c, v) in of(2, j).iter().enumerate() {
                    result.output[at + c] += p * f64::from(*v);
                }
            }
            let delta: f64 = result.output[at..at + d].iter().zip(gradient).map(|(o, g)| o * f64::from(*g)).sum();
            for (j, score) in scores.iter().enumerate() {
                let p = (score - lse).exp();
                let ds = p * (dot(gradient, of(2, j)) - delta) * scale;
                for (c, g) in gradient.iter().enumerate() {
                    result.d_qkv[part(0, i) + c] += ds * f64::from(of(1, j)[c]);
                    result.d_qkv[part(1, j) + c] += ds * f64::from(of(0, i)[c]);
                    result.d_qkv[part(2, j) + c] += p * f64::from(*g);
                }
            }
        }
    }
    result
}
