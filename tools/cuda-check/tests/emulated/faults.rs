//! The emulator itself: plane operations give what a warp gives, and faulty kernels do not pass.

use crate::device::{Client, client};
use cubecl::{future::block_on, prelude::*, server::Handle};

const UNITS: u32 = 64;

#[cube(launch_unchecked)]
fn planes(out: &mut Array<u32>) {
    let x = UNIT_POS;
    let i = (UNIT_POS * 4) as usize;
    out[i] = plane_sum(x);
    out[i + 1] = plane_shuffle_xor(x, 5u32);
    out[i + 2] = plane_broadcast(x, 7u32);
    out[i + 3] = plane_exclusive_sum(x);
}

/// Each unit reads what another has written; without the barrier, which unit is first decides.
#[cube(launch_unchecked)]
fn exchange(out: &mut Array<u32>, #[comptime] barrier: bool) {
    let mut shared = SharedMemory::<u32>::new(UNITS as usize);
    shared[UNIT_POS as usize] = UNIT_POS;
    if barrier {
        sync_cube();
    }
    out[(CUBE_POS_X * UNITS + UNIT_POS) as usize] = shared[(UNITS - 1 - UNIT_POS) as usize];
}

#[cube(launch_unchecked)]
fn uneven_barrier(out: &mut Array<u32>) {
    if UNIT_POS < 10 {
        sync_cube();
    }
    out[UNIT_POS as usize] = 1u32;
}

#[cube(launch_unchecked)]
fn write_past_the_end(out: &mut Array<u32>, len: u32) {
    out[len as usize] = UNIT_POS;
}

#[cube(launch_unchecked)]
fn sum_unwritten(input: &Array<f32>, out: &mut Array<f32>) {
    let shared = SharedMemory::<f32>::new(4usize);
    out[0usize] = input[0usize];
    out[1usize] = shared[1usize];
}

fn read(client: &Client, handle: Handle) -> Vec<u32> {
    bytemuck::pod_collect_to_vec(&client.read_one(handle).unwrap())
}

/// What the device says after `launch`.
fn problem(launch: impl FnOnce(&Client)) -> String {
    let client = client();
    launch(&client);
    block_on(client.sync()).expect_err("the fault must be found").to_string()
}

const DIM: CubeDim = CubeDim { x: UNITS, y: 1, z: 1 };
const ONE: CubeCount = CubeCount::Static(1, 1, 1);

#[test]
fn planes_are_warps_of_32() {
    let client = client();
    let out = client.empty(UNITS as usize * 16);
    // SAFETY: the array has four elements per unit.
    unsafe { planes::launch_unchecked(&client, ONE, DIM, ArrayArg::from_raw_parts(out.clone(), UNITS as usize * 4)) };
    for (unit, got) in read(&client, out).chunks(4).enumerate() {
        let (unit, first) = (unit as u32, unit as u32 / 32 * 32);
        let sum = |range: std::ops::Range<u32>| range.sum::<u32>();
        assert_eq!(got, [sum(first..first + 32), unit ^ 5, first + 7, sum(first..unit)], "unit {unit}");
    }
}

#[test]
fn a_missing_barrier_shows() {
    let client = client();
    let run = |barrier: bool| {
        let out = client.empty(UNITS as usize * 8);
        let array = unsafe { ArrayArg::from_raw_parts(out.clone(), UNITS as usize * 2) };
        // SAFETY: the array has an element per unit of both cubes.
        unsafe { exchange::launch_unchecked(&client, CubeCount::Static(2, 1, 1), DIM, array, barrier) };
        read(&client, out)
    };
    let expected: Vec<u32> = (0..UNITS).rev().chain((0..UNITS).rev()).collect();
    assert_eq!(run(true), expected);
    assert_ne!(run(false), expected);
}

#[test]
fn a_barrier_that_not_all_reach_is_an_error() {
    let message = problem(|client| {
        let out = client.empty(UNITS as usize * 4);
        // SAFETY: the array has an element per unit.
        unsafe {
            uneven_barrier::launch_unchecked(client, ONE, DIM, ArrayArg::from_raw_parts(out, UNITS as usize));
        }
    });
    assert!(message.contains("uneven_barrier") && message.contains("hangs"), "{message}");
}

#[test]
fn a_write_past_a_buffer_is_an_error() {
    let message = problem(|client| {
        let out = client.empty(64);
        // SAFETY: not safe on a GPU; here the bytes after the buffer are guarded.
        unsafe { write_past_the_end::launch_unchecked(client, ONE, DIM, ArrayArg::from_raw_parts(out, 16), 17) };
    });
    assert!(message.contains("write_past_the_end") && message.contains("past the 64 bytes"), "{message}");
}

#[test]
fn memory_is_nan_until_it_is_written() {
    let client = client();
    let (input, out) = (client.empty(4), client.empty(8));
    // SAFETY: the arrays have the lengths given.
    unsafe {
        let (input, out) = (ArrayArg::from_raw_parts(input, 1), ArrayArg::from_raw_parts(out.clone(), 2));
        sum_unwritten::launch_unchecked(&client, ONE, CubeDim::new_1d(1), input, out);
    }
    let got: Vec<f32> = bytemuck::pod_collect_to_vec(&client.read_one(out).unwrap());
    assert!(got.iter().all(|v| v.is_nan()), "{got:?}");
}
