//! Attention for any device: no matrix units, no plane operations, no shared memory, no barriers.
//!
//! A unit owns rows in registers and walks the other side. All units of a cube walk the same head, so every load in the
//! walk has one address for the whole cube: a broadcast on a GPU, one scalar load on a software driver, where a load per
//! lane would cost more than the arithmetic on it. Forward, the running maximum and sum are those of FlashAttention-2
//! (Dao 2023, arXiv:2307.08691), once for [`KEYS`] keys; backward, one kernel has a unit per query row (`dQ`, `delta`),
//! the other a unit per key row (`dK`, `dV`).
//!
//! Arithmetic as for [`super::flash`], in f32 whatever the buffers hold. Bytes: as there, once for every cube of rows.

use super::AttentionShape;
use crate::{Handle, with_float};
use cubecl::prelude::*;

type N4 = Const<4>;

/// Keys between two updates of the running maximum.
const KEYS: u32 = 4;

/// Largest head width: beyond it a row no longer fits in any GPU's registers.
pub const MAX_HEAD_DIM: usize = 128;

/// How a kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Plan {
    pub head_dim: u32,
    pub causal: bool,
    /// Units per cube.
    pub units: u32,
    /// Rows per unit.
    pub rows: u32,
}

/// Whether the kernels are made for this head width.
pub fn supported(head_dim: usize) -> bool {
    head_dim > 0 && head_dim <= MAX_HEAD_DIM && head_dim.is_multiple_of(8)
}

/// Element `row * len / rows + i` of a list is row `row`'s: registers, when the indices are known at compile time.
#[cube]
fn load_row<F: Float>(
    src: &Array<Vector<F, N4>>,
    at: u32,
    row: &mut Array<Vector<f32, N4>>,
    #[comptime] first: u32,
    #[comptime] len: u32,
    factor: f32,
) {
    #[unroll]
    for c in 0..len {
        let x = Vector::<f32, N4>::cast_from(src[(at + c) as usize]);
        row[comptime!((first + c) as usize)] = x * Vector::new(factor);
    }
}

#[cube]
fn store_row<F: Float>(
    dst: &mut Array<Vector<F, N4>>,
    at: u32,
    row: &Array<Vector<f32, N4>>,
    #[comptime] first: u32,
    #[comptime] len: u32,
    factor: f32,
) {
    #[unroll]
    for c in 0..len {
        dst[(at + c) as usize] = Vector::cast_from(row[comptime!((first + c) as usize)] * Vector::new(factor));
    }
}

#[cube]
fn zeros(#[comptime] len: u32) -> Array<Vector<f32, N4>> {
    let mut out = Array::<Vector<f32, N4>>::new(comptime!(len as usize));
    #[unroll]
    for c in 0..len {
        out[c as usize] = Vector::new(0.0f32);
    }
    out
}

#[cube]
fn sum4(x: Vector<f32, N4>) -> f32 {
    (x[0usize] + x[1usize]) + (x[2usize] + x[3usize])
}

