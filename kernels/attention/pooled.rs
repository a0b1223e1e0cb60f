//! Attention of one token a sample to all of its tokens: what the last block of a tower needs when only one token (the
//! class token, or the end of the text) goes on.
//!
//! Bytes: keys and values once in either pass, their gradients written once; memory bound. The probabilities,
//! `[batch, heads, tokens]` in f32, are kept: a twentieth of the keys.

#![allow(
    clippy::manual_div_ceil,
    clippy::collapsible_if,
    reason = "kernels are written in CubeCL's subset of Rust, where these forms are the ones it expands"
)]

use crate::launch::grid;
use crate::{FloatKind, Handle, with_float};
use cubecl::prelude::*;

type N4 = Const<4>;

/// Units that share one softmax.
const UNITS: u32 = 64;

/// Sizes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PooledShape {
    pub batch: usize,
    pub tokens: usize,
    pub heads: usize,
    /// A multiple of 4.
    pub head_dim: usize,
    /// Tokens after the pooled one are not seen; else all are.
    pub causal: bool,
    pub kind: FloatKind,
}

impl PooledShape {
    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements of the probabilities.
    pub fn probabilities_len(&self) -> usize {
        self.batch * self.heads * self.tokens
    }
}

/// Sum over a head's dims of `a[from_a..] * b[from_b..]`, both counted in vectors of four.
#[cube]
fn dot<F: Float>(
    a: &Array<Vector<F, N4>>,
    from_a: u32,
    b: &Array<Vector<F, N4>>,
    from_b: u32,
    #[comptime] vectors: u32,
) -> f32 {
    let mut sum = Vector::<f32, N4>::new(0.0);
    for i in 0..vectors {
        sum += Vector::<f32, N4>::cast_from(a[(from_a + i) as usize])
            * Vector::<f32, N4>::cast_from(b[(from_b + i) as usize]);
    }
    sum[0usize] + sum[1usize] + (sum[2usize] + sum[3usize])
}

/// Largest (or sum) of a value over the cube, for every unit.
#[cube]
fn reduce(value: f32, scratch: &mut SharedMemory<f32>, #[comptime] largest: bool) -> f32 {
    sync_cube();
    scratch[UNIT_POS as usize] = value;
    sync_cube();
    #[unroll]
    for halving in 0..comptime!(UNITS.ilog2()) {
        let stride = comptime!(UNITS >> (halving + 1));
        if UNIT_POS < stride {
            let (mine, other) = (scratch[UNIT_POS as usize], scratch[(UNIT_POS + stride) as usize]);
            if comptime!(largest) {
                scratch[UNIT_POS as usize] = max(mine, other);
            } else {
                scratch[UNIT_POS as usize] = mine + other;
            }
        }
        sync_cube();
    }
    scratch[0usize]
}

/// Softmax of `scale q . k` over one sample's and head's tokens: a cube each.
#[cube(launch_unchecked)]
fn probabilities_kernel<F: Float>(
    q: &Array<Vector<F, N4>>,
    kv: &Array<Vector<F, N4>>,
    ends: &Array<u32>,
    probabilities: &mut Array<f32>,
    tokens: u32,
    heads: u32,
    scale: f32,
    #[comptime] vectors: u32,
    #[comptime] causal: bool,
) {
    let mut scratch = SharedMemory::<f32>::new(UNITS as usize);
    let (sample, head) = (CUBE_POS_Y, CUBE_POS_X);
    let mut seen = tokens;
    if comptime!(causal) {
        seen = ends[sample as usize] - sample * tokens + 1;
    }
    let query = (sample * heads + head) * vectors;
    let out = (sample * heads + head) * tokens;
    let mut highest = f32::new(-1.0e30);
    let mut token = UNIT_POS;
    while token < seen {
        let key = ((sample * tokens + token) * 2 * heads + head) * vectors;
        let score = dot::<F>(q, query, kv, key, vectors) * scale;
        probabilities[(out + token) as usize] = score;
        highest = max(highest, score);
        token += UNITS;
    }
    let highest = reduce(highest, &mut scratch, true);
    let mut total = f32::new(0.0);
    token = UNIT_POS;
    while token < seen {
        let weight = (probabilities[(out + token) as usize] - highest).exp();
        probabilities[(out + token) as usize] = weight;
        total += weight;
        token += UNITS;
    }
    let total = reduce(total, &mut scratch, false);
    token = UNIT_POS;
    while token < tokens {
        let mut p = f32::new(0.0);
        if token < seen {
            p = probabilities[(out + token) as usize] / total;
        }
        probabilities[(out + token) as usize] = p;
        token += UNITS;
    }
}

