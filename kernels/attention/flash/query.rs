//! The backward kernel for queries: part of FlashAttention-2's algorithm 2.
//!
//! `P = exp(scale Q K^T - lse)`, `dP = dO V^T`, `delta = rowsum(dO * O)`, `dQ = scale (P * (dP - delta)) K`.

use super::{Plan, fragments::*};
use core::f32::consts::LOG2_E;
use cubecl::{
    cmma::{MatrixIdent, MmaDefinition},
    ir::FastMath,
    prelude::{barrier::Barrier, *},
};

/// `dQ` and `delta`: a cube owns rows of Q, dO and O and walks tiles of K and V. Grid `(row blocks, heads, clips)`.
#[cube(launch_unchecked, fast_math = FastMath::all())]
pub fn query_kernel<E: Float>(
    qkv_pairs: &Array<Vector<E, N2>>,
    qkv: &Array<Vector<E, N8>>,
    output: &Array<Vector<E, N2>>,
    lse: &Array<f32>,
    d_output: &Array<Vector<E, N2>>,
    d_qkv: &mut Array<Vector<E, N2>>,
    delta: &mut Array<f32>,
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
    let mut ks = SharedMemory::<Vector<E, N8>>::new_aligned(shared, 128usize);
    let mut vs = SharedMemory::<Vector<E, N8>>::new_aligned(shared, 128usize);
    let bar = Barrier::shared(CUBE_DIM, UNIT_POS == 0);

    let lane = UNIT_POS_PLANE;
    let block = if comptime!(plan.causal) { (tokens - 1) / rows - CUBE_POS_X } else { CUBE_POS_X };
    let chunks = comptime!(plan.head_dim / 8);
    let stride = 3 * heads * chunks;
    let q_base = CUBE_POS_Z * tokens * stride + CUBE_POS_Y * chunks;
    let k_base = q_base + heads * chunks;
    let v_base = k_base + heads * chunks;
    let out_stride = heads * comptime!(plan.head_dim / 2);
    let out_base = CUBE_POS_Z * tokens * out_stride + CUBE_POS_Y * comptime!(plan.head_dim / 2);
    let row_base = (CUBE_POS_Z * heads + CUBE_POS_Y) * tokens;
    let plane_row = block * rows + (UNIT_POS / 32) * comptime!(16 * row_tiles);
    let row = plane_row + lane / 4;
    let active = plane_row < tokens;
    let scale_log2 = scale * f32::new(LOG2_E);

    let mut tiles = (tokens + comptime!(columns - 1)) / columns;
    let whole = tokens / columns;
    if comptime!(plan.causal) {
        tiles = min(tiles, ((block + 1) * rows + comptime!(columns - 1)) / columns);
    }
    copy_tile::<E>(qkv, &mut ks, k_base, stride, 0u32, 0u32, tokens, true, plan);
    copy_tile::<E>(qkv, &mut vs, v_base, stride, 0u32, 0u32, tokens, true, plan);
    bar.commit_copy_async();

    let q = load_rows::<E, NA>(qkv_pairs, q_base * 4, stride * 4, row, tokens, plan);
    let g = load_rows::<E, NA>(d_output, out_base, out_stride, row, tokens, plan);
    let mut lse2 = Array::<f32>::new(comptime!(2 * row_tiles as usize));
    let mut dot = Array::<f32>::new(comptime!(2 * row_tiles as usize));
    row_dots::<E, NA>(output, &g, &mut dot, out_base, out_stride, row, tokens, plan);
    #[unroll]
    for r in 0..comptime!(2 * row_tiles as usize) {
        let at = row + comptime!(8 * r as u32);
        lse2[r] = lse[(row_base + min(at, tokens - 1)) as usize] * f32::new(LOG2_E);
        if lane % 4 == 0 && at < tokens {
            delta[(row_base + at) as usize] = dot[r];
        }
    }

    let mut dq = zero_tiles::<NC>(comptime!(row_tiles * plan.head_dim / 8));
    for j in 0..tiles {
        bar.arrive_and_wait();
        let next = j + 1;
        let next_half = (next % 2) * columns;
        if next < whole {
            copy_tile::<E>(qkv, &mut ks, k_base, stride, next * columns, next_half, tokens, false, plan);
            copy_tile::<E>(qkv, &mut vs, v_base, stride, next * columns, next_half, tokens, false, plan);
            bar.commit_copy_async();
        } else if next < tiles {
            copy_tile::<E>(qkv, &mut ks, k_base, stride, next * columns, next_half, tokens, true, plan);
            copy_tile::<E>(qkv, &mut vs, v_base, stride, next * columns, next_half, tokens, true, plan);
            bar.commit_copy_async();
        }
        #[unroll]
        for u in 0..comptime!(columns / step) {
            let first = j * columns + comptime!(u * step);
            let mut needed = active && first < tokens;
            if comptime!(plan.causal) {
                needed = needed && first < plane_row + comptime!(16 * row_tiles);
            }
            if needed {
                let half = (j % 2) * columns + comptime!(u * step);
                let mut scores = zero_tiles::<NC>(comptime!(row_tiles * step / 8));
                let mut dp = zero_tiles::<NC>(comptime!(row_tiles * step / 8));
                #[unroll]
                for t in 0..comptime!(plan.head_dim / 16) {
                    let a0 = comptime!(t * row_tiles);
                    multiply_tile::<E, NA, NB, NC>(&def, &q, &ks, &mut scores, half, a0, t, step, false, plan);
                }
                let mut ragged = first + step > tokens;
                if comptime!(plan.causal) {
                    ragged = ragged || first + step > plane_row + 1;
                }
                if ragged {
                    mask_columns::<NC>(&mut scores, row, first, tokens, step, plan);
                }
                #[unroll]
                for t in 0..comptime!(plan.head_dim / 16) {
                    let a0 = comptime!(t * row_tiles);
                    multiply_tile::<E, NA, NB, NC>(&def, &g, &vs, &mut dp, half, a0, t, step, false, plan);
                }
                #[unroll]
                for r in 0..comptime!(2 * row_tiles as usize) {
                    #[unroll]
                    for n in 0..comptime!(step as usize / 8) {
                        let at = comptime!((r / 2) * (step as usize / 8) + n);
                        let x = scores.index(at)[comptime!(r % 2)];
                        let p = exp2(x * Vector::new(scale_log2) - Vector::new(lse2[r]));
                        let d = dp.index_mut(at);
                        d[comptime!(r % 2)] = p * (d[comptime!(r % 2)] - Vector::new(dot[r]));
                    }
                }
                #[unroll]
                for t in 0..comptime!(step / 16) {
                    let ds = pack_rows::<E, NA, NC>(&dp, t, step, plan);
                    multiply_tile::<E, NA, NB, NC>(&def, &ds, &ks, &mut dq, half, 0u32, t, plan.head_dim, true, plan);
                }
            }
        }
    }
    let factors = same_factor(scale, plan);
    store_rows::<E, NC>(d_qkv, &dq, q_base * 4, stride * 4, row, tokens, &factors, plan);
}

/// The sum over the dims of dO times O, for each of the lane's rows.
#[cube]
fn row_dots<E: Float, NA: Size>(
    output: &Array<Vector<E, N2>>,
    g: &Regs<E, NA>,
    dot: &mut Array<f32>,
    base: u32,
    stride: u32,
    row: u32,
    tokens: u32,
    #[comptime] plan: Plan,
) {
    let o = load_rows::<E, NA>(output, base, stride, row, tokens, plan);
    #[unroll]
    for r in 0..comptime!(2 * plan.row_tiles) {
        let mut part = f32::new(0.0);
        #[unroll]
        for t in 0..comptime!(plan.head_dim / 16) {
            #[unroll]
            for i in 0..2u32 {
                let tile = comptime!((t * plan.row_tiles + r / 2) as usize);
                let at = comptime!((2 * i + r % 2) as usize);
                let x =
                    Vector::<f32, NA>::cast_from(o.index(tile)[at]) * Vector::<f32, NA>::cast_from(g.index(tile)[at]);
                part += x[0usize] + x[1usize];
            }
        }
        dot[r as usize] = quad_sum(part);
    }
}
