//! `dst += src`: how a layer adds its weight gradient into the flat f32 gradient buffer.
//!
//! Bytes: 8 + 4 (or 2) per element; memory bound.

use crate::{FloatKind, Handle, launch::grid, with_float};
use cubecl::prelude::*;

#[cube(launch_unchecked)]
fn accumulate_kernel<F: Float>(src: &Array<F>, dst: &mut Array<f32>, len: u32) {
    let i = ABSOLUTE_POS;
    if i < len as usize {
        dst[i] += f32::cast_from(src[i]);
    }
}

/// Adds `src` (`[len]`, contiguous, of `kind`) to `dst` (`[len]`, f32).
pub fn accumulate<R: Runtime>(
    client: &ComputeClient<R>,
    src: Handle,
    kind: FloatKind,
    dst: Handle,
    len: usize,
) {
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
