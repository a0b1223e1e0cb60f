//! The backward kernels: of query rows, and of key rows.

use super::{Plan, rows::*};
use cubecl::prelude::*;

/// `dQ` and `delta`; scalars as in the forward kernel.
#[cube(launch_unchecked)]
pub(super) fn query_kernel<F: Float>(
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
pub(super) fn key_kernel<F: Float>(
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
