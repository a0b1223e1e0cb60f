//! A second's worth of proof that a device computes right: the training kernels against their f64 references.
//!
//! Inputs are rounded to the type under test first, so an error is the kernel's own. Allowed errors are fractions of
//! the largest value of the reference; for 16-bit results, one rounding (2^-11 for f16, 2^-8 for bf16) and a half more.

use super::self_check_fused::{check_attention, check_norm_and_activation};
use super::{DeviceError, DeviceInfo, Listing, Target, with_client};
use avion_kernels::{
    FloatKind, Handle, KernelError,
    gemm::{self, Operand, Problem, tiled},
    grad_norm,
    optimizer::{BLOCK, OptimizerBuffers, adamw},
    patch_ingest,
};
use cubecl::{ir::features::TypeUsage, prelude::*};
use half::{bf16, f16};

/// One kernel in one element type.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Check {
    pub name: String,
    /// Largest difference from the reference, relative to the reference's largest value.
    pub max_error: f64,
    /// Largest difference that passes.
    pub allowed: f64,
}

/// A device that passed.
#[derive(Debug, Clone, serde::Serialize)]
pub struct CheckReport {
    /// Wall time, compilation included.
    pub seconds: f64,
    pub checks: Vec<Check>,
}

/// Runs patch ingest, products, norms, activations, attention, the gradient norm and AdamW on small shapes, in every float type
/// the device can store, and compares with the references.
///
/// # Errors
/// [`DeviceError::Failed`] with the kernel, the type and the numbers when a result is off, or with what the runtime says.
pub fn self_check(target: &Target) -> Result<CheckReport, DeviceError> {
    let start = std::time::Instant::now();
    let checks = DeviceError::catch(|| {
        with_client!(target, client => {
            let checks = run_all(&client)?;
            client.memory_cleanup();
            Ok(checks)
        })
    })?;
    Ok(CheckReport { seconds: start.elapsed().as_secs_f64(), checks })
}

/// [`self_check`] of every usable device of a listing, in its order; `None` for one with a problem.
pub fn check_all(listing: &Listing) -> Vec<Option<Result<CheckReport, DeviceError>>> {
    let check = |(target, info): (&Target, &DeviceInfo)| match info.problem {
        Some(_) => None,
        None => Some(self_check(target)),
    };
    listing.targets.iter().zip(&listing.devices).map(check).collect()
}

fn run_all<R: Runtime>(client: &ComputeClient<R>) -> Result<Vec<Check>, DeviceError> {
    let mut checks = vec![check_grad_norm(client)?];
    for kind in [FloatKind::F32, FloatKind::F16, FloatKind::Bf16] {
        if !stores(client, kind) {
            continue;
        }
        checks.push(check_patch_ingest(client, kind)?);
        checks.push(check_gemm(client, kind)?);
        checks.push(check_adamw(client, kind)?);
        checks.extend(check_norm_and_activation(client, kind)?);
        checks.extend(check_attention(client, kind)?);
        #[cfg(feature = "cuda")]
        {
            checks.extend(super::self_check_fused::check_cublaslt(client, kind)?);
            checks.extend(super::self_check_fused::check_hopper(client, kind)?);
        }
    }
    Ok(checks)
}

fn stores<R: Runtime>(client: &ComputeClient<R>, kind: FloatKind) -> bool {
    let element = match kind {
        FloatKind::F32 => f32::as_type_native_unchecked(),
        FloatKind::F16 => f16::as_type_native_unchecked(),
        FloatKind::Bf16 => bf16::as_type_native_unchecked(),
    };
    let usage = client.properties().type_usage(element.storage_type());
    usage.contains(TypeUsage::Buffer) && usage.contains(TypeUsage::Conversion)
}

pub(super) fn name(kind: FloatKind) -> &'static str {
    match kind {
        FloatKind::F32 => "f32",
        FloatKind::F16 => "f16",
        FloatKind::Bf16 => "bf16",
    }
}

pub(super) fn allowed(kind: FloatKind) -> f64 {
    match kind {
        FloatKind::F32 => 1e-5,
        FloatKind::F16 => 1.5 / 2048.0,
        FloatKind::Bf16 => 1.5 / 256.0,
    }
}

/// Values in [-1, 1] that repeat only after 211; `seed` shifts them.
pub(super) fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 67 + seed * 31) % 211) as f32 / 105.0 - 1.0).collect()
}