/// Grid `(row blocks, heads, clips)`.
#[cube(launch_unchecked)]
fn forward_kernel<F: Float>(
    qkv: &Array<Vector<F, N4>>,
    output: &mut Array<Vector<F, N4>>,
    lse: &mut Array<f32>,
    tokens: u32,
    heads: u32,
    scale: f32,
    #[comptime] plan: Plan,
) {
    let (len, rows, units) = comptime!((plan.head_dim / 4, plan.rows, plan.units));
    let stride = 3 * heads * len;
    let q_base = CUBE_POS_Z * tokens * stride + CUBE_POS_Y * len;
    let k_base = q_base + heads * len;
    let v_base = k_base + heads * len;
    let block = CUBE_POS_X * comptime!(units * rows);

    let mut q = zeros(comptime!(rows * len));
    let mut acc = zeros(comptime!(rows * len));
    let mut top = Array::<f32>::new(comptime!(rows as usize));
    let mut sum = Array::<f32>::new(comptime!(rows as usize));
    #[unroll]
    for r in 0..rows {
        let at = min(block + UNIT_POS + comptime!(r * units), tokens - 1);
        load_row::<F>(qkv, q_base + at * stride, &mut q, comptime!(r * len), len, scale);
        top[r as usize] = f32::new(-1.0e30);
        sum[r as usize] = f32::new(0.0);
    }
    let mut end = tokens;
    if comptime!(plan.causal) {
        end = min(tokens, block + comptime!(units * rows));
    }
    for group in 0..(end + comptime!(KEYS - 1)) / KEYS {
        let mut w = Array::<f32>::new(comptime!((rows * KEYS) as usize));
        #[unroll]
        for key in 0..KEYS {
            let j = group * KEYS + key;
            let at = k_base + min(j, tokens - 1) * stride;
            let mut dots = zeros(rows);
            #[unroll]
            for c in 0..len {
                let k = Vector::<f32, N4>::cast_from(qkv[(at + c) as usize]);
                #[unroll]
                for r in 0..rows {
                    dots[r as usize] += q[comptime!((r * len + c) as usize)] * k;
                }
            }
            #[unroll]
            for r in 0..rows {
                let mut seen = j < tokens;
                if comptime!(plan.causal) {
                    seen = seen && j <= block + UNIT_POS + comptime!(r * units);
                }
                w[comptime!((r * KEYS + key) as usize)] = select(seen, sum4(dots[r as usize]), f32::new(-1.0e30));
            }
        }
        #[unroll]
        for r in 0..rows {
            let mut higher = top[r as usize];
            #[unroll]
            for key in 0..KEYS {
                higher = max(higher, w[comptime!((r * KEYS + key) as usize)]);
            }
            let factor = (top[r as usize] - higher).exp();
            let mut total = sum[r as usize] * factor;
            #[unroll]
            for key in 0..KEYS {
                let x = (w[comptime!((r * KEYS + key) as usize)] - higher).exp();
                w[comptime!((r * KEYS + key) as usize)] = x;
                total += x;
            }
            sum[r as usize] = total;
            top[r as usize] = higher;
            #[unroll]
            for c in 0..len {
                acc[comptime!((r * len + c) as usize)] *= Vector::new(factor);
            }
        }
        #[unroll]
        for key in 0..KEYS {
            let at = v_base + min(group * KEYS + key, tokens - 1) * stride;
            #[unroll]
            for c in 0..len {
                let v = Vector::<f32, N4>::cast_from(qkv[(at + c) as usize]);
                #[unroll]
                for r in 0..rows {
                    acc[comptime!((r * len + c) as usize)] += v * Vector::new(w[comptime!((r * KEYS + key) as usize)]);
                }
            }
        }
    }
    #[unroll]
    for r in 0..rows {
        let row = block + UNIT_POS + comptime!(r * units);
        if row < tokens {
            let at = (CUBE_POS_Z * tokens + row) * heads * len + CUBE_POS_Y * len;
            store_row::<F>(output, at, &acc, comptime!(r * len), len, f32::new(1.0) / sum[r as usize]);
            lse[((CUBE_POS_Z * heads + CUBE_POS_Y) * tokens + row) as usize] = top[r as usize] + sum[r as usize].ln();
        }
    }
}

