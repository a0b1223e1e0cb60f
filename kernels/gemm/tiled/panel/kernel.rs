//! The kernel of [`super`]: how a cube of one subgroup makes its block of columns.

use super::{COLUMNS, DEPTH, ROWS, STEP};
use cubecl::prelude::*;

/// Four words of two f32 each: what a lane stores at once.
type Words = Vector<u64, Const<4>>;

#[cube]
fn low(word: u64) -> f32 {
    f32::reinterpret(u32::cast_from(word))
}

#[cube]
fn high(word: u64) -> f32 {
    f32::reinterpret(u32::cast_from(word >> 32u64))
}

#[cube]
fn pack(low: f32, high: f32) -> u64 {
    u64::cast_from(u32::reinterpret(low)) | (u64::cast_from(u32::reinterpret(high)) << 32u64)
}

#[cube]
fn add(x: Words, y: Words) -> Words {
    let mut sum = Words::new(0u64);
    #[unroll]
    for w in 0..4usize {
        sum[w] = pack(low(x[w]) + low(y[w]), high(x[w]) + high(y[w]));
    }
    sum
}

/// Sizes and distances, in f32; `blocks` of columns, `tiles` of rows per cube. `*_line` is the distance between two rows, or
/// between two columns where the operand is contiguous along its columns.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Layout {
    m: u32,
    n: u32,
    k: u32,
    a_offset: u32,
    a_line: u32,
    b_offset: u32,
    b_line: u32,
    out_offset: u32,
    out_line: u32,
    blocks: u32,
    tiles: u32,
}

/// Copies rows `k0` to `k0 + depth` of the lane's columns. The order of the words is the order of [`panel_step`].
#[cube]
fn fill_panel<NB: Size>(
    b: &Array<Vector<u64, NB>>,
    panel: &mut Array<u64>,
    layout: &Layout,
    column: u32,
    k0: u32,
    depth: u32,
    #[comptime] b_along_k: bool,
) {
    for s in 0..depth / STEP {
        if comptime!(b_along_k) {
            #[unroll]
            for c in 0..8u32 {
                let words = b[((layout.b_offset + (column + c) * layout.b_line + k0) / STEP + s) as usize];
                #[unroll]
                for w in 0..comptime!(STEP / 2) {
                    panel[(s * comptime!(STEP * 4) + comptime!(8 * w + c)) as usize] = words[w as usize];
                }
            }
        } else {
            #[unroll]
            for kk in 0..STEP {
                let words = b[((layout.b_offset + (k0 + s * STEP + kk) * layout.b_line + column) / 8) as usize];
                #[unroll]
                for w in 0..4u32 {
                    panel[(s * comptime!(STEP * 4) + comptime!(4 * kk + w)) as usize] = words[w as usize];
                }
            }
        }
    }
}

/// `STEP` rows of the panel as `[STEP, 8]`: a word holds two rows of a column where `b` is contiguous along `k`, else two
/// columns of a row.
#[cube]
fn panel_step(panel: &Array<u64>, s: u32, #[comptime] b_along_k: bool) -> Array<f32> {
    let mut values = Array::<f32>::new(comptime!((STEP * 8) as usize));
    #[unroll]
    for x in 0..comptime!(STEP * 4) {
        let word = panel[(s * comptime!(STEP * 4) + x) as usize];
        let (i, j) =
            comptime!(if b_along_k { (16 * (x / 8) + x % 8, 16 * (x / 8) + 8 + x % 8) } else { (2 * x, 2 * x + 1) });
        values[i as usize] = low(word);
        values[j as usize] = high(word);
    }
    values
}

/// Where the lane's loads of `a` start, in vectors.
///
/// Along `k`, load `j` takes 4 elements of row `8 j + lane`. Along `m` the one load takes 8 rows at once: lanes 0 to 3 rows
/// 0 to 7 of four steps, lanes 4 to 7 rows 8 to 15.
#[cube]
fn a_starts(layout: &Layout, row0: u32, k0: u32, #[comptime] a_along_k: bool) -> Array<u32> {
    let mut starts = Array::<u32>::new(2usize);
    if comptime!(a_along_k) {
        #[unroll]
        for j in 0..2u32 {
            // Rows past the end repeat the last one; their results are not written.
            let row = min(row0 + comptime!(8 * j) + UNIT_POS, layout.m - 1);
            starts[j as usize] = (layout.a_offset + row * layout.a_line + k0) / STEP;
        }
    } else {
        let row = min(row0 + (UNIT_POS / STEP) * 8, layout.m - 8);
        starts[0usize] = (layout.a_offset + row + (k0 + UNIT_POS % STEP) * layout.a_line) / 8;
        starts[1usize] = starts[0usize];
    }
    starts
}

/// The lane's part of `ROWS` rows and `STEP` steps of `a`, in the order of the loads.
#[cube]
fn load_a<NA: Size>(
    a: &Array<Vector<u64, NA>>,
    starts: &Array<u32>,
    layout: &Layout,
    s: u32,
    #[comptime] a_along_k: bool,
) -> Array<f32> {
    let mut values = Array::<f32>::new(8usize);
    if comptime!(a_along_k) {
        #[unroll]
        for j in 0..2u32 {
            let words = a[(starts[j as usize] + s) as usize];
            #[unroll]
            for w in 0..2u32 {
                values[comptime!((4 * j + 2 * w) as usize)] = low(words[w as usize]);
                values[comptime!((4 * j + 2 * w + 1) as usize)] = high(words[w as usize]);
            }
        }
    } else {
        let words = a[(starts[0usize] + s * (layout.a_line * STEP / 8)) as usize];
        #[unroll]
        for w in 0..4u32 {
            values[comptime!((2 * w) as usize)] = low(words[w as usize]);
            values[comptime!((2 * w + 1) as usize)] = high(words[w as usize]);
        }
    }
    values
}

