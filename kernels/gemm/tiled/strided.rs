//! Any strides, any of the float types: a square tile of the result in each unit's registers.
//!
//! Operations per load are what counts, `tile / 2`.

use super::{Epilogue, Matrix, Problem, or_unused};
use crate::launch::CUBES_X;
use crate::{FloatKind, with_float};
use cubecl::prelude::*;

/// Units per cube: one vector of an AVX2 machine, so that small problems still spread over the cores.
const UNITS: u32 = 8;

/// Side of the result's tile per unit. Measured on Mesa 22 (llvmpipe, 2 cores), `[1184, 64] x [64, 192]`: 8 x 8 1.9 GFLOP/s,
/// 16 x 16 3.3; 32 x 16 is faster still but takes Mesa 14 s to compile, 16 x 16 2.4 s.
const LARGE_TILE: u32 = 16;
const SMALL_TILE: u32 = 8;

/// Tiles below which the large ones would leave cores idle.
const ENOUGH_TILES: u32 = 32;

/// The larger tile when there are enough of them and few reach past the edge; never with an epilogue that loads an element
/// for each of its 256 results, which takes Mesa ten seconds and more to compile.
fn tile_for(problem: &Problem, epilogue: &Epilogue) -> u32 {
    if epilogue.residual.is_some() || epilogue.accumulate {
        return SMALL_TILE;
    }
    let tiles = (problem.m as u32).div_ceil(LARGE_TILE) * (problem.n as u32).div_ceil(LARGE_TILE);
    let many = tiles * (problem.outer * problem.inner) as u32 >= ENOUGH_TILES;
    if many && problem.m.min(problem.n) >= 3 * LARGE_TILE as usize { LARGE_TILE } else { SMALL_TILE }
}

/// Where an operand lies, as the kernel reads it.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Lie {
    offset: u32,
    outer: u32,
    inner: u32,
    rows: u32,
    columns: u32,
}

#[cube(launch_unchecked)]
fn strided_kernel<E: Float, O: Float>(
    a: &Array<E>,
    b: &Array<E>,
    bias: &Array<f32>,
    residual: &Array<O>,
    out: &mut Array<O>,
    a_lie: Lie,
    b_lie: Lie,
    out_lie: Lie,
    m: u32,
    n: u32,
    k: u32,
    inner: u32,
    tiles_n: u32,
    scale: f32,
    #[comptime] tile: u32,
    #[comptime] with_bias: bool,
    #[comptime] with_residual: bool,
    #[comptime] accumulate: bool,
) {
    let place = (CUBE_POS_Z * CUBE_COUNT_X + CUBE_POS_X) * UNITS + UNIT_POS;
    let row0 = (place / tiles_n) * tile;
    let column0 = (place % tiles_n) * tile;
    if row0 < m {
        let (i, j) = (CUBE_POS_Y / inner, CUBE_POS_Y % inner);
        let a_base = a_lie.offset + i * a_lie.outer + j * a_lie.inner;
        let b_base = b_lie.offset + i * b_lie.outer + j * b_lie.inner;

        let mut a_at = Array::<u32>::new(tile as usize);
        let mut b_at = Array::<u32>::new(tile as usize);
        // Rows and columns past the end repeat the last one; their results are not written.
        #[unroll]
        for r in 0..tile {
            a_at[r as usize] = a_base + min(row0 + r, m - 1) * a_lie.rows;
        }
        #[unroll]
        for c in 0..tile {
            b_at[c as usize] = b_base + min(column0 + c, n - 1) * b_lie.columns;
        }
        let mut sums = Array::<f32>::new(comptime!((tile * tile) as usize));
        #[unroll]
        for x in 0..comptime!(tile * tile) {
            sums[x as usize] = f32::new(0.0);
        }
        for step in 0..k {
            let mut bs = Array::<f32>::new(tile as usize);
            #[unroll]
            for c in 0..tile {
                bs[c as usize] = f32::cast_from(b[(b_at[c as usize] + step * b_lie.rows) as usize]);
            }
            #[unroll]
            for r in 0..tile {
                let x = f32::cast_from(a[(a_at[r as usize] + step * a_lie.columns) as usize]);
                #[unroll]
                for c in 0..tile {
                    sums[comptime!((r * tile + c) as usize)] += x * bs[c as usize];
                }
            }
        }
        let out_base = out_lie.offset + i * out_lie.outer + j * out_lie.inner;
        #[unroll]
        for r in 0..tile {
            #[unroll]
            for c in 0..tile {
                if row0 + r < m && column0 + c < n {
                    let at = (out_base + (row0 + r) * out_lie.rows + (column0 + c) * out_lie.columns) as usize;
                    let mut value = sums[comptime!((r * tile + c) as usize)] * scale;
                    if comptime!(with_bias) {
                        value += bias[(column0 + c) as usize];
                    }
                    if comptime!(with_residual) {
                        value += f32::cast_from(residual[at]);
                    }
                    if comptime!(accumulate) {
                        value += f32::cast_from(out[at]);
                    }
                    out[at] = O::cast_from(value);
                }
            }
        }
    }
}

impl Matrix {
    fn lie<R: Runtime>(&self) -> LieLaunch<R> {
        let o = self.operand;
        LieLaunch::new(o.offset as u32, o.outer as u32, o.inner as u32, o.rows as u32, o.columns as u32)
    }
}

/// Launches the product; the caller has checked that every operand lies within its buffer.
pub fn launch<R: Runtime>(
    client: &ComputeClient<R>,
    problem: &Problem,
    scale: f32,
    (a, b, kind): (Matrix, Matrix, FloatKind),
    (out, out_kind): (Matrix, FloatKind),
    epilogue: Epilogue,
) {
    let Problem { m, n, k, outer, inner } = *problem;
    let tile = tile_for(problem, &epilogue);
    let tiles_n = (n as u32).div_ceil(tile);
    let tiles = (m as u32).div_ceil(tile) * tiles_n;
    let cubes = tiles.div_ceil(UNITS);
    let cubes_x = cubes.min(CUBES_X);
    let count = CubeCount::Static(cubes_x, (outer * inner) as u32, cubes.div_ceil(cubes_x));
    let (a_lie, b_lie, out_lie) = (a.lie::<R>(), b.lie::<R>(), out.lie::<R>());
    let with = (epilogue.bias.is_some(), epilogue.residual.is_some(), epilogue.accumulate);
    let (bias, residual) = (or_unused(client, epilogue.bias), or_unused(client, epilogue.residual));
    with_float!(kind, E => with_float!(out_kind, O => unsafe {
        // SAFETY: the caller has compared each operand's reach with its buffer's length.
        strided_kernel::launch_unchecked::<E, O, R>(
            client,
            count,
            CubeDim::new_1d(UNITS),
            ArrayArg::from_raw_parts(a.handle, a.len),
            ArrayArg::from_raw_parts(b.handle, b.len),
            ArrayArg::from_raw_parts(bias, n),
            ArrayArg::from_raw_parts(residual, out.len),
            ArrayArg::from_raw_parts(out.handle, out.len),
            a_lie,
            b_lie,
            out_lie,
            m as u32,
            n as u32,
            k as u32,
            inner as u32,
            tiles_n,
            scale,
            tile,
            with.0,
            with.1,
            with.2,
        )
    }));
}
