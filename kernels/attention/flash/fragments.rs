//! Register fragments and shared-memory tiles of 16 x 8 x 16 matrix instructions.
//!
//! A lane `g = lane / 4`, `t = lane % 4` of the plane holds, of an accumulator tile, rows `g` and `g + 8` and columns `2 t`
//! and `2 t + 1`; of a 16 x 16 left operand, the same rows of two such tiles. So a pair of accumulator tiles becomes a
//! left operand without moving data.

use super::{Plan, UNITS};
use cubecl::{
    cmma::{MatrixIdent, MmaDefinition},
    prelude::{
        barrier::{copy_async, copy_async_checked},
        *,
    },
};

pub(crate) type N8 = Const<8>;
pub(crate) type N2 = Const<2>;
/// Registers of a lane: a list of small vectors.
pub(crate) type Regs<T, N> = Sequence<Array<Vector<T, N>>>;

/// Left operands of `16 * plan.row_tiles` rows straight from global memory, tile `m` of dims `16 t..` at
/// `t * row_tiles + m`; `row` is this lane's first row, rows past the end repeat the last one.
#[cube]
pub(crate) fn load_rows<E: Float, NA: Size>(
    src: &Array<Vector<E, N2>>,
    base: u32,
    stride: u32,
    row: u32,
    tokens: u32,
    #[comptime] plan: Plan,
) -> Regs<E, NA> {
    let mut out = Sequence::new();
    #[unroll]
    for t in 0..comptime!(plan.head_dim / 16) {
        #[unroll]
        for m in 0..comptime!(plan.row_tiles) {
            let mut r = Array::<Vector<E, NA>>::new(4usize);
            #[unroll]
            for i in 0..4u32 {
                let at = min(row + comptime!(16 * m + 8 * (i % 2)), tokens - 1);
                let c = UNIT_POS_PLANE % 4 + comptime!(8 * t + 4 * (i / 2));
                r[i as usize] = Vector::cast_from(src[(base + at * stride + c) as usize]);
            }
            out.push(r);
        }
    }
    out
}

/// `n` accumulator tiles of zeros.
#[cube]
pub(crate) fn zero_tiles<N: Size>(#[comptime] n: u32) -> Regs<f32, N> {
    let mut acc = Sequence::new();
    #[unroll]
    for _ in 0..n {
        let mut a = Array::<Vector<f32, N>>::new(2usize);
        a[0usize] = Vector::new(0.0f32);
        a[1usize] = Vector::new(0.0f32);
        acc.push(a);
    }
    acc
}

/// Starts copying tokens `first..first + plan.columns` into the rows of `dst` from `half`. With `checked`, tokens past the
/// end become zeros; without it there must be none.
///
/// Rows in shared memory are an odd number of 16-byte chunks apart: eight of them, as a matrix load reads them, then lie
/// in different banks.
#[cube]
pub(crate) fn copy_tile<E: Float>(
    src: &Array<Vector<E, N8>>,
    dst: &mut SharedMemory<Vector<E, N8>>,
    base: u32,
    stride: u32,
    first: u32,
    half: u32,
    tokens: u32,
    #[comptime] checked: bool,
    #[comptime] plan: Plan,
) {
    let chunks = comptime!(plan.head_dim / 8);
    let pitch = comptime!(plan.pitch());
    let total = comptime!(plan.columns * chunks);
    // Where the units cover whole rows, each keeps its column and only the row moves on.
    let even = comptime!(UNITS.is_multiple_of(chunks));
    #[unroll]
    for i in 0..comptime!(total.div_ceil(UNITS)) {
        let unit = UNIT_POS + comptime!(i * UNITS);
        let row = if comptime!(even) { UNIT_POS / chunks + comptime!(i * UNITS / chunks) } else { unit / chunks };
        let chunk = if comptime!(even) { UNIT_POS % chunks } else { unit % chunks };
        if comptime!((i + 1) * UNITS <= total) || row < plan.columns {
            let token = first + row;
            let d = ((half + row) * pitch + chunk) as usize;
            if comptime!(checked) {
                let g = (base + min(token, tokens - 1) * stride + chunk) as usize;
                let inside = usize::cast_from(token < tokens);
                copy_async_checked(&src.slice(g, g + inside), &mut dst.slice_mut(d, d + 1), 8u32);
            } else {
                let g = (base + token * stride + chunk) as usize;
                copy_async(&src.slice(g, g + 1), &mut dst.slice_mut(d, d + 1), 8u32);
            }
        }
    }
}