pub(super) fn upload<R: Runtime>(client: &ComputeClient<R>, data: &[f32], kind: FloatKind) -> Handle {
    let half = |bits: Vec<u16>| client.create_from_slice(bytemuck::cast_slice(&bits));
    match kind {
        FloatKind::F32 => client.create_from_slice(bytemuck::cast_slice(data)),
        FloatKind::F16 => half(data.iter().map(|&v| f16::from_f32(v).to_bits()).collect()),
        FloatKind::Bf16 => half(data.iter().map(|&v| bf16::from_f32(v).to_bits()).collect()),
    }
}

pub(super) fn rounded(data: Vec<f32>, kind: FloatKind) -> Vec<f32> {
    let round = |v: f32| match kind {
        FloatKind::F32 => v,
        FloatKind::F16 => f16::from_f32(v).to_f32(),
        FloatKind::Bf16 => bf16::from_f32(v).to_f32(),
    };
    data.into_iter().map(round).collect()
}

pub(super) fn read<R: Runtime>(
    client: &ComputeClient<R>,
    handle: Handle,
    kind: FloatKind,
) -> Result<Vec<f32>, DeviceError> {
    let bytes = client.read_one(handle).map_err(DeviceError::from_server)?;
    let halves = || bytes.chunks_exact(2).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    Ok(match kind {
        FloatKind::F32 => bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect(),
        FloatKind::F16 => halves().map(|v| f16::from_bits(v).to_f32()).collect(),
        FloatKind::Bf16 => halves().map(|v| bf16::from_bits(v).to_f32()).collect(),
    })
}

/// The check of `got` against `expected`. A NaN counts as infinitely wrong.
pub(super) fn compare(name: String, got: &[f32], expected: &[f64], allowed: f64) -> Result<Check, DeviceError> {
    if got.len() < expected.len() {
        let detail = format!("self-check {name}: {} values came back, expected {}", got.len(), expected.len());
        return Err(DeviceError::Failed { detail });
    }
    let scale = expected.iter().fold(f64::MIN_POSITIVE, |max, v| max.max(v.abs()));
    let error = |(&got, &expected): (&f32, &f64)| match (got as f64 - expected).abs() / scale {
        error if error.is_nan() => f64::INFINITY,
        error => error,
    };
    let max_error = got.iter().zip(expected).map(error).fold(0.0, f64::max);
    if max_error > allowed {
        let detail = format!(
            "self-check {name}: error {max_error:.1e} of the largest value, allowed {allowed:.1e}; \
             the driver or the device computes wrong: update the driver, or choose another device"
        );
        return Err(DeviceError::Failed { detail });
    }
    Ok(Check { name, max_error, allowed })
}

pub(super) fn refused(error: KernelError) -> DeviceError {
    DeviceError::Failed { detail: format!("self-check: {error}") }
}

fn check_patch_ingest<R: Runtime>(client: &ComputeClient<R>, kind: FloatKind) -> Result<Check, DeviceError> {
    let grid = patch_ingest::PatchGrid { images: 4, image_px: 24, patch_px: 8, frames_per_clip: 2, class_row: true };
    // OpenAI CLIP's statistics, as in training.
    let norm =
        patch_ingest::PixelNorm { mean: [122.770_94, 116.746_01, 104.093_74], std: [68.500_53, 66.632_16, 70.323_16] };
    let frames: Vec<u8> = (0..grid.padded_bytes()).map(|i| (i * 37 % 256) as u8).collect();
    let len = grid.rows() * grid.columns();
    let out = client.empty(len * kind.size());
    let input = client.create_from_slice(&frames);
    patch_ingest::patch_ingest(client, input, grid, norm, out.clone(), kind).map_err(refused)?;
    let expected = patch_ingest::reference(&frames, grid, norm);
    let got = read(client, out, kind)?;
    compare(format!("patch_ingest {}", name(kind)), &got, &expected, allowed(kind))
}

