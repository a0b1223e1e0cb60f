//! What every test here needs: a client, random values, and a comparison that cannot pass by accident.

use cubecl::prelude::*;
use cubecl::wgpu::{WgpuDevice, WgpuRuntime};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

pub type Client = ComputeClient<WgpuRuntime>;

pub fn client() -> Client {
    WgpuRuntime::client(&WgpuDevice::default())
}

pub fn values(rng: &mut ChaCha8Rng, len: usize) -> Vec<f32> {
    (0..len).map(|i| rng.random_range(-1.0..1.0f32) * if i % 97 == 13 { 30.0 } else { 1.0 }).collect()
}

pub fn upload(client: &Client, data: &[f32]) -> cubecl::server::Handle {
    client.create_from_slice(bytemuck::cast_slice(data))
}

pub fn read_f32(client: &Client, handle: cubecl::server::Handle) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(&client.read_one(handle).unwrap())
}

/// Fails on NaN, on a wrong length and on an all-zero result where the reference is not; prints the worst element.
#[track_caller]
pub fn assert_close(name: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{name}: length");
    let scale = expected.iter().fold(0.0f64, |m, v| m.max(v.abs())).max(1e-30);
    let (mut worst, mut at) = (0.0, 0);
    for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
        let error = (g as f64 - e).abs() / scale;
        assert!(error.is_finite(), "{name}: element {i} is {g}, expected {e}");
        if error > worst {
            (worst, at) = (error, i);
        }
    }
    assert!(
        worst <= tolerance,
        "{name}: worst element {at}: got {}, expected {}, error {worst:.3e} of the largest, allowed {tolerance:.1e}",
        got[at],
        expected[at]
    );
}
