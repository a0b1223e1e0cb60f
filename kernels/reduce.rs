//! Reductions that several kernels share, and who carries them out.

use crate::launch::{UNITS, grid};
use cubecl::features::Plane;
use cubecl::prelude::*;

/// Pairs that a unit of [`pair_sums`] loads at a time.
const PAIRS_IN_FLIGHT: u32 = 8;

/// Who reduces one row (or one block of columns) of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// The units of a cube together, through shared memory: for devices with thousands of units to keep busy.
    Cube,
    /// One unit alone, without shared memory or barriers: for devices that run units one after another.
    Unit,
}

impl Split {
    /// What suits the device. One without plane operations has no warps worth filling, and barriers cost it most.
    pub fn of<R: Runtime>(client: &ComputeClient<R>) -> Self {
        match client.properties().features.plane.contains(Plane::Ops) {
            true => Split::Cube,
            false => Split::Unit,
        }
    }
}

/// A cube, or a unit, for each row.
pub(crate) fn row_grid(rows: usize, split: Split) -> (CubeCount, CubeDim) {
    match split {
        Split::Cube => grid(rows * UNITS as usize),
        Split::Unit => grid(rows),
    }
}

/// The unit's row, first element and step under a [`Split`]: a cube shares a row, or a unit has it alone.
#[cube]
pub(crate) fn share(#[comptime] cooperate: bool) -> (u32, u32, u32) {
    let mut row = ABSOLUTE_POS as u32;
    let mut first = 0u32.runtime();
    let mut step = 1u32.runtime();
    if comptime!(cooperate) {
        row = CUBE_POS as u32;
        first = UNIT_POS;
        step = UNITS.runtime();
    }
    (row, first, step)
}

/// Sum of a value over a cube of [`UNITS`], returned to every unit. `scratch` holds `UNITS` values and may be used
/// again at once.
#[cube]
pub(crate) fn cube_sum(value: f32, scratch: &mut SharedMemory<f32>) -> f32 {
    scratch[UNIT_POS as usize] = value;
    sync_cube();
    #[unroll]
    for halving in 0..comptime!(UNITS.ilog2()) {
        let stride = comptime!(UNITS >> (halving + 1));
        if UNIT_POS < stride {
            let other = scratch[(UNIT_POS + stride) as usize];
            scratch[UNIT_POS as usize] += other;
        }
        sync_cube();
    }
    let total = scratch[0usize];
    sync_cube();
    total
}

/// As [`cube_sum`], the largest value.
#[cube]
pub(crate) fn cube_max(value: f32, scratch: &mut SharedMemory<f32>) -> f32 {
    scratch[UNIT_POS as usize] = value;
    sync_cube();
    #[unroll]
    for halving in 0..comptime!(UNITS.ilog2()) {
        let stride = comptime!(UNITS >> (halving + 1));
        if UNIT_POS < stride {
            let other = scratch[(UNIT_POS + stride) as usize];
            scratch[UNIT_POS as usize] = max(scratch[UNIT_POS as usize], other);
        }
        sync_cube();
    }
    let largest = scratch[0usize];
    sync_cube();
    largest
}

/// Sum of a vector's lanes.
#[cube]
pub(crate) fn lane_sum<N: Size>(vector: Vector<f32, N>) -> f32 {
    let mut sum = vector[0usize];
    #[unroll]
    for lane in 1..vector.vector_size() {
        sum += vector[lane];
    }
    sum
}

/// Largest of a vector's lanes.
#[cube]
pub(crate) fn lane_max<N: Size>(vector: Vector<f32, N>) -> f32 {
    let mut largest = vector[0usize];
    #[unroll]
    for lane in 1..vector.vector_size() {
        largest = max(largest, vector[lane]);
    }
    largest
}

/// Sums of both lanes over `count` pairs, by a cube of [`UNITS`] in a fixed order; every unit gets them.
#[cube]
pub(crate) fn pair_sums(pairs: &Array<Vector<f32, Const<2>>>, count: u32) -> (f32, f32) {
    let mut scratch = SharedMemory::<f32>::new(UNITS as usize);
    let mut sums = Vector::<f32, Const<2>>::new(0.0);
    let mut i = UNIT_POS;
    while i < count {
        // One cube has nothing but its own loads to hide their latency behind.
        let mut values = Array::<Vector<f32, Const<2>>>::new(PAIRS_IN_FLIGHT as usize);
        #[unroll]
        for k in 0..PAIRS_IN_FLIGHT {
            values[k as usize] = pairs[min(i + k * UNITS, count - 1) as usize];
        }
        #[unroll]
        for k in 0..PAIRS_IN_FLIGHT {
            if i + k * UNITS < count {
                sums += values[k as usize];
            }
        }
        i += comptime!(PAIRS_IN_FLIGHT * UNITS);
    }
    let first = cube_sum(sums[0usize], &mut scratch);
    let second = cube_sum(sums[1usize], &mut scratch);
    (first, second)
}