/// `acc[m][2 n], acc[m][2 n + 1] += a[a0 + m] B` for every row tile `m`, `n` in `0..columns / 16`; `acc[m][i]` is at
/// `m * columns / 8 + i`. B comes from `tile`, whose rows start at `first`. Without `across`, tile rows `16 n..` are B's
/// columns and dims `16 t..` are contracted; with it, tile rows `16 t..` are contracted and B's columns are dims `16 n..`
/// (transposing load).
#[cube]
pub(crate) fn multiply_tile<E: Float, NA: Size, NB: Size, NC: Size>(
    def: &MmaDefinition<E, E, f32>,
    a: &Regs<E, NA>,
    tile: &SharedMemory<Vector<E, N8>>,
    acc: &mut Regs<f32, NC>,
    first: u32,
    #[comptime] a0: u32,
    #[comptime] t: u32,
    #[comptime] columns: u32,
    #[comptime] across: bool,
    #[comptime] plan: Plan,
) {
    let lane = UNIT_POS_PLANE;
    let pitch = comptime!(plan.pitch());
    let start = if comptime!(across) {
        (first + lane % 16) * pitch + lane / 16
    } else {
        (first + (lane / 16) * 8 + lane % 8) * pitch + (lane / 8) % 2
    };
    #[unroll]
    for n in 0..comptime!(columns / 16) {
        let step =
            if comptime!(across) { comptime!(16 * t * pitch + 2 * n) } else { comptime!(16 * n * pitch + 2 * t) };
        let p = (start + step) as usize;
        let b = def.load_matrix::<_, NB>(&tile.slice(p, p + 1), MatrixIdent::B, 4usize, across);
        #[unroll]
        for h in 0..2u32 {
            let mut bh = Array::<Vector<E, NB>>::new(2usize);
            bh[0usize] = b[comptime!(2 * h as usize)];
            bh[1usize] = b[comptime!(2 * h as usize + 1)];
            #[unroll]
            for m in 0..comptime!(plan.row_tiles) {
                let at = comptime!((m * (columns / 8) + 2 * n + h) as usize);
                def.execute_inplace(a.index(comptime!((a0 + m) as usize)), &bh, acc.index_mut(at));
            }
        }
    }
}

/// Accumulator tiles `2 t` and `2 t + 1` of each row tile, of `columns / 8`, as left operands.
#[cube]
pub(crate) fn pack_rows<E: Float, NA: Size, NC: Size>(
    x: &Regs<f32, NC>,
    #[comptime] t: u32,
    #[comptime] columns: u32,
    #[comptime] plan: Plan,
) -> Regs<E, NA> {
    let mut out = Sequence::new();
    #[unroll]
    for m in 0..comptime!(plan.row_tiles) {
        let mut p = Array::<Vector<E, NA>>::new(4usize);
        #[unroll]
        for i in 0..4u32 {
            let tile = comptime!((m * (columns / 8) + 2 * t + i / 2) as usize);
            p[i as usize] = Vector::cast_from(x.index(tile)[comptime!((i % 2) as usize)]);
        }
        out.push(p);
    }
    out
}

/// Stores accumulators of `plan.head_dim` columns times a factor for each of the lane's rows.
#[cube]
pub(crate) fn store_rows<E: Float, NC: Size>(
    out: &mut Array<Vector<E, N2>>,
    acc: &Regs<f32, NC>,
    base: u32,
    stride: u32,
    row: u32,
    tokens: u32,
    factors: &Array<f32>,
    #[comptime] plan: Plan,
) {
    #[unroll]
    for m in 0..comptime!(plan.row_tiles) {
        #[unroll]
        for h in 0..2u32 {
            let at = row + comptime!(16 * m + 8 * h);
            if at < tokens {
                let factor = factors[comptime!((2 * m + h) as usize)];
                #[unroll]
                for n in 0..comptime!(plan.head_dim / 8) {
                    let a = acc.index(comptime!((m * (plan.head_dim / 8) + n) as usize))[h as usize];
                    let i = base + at * stride + UNIT_POS_PLANE % 4 + comptime!(4 * n);
                    out[i as usize] = Vector::cast_from(a * Vector::new(factor));
                }
            }
        }
    }
}

/// The largest of a row's four lanes.
#[cube]
pub(crate) fn quad_max(x: f32) -> f32 {
    let y = max(x, plane_shuffle_xor(x, 1u32));
    max(y, plane_shuffle_xor(y, 2u32))
}

/// The sum over a row's four lanes.
#[cube]
pub(crate) fn quad_sum(x: f32) -> f32 {
    let y = x + plane_shuffle_xor(x, 1u32);
    y + plane_shuffle_xor(y, 2u32)
}

/// Two to the power of each of `x`: CUDA folds this into one `ex2`, where `exp` costs a multiplication more.
#[cube]
pub(crate) fn exp2<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    Vector::<f32, N>::new(2.0).powf(x)
}

/// Scores of tokens past the end, and under a causal mask of tokens after the row's own, become very small.
#[cube]
pub(crate) fn mask_columns<NC: Size>(
    scores: &mut Regs<f32, NC>,
    row: u32,
    first: u32,
    tokens: u32,
    #[comptime] columns: u32,
    #[comptime] plan: Plan,
) {
    #[unroll]
    for r in 0..comptime!(2 * plan.row_tiles) {
        let mut end = tokens;
        if comptime!(plan.causal) {
            end = min(tokens, row + comptime!(8 * r + 1));
        }
        #[unroll]
        for n in 0..comptime!(columns / 8) {
            let x = scores.index_mut(comptime!(((r / 2) * (columns / 8) + n) as usize));
            let mut pair = x[comptime!((r % 2) as usize)];
            #[unroll]
            for e in 0..2u32 {
                let column = first + (UNIT_POS_PLANE % 4) * 2 + comptime!(8 * n + e);
                pair[e as usize] = select(column < end, pair[e as usize], f32::new(-1.0e30));
            }
            x[comptime!((r % 2) as usize)] = pair;
        }
    }
}

/// One factor for all rows of [`store_rows`].
#[cube]
pub(crate) fn same_factor(factor: f32, #[comptime] plan: Plan) -> Array<f32> {
    let mut out = Array::<f32>::new(comptime!(2 * plan.row_tiles as usize));
    #[unroll]
    for r in 0..comptime!(2 * plan.row_tiles as usize) {
        out[r] = factor;
    }
    out
}