fn check_gemm<R: Runtime>(client: &ComputeClient<R>, kind: FloatKind) -> Result<Check, DeviceError> {
    let (m, n, k) = (33, 29, 47);
    let problem = Problem::single(m, n, k);
    let a = rounded(values(m * k, 1), kind);
    let b = rounded(values(n * k, 2), kind);
    // b is stored as [n, k], as the weights of a linear layer are.
    let (lie_a, lie_b, lie_out) = (Operand::matrix(k), Operand::matrix(k).transposed(), Operand::matrix(n));
    let out = client.empty(m * n * kind.size());
    let matrix = |handle, len, operand| tiled::Matrix { handle, len, operand };
    tiled::tiled(
        client,
        problem,
        0.25,
        (matrix(upload(client, &a, kind), a.len(), lie_a), matrix(upload(client, &b, kind), b.len(), lie_b), kind),
        (matrix(out.clone(), m * n, lie_out), kind),
        tiled::Epilogue::default(),
    )
    .map_err(refused)?;
    let mut expected = vec![0.0; m * n];
    gemm::reference(problem, 0.25, (&a, lie_a), (&b, lie_b), (&mut expected, lie_out));
    let got = read(client, out, kind)?;
    compare(format!("gemm {}", name(kind)), &got, &expected, allowed(kind))
}

fn check_grad_norm<R: Runtime>(client: &ComputeClient<R>) -> Result<Check, DeviceError> {
    let gradient = values(10_007, 3);
    let stats = upload(client, &[0.0; grad_norm::STATS_LEN], FloatKind::F32);
    let input = upload(client, &gradient, FloatKind::F32);
    grad_norm::grad_norm(client, &input, gradient.len(), 0.5, 1.0, [0.9, 0.98], &stats);
    let (norm, scale, finite) = grad_norm::reference(&gradient, 0.5, 1.0);
    let got = read(client, stats, FloatKind::F32)?;
    // Each number against itself: the norm is a thousand times the factor.
    let expected = [norm, scale, f64::from(finite), 1.0, 1.0 - 0.9, (1.0f64 - 0.98).sqrt()];
    let ratios: Vec<f32> = got.iter().zip(expected).map(|(&g, e)| (g as f64 / e) as f32).collect();
    compare("grad_norm f32".into(), &ratios, &[1.0; 6], 1e-5)
}

fn check_adamw<R: Runtime>(client: &ComputeClient<R>, kind: FloatKind) -> Result<Check, DeviceError> {
    let len = 3 * BLOCK;
    let [params, grads, moment1] = [4, 5, 6].map(|seed| values(len, seed));
    let moment2: Vec<f32> = values(len, 7).into_iter().map(|v| v * v).collect();
    let step = adamw::AdamwStep { lr: 1e-2, beta1: 0.9, beta2: 0.98, eps: 1e-8 };
    // Statistics as `grad_norm` leaves them at the third update.
    let stats = [1.0, 1.0, 1.0, 3.0, 1.0 - 0.9f32.powi(3), (1.0 - 0.98f32.powi(3)).sqrt()];
    let treatment = [[1.0f32, 0.1, 0.0, 0.0], [0.5, 0.0, 1.0, 0.0], [1.0, 0.1, 1.0, 0.0]];
    let f32s = |data: &[f32]| upload(client, data, FloatKind::F32);
    let weights = f32s(&params);
    // Without a 16-bit copy in f32: there the master weights themselves are compared.
    let copy = (kind != FloatKind::F32).then(|| (client.empty(len * kind.size()), kind));
    let out = copy.as_ref().map_or(weights.clone(), |(handle, _)| handle.clone());
    let buffers = OptimizerBuffers {
        params: weights,
        grads: f32s(&grads),
        state: vec![f32s(&moment1), f32s(&moment2)],
        treatment: f32s(&treatment.concat()),
        stats: f32s(&stats),
        copy,
        len,
    };
    adamw::adamw(client, &buffers, step).map_err(refused)?;
    let expected: Vec<f64> = (0..len)
        .map(|i| {
            let [factor, decay, ..] = treatment[i / BLOCK];
            let lr = step.lr * factor;
            let [p, g, m, v] = [params[i], grads[i], moment1[i], moment2[i]].map(f64::from);
            adamw::reference(p, g, m, v, [lr.into(), decay.into()], &step, 3).0
        })
        .collect();
    let got = read(client, out, kind)?;
    compare(format!("adamw {}", name(kind)), &got, &expected, allowed(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_missing_and_nan_results_fail() {
        let check = |got: &[f32]| compare("x f32".into(), got, &[1.0, -2.0], 1e-5);
        assert!(check(&[1.0, -2.0]).is_ok());
        assert!(check(&[1.0, -2.1]).unwrap_err().to_string().contains("x f32: error 5.0e-2"));
        assert!(check(&[0.0, 0.0]).is_err());
        assert!(check(&[1.0, f32::NAN]).is_err());
        assert!(check(&[1.0]).is_err());
    }
}
