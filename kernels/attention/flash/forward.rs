//! The forward kernel: FlashAttention-2's algorithm 1.

use super::{Plan, fragments::*};
use cubecl::{
    cmma::{MatrixIdent, MmaDefinition},
    ir::FastMath,
    prelude::{barrier::Barrier, *},
};

/// Growth of a row's maximum, in powers of two, that its accumulators take before they are rescaled. The result does not
/// depend on it: weights stay below `2^8`, where f16 and f32 have their full precision.
const HEADROOM: f32 = 8.0;

/// `qkv` twice: in pairs for the rows of this cube, in eights for the tiles. Grid `(row blocks, heads, clips)`.
#[cube(launch_unchecked, fast_math = FastMath::all())]
pub fn forward_kernel<E: Float>(
    qkv_pairs: &Array<Vector<E, N2>>,
    qkv: &Array<Vector<E, N8>>,
    output: &mut Array<Vector<E, N2>>,
    lse: &mut Array<f32>,
    tokens: u32,
    heads: u32,
    scale_log2: f32,
    #[comptime] plan: Plan,
) {
    let def = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
    let size!(NA) = def.vector_size(MatrixIdent::A);
    let size!(NB) = def.vector_size(MatrixIdent::B);
    let size!(NC) = def.vector_size(MatrixIdent::Accumulator);
    let row_tiles = comptime!(plan.row_tiles);
    let rows = comptime!(plan.rows());
    let columns = comptime!(plan.columns);
    let shared = comptime!(plan.shared_chunks());
    let mut ks = SharedMemory::<Vector<E, N8>>::new_aligned(shared, 128usize);
    let mut vs = SharedMemory::<Vector<E, N8>>::new_aligned(shared, 128usize);
    let bar = Barrier::shared(CUBE_DIM, UNIT_POS == 0);

    let lane = UNIT_POS_PLANE;
    // Under a causal mask the last rows have the most work: first come, first served.
    let block = if comptime!(plan.causal) { (tokens - 1) / rows - CUBE_POS_X } else { CUBE_POS_X };
    let chunks = comptime!(plan.head_dim / 8);
    let stride = 3 * heads * chunks;
    let q_base = CUBE_POS_Z * tokens * stride + CUBE_POS_Y * chunks;
    let k_base = q_base + heads * chunks;
    let v_base = k_base + heads * chunks;
    let plane_row = block * rows + (UNIT_POS / 32) * comptime!(16 * row_tiles);
    let row = plane_row + lane / 4;
    let active = plane_row < tokens;

    let q = load_rows::<E, NA>(qkv_pairs, q_base * 4, stride * 4, row, tokens, plan);
    let mut acc = zero_tiles::<NC>(comptime!(row_tiles * plan.head_dim / 8));
    // What the exponents are relative to, times `scale_log2`, and this lane's part of the sum of weights.
    let mut top = Array::<f32>::new(comptime!(2 * row_tiles as usize));
    let mut sum = Array::<f32>::new(comptime!(2 * row_tiles as usize));
    #[unroll]
    for r in 0..comptime!(2 * row_tiles as usize) {
        top[r] = f32::new(-1.0e30);
        sum[r] = f32::new(0.0);
    }

    let mut tiles = (tokens + comptime!(columns - 1)) / columns;
    let whole = tokens / columns; // tiles that end before the tokens do
    if comptime!(plan.causal) {
        tiles = min(tiles, ((block + 1) * rows + comptime!(columns - 1)) / columns);
    }
    copy_tile::<E>(qkv, &mut ks, k_base, stride, 0u32, 0u32, tokens, true, plan);
    copy_tile::<E>(qkv, &mut vs, v_base, stride, 0u32, 0u32, tokens, true, plan);
    bar.commit_copy_async();
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
        let first = j * columns;
        let mut needed = active;
        if comptime!(plan.causal) {
            needed = needed && first < plane_row + comptime!(16 * row_tiles);
        }
        if needed {
            let half = (j % 2) * columns;
            let mut scores = zero_tiles::<NC>(comptime!(row_tiles * columns / 8));
            #[unroll]
            for t in 0..comptime!(plan.head_dim / 16) {
                let a0 = comptime!(t * row_tiles);
                multiply_tile::<E, NA, NB, NC>(&def, &q, &ks, &mut scores, half, a0, t, columns, false, plan);
            }
            let mut ragged = j >= whole;
            if comptime!(plan.causal) {
                ragged = ragged || first + columns > plane_row + 1;
            }
            if ragged {
                mask_columns::<NC>(&mut scores, row, first, tokens, columns, plan);
            }

            let mut peaks = Array::<f32>::new(comptime!(2 * row_tiles as usize));
            let mut grown = false;
            #[unroll]
            for r in 0..comptime!(2 * row_tiles as usize) {
                let mut peak = f32::new(-1.0e30);
                #[unroll]
                for n in 0..comptime!(columns as usize / 8) {
                    let x = scores.index(comptime!((r / 2) * (columns as usize / 8) + n))[comptime!(r % 2)];
                    peak = max(peak, max(x[0usize], x[1usize]));
                }
                peaks[r] = peak;
                grown = grown || peak * scale_log2 > top[r] + HEADROOM;
            }
            if plane_any(grown) {
                #[unroll]
                for r in 0..comptime!(2 * row_tiles as usize) {
                    let higher = max(top[r], quad_max(peaks[r]) * scale_log2);
                    let factor = exp2::<Const<1>>(Vector::new(top[r] - higher))[0usize];
                    top[r] = higher;
                    sum[r] *= factor;
                    #[unroll]
                    for n in 0..comptime!(plan.head_dim as usize / 8) {
                        let a = acc.index_mut(comptime!((r / 2) * (plan.head_dim as usize / 8) + n));
                        a[comptime!(r % 2)] = a[comptime!(r % 2)] * Vector::new(factor);
                    }
                }
            }

            #[unroll]
            for r in 0..comptime!(2 * row_tiles as usize) {
                let mut part = f32::new(0.0);
                #[unroll]
                for n in 0..comptime!(columns as usize / 8) {
                    let x = scores.index_mut(comptime!((r / 2) * (columns as usize / 8) + n));
                    let w = exp2(x[comptime!(r % 2)] * Vector::new(scale_log2) - Vector::new(top[r]));
                    part += w[0usize] + w[1usize];
                    x[comptime!(r % 2)] = w;
                }
                sum[r] += part;
            }
            #[unroll]
            for t in 0..comptime!(columns / 16) {
                let w = pack_rows::<E, NA, NC>(&scores, t, columns, plan);
                multiply_tile::<E, NA, NB, NC>(&def, &w, &vs, &mut acc, half, 0u32, t, plan.head_dim, true, plan);
            }
        }
    }

    let mut inverse = Array::<f32>::new(comptime!(2 * row_tiles as usize));
    #[unroll]
    for r in 0..comptime!(2 * row_tiles as usize) {
        let total = quad_sum(sum[r]);
        inverse[r] = f32::new(1.0) / total;
        let at = row + comptime!(8 * r as u32);
        if lane % 4 == 0 && at < tokens {
            lse[((CUBE_POS_Z * heads + CUBE_POS_Y) * tokens + at) as usize] =
                top[r] * f32::new(core::f32::consts::LN_2) + total.ln();
        }
    }
    let out_stride = heads * comptime!(plan.head_dim / 2);
    let out_base = CUBE_POS_Z * tokens * out_stride + CUBE_POS_Y * comptime!(plan.head_dim / 2);
    store_rows::<E, NC>(output, &acc, out_base, out_stride, row, tokens, &inverse, plan);
}