/// `dQ` and `delta`. Grid `(row blocks, heads, clips)`.
#[cube(launch_unchecked)]
fn query_kernel<F: Float>(
    qkv: &Array<Vector<F, N4>>,
    output: &Array<Vector<F, N4>>,
    lse: &Array<f32>,
    d_output: &Array<Vector<F, N4>>,
    d_qkv: &mut Array<Vector<F, N4>>,
    delta: &mut Array<f32>,
    tokens: u32,
    heads: u32,
    scale: f32,
    #[comptime] plan: Plan,
) {
    let (len, rows, units) = comptime!((plan.head_dim / 4, plan.rows, plan.units));
    let stride = 3 * heads * len;
    let q_base = CUBE_POS_Z * tokens * stride + CUBE_POS_Y * len;
    let k_base = q_base + heads * len;
    let v_base = k_base + heads * len;
    let row_base = (CUBE_POS_Z * heads + CUBE_POS_Y) * tokens;
    let block = CUBE_POS_X * comptime!(units * rows);

    let mut q = zeros(comptime!(rows * len));
    let mut g = zeros(comptime!(rows * len));
    let mut dq = zeros(comptime!(rows * len));
    let mut offset = Array::<f32>::new(comptime!(rows as usize));
    let mut dot = Array::<f32>::new(comptime!(rows as usize));
    #[unroll]
    for r in 0..rows {
        let row = block + UNIT_POS + comptime!(r * units);
        let at = min(row, tokens - 1);
        load_row::<F>(qkv, q_base + at * stride, &mut q, comptime!(r * len), len, scale);
        let out_at = (CUBE_POS_Z * tokens + at) * heads * len + CUBE_POS_Y * len;
        load_row::<F>(d_output, out_at, &mut g, comptime!(r * len), len, f32::new(1.0));
        let mut parts = Vector::<f32, N4>::new(0.0f32);
        #[unroll]
        for c in 0..len {
            let o = Vector::<f32, N4>::cast_from(output[(out_at + c) as usize]);
            parts += o * g[comptime!((r * len + c) as usize)];
        }
        dot[r as usize] = sum4(parts);
        offset[r as usize] = lse[(row_base + at) as usize];
        if row < tokens {
            delta[(row_base + row) as usize] = dot[r as usize];
        }
    }
    let mut end = tokens;
    if comptime!(plan.causal) {
        end = min(tokens, block + comptime!(units * rows));
    }
    for j in 0..end {
        let (k_at, v_at) = (k_base + j * stride, v_base + j * stride);
        let mut scores = zeros(rows);
        let mut dp = zeros(rows);
        #[unroll]
        for c in 0..len {
            let k = Vector::<f32, N4>::cast_from(qkv[(k_at + c) as usize]);
            let v = Vector::<f32, N4>::cast_from(qkv[(v_at + c) as usize]);
            #[unroll]
            for r in 0..rows {
                scores[r as usize] += q[comptime!((r * len + c) as usize)] * k;
                dp[r as usize] += g[comptime!((r * len + c) as usize)] * v;
            }
        }
        let mut ds = Array::<f32>::new(comptime!(rows as usize));
        #[unroll]
        for r in 0..rows {
            let mut p = (sum4(scores[r as usize]) - offset[r as usize]).exp();
            if comptime!(plan.causal) {
                p = select(j <= block + UNIT_POS + comptime!(r * units), p, f32::new(0.0));
            }
            ds[r as usize] = p * (sum4(dp[r as usize]) - dot[r as usize]);
        }
        #[unroll]
        for c in 0..len {
            let k = Vector::<f32, N4>::cast_from(qkv[(k_at + c) as usize]);
            #[unroll]
            for r in 0..rows {
                dq[comptime!((r * len + c) as usize)] += k * Vector::new(ds[r as usize]);
            }
        }
    }
    #[unroll]
    for r in 0..rows {
        let row = block + UNIT_POS + comptime!(r * units);
        if row < tokens {
            store_row::<F>(d_qkv, q_base + row * stride, &dq, comptime!(r * len), len, scale);
        }
    }
}

/// `dK` and `dV`. Grid `(row blocks, heads, clips)`.
#[cube(launch_unchecked)]
fn key_kernel<F: Float>(
    qkv: &Array<Vector<F, N4>>,
    lse: &Array<f32>,
    delta: &Array<f32>,
    d_output: &Array<Vector<F, N4>>,
    d_qkv: &mut Array<Vector<F, N4>>,
    tokens: u32,
    heads: u32,
    scale: f32,
    #[comptime] plan: Plan,
) {
    let (len, rows, units) = comptime!((plan.head_dim / 4, plan.rows, plan.units));
    let stride = 3 * heads * len;
    let q_base = CUBE_POS_Z * tokens * stride + CUBE_POS_Y * len;
    let k_base = q_base + heads * len;
    let v_base = k_base + heads * len;
    let row_base = (CUBE_POS_Z * heads + CUBE_POS_Y) * tokens;
    let block = CUBE_POS_X * comptime!(units * rows);

    let mut k = zeros(comptime!(rows * len));
    let mut v = zeros(comptime!(rows * len));
    let mut dk = zeros(comptime!(rows * len));
    let mut dv = zeros(comptime!(rows * len));
    #[unroll]
    for r in 0..rows {
        let at = min(block + UNIT_POS + comptime!(r * units), tokens - 1);
        load_row::<F>(qkv, k_base + at * stride, &mut k, comptime!(r * len), len, scale);
        load_row::<F>(qkv, v_base + at * stride, &mut v, comptime!(r * len), len, f32::new(1.0));
    }
    let mut start = 0u32.runtime();
    if comptime!(plan.causal) {
        start = block;
    }
    for i in start..tokens {
        let q_at = q_base + i * stride;
        let g_at = (CUBE_POS_Z * tokens + i) * heads * len + CUBE_POS_Y * len;
        let mut scores = zeros(rows);
        let mut dp = zeros(rows);
        #[unroll]
        for c in 0..len {
            let q = Vector::<f32, N4>::cast_from(qkv[(q_at + c) as usize]);
            let g = Vector::<f32, N4>::cast_from(d_output[(g_at + c) as usize]);
            #[unroll]
            for r in 0..rows {
                scores[r as usize] += k[comptime!((r * len + c) as usize)] * q;
                dp[r as usize] += v[comptime!((r * len + c) as usize)] * g;
            }
        }
        let (offset, dot) = (lse[(row_base + i) as usize], delta[(row_base + i) as usize]);
        let mut p = Array::<f32>::new(comptime!(rows as usize));
        let mut ds = Array::<f32>::new(comptime!(rows as usize));
        #[unroll]
        for r in 0..rows {
            let mut x = (sum4(scores[r as usize]) - offset).exp();
            if comptime!(plan.causal) {
                x = select(i >= block + UNIT_POS + comptime!(r * units), x, f32::new(0.0));
            }
            p[r as usize] = x;
            ds[r as usize] = x * (sum4(dp[r as usize]) - dot);
        }
        #[unroll]
        for c in 0..len {
            let q = Vector::<f32, N4>::cast_from(qkv[(q_at + c) as usize]);
            let g = Vector::<f32, N4>::cast_from(d_output[(g_at + c) as usize]);
            #[unroll]
            for r in 0..rows {
                dk[comptime!((r * len + c) as usize)] += q * Vector::new(ds[r as usize]);
                dv[comptime!((r * len + c) as usize)] += g * Vector::new(p[r as usize]);
            }
        }
    }
    #[unroll]
    for r in 0..rows {
        let row = block + UNIT_POS + comptime!(r * units);
        if row < tokens {
            store_row::<F>(d_qkv, k_base + row * stride, &dk, comptime!(r * len), len, scale);
            store_row::<F>(d_qkv, v_base + row * stride, &dv, comptime!(r * len), len, f32::new(1.0));
        }
    }
}

