//! Elementwise passes over flat buffers: accumulate, clear, cast. Memory bound, one launch each.

use crate::{FloatKind, Handle, launch::grid, with_float};
use cubecl::prelude::*;

#[cube(launch_unchecked)]
fn accumulate_kernel<F: Float>(src: &Array<F>, dst: &mut Array<f32>, len: u32) {
    let i = ABSOLUTE_POS;
    if i < len as usize {
        dst[i] += f32::cast_from(src[i]);
    }
}

#[cube(launch_unchecked)]
fn clear_kernel(dst: &mut Array<f32>, len: u32) {
    let i = ABSOLUTE_POS;
    if i < len as usize {
        dst[i] = f32::new(0.0);
    }
}

#[cube(launch_unchecked)]
fn cast_kernel<F: Float>(src: &Array<f32>, dst: &mut Array<F>, len: u32) {
    let i = ABSOLUTE_POS;
    if i < len as usize {
        dst[i] = F::cast_from(src[i]);
    }
}

/// `dst += src`: how a layer adds its weight gradient into the flat gradient buffer.
///
/// `src`: `[len]`, contiguous, of `kind`; `dst`: `[len]`, f32.
pub fn accumulate<R: Runtime>(client: &ComputeClient<R>, src: Handle, kind: FloatKind, dst: Handle, len: usize) {
    let (count, dim) = grid(len);
    with_float!(kind, F => unsafe {
        // SAFETY: both arrays hold `len` elements and the kernel checks its position against `len`.
        accumulate_kernel::launch_unchecked::<F, R>(
            client,
            count,
            dim,
            ArrayArg::from_raw_parts(src, len),
            ArrayArg::from_raw_parts(dst, len),
            len as u32,
        )
    });
}

/// `dst = 0`, for `[len]` f32.
pub fn clear<R: Runtime>(client: &ComputeClient<R>, dst: Handle, len: usize) {
    let (count, dim) = grid(len);
    // SAFETY: `dst` holds `len` elements and the kernel checks its position against `len`.
    unsafe { clear_kernel::launch_unchecked::<R>(client, count, dim, ArrayArg::from_raw_parts(dst, len), len as u32) };
}

/// `dst = src`, from f32 to `kind`, for `[len]`.
pub fn cast<R: Runtime>(client: &ComputeClient<R>, src: Handle, dst: Handle, kind: FloatKind, len: usize) {
    let (count, dim) = grid(len);
    with_float!(kind, F => unsafe {
        // SAFETY: both arrays hold `len` elements and the kernel checks its position against `len`.
        cast_kernel::launch_unchecked::<F, R>(
            client,
            count,
            dim,
            ArrayArg::from_raw_parts(src, len),
            ArrayArg::from_raw_parts(dst, len),
            len as u32,
        )
    });
}
