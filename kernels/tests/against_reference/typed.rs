//! Activations in the element types the device has: tests run once in each.

use crate::support::{Client, read_f32, upload};
use avion_kernels::{FloatKind, Handle};
use cubecl::prelude::*;
use half::f16;

/// f32 with the tolerance given, and f16 (rounding of the result alone: 2^-11) where the device computes in it.
pub fn kinds(client: &Client, tolerance: f64) -> Vec<(FloatKind, f64)> {
    let half = client.properties().supports_type(f16::as_type_native_unchecked());
    let mut kinds = vec![(FloatKind::F32, tolerance)];
    kinds.extend(half.then_some((FloatKind::F16, 5e-4 + tolerance)));
    kinds
}

/// The nearest values the type holds.
pub fn rounded(kind: FloatKind, data: &[f32]) -> Vec<f32> {
    data.iter().map(|v| if kind == FloatKind::F32 { *v } else { f16::from_f32(*v).to_f32() }).collect()
}

pub fn typed(client: &Client, kind: FloatKind, data: &[f32]) -> Handle {
    if kind == FloatKind::F32 {
        return upload(client, data);
    }
    let mut halves: Vec<u16> = data.iter().map(|v| f16::from_f32(*v).to_bits()).collect();
    halves.resize(halves.len().next_multiple_of(2), 0);
    client.create_from_slice(bytemuck::cast_slice(&halves))
}

/// The values of a buffer made by [`typed`] from an even number of them, or of f32.
pub fn read_typed(client: &Client, kind: FloatKind, handle: Handle) -> Vec<f32> {
    if kind == FloatKind::F32 {
        return read_f32(client, handle);
    }
    let halves: Vec<u16> = bytemuck::pod_collect_to_vec(&client.read_one(handle).unwrap());
    halves.into_iter().map(|bits| f16::from_bits(bits).to_f32()).collect()
}

pub fn f64s(data: &[f32]) -> Vec<f64> {
    data.iter().map(|v| f64::from(*v)).collect()
}
