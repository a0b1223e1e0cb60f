//! Activations in the element types the device has: tests run once in each.

use crate::support::{Client, read_f32, upload};
use avion_kernels::{FloatKind, Handle};
use cubecl::prelude::*;
use half::{bf16, f16};

/// f32 with the tolerance given, and f16 (rounding of the result alone: 2^-11) where the device computes in it.
pub fn kinds(client: &Client, tolerance: f64) -> Vec<(FloatKind, f64)> {
    let half = client.properties().supports_type(f16::as_type_native_unchecked());
    let mut kinds = vec![(FloatKind::F32, tolerance)];
    kinds.extend(half.then_some((FloatKind::F16, 5e-4 + tolerance)));
    kinds
}

/// The bits of the nearest value that a half type holds, and its value.
fn bits(kind: FloatKind, value: f32) -> u16 {
    if kind == FloatKind::Bf16 { bf16::from_f32(value).to_bits() } else { f16::from_f32(value).to_bits() }
}

fn value(kind: FloatKind, bits: u16) -> f32 {
    if kind == FloatKind::Bf16 { bf16::from_bits(bits).to_f32() } else { f16::from_bits(bits).to_f32() }
}

/// The nearest values the type holds.
pub fn rounded(kind: FloatKind, data: &[f32]) -> Vec<f32> {
    data.iter().map(|v| if kind == FloatKind::F32 { *v } else { value(kind, bits(kind, *v)) }).collect()
}

pub fn typed(client: &Client, kind: FloatKind, data: &[f32]) -> Handle {
    if kind == FloatKind::F32 {
        return upload(client, data);
    }
    let mut halves: Vec<u16> = data.iter().map(|v| bits(kind, *v)).collect();
    halves.resize(halves.len().next_multiple_of(2), 0);
    client.create_from_slice(bytemuck::cast_slice(&halves))
}

/// The values of a buffer made by [`typed`] from an even number of them, or of f32.
pub fn read_typed(client: &Client, kind: FloatKind, handle: Handle) -> Vec<f32> {
    if kind == FloatKind::F32 {
        return read_f32(client, handle);
    }
    let halves: Vec<u16> = bytemuck::pod_collect_to_vec(&client.read_one(handle).unwrap());
    halves.into_iter().map(|bits| value(kind, bits)).collect()
}

pub fn f64s(data: &[f32]) -> Vec<f64> {
    data.iter().map(|v| f64::from(*v)).collect()
}
