//! Attention for any device: no matrix units, no plane operations, no shared memory, no barriers.
//!
//! A unit owns [`Plan::rows`] rows of one head in registers and walks the other side one token at a time, each token's
//! elements loaded once for all its rows: software drivers pay for loads, not for arithmetic, and want many rows; a GPU,
//! whose neighbouring units load the same token, has no registers for many. Forward, the running maximum and sum are those
//! of FlashAttention-2 (Dao 2023, arXiv:2307.08691); backward, one kernel has units of query rows (`dQ`, `delta`), the
//! other units of key rows (`dK`, `dV`).
//!
//! Arithmetic as for [`super::flash`], in f32 whatever the buffers hold. Bytes: as there, once for every unit (from cache).

use super::AttentionShape;
use crate::{Handle, launch::CUBES_X, with_float};
use cubecl::{features::Plane, prelude::*};

type N4 = Const<4>;

/// Largest head width: beyond it a row no longer fits in any GPU's registers.
pub const MAX_HEAD_DIM: usize = 128;

/// How a kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Plan {
    pub head_dim: u32,
    /// Units per cube.
    pub units: u32,
    /// Rows per unit.
    pub rows: u32,
    /// Whether all loops over a row's elements are unrolled, which keeps rows in registers on a GPU. A software driver
    /// has none to keep, and compiles the longer the more loads there are.
    pub in_registers: bool,
}

/// Whether the kernels are made for this head width.
pub fn supported(head_dim: usize) -> bool {
    head_dim > 0 && head_dim <= MAX_HEAD_DIM && head_dim.is_multiple_of(8)
}

/// `rows * len` vectors of rows `row..` (the last again past the end), times a factor: in registers, when all indices
/// are known at compile time.
#[cube]
fn load_rows<F: Float>(
    src: &Array<Vector<F, N4>>,
    base: u32,
    stride: u32,
    row: u32,
    tokens: u32,
    factor: f32,
    #[comptime] plan: Plan,
) -> Array<Vector<f32, N4>> {
    let len = comptime!(plan.head_dim / 4);
    let mut out = Array::<Vector<f32, N4>>::new(comptime!((plan.rows * len) as usize));
    #[unroll(plan.in_registers)]
    for r in 0..plan.rows {
        let at = base + min(row + r, tokens - 1) * stride;
        #[unroll(plan.in_registers)]
        for c in 0..len {
            let x = Vector::<f32, N4>::cast_from(src[(at + c) as usize]);
            out[(r * len + c) as usize] = x * Vector::new(factor);
        }
    }
    out
}

/// Rows `row..` that are not past the end, times a factor.
#[cube]
fn store_rows<F: Float>(
    dst: &mut Array<Vector<F, N4>>,
    rows: &Array<Vector<f32, N4>>,
    base: u32,
    stride: u32,
    row: u32,
    tokens: u32,
    factors: &Array<f32>,
    #[comptime] plan: Plan,
) {
    let len = comptime!(plan.head_dim / 4);
    #[unroll(plan.in_registers)]
    for r in 0..plan.rows {
        if row + r < tokens {
            let at = base + (row + r) * stride;
            #[unroll(plan.in_registers)]
            for c in 0..len {
                let x = rows[(r * len + c) as usize] * Vector::new(factors[r as usize]);
                dst[(at + c) as usize] = Vector::cast_from(x);
            }
        }
    }
}

/// One row, in registers.
#[cube]
fn load_token<F: Float>(src: &Array<Vector<F, N4>>, at: u32, #[comptime] len: u32) -> Array<Vector<f32, N4>> {
    let mut out = Array::<Vector<f32, N4>>::new(comptime!(len as usize));
    #[unroll]
    for c in 0..len {
        out[c as usize] = Vector::cast_from(src[(at + c) as usize]);
    }
    out
}

