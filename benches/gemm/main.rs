//! cuBLASLt products and uploads on the first CUDA device: checked against f64, then timed.
//!
//! ```text
//! cargo bench --workspace --bench gemm -- check host layers upload
//! python3 benches/gemm/peer.py
//! ```
//! `check`: every epilogue and layout on small shapes, and ordering with CubeCL's kernels. `host`: cost of a call.
//! `layers`: the products of a ViT-B/16 and a ViT-L/14 block. `upload`: bandwidth, and overlap with products.
//! `peer.py` times the same layers in PyTorch.

mod check;
mod layers;
mod uploads;

use avion_kernels::FloatKind;
use cubecl::cuda::{CudaDevice, CudaRuntime};
use cubecl::prelude::*;
use cubecl::server::Handle;
use std::time::Instant;

type Client = ComputeClient<CudaRuntime>;

fn main() {
    avion_kernels::cuda::on_message(|_, message| println!("  ({message})"));
    let device = CudaDevice::new(0);
    let client = CudaRuntime::client(&device);
    // `cargo bench` adds an option of its own.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let parts: [(&str, &dyn Fn()); 4] = [
        ("check", &|| check::all(&client)),
        ("host", &|| layers::host(&client)),
        ("layers", &|| layers::all(&client)),
        ("upload", &|| uploads::all(&client, &device)),
    ];
    for (name, part) in parts {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            println!("{name}");
            part();
            client.memory_cleanup();
        }
    }
    if let Some(failure) = avion_kernels::cuda::take_failure(&client) {
        println!("FAILED: {failure}");
        std::process::exit(1);
    }
}

fn sync(client: &Client) {
    cubecl::future::block_on(client.sync()).expect("the device runs");
}

/// Seconds per call when the device is kept busy for about `seconds`.
fn time(client: &Client, seconds: f64, mut call: impl FnMut()) -> f64 {
    let mut run = |calls: usize| {
        sync(client);
        let start = Instant::now();
        (0..calls).for_each(|_| call());
        sync(client);
        start.elapsed().as_secs_f64() / calls as f64
    };
    let rough = run(1).min(run(3));
    run(((seconds / rough) as usize).clamp(5, 10_000))
}

#[cube(launch_unchecked)]
fn noise_kernel<F: Float>(out: &mut Array<F>, len: u32, seed: u32) {
    let i = ABSOLUTE_POS as u32;
    if i < len {
        let mut x = i * 747796405u32 + seed;
        x = (x ^ (x >> 15u32)) * 2246822519u32;
        x = (x ^ (x >> 13u32)) * 3266489917u32;
        x ^= x >> 16u32;
        out[i as usize] = F::cast_from(f32::cast_from(x >> 8u32) / 8388608.0 - 1.0);
    }
}

/// `len` values between -1 and 1, made on the device.
fn noise(client: &Client, len: usize, kind: FloatKind, seed: u32) -> Handle {
    let out = client.empty(len * kind.size());
    let (count, dim) = avion_kernels::launch::grid(len);
    avion_kernels::with_float!(kind, F => unsafe {
        // SAFETY: the array holds `len` elements and the kernel checks its position.
        let array = ArrayArg::from_raw_parts(out.clone(), len);
        noise_kernel::launch_unchecked::<F, CudaRuntime>(client, count, dim, array, len as u32, seed)
    });
    out
}
