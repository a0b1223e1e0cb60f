//! Rows of a unit, and where they lie.

use super::Plan;
use cubecl::prelude::*;

pub(super) type N4 = Const<4>;

/// `rows * len` vectors of rows `row..` (the last again past the end), times a factor: in registers, when all indices
/// are known at compile time.
#[cube]
pub(super) fn load_rows<F: Float>(
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
pub(super) fn store_rows<F: Float>(
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
pub(super) fn load_token<F: Float>(
    src: &Array<Vector<F, N4>>,
    at: u32,
    #[comptime] len: u32,
) -> Array<Vector<f32, N4>> {
    let mut out = Array::<Vector<f32, N4>>::new(comptime!(len as usize));
    #[unroll]
    for c in 0..len {
        out[c as usize] = Vector::cast_from(src[(at + c) as usize]);
    }
    out
}

#[cube]
pub(super) fn same_factor(factor: f32, #[comptime] rows: u32) -> Array<f32> {
    let mut out = Array::<f32>::new(comptime!(rows as usize));
    #[unroll]
    for r in 0..rows {
        out[r as usize] = factor;
    }
    out
}

#[cube]
pub(super) fn zeros(#[comptime] len: u32) -> Array<Vector<f32, N4>> {
    let mut out = Array::<Vector<f32, N4>>::new(comptime!(len as usize));
    #[unroll]
    for c in 0..len {
        out[c as usize] = Vector::new(0.0f32);
    }
    out
}

#[cube]
pub(super) fn sum4(x: Vector<f32, N4>) -> f32 {
    (x[0usize] + x[1usize]) + (x[2usize] + x[3usize])
}

/// Where a unit's work lies.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Place {
    /// Whether there is any.
    pub active: bool,
    /// Its first row.
    pub row: u32,
    /// Its head's first token: of q, k and v in `qkv`, of `output`, of `lse`.
    pub q: u32,
    pub k: u32,
    pub v: u32,
    pub out: u32,
    pub stats: u32,
    /// From one token to the next, in `qkv` and in `output`.
    pub stride: u32,
    pub out_stride: u32,
}

/// Units in order of clip, head and row.
#[cube]
pub(super) fn place(tokens: u32, heads: u32, work: u32, #[comptime] plan: Plan) -> Place {
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