#[cube]
fn same_factor(factor: f32, #[comptime] rows: u32) -> Array<f32> {
    let mut out = Array::<f32>::new(comptime!(rows as usize));
    #[unroll]
    for r in 0..rows {
        out[r as usize] = factor;
    }
    out
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

/// Where a unit's work lies.
#[derive(CubeType, Clone, Copy)]
struct Place {
    /// Whether there is any.
    active: bool,
    /// Its first row.
    row: u32,
    /// Its head's first token: of q, k and v in `qkv`, of `output`, of `lse`.
    q: u32,
    k: u32,
    v: u32,
    out: u32,
    stats: u32,
    /// From one token to the next, in `qkv` and in `output`.
    stride: u32,
    out_stride: u32,
}

/// Units in order of clip, head and row.
#[cube]
fn place(tokens: u32, heads: u32, work: u32, #[comptime] plan: Plan) -> Place {
    let len = comptime!(plan.head_dim / 4);
    let unit = ABSOLUTE_POS as u32;
    let blocks = (tokens + comptime!(plan.rows - 1)) / comptime!(plan.rows);
    let head = unit / blocks;
    let clip = head / heads;
    let stride = 3 * heads * len;
    let q = clip * tokens * stride + (head % heads) * len;
    Place {
        active: unit < work,
        row: (unit % blocks) * comptime!(plan.rows),
        q,
        k: q + heads * len,
        v: q + 2 * heads * len,
        out: clip * tokens * heads * len + (head % heads) * len,
        stats: head * tokens,
        stride,
        out_stride: heads * len,
    }
}

/// Units are `work` in number; `causal` is 0 or 1.
#[cube(launch_unchecked)]
fn forward_kernel<F: Float>(
    qkv: &Array<Vector<F, N4>>,
    output: &mut Array<Vector<F, N4>>,
    lse: &mut Array<f32>,
    tokens: u32,
    heads: u32,
    work: u32,
    causal: u32,
    scale: f32,
    #[comptime] plan: Plan,
) {
    let (len, rows) = comptime!((plan.head_dim / 4, plan.rows));
    let at = place(tokens, heads, work, plan);
    if at.active {
        let q = load_rows::<F>(qkv, at.q, at.stride, at.row, tokens, scale, plan);
        let mut acc = zeros(comptime!(rows * len));
        let mut top = same_factor(f32::new(-1.0e30), rows);
        let mut sum = same_factor(f32::new(0.0), rows);
        let mut end = tokens;
        if causal == 1 {
            end = min(tokens, at.row + rows);
        }
        for j in 0..end {
            let k_at = at.k + j * at.stride;
            let mut scores = zeros(rows);
            #[unroll]
            for c in 0..len {
                let k = Vector::<f32, N4>::cast_from(qkv[(k_at + c) as usize]);
                #[unroll]
                for r in 0..rows {
                    scores[r as usize] += q[comptime!((r * len + c) as usize)] * k;
                }
            }
            let mut factors = Array::<f32>::new(comptime!(rows as usize));
            let mut weights = Array::<f32>::new(comptime!(rows as usize));
            #[unroll]
            for r in 0..rows {
                let seen = causal == 0 || j <= at.row + r;
                let x = select(seen, sum4(scores[r as usize]), f32::new(-1.0e30));
                let higher = max(top[r as usize], x);
                let factor = (top[r as usize] - higher).exp();
                let weight = (x - higher).exp();
                sum[r as usize] = sum[r as usize] * factor + weight;
                top[r as usize] = higher;
                factors[r as usize] = factor;
                weights[r as usize] = weight;
            }
            let v_at = at.v + j * at.stride;
            #[unroll]
            for c in 0..len {
                let v = Vector::<f32, N4>::cast_from(qkv[(v_at + c) as usize]);
                #[unroll]
                for r in 0..rows {
                    let i = comptime!((r * len + c) as usize);
                    acc[i] = acc[i] * Vector::new(factors[r as usize]) + v * Vector::new(weights[r as usize]);
                }
            }
        }
        #[unroll]
        for r in 0..rows {
            if at.row + r < tokens {
                lse[(at.stats + at.row + r) as usize] = top[r as usize] + sum[r as usize].ln();
            }
            sum[r as usize] = f32::new(1.0) / sum[r as usize];
        }
        store_rows::<F>(output, &acc, at.out, at.out_stride, at.row, tokens, &sum, plan);
    }
}

/// `dQ` and `delta`; scalars as in the forward kernel.
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
    work: u32,
    causal: u32,
    scale: f32,
    #[comptime] plan: Plan,
) {
    let (len, rows) = comptime!((plan.head_dim / 4, plan.rows));
    let at = place(tokens, heads, work, plan);
    if at.active {
        let q = load_rows::<F>(qkv, at.q, at.stride, at.row, tokens, scale, plan);
        let g = load_rows::<F>(d_output, at.out, at.out_stride, at.row, tokens, f32::new(1.0), plan);
        let mut dq = zeros(comptime!(rows * len));
        let mut offset = same_factor(f32::new(0.0), rows);
        let mut dot = same_factor(f32::new(0.0), rows);
        #[unroll(plan.in_registers)]
        for r in 0..plan.rows {
            let row = min(at.row + r, tokens - 1);
            let mut parts = Vector::<f32, N4>::new(0.0f32);
            #[unroll(plan.in_registers)]
            for c in 0..len {
                let o = Vector::<f32, N4>::cast_from(output[(at.out + row * at.out_stride + c) as usize]);
                parts += o * g[(r * len + c) as usize];
            }
            dot[r as usize] = sum4(parts);
            offset[r as usize] = lse[(at.stats + row) as usize];
            delta[(at.stats + row) as usize] = dot[r as usize];
        }
        let mut end = tokens;
        if causal == 1 {
            end = min(tokens, at.row + rows);
        }
        for j in 0..end {
            let (k_at, v_at) = (at.k + j * at.stride, at.v + j * at.stride);
            let k = load_token::<F>(qkv, k_at, len);
            let mut scores = zeros(rows);
            let mut dp = zeros(rows);
            #[unroll]
            for c in 0..len {
                let v = Vector::<f32, N4>::cast_from(qkv[(v_at + c) as usize]);
                #[unroll]
                for r in 0..rows {
                    scores[r as usize] += q[comptime!((r * len + c) as usize)] * k[c as usize];
                    dp[r as usize] += g[comptime!((r * len + c) as usize)] * v;
                }
            }
            #[unroll]
            for r in 0..rows {
                let seen = causal == 0 || j <= at.row + r;
                let p = select(seen, (sum4(scores[r as usize]) - offset[r as usize]).exp(), f32::new(0.0));
                let ds = p * (sum4(dp[r as usize]) - dot[r as usize]);
                #[unroll]
                for c in 0..len {
                    dq[comptime!((r * len + c) as usize)] += k[c as usize] * Vector::new(ds);
                }
            }
        }
        store_rows::<F>(d_qkv, &dq, at.q, at.stride, at.row, tokens, &same_factor(scale, rows), plan);
    }
}