/// `a[r, kk]` of the tile and step, in every lane.
#[cube]
fn a_element(values: &Array<f32>, #[comptime] r: u32, #[comptime] kk: u32, #[comptime] a_along_k: bool) -> f32 {
    if comptime!(a_along_k) {
        plane_shuffle(values[comptime!(((r / 8) * STEP + kk) as usize)], comptime!(r % 8))
    } else {
        plane_shuffle(values[comptime!((r % 8) as usize)], comptime!((r / 8) * STEP + kk))
    }
}

/// `out` as the module says. `out` and `residual` lie alike; `bias` is `[n]`. The three flags are 0 or 1.
#[cube(launch_unchecked)]
pub(super) fn panel_kernel<NA: Size, NB: Size>(
    a: &Array<Vector<u64, NA>>,
    b: &Array<Vector<u64, NB>>,
    bias: &Array<Words>,
    residual: &Array<Words>,
    out: &mut Array<Words>,
    layout: Layout,
    with_bias: u32,
    with_residual: u32,
    accumulate: u32,
    #[comptime] a_along_k: bool,
    #[comptime] b_along_k: bool,
) {
    let own_column = (CUBE_POS_X % layout.blocks) * COLUMNS + UNIT_POS * 8;
    let column = min(own_column, layout.n - 8);
    let mut biases = Words::new(0u64);
    if with_bias != 0 {
        biases = bias[(column / 8) as usize];
    }
    let mut panel = Array::<u64>::new(comptime!((DEPTH * 4) as usize));
    let mut k0 = 0u32.runtime();
    while k0 < layout.k {
        let depth = min(DEPTH, layout.k - k0);
        fill_panel::<NB>(b, &mut panel, &layout, column, k0, depth, b_along_k);
        for tile in 0..layout.tiles {
            let row0 = ((CUBE_POS_X / layout.blocks) * layout.tiles + tile) * ROWS;
            if row0 < layout.m {
                let rows = min(ROWS, layout.m - row0);
                let out0 = (layout.out_offset + row0 * layout.out_line + column) / 8;
                let line = layout.out_line / 8;
                if k0 == 0 && with_residual != 0 && own_column < layout.n {
                    // Through the output: a loop here is little code, sixteen more loads below are slow to compile.
                    for r in 0..rows {
                        let at = (out0 + r * line) as usize;
                        let mut words = residual[at];
                        if accumulate != 0 {
                            words = add(words, out[at]);
                        }
                        out[at] = words;
                    }
                }
                let mut start = Words::new(0u64);
                if k0 == 0 {
                    start = biases;
                }
                let mut sums = Array::<f32>::new(comptime!((ROWS * 8) as usize));
                #[unroll]
                for x in 0..comptime!(ROWS * 8) {
                    let word = start[comptime!((x % 8 / 2) as usize)];
                    sums[x as usize] = if comptime!(x % 2 == 0) { low(word) } else { high(word) };
                }
                if k0 + with_residual + accumulate > 0 {
                    #[unroll]
                    for r in 0..ROWS {
                        let words = out[(out0 + min(r, rows - 1) * line) as usize];
                        #[unroll]
                        for w in 0..4u32 {
                            sums[comptime!((8 * r + 2 * w) as usize)] += low(words[w as usize]);
                            sums[comptime!((8 * r + 2 * w + 1) as usize)] += high(words[w as usize]);
                        }
                    }
                }
                let starts = a_starts(&layout, row0, k0, a_along_k);
                for s in 0..depth / STEP {
                    let a_values = load_a::<NA>(a, &starts, &layout, s, a_along_k);
                    let b_values = panel_step(&panel, s, b_along_k);
                    // Rows outside, so that a row's sums stay in machine registers for all steps.
                    #[unroll]
                    for r in 0..ROWS {
                        #[unroll]
                        for kk in 0..STEP {
                            let x = a_element(&a_values, r, kk, a_along_k);
                            #[unroll]
                            for c in 0..8u32 {
                                sums[comptime!((8 * r + c) as usize)] += x * b_values[comptime!((8 * kk + c) as usize)];
                            }
                        }
                    }
                }
                if own_column < layout.n {
                    #[unroll]
                    for r in 0..ROWS {
                        if r < rows {
                            let mut words = Words::new(0u64);
                            #[unroll]
                            for w in 0..4u32 {
                                words[w as usize] = pack(
                                    sums[comptime!((8 * r + 2 * w) as usize)],
                                    sums[comptime!((8 * r + 2 * w + 1) as usize)],
                                );
                            }
                            out[(out0 + r * line) as usize] = words;
                        }
                    }
                }
            }
        }
        k0 += DEPTH;
    }
}

/// Every lane's element is what lane 5 holds: 16.
#[cube(launch_unchecked)]
pub(super) fn probe_kernel(out: &mut Array<u32>) {
    out[UNIT_POS as usize] = plane_shuffle(UNIT_POS * 3 + 1, 5u32);
}