/// `out[sample, head] = sum over tokens of weights[sample, head, token] * kv[sample, token, part, head]`: a unit for four
/// dims. `part` is 0 for keys, 1 for values.
#[cube(launch_unchecked)]
fn weighted_sum_kernel<F: Float>(
    weights: &Array<f32>,
    kv: &Array<Vector<F, N4>>,
    out: &mut Array<Vector<F, N4>>,
    len: u32,
    tokens: u32,
    heads: u32,
    #[comptime] vectors: u32,
    #[comptime] part: u32,
) {
    let i = ABSOLUTE_POS as u32;
    if i < len {
        let row = i / vectors;
        let (sample, head) = (row / heads, row % heads);
        let mut sum = Vector::<f32, N4>::new(0.0);
        for token in 0..tokens {
            let at = (((sample * tokens + token) * 2 + part) * heads + head) * vectors + i % vectors;
            let weight = Vector::<f32, N4>::new(weights[(row * tokens + token) as usize]);
            sum += weight * Vector::<f32, N4>::cast_from(kv[at as usize]);
        }
        out[i as usize] = Vector::<F, N4>::cast_from(sum);
    }
}

/// Gradients of keys and values, and of the scores, in place of the probabilities: a unit for each sample, token, head.
#[cube(launch_unchecked)]
fn backward_kernel<F: Float>(
    q: &Array<Vector<F, N4>>,
    kv: &Array<Vector<F, N4>>,
    output: &Array<Vector<F, N4>>,
    gradient: &Array<Vector<F, N4>>,
    probabilities: &mut Array<f32>,
    d_kv: &mut Array<Vector<F, N4>>,
    len: u32,
    tokens: u32,
    heads: u32,
    scale: f32,
    #[comptime] vectors: u32,
) {
    let i = ABSOLUTE_POS as u32;
    if i < len {
        let head = i % heads;
        let (sample, token) = (i / heads / tokens, i / heads % tokens);
        let query = (sample * heads + head) * vectors;
        let key = ((sample * tokens + token) * 2 * heads + head) * vectors;
        let value = key + heads * vectors;
        let at = ((sample * heads + head) * tokens + token) as usize;
        let p = probabilities[at];
        let delta = dot::<F>(output, query, gradient, query, vectors);
        let ds = p * (dot::<F>(gradient, query, kv, value, vectors) - delta) * scale;
        probabilities[at] = ds;
        let (p, ds) = (Vector::<f32, N4>::new(p), Vector::<f32, N4>::new(ds));
        for v in 0..vectors {
            let (query_v, gradient_v) = (q[(query + v) as usize], gradient[(query + v) as usize]);
            d_kv[(key + v) as usize] = Vector::<F, N4>::cast_from(ds * Vector::<f32, N4>::cast_from(query_v));
            d_kv[(value + v) as usize] = Vector::<F, N4>::cast_from(p * Vector::<f32, N4>::cast_from(gradient_v));
        }
    }
}

fn scale(shape: &PooledShape) -> f32 {
    1.0 / (shape.head_dim as f32).sqrt()
}