/// `dK` and `dV`; scalars as in the forward kernel.
#[cube(launch_unchecked)]
fn key_kernel<F: Float>(
    qkv: &Array<Vector<F, N4>>,
    lse: &Array<f32>,
    delta: &Array<f32>,
    d_output: &Array<Vector<F, N4>>,
    d_qkv: &mut Array<Vector<F, N4>>,
    tokens: u32,
    heads: u32,
    work: u32,
    causal: u32,
    scale: f32,
    #[comptime] plan: Plan,
) {
    let (len, rows) = comptime!((plan.head_dim / 4, plan.rows));
    let at = place(tokens, heads, work, plan);
    if at.active {
        let k = load_rows::<F>(qkv, at.k, at.stride, at.row, tokens, scale, plan);
        let v = load_rows::<F>(qkv, at.v, at.stride, at.row, tokens, f32::new(1.0), plan);
        let mut dk = zeros(comptime!(rows * len));
        let mut dv = zeros(comptime!(rows * len));
        let mut start = 0u32.runtime();
        if causal == 1 {
            start = at.row;
        }
        for i in start..tokens {
            let q = load_token::<F>(qkv, at.q + i * at.stride, len);
            let g = load_token::<F>(d_output, at.out + i * at.out_stride, len);
            let (offset, dot) = (lse[(at.stats + i) as usize], delta[(at.stats + i) as usize]);
            #[unroll]
            for r in 0..rows {
                let mut scores = Vector::<f32, N4>::new(0.0f32);
                let mut dp = Vector::<f32, N4>::new(0.0f32);
                #[unroll]
                for c in 0..len {
                    scores += k[comptime!((r * len + c) as usize)] * q[c as usize];
                    dp += v[comptime!((r * len + c) as usize)] * g[c as usize];
                }
                let seen = causal == 0 || i >= at.row + r;
                let p = select(seen, (sum4(scores) - offset).exp(), f32::new(0.0));
                let ds = p * (sum4(dp) - dot);
                #[unroll]
                for c in 0..len {
                    dk[comptime!((r * len + c) as usize)] += q[c as usize] * Vector::new(ds);
                    dv[comptime!((r * len + c) as usize)] += g[c as usize] * Vector::new(p);
                }
            }
        }
        store_rows::<F>(d_qkv, &dk, at.k, at.stride, at.row, tokens, &same_factor(scale, rows), plan);
        let ones = same_factor(f32::new(1.0), rows);
        store_rows::<F>(d_qkv, &dv, at.v, at.stride, at.row, tokens, &ones, plan);
    }
}