impl Plan {
    /// For a shape's head width and mask.
    pub fn new(shape: &AttentionShape) -> Self {
        Plan { head_dim: shape.head_dim as u32, causal: shape.causal, units: 64, rows: 1 }
    }

    fn grid(&self, shape: &AttentionShape) -> (CubeCount, CubeDim) {
        let blocks = (shape.tokens as u32).div_ceil(self.units * self.rows);
        (CubeCount::Static(blocks, shape.heads as u32, shape.batch as u32), CubeDim::new_1d(self.units))
    }
}

/// [`super::forward`] for a head width that is [`supported`].
#[doc(hidden)]
pub fn forward<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &AttentionShape,
    plan: Plan,
    qkv: &Handle,
    output: &Handle,
    lse: &Handle,
) {
    let (count, dim) = plan.grid(shape);
    with_float!(shape.kind, F => unsafe {
        // SAFETY: every array has the length given; rows past the end are clamped on load and not stored.
        forward_kernel::launch_unchecked::<F, R>(
            client,
            count,
            dim,
            ArrayArg::from_raw_parts(qkv.clone(), shape.qkv_len()),
            ArrayArg::from_raw_parts(output.clone(), shape.output_len()),
            ArrayArg::from_raw_parts(lse.clone(), shape.lse_len()),
            shape.tokens as u32,
            shape.heads as u32,
            shape.scale(),
            plan,
        )
    });
}

/// [`super::backward`] for a head width that is [`supported`].
#[doc(hidden)]
pub fn backward<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &AttentionShape,
    plan: Plan,
    qkv: &Handle,
    output: &Handle,
    lse: &Handle,
    d_output: &Handle,
    d_qkv: &Handle,
    delta: &Handle,
) {
    let (tokens, heads) = (shape.tokens as u32, shape.heads as u32);
    with_float!(shape.kind, F => unsafe {
        let packed = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), shape.qkv_len());
        let per_token = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), shape.output_len());
        let per_row = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), shape.lse_len());
        // SAFETY: as in `forward`.
        let (count, dim) = plan.grid(shape);
        query_kernel::launch_unchecked::<F, R>(
            client, count, dim, packed(qkv), per_token(output), per_row(lse), per_token(d_output), packed(d_qkv),
            per_row(delta), tokens, heads, shape.scale(), plan,
        );
        let (count, dim) = plan.grid(shape);
        key_kernel::launch_unchecked::<F, R>(
            client, count, dim, packed(qkv), per_row(lse), per_row(delta), per_token(d_output), packed(d_qkv), tokens,
            heads, shape.scale(), plan,
        );
    });
}
