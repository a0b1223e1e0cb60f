//! The forward kernel.

use super::{Plan, rows::*};
use cubecl::prelude::*;

/// Units are `work` in number; `causal` is 0 or 1.
#[cube(launch_unchecked)]
pub(super) fn forward_kernel<F: Float>(
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
