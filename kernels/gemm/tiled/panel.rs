//! f32 products of operands that lie contiguous along one of their dimensions, on devices whose subgroup has 8 lanes.
//!
//! A cube is one subgroup and owns a block of 64 columns: lane `l` holds columns `8 l` to `8 l + 7`. It copies [`DEPTH`]
//! rows of its block of `b` to registers (an array that Mesa reads without a loop over the lanes), then walks down tiles of
//! [`ROWS`] rows of `a`. Each lane loads other elements of `a`, and a shuffle hands each to all lanes.
//!
//! Loads on llvmpipe are a loop over lanes and components with a store-forwarding stall of about 6 ns for each, whatever
//! its width: so two f32 travel as one `u64`. A tile of 16 x 64 and 4 steps costs 16 x 4 / 2 such loads and 2048
//! multiply-adds; the panel's own loads are shared by all tiles of a cube.

use super::{Epilogue, Matrix, Operand, Problem, or_unused};
use cubecl::prelude::*;
use std::sync::OnceLock;

/// Lanes of the subgroup that the kernel is written for, one AVX2 register of f32.
const LANES: u32 = 8;

/// Columns of a cube's block: 8 a lane.
const COLUMNS: u32 = 64;

/// Rows of a tile. 32 are no faster and take Mesa twice as long to compile.
const ROWS: u32 = 16;

/// Elements of the dot products taken in one go.
const STEP: u32 = 4;

/// Rows of `b` in registers. Mesa clears them before every cube and compiles that clearing store by store: 256 are
/// slower to compile and no faster.
const DEPTH: u32 = 64;

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

/// Sizes and distances, in f32. `*_line` is the distance between two rows, or columns where the operand is contiguous
/// along the columns.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Layout {
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

#[cube(launch_unchecked)]
fn panel_kernel<NA: Size, NB: Size>(
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

#[cube(launch_unchecked)]
fn probe_kernel(out: &mut Array<u32>) {
    out[UNIT_POS as usize] = plane_shuffle(UNIT_POS * 3 + 1, 5u32);
}

/// Whether the device has subgroups of exactly 8 lanes that shuffle, and 64-bit words in buffers.
///
/// CubeCL reports no subgroup operations for any software adapter, whether it has them or not: so one is tried.
fn device_fits<R: Runtime>(client: &ComputeClient<R>) -> bool {
    static SHUFFLES: OnceLock<bool> = OnceLock::new();
    let hardware = &client.properties().hardware;
    let lanes = LANES == hardware.plane_size_min && LANES == hardware.plane_size_max;
    if !lanes || !client.properties().supports_type(u64::as_type_native_unchecked()) {
        return false;
    }
    *SHUFFLES.get_or_init(|| {
        let out = client.empty(LANES as usize * 4);
        unsafe {
            // SAFETY: eight units write eight elements.
            probe_kernel::launch_unchecked::<R>(
                client,
                CubeCount::Static(1, 1, 1),
                CubeDim::new_1d(LANES),
                ArrayArg::from_raw_parts(out.clone(), LANES as usize),
            )
        };
        let expected: Vec<u8> = (0..LANES).flat_map(|_| 16u32.to_ne_bytes()).collect();
        client.read_one(out).is_ok_and(|bytes| bytes[..] == expected[..])
    })
}

/// Whether a matrix of `columns` columns is contiguous along its rows (`Some(true)`) or columns in whole vectors.
fn contiguous_along_columns(operand: &Operand, rows: usize) -> Option<bool> {
    let aligned =
        |unit: usize, line: usize, by: usize| unit == 1 && line.is_multiple_of(by) && operand.offset.is_multiple_of(by);
    if aligned(operand.columns, operand.rows, STEP as usize) {
        Some(true)
    } else if aligned(operand.rows, operand.columns, 8) && rows.is_multiple_of(8) {
        Some(false)
    } else {
        None
    }
}

/// Whether the kernel takes this product of f32 matrices.
pub fn fits<R: Runtime>(client: &ComputeClient<R>, problem: &Problem, a: &Operand, b: &Operand, out: &Operand) -> bool {
    let whole = |value: usize| value.is_multiple_of(8);
    problem.outer * problem.inner == 1
        && problem.n >= COLUMNS as usize / 2
        && whole(problem.n)
        && problem.k > 0
        && problem.k.is_multiple_of(STEP as usize)
        && out.columns == 1
        && whole(out.rows)
        && whole(out.offset)
        && contiguous_along_columns(a, problem.m).is_some()
        && contiguous_along_columns(&b.transposed(), problem.n).is_some()
        && device_fits(client)
}

/// Tiles of one block that a cube takes: as many as give the shortest time on this machine's cores, when a panel costs as
/// much as a tile and a third.
fn tiles_per_cube(tiles: usize, blocks: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let time = |per_cube: usize| (tiles.div_ceil(per_cube) * blocks).div_ceil(cores) * (4 + 3 * per_cube);
    (1..=tiles).min_by_key(|per_cube| time(*per_cube)).unwrap_or(1)
}

/// Launches a product that [`fits`]; the caller has checked that every operand lies within its buffer.
pub fn launch<R: Runtime>(
    client: &ComputeClient<R>,
    problem: &Problem,
    a: Matrix,
    b: Matrix,
    out: Matrix,
    epilogue: Epilogue,
) {
    let Problem { m, n, k, .. } = *problem;
    let a_along_k = a.operand.columns == 1 && contiguous_along_columns(&a.operand, m) == Some(true);
    let b_along_k = contiguous_along_columns(&b.operand.transposed(), n) == Some(true);
    let vector = |along_k: bool| if along_k { STEP as usize / 2 } else { 4 };
    let line = |o: &Operand, along_k: bool| if along_k { o.rows } else { o.columns } as u32;
    let (tiles, blocks) = (m.div_ceil(ROWS as usize), n.div_ceil(COLUMNS as usize));
    let per_cube = tiles_per_cube(tiles, blocks);
    let layout = LayoutLaunch::new(
        m as u32,
        n as u32,
        k as u32,
        a.operand.offset as u32,
        line(&a.operand, a_along_k),
        b.operand.offset as u32,
        line(&b.operand.transposed(), b_along_k),
        out.operand.offset as u32,
        out.operand.rows as u32,
        blocks as u32,
        per_cube as u32,
    );
    let with = [epilogue.bias.is_some(), epilogue.residual.is_some(), epilogue.accumulate].map(u32::from);
    let (bias, residual) = (or_unused(client, epilogue.bias), or_unused(client, epilogue.residual));
    unsafe {
        // SAFETY: the caller has compared each operand's reach with its buffer's length, and `fits` has found only whole
        // vectors; rows and columns past the end are clamped on reads and skipped on writes.
        panel_kernel::launch_unchecked::<R>(
            client,
            CubeCount::Static((tiles.div_ceil(per_cube) * blocks) as u32, 1, 1),
            CubeDim::new_1d(LANES),
            vector(a_along_k),
            vector(b_along_k),
            ArrayArg::from_raw_parts(a.handle, a.len / 2 / vector(a_along_k)),
            ArrayArg::from_raw_parts(b.handle, b.len / 2 / vector(b_along_k)),
            ArrayArg::from_raw_parts(bias, n / 8),
            ArrayArg::from_raw_parts(residual, out.len / 8),
            ArrayArg::from_raw_parts(out.handle, out.len / 8),
            layout,
            with[0],
            with[1],
            with[2],
            a_along_k,
            b_along_k,
        )
    }
}
