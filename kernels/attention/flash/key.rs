//! The backward kernel for keys and values: the other part of FlashAttention-2's algorithm 2.
//!
//! Scores are transposed, `[keys, queries]`: `P = exp(scale K Q^T - lse)`, `dP = V dO^T`, `dV = P dO`,
//! `dK = scale (P * (dP - delta)) Q`.

use super::{Plan, fragments::*};
use core::f32::consts::LOG2_E;
use cubecl::{
    cmma::{MatrixIdent, MmaDefinition},
    ir::FastMath,
    prelude::{
        barrier::{Barrier, copy_async_checked},
        *,
    },
};

/// `dK` and `dV`: a cube owns rows of K and V and walks tiles of Q and dO; its scores are transposed, `[keys, queries]`.
/// Grid `(row blocks, heads, clips)`.
#[cube(launch_unchecked, fast_math = FastMath::all())]
pub fn key_kernel<E: Float>(
    qkv_pairs: &Array<Vector<E, N2>>,
    qkv: &Array<Vector<E, N8>>,
    lse: &Array<f32>,
    delta: &Array<f32>,
    d_output: &Array<Vector<E, N8>>,
    d_qkv: &mut Array<Vector<E, N2>>,
    tokens: u32,
    heads: u32,
    scale: f32,
    #[comptime] plan: Plan,
) {
    let def = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
    let size!(NA) = def.vector_size(MatrixIdent::A);
    let size!(NB) = def.vector_size(MatrixIdent::B);
    let size!(NC) = def.vector_size(MatrixIdent::Accumulator);
    let row_tiles = comptime!(plan.row_tiles);
    let rows = comptime!(plan.rows());
    let columns = comptime!(plan.columns);
    let step = comptime!(plan.step);
    let shared = comptime!(plan.shared_chunks());
    let mut qs = SharedMemory::<Vector<E, N8>>::new_aligned(shared, 128usize);
    let mut gs = SharedMemory::<Vector<E, N8>>::new_aligned(shared, 128usize);
    let mut lse_s = SharedMemory::<f32>::new_aligned(comptime!(2 * columns as usize), 16usize);
    let mut delta_s = SharedMemory::<f32>::new_aligned(comptime!(2 * columns as usize), 16usize);
    let bar = Barrier::shared(CUBE_DIM, UNIT_POS == 0);

    let lane = UNIT_POS_PLANE;
    let block = CUBE_POS_X;
    let chunks = comptime!(plan.head_dim / 8);
    let stride = 3 * heads * chunks;
    let q_base = CUBE_POS_Z * tokens * stride + CUBE_POS_Y * chunks;
    let k_base = q_base + heads * chunks;
    let v_base = k_base + heads * chunks;
    let out_stride = heads * chunks;
    let out_base = CUBE_POS_Z * tokens * out_stride + CUBE_POS_Y * chunks;
    let row_base = (CUBE_POS_Z * heads + CUBE_POS_Y) * tokens;
    let plane_row = block * rows + (UNIT_POS / 32) * comptime!(16 * row_tiles);
    let row = plane_row + lane / 4;
    let active = plane_row < tokens;
    let scale_log2 = scale * f32::new(LOG2_E);

    let tiles = (tokens + comptime!(columns - 1)) / columns;
    let whole = tokens / columns;
    let mut start = 0u32.runtime();
    if comptime!(plan.causal) {
        start = block * rows / columns; // queries before the first key see none of them
    }
    let mut half = (start % 2) * columns;
    copy_tile::<E>(qkv, &mut qs, q_base, stride, start * columns, half, tokens, true, plan);
    copy_tile::<E>(d_output, &mut gs, out_base, out_stride, start * columns, half, tokens, true, plan);
    copy_stats(lse, &mut lse_s, row_base, start * columns, half, tokens, 0u32, plan);
    copy_stats(delta, &mut delta_s, row_base, start * columns, half, tokens, columns, plan);
    bar.commit_copy_async();

    let k = load_rows::<E, NA>(qkv_pairs, k_base * 4, stride * 4, row, tokens, plan);
    let v = load_rows::<E, NA>(qkv_pairs, v_base * 4, stride * 4, row, tokens, plan);
    let mut dk = zero_tiles::<NC>(comptime!(row_tiles * plan.head_dim / 8));
    let mut dv = zero_tiles::<NC>(comptime!(row_tiles * plan.head_dim / 8));
    for j in start..tiles {
        bar.arrive_and_wait();
        let next = j + 1;
        let next_half = (next % 2) * columns;
        if next < whole {
            copy_tile::<E>(qkv, &mut qs, q_base, stride, next * columns, next_half, tokens, false, plan);
            copy_tile::<E>(d_output, &mut gs, out_base, out_stride, next * columns, next_half, tokens, false, plan);
            copy_stats(lse, &mut lse_s, row_base, next * columns, next_half, tokens, 0u32, plan);
            copy_stats(delta, &mut delta_s, row_base, next * columns, next_half, tokens, columns, plan);
            bar.commit_copy_async();
        } else if next < tiles {
            copy_tile::<E>(qkv, &mut qs, q_base, stride, next * columns, next_half, tokens, true, plan);
            copy_tile::<E>(d_output, &mut gs, out_base, out_stride, next * columns, next_half, tokens, true, plan);
            copy_stats(lse, &mut lse_s, row_base, next * columns, next_half, tokens, 0u32, plan);
            copy_stats(delta, &mut delta_s, row_base, next * columns, next_half, tokens, columns, plan);
            bar.commit_copy_async();
        }
        for u in 0..comptime!(columns / step).runtime() {
            let first = j * columns + u * step;
            let mut needed = active && first < tokens;
            if comptime!(plan.causal) {
                needed = needed && first + step > plane_row;
            }
            if needed {
                half = (j % 2) * columns + u * step;
                let mut scores = zero_tiles::<NC>(comptime!(row_tiles * step / 8));
                #[unroll]
                for t in 0..comptime!(plan.head_dim / 16) {
                    let a0 = comptime!(t * row_tiles);
                    multiply_tile::<E, NA, NB, NC>(&def, &k, &qs, &mut scores, half, a0, t, step, false, plan);
                }
                if comptime!(plan.causal) {
                    if first < plane_row + comptime!(16 * row_tiles - 1) {
                        mask_earlier::<NC>(&mut scores, row, first, plan);
                    }
                }
                // Queries past the end have zeros for q, dO, lse and delta: they add nothing.
                #[unroll]
                for n in 0..comptime!(step / 8) {
                    #[unroll]
                    for e in 0..2u32 {
                        let at = half + (lane % 4) * 2 + comptime!(8 * n + e);
                        let offset = lse_s[at as usize] * f32::new(LOG2_E);
                        #[unroll]
                        for r in 0..comptime!(2 * row_tiles) {
                            let x = scores.index_mut(comptime!(((r / 2) * (step / 8) + n) as usize));
                            let mut pair = x[comptime!((r % 2) as usize)];
                            let p = exp2::<Const<1>>(Vector::new(pair[e as usize] * scale_log2 - offset));
                            pair[e as usize] = p[0usize];
                            x[comptime!((r % 2) as usize)] = pair;
                        }
                    }
                }
                #[unroll]
                for t in 0..comptime!(step / 16) {
                    let p = pack_rows::<E, NA, NC>(&scores, t, step, plan);
                    multiply_tile::<E, NA, NB, NC>(&def, &p, &gs, &mut dv, half, 0u32, t, plan.head_dim, true, plan);
                }
                let mut dp = zero_tiles::<NC>(comptime!(row_tiles * step / 8));
                #[unroll]
                for t in 0..comptime!(plan.head_dim / 16) {
                    let a0 = comptime!(t * row_tiles);
                    multiply_tile::<E, NA, NB, NC>(&def, &v, &gs, &mut dp, half, a0, t, step, false, plan);
                }
                #[unroll]
                for n in 0..comptime!(step / 8) {
                    #[unroll]
                    for e in 0..2u32 {
                        let at = half + (lane % 4) * 2 + comptime!(8 * n + e);
                        let dot = delta_s[at as usize];
                        #[unroll]
                        for r in 0..comptime!(2 * row_tiles) {
                            let tile = comptime!(((r / 2) * (step / 8) + n) as usize);
                            let p = scores.index(tile)[comptime!((r % 2) as usize)];
                            let d = dp.index_mut(tile);
                            let mut pair = d[comptime!((r % 2) as usize)];
                            pair[e as usize] = p[e as usize] * (pair[e as usize] - dot);
                            d[comptime!((r % 2) as usize)] = pair;
                        }
                    }
                }
                #[unroll]
                for t in 0..comptime!(step / 16) {
                    let ds = pack_rows::<E, NA, NC>(&dp, t, step, plan);
                    multiply_tile::<E, NA, NB, NC>(&def, &ds, &qs, &mut dk, half, 0u32, t, plan.head_dim, true, plan);
                }
            }
        }
    }
    let factors = same_factor(scale, plan);
    store_rows::<E, NC>(d_qkv, &dk, k_base * 4, stride * 4, row, tokens, &factors, plan);
    let ones = same_factor(f32::new(1.0), plan);
    store_rows::<E, NC>(d_qkv, &dv, v_base * 4, stride * 4, row, tokens, &ones, plan);
}