/// `out = weights` times keys or values.
fn weighted_sum<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &PooledShape,
    weights: &Handle,
    kv: &Handle,
    out: &Handle,
    part: u32,
) {
    let len = shape.batch * shape.width();
    let (count, dim) = grid(len / 4);
    with_float!(shape.kind, F => unsafe {
        // SAFETY: every array has the length its shape gives; positions are checked against `len`.
        weighted_sum_kernel::launch_unchecked::<F, R>(
            client,
            count,
            dim,
            ArrayArg::from_raw_parts(weights.clone(), shape.probabilities_len()),
            ArrayArg::from_raw_parts(kv.clone(), shape.batch * shape.tokens * shape.width() * 2),
            ArrayArg::from_raw_parts(out.clone(), len),
            (len / 4) as u32,
            shape.tokens as u32,
            shape.heads as u32,
            (shape.head_dim / 4) as u32,
            part,
        )
    });
}

/// Softmax attention of one query a sample.
///
/// # Shapes
/// - `q`, `output`: `[batch, heads * head_dim]`; `kv`: `[batch, tokens, 2, heads, head_dim]`, of `shape.kind`
/// - `ends`: `[batch]`, u32, row `sample * tokens + token` of each sample's query; read when causal
/// - `probabilities`: `[batch, heads, tokens]`, f32, written
pub fn forward<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &PooledShape,
    [q, kv, ends]: [&Handle; 3],
    output: &Handle,
    probabilities: &Handle,
) {
    with_float!(shape.kind, F => unsafe {
        // SAFETY: every array has the length its shape gives, and a cube works on one sample's head alone.
        probabilities_kernel::launch_unchecked::<F, R>(
            client,
            CubeCount::Static(shape.heads as u32, shape.batch as u32, 1),
            CubeDim::new_1d(UNITS),
            ArrayArg::from_raw_parts(q.clone(), shape.batch * shape.width()),
            ArrayArg::from_raw_parts(kv.clone(), shape.batch * shape.tokens * shape.width() * 2),
            ArrayArg::from_raw_parts(ends.clone(), shape.batch),
            ArrayArg::from_raw_parts(probabilities.clone(), shape.probabilities_len()),
            shape.tokens as u32,
            shape.heads as u32,
            scale(shape),
            (shape.head_dim / 4) as u32,
            shape.causal,
        )
    });
    weighted_sum(client, shape, probabilities, kv, output, 1);
}

/// Gradients of queries, keys and values. The probabilities are used up.
///
/// # Shapes
/// - as in [`forward`]; `gradient`, `d_q` like `q`, `d_kv` like `kv`, both written completely
pub fn backward<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &PooledShape,
    [q, kv]: [&Handle; 2],
    [output, gradient]: [&Handle; 2],
    probabilities: &Handle,
    [d_q, d_kv]: [&Handle; 2],
) {
    let len = shape.batch * shape.tokens * shape.heads;
    let (count, dim) = grid(len);
    let (queries, keys) = (shape.batch * shape.width(), shape.batch * shape.tokens * shape.width() * 2);
    with_float!(shape.kind, F => unsafe {
        // SAFETY: every array has the length its shape gives; positions are checked against `len`.
        backward_kernel::launch_unchecked::<F, R>(
            client,
            count,
            dim,
            ArrayArg::from_raw_parts(q.clone(), queries),
            ArrayArg::from_raw_parts(kv.clone(), keys),
            ArrayArg::from_raw_parts(output.clone(), queries),
            ArrayArg::from_raw_parts(gradient.clone(), queries),
            ArrayArg::from_raw_parts(probabilities.clone(), shape.probabilities_len()),
            ArrayArg::from_raw_parts(d_kv.clone(), keys),
            len as u32,
            shape.tokens as u32,
            shape.heads as u32,
            scale(shape),
            (shape.head_dim / 4) as u32,
        )
    });
    weighted_sum(client, shape, probabilities, kv, d_q, 0);
}
