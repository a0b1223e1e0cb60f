//! Shared by the integration tests: fixtures, comparison, and where real data would be.
#![allow(dead_code, reason = "each test binary uses its own part of this module")]

pub mod clips;
mod data;

pub use data::shared_data;

use safetensors::{Dtype, SafeTensors};
use std::path::Path;

/// A small reference file under `tests/fixtures/clip`.
pub struct Fixture {
    name: String,
    bytes: Vec<u8>,
}

impl Fixture {
    pub fn open(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/clip/{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Fixture { name: name.into(), bytes }
    }

    fn tensor(&self, key: &str, dtype: Dtype) -> Vec<u8> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(key).unwrap_or_else(|e| panic!("{}: {key}: {e}", self.name));
        assert_eq!(view.dtype(), dtype, "{}: {key}", self.name);
        view.data().to_vec()
    }

    pub fn f32(&self, key: &str) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(&self.tensor(key, Dtype::F32))
    }

    pub fn i32(&self, key: &str) -> Vec<i32> {
        bytemuck::pod_collect_to_vec(&self.tensor(key, Dtype::I32))
    }

    pub fn u8(&self, key: &str) -> Vec<u8> {
        self.tensor(key, Dtype::U8)
    }
}

/// Largest difference over the largest reference value must stay within `tolerance`. Fails on NaN and on lengths.
#[track_caller]
pub fn assert_close(name: &str, got: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{name}: length");
    let scale = expected.iter().fold(1e-12f64, |m, v| m.max(v.abs() as f64));
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let error = (*g as f64 - *e as f64).abs() / scale;
        assert!(error <= tolerance, "{name}: element {i} is {g}, expected {e}: error {error:.2e} > {tolerance:.0e}");
    }
}
