//! f32 products of operands that lie contiguous along one of their dimensions, on devices whose subgroup has 8 lanes.
//!
//! A cube is one subgroup and owns a block of 64 columns: lane `l` holds columns `8 l` to `8 l + 7`. It copies [`DEPTH`]
//! rows of its block of `b` to registers (an array that Mesa reads without a loop over the lanes), then walks down tiles of
//! [`ROWS`] rows of `a`. Each lane loads other elements of `a`, and a shuffle hands each to all lanes.
//!
//! Loads on llvmpipe are a loop over lanes and components with a store-forwarding stall of about 6 ns for each, whatever
//! its width: so two f32 travel as one `u64`. A tile of 16 x 64 and 4 steps costs 16 x 4 / 2 such loads and 2048
//! multiply-adds; the panel's own loads are shared by all tiles of a cube.

mod kernel;

use super::{Epilogue, Matrix, Operand, Problem, or_unused};
use cubecl::prelude::*;
use kernel::{LayoutLaunch, panel_kernel, probe_kernel};
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
    let a_along_k = contiguous_along_columns(&a.operand, m) == Some(true);
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