impl Plan {
    /// The forward kernel's, on this device.
    pub fn forward<R: Runtime>(client: &ComputeClient<R>, head_dim: usize) -> Self {
        Self::new(client, head_dim, 5)
    }

    /// Those of the kernel for `dQ` and of the one for `dK` and `dV`, which hold more for each row.
    pub fn backward<R: Runtime>(client: &ComputeClient<R>, head_dim: usize) -> [Self; 2] {
        [3, 3].map(|rows| Self::new(client, head_dim, rows))
    }

    /// With `rows` rows a unit for heads of 32 on a device without plane operations: a software driver. More rows would run
    /// faster still, but compile for much longer.
    fn new<R: Runtime>(client: &ComputeClient<R>, head_dim: usize, rows: usize) -> Self {
        let software = !client.features().plane.contains(Plane::Ops);
        let (units, rows) = if software { (8, (rows * 32 / head_dim).clamp(1, 8)) } else { (64, 1) };
        Plan { head_dim: head_dim as u32, units, rows: rows as u32, in_registers: !software }
    }

    /// Units with work, and the cubes for them.
    fn grid(&self, shape: &AttentionShape) -> (u32, CubeCount, CubeDim) {
        let work = shape.tokens.div_ceil(self.rows as usize) * shape.heads * shape.batch;
        let cubes = work.div_ceil(self.units as usize) as u32;
        let x = cubes.min(CUBES_X);
        (work as u32, CubeCount::Static(x, cubes.div_ceil(x), 1), CubeDim::new_1d(self.units))
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
    let (work, count, dim) = plan.grid(shape);
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
            work,
            shape.causal as u32,
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
    [query, key]: [Plan; 2],
    qkv: &Handle,
    output: &Handle,
    lse: &Handle,
    d_output: &Handle,
    d_qkv: &Handle,
    delta: &Handle,
) {
    let (tokens, heads, causal) = (shape.tokens as u32, shape.heads as u32, shape.causal as u32);
    with_float!(shape.kind, F => unsafe {
        let packed = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), shape.qkv_len());
        let per_token = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), shape.output_len());
        let per_row = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), shape.lse_len());
        // SAFETY: as in `forward`.
        let (work, count, dim) = query.grid(shape);
        query_kernel::launch_unchecked::<F, R>(
            client, count, dim, packed(qkv), per_token(output), per_row(lse), per_token(d_output), packed(d_qkv),
            per_row(delta), tokens, heads, work, causal,
            shape.scale(), query,
        );
        let (work, count, dim) = key.grid(shape);
        key_kernel::launch_unchecked::<F, R>(
            client, count, dim, packed(qkv), per_row(lse), per_row(delta), per_token(d_output), packed(d_qkv), tokens,
            heads, work, causal, shape.scale(), key,
        );
    });
}
