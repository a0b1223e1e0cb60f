//! Portable products for devices without matrix units or subgroup operations, made for Mesa's software Vulkan.
//!
//! There a lane's load from a buffer costs about as much as twenty multiply-adds and a barrier far more, so both kernels
//! keep a tile of the result in registers and use neither shared memory nor barriers:
//! - [`panel`]: f32 operands that are contiguous one way, in whole vectors; four to five times as fast
//! - [`strided`]: everything else
//!
//! `benches/NOTES.md` has the measurements.

mod panel;
mod strided;

use super::{Operand, Problem};
use crate::{FloatKind, Handle, KernelError};
use cubecl::prelude::*;

/// A buffer with its length in elements and how the operand lies in it.
#[derive(Clone)]
pub struct Matrix {
    pub handle: Handle,
    pub len: usize,
    pub operand: Operand,
}

/// What is added to the product before it is stored.
#[derive(Clone, Default)]
pub struct Epilogue {
    /// f32 `[n]`, to every row.
    pub bias: Option<Handle>,
    /// Of the output's type, lying as the output does; not the output's buffer itself.
    pub residual: Option<Handle>,
    /// Whether the product is added to what the output holds.
    pub accumulate: bool,
}

/// `out = scale * a b + bias + residual`, or `out +=` that; sums in f32.
///
/// `a` and `b` are of `kind`, `out` of `out_kind`.
///
/// # Errors
/// [`KernelError::Shape`] when an operand reaches past its buffer, or the batch past 65,535 entries.
pub fn tiled<R: Runtime>(
    client: &ComputeClient<R>,
    problem: Problem,
    scale: f32,
    (a, b, kind): (Matrix, Matrix, FloatKind),
    (out, out_kind): (Matrix, FloatKind),
    epilogue: Epilogue,
) -> Result<(), KernelError> {
    let Problem { m, n, k, outer, inner } = problem;
    problem.check("a", &a.operand, m, k, a.len)?;
    problem.check("b", &b.operand, k, n, b.len)?;
    problem.check("out", &out.operand, m, n, out.len)?;
    if outer * inner > 65_535 {
        return Err(KernelError::Shape {
            kernel: "gemm",
            what: "batch",
            expected: "at most 65535 entries".into(),
            got: (outer * inner).to_string(),
        });
    }
    if m == 0 || n == 0 || outer * inner == 0 {
        return Ok(());
    }
    let all_f32 = kind == FloatKind::F32 && out_kind == FloatKind::F32;
    if all_f32 && scale == 1.0 && panel::fits(client, &problem, &a.operand, &b.operand, &out.operand) {
        panel::launch(client, &problem, a, b, out, epilogue);
    } else {
        strided::launch(client, &problem, scale, (a, b, kind), (out, out_kind), epilogue);
    }
    wait_for_device_thread(client);
    Ok(())
}

/// Parks the caller until the device thread has taken what was launched.
///
/// With 32 launches waiting, CubeCL's next one spins, and a software adapter computes on the very cores that burns: a
/// fifth of a core's time in a row of products. A wait costs microseconds, a product there a millisecond or more.
fn wait_for_device_thread<R: Runtime>(client: &ComputeClient<R>) {
    // A device thread that is gone shows at the next read.
    let _ = client.exclusive(|| ());
}

/// Stands in for an optional buffer that is not there: never read, but no buffer may be bound twice.
fn or_unused<R: Runtime>(client: &ComputeClient<R>, handle: Option<Handle>) -> Handle {
    handle.unwrap_or_else(|| client.empty(64))
}