/// Starts copying one number for each of a tile's tokens, zeros past the end; units from `unit` on do it.
#[cube]
fn copy_stats(
    src: &Array<f32>,
    dst: &mut SharedMemory<f32>,
    base: u32,
    first: u32,
    half: u32,
    tokens: u32,
    #[comptime] unit: u32,
    #[comptime] plan: Plan,
) {
    if UNIT_POS >= unit && UNIT_POS < comptime!(unit + plan.columns) {
        let i = UNIT_POS - unit;
        let g = (base + min(first + i, tokens - 1)) as usize;
        let d = (half + i) as usize;
        let inside = usize::cast_from(first + i < tokens);
        copy_async_checked(&src.slice(g, g + inside), &mut dst.slice_mut(d, d + 1), 1u32);
    }
}

/// Under a causal mask, transposed scores of queries before the row's key become very small.
#[cube]
fn mask_earlier<NC: Size>(scores: &mut Regs<f32, NC>, row: u32, first: u32, #[comptime] plan: Plan) {
    #[unroll]
    for r in 0..comptime!(2 * plan.row_tiles) {
        #[unroll]
        for n in 0..comptime!(plan.step / 8) {
            let x = scores.index_mut(comptime!(((r / 2) * (plan.step / 8) + n) as usize));
            let mut pair = x[comptime!((r % 2) as usize)];
            #[unroll]
            for e in 0..2u32 {
                let column = first + (UNIT_POS_PLANE % 4) * 2 + comptime!(8 * n + e);
                pair[e as usize] = select(column >= row + comptime!(8 * r), pair[e as usize], f32::new(-1.0e30));
            }
            x[comptime!((r % 2) as usize)] = pair;
        }
    }
}
