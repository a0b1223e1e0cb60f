//! What every test here needs: a client, random values, and a comparison that cannot pass by accident.

pub use crate::device::{Client, client};
use cubecl::prelude::CubePrimitive;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

pub fn values(rng: &mut ChaCha8Rng, len: usize) -> Vec<f32> {
    (0..len).map(|i| rng.random_range(-1.0..1.0f32) * if i % 97 == 13 { 30.0 } else { 1.0 }).collect()
}

pub fn upload(client: &Client, data: &[f32]) -> cubecl::server::Handle {
    client.create_from_slice(bytemuck::cast_slice(data))
}

pub fn read_f32(client: &Client, handle: cubecl::server::Handle) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(&client.read_one(handle).unwrap())
}

/// Whether the adapter stores and computes in f16, which stands for every half type here.
pub fn has_f16(client: &Client) -> bool {
    client.properties().supports_type(half::f16::as_type_native_unchecked())
}

pub fn upload_f16(client: &Client, data: &[f32]) -> cubecl::server::Handle {
    let halves: Vec<u16> = data.iter().map(|v| half::f16::from_f32(*v).to_bits()).collect();
    client.create_from_slice(bytemuck::cast_slice(&halves))
}

pub fn read_f16(client: &Client, handle: cubecl::server::Handle) -> Vec<f32> {
    let halves: Vec<u16> = bytemuck::pod_collect_to_vec(&client.read_one(handle).unwrap());
    halves.iter().map(|b| half::f16::from_bits(*b).to_f32()).collect()
}

/// `data` as it is after a trip through f16.
pub fn rounded(data: &[f32]) -> Vec<f32> {
    data.iter().map(|v| half::f16::from_f32(*v).to_f32()).collect()
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
