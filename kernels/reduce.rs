//! Reductions that several kernels share, and who carries them out.

use crate::launch::UNITS;
use cubecl::features::Plane;
use cubecl::prelude::*;

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
