//! Bandwidth of an upload, and what it costs the products it runs beside.

use crate::{Client, noise, sync};
use avion_kernels::FloatKind::Bf16;
use avion_kernels::cuda::upload::Uploader;
use avion_kernels::gemm::cublaslt::{Epilogue, cublaslt};
use avion_kernels::gemm::{Operand, Problem, tiled::Matrix};
use cubecl::cuda::{CudaDevice, CudaRuntime};
use std::time::Instant;

/// A batch of 256 clips of 4 frames.
const BYTES: usize = 256 * 4 * 224 * 224 * 3;

pub fn all(client: &Client, device: &CudaDevice) {
    let uploader = Uploader::<CudaRuntime>::new(client, device);
    let pool = uploader.pool();
    let fill = |seed: u8| {
        let mut bytes = pool.take(BYTES);
        bytes.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i >> 3) as u8 ^ (i % 251) as u8 ^ seed);
        bytes
    };
    let mut slots = vec![uploader.slot(BYTES), uploader.slot(BYTES)];

    let mut best = f64::INFINITY;
    for round in 0..4u8 {
        let bytes = fill(round);
        println!("  page-locked: {}", bytes.is_locked());
        let slot = slots.pop().expect("it was put back");
        sync(client);
        let start = Instant::now();
        let filled = uploader.upload(slot, bytes).expect("the slot is large enough");
        sync(client);
        best = best.min(start.elapsed().as_secs_f64());
        let back = client.read_one(filled.handle().clone()).expect("the device runs");
        assert!(*back == *fill(round), "round {round} arrived changed");
        slots.push(filled.release());
    }
    println!("  {:.0} MB in {:.2} ms: {:.1} GB/s", BYTES as f64 / 1e6, best * 1e3, BYTES as f64 / best / 1e9);

    // A step of 30 large products, alone and with the next batch on its way.
    let (m, n, k) = (100_480, 3072, 768);
    let (a, b, out) = (noise(client, m * k, Bf16, 1), noise(client, k * n, Bf16, 2), noise(client, m * n, Bf16, 3));
    let step = || {
        for _ in 0..30 {
            let matrix = |handle: &cubecl::server::Handle, len, columns| Matrix {
                handle: handle.clone(),
                len,
                operand: Operand::matrix(columns),
            };
            let operands = (matrix(&a, m * k, k), matrix(&b, k * n, n), Bf16);
            let out = (matrix(&out, m * n, n), Bf16);
            cublaslt(client, Problem::single(m, n, k), operands, out, &Epilogue::default()).expect("it was taken");
        }
    };
    let steps = 8;
    step();
    for _ in 0..2 {
        sync(client);
        let start = Instant::now();
        (0..steps).for_each(|_| step());
        sync(client);
        let alone = start.elapsed().as_secs_f64() / steps as f64;

        let mut batches: Vec<_> = (0..steps + 1).map(|i| fill(i as u8)).collect();
        sync(client);
        let start = Instant::now();
        let mut caller = 0.0;
        let mut next =
            uploader.begin(slots.pop().expect("two slots"), batches.pop().expect("filled")).expect("it fits");
        for _ in 0..steps {
            let filled = next.finish();
            // The kernel that reads the batch would be queued here.
            slots.push(filled.release());
            step();
            let begin = Instant::now();
            let batch = batches.pop().expect("filled");
            next = uploader.begin(slots.remove(0), batch).expect("it fits");
            caller += begin.elapsed().as_secs_f64();
        }
        sync(client);
        let beside = start.elapsed().as_secs_f64() / steps as f64;
        slots.push(next.finish().release());
        println!(
            "  a step alone {:.3} ms, with an upload beside it {:.3} ms; starting one costs the caller {:.2} us",
            alone * 1e3,
            beside * 1e3,
            caller / steps as f64 * 1e6
        );
    }
}
