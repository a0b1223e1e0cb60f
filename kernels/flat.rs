//! Elementwise passes over flat buffers: accumulate, clear, cast, moving average, exchange. One launch each, four elements
//! a unit.
//!
//! Memory bound. Bytes per element: accumulate 8 plus the source's size, clear 4, cast 4 plus the destination's size,
//! moving average 12, exchange 16.

use crate::{FloatKind, Handle, launch::grid, with_float};
use cubecl::prelude::*;

/// Elements one unit handles: 16 bytes of f32 where the length allows it.
pub(crate) fn lanes(len: usize) -> usize {
    if len.is_multiple_of(4) { 4 } else { 1 }
}

#[cube(launch_unchecked)]
fn convert_kernel<I: Float, O: Float, N: Size>(
    src: &Array<Vector<I, N>>,
    dst: &mut Array<Vector<O, N>>,
    vectors: u32,
    #[comptime] add: bool,
) {
    let i = ABSOLUTE_POS;
    if i < vectors as usize {
        let value = Vector::<O, N>::cast_from(src[i]);
        if comptime!(add) {
            dst[i] += value;
        } else {
            dst[i] = value;
        }
    }
}

#[cube(launch_unchecked)]
fn clear_kernel<N: Size>(dst: &mut Array<Vector<f32, N>>, vectors: u32) {
    let i = ABSOLUTE_POS;
    if i < vectors as usize {
        dst[i] = Vector::new(0.0);
    }
}

/// `dst = src` or `dst += src`, whatever the two types.
fn convert<R: Runtime, I: Float + CubeElement, O: Float + CubeElement>(
    client: &ComputeClient<R>,
    src: &Handle,
    dst: &Handle,
    len: usize,
    add: bool,
) {
    let lanes = lanes(len);
    let (count, dim) = grid(len / lanes);
    // SAFETY: both arrays hold `len` elements and the kernel checks its position against it.
    unsafe {
        convert_kernel::launch_unchecked::<I, O, R>(
            client,
            count,
            dim,
            lanes,
            ArrayArg::from_raw_parts(src.clone(), len),
            ArrayArg::from_raw_parts(dst.clone(), len),
            (len / lanes) as u32,
            add,
        )
    };
}

/// `dst += src`: how a layer adds its weight gradient into the flat gradient buffer.
///
/// `src`: `[len]`, contiguous, of `kind`; `dst`: `[len]`, f32, another buffer.
pub fn accumulate<R: Runtime>(client: &ComputeClient<R>, src: &Handle, kind: FloatKind, dst: &Handle, len: usize) {
    with_float!(kind, F => convert::<R, F, f32>(client, src, dst, len, true));
}

/// `dst = src`, from f32 to `kind`, for `[len]`; two different buffers.
pub fn cast<R: Runtime>(client: &ComputeClient<R>, src: &Handle, dst: &Handle, kind: FloatKind, len: usize) {
    with_float!(kind, F => convert::<R, f32, F>(client, src, dst, len, false));
}

/// `dst = 0`, for `[len]` f32.
pub fn clear<R: Runtime>(client: &ComputeClient<R>, dst: &Handle, len: usize) {
    let lanes = lanes(len);
    let (count, dim) = grid(len / lanes);
    // SAFETY: `dst` holds `len` elements and the kernel checks its position against it.
    unsafe {
        clear_kernel::launch_unchecked::<R>(
            client,
            count,
            dim,
            lanes,
            ArrayArg::from_raw_parts(dst.clone(), len),
            (len / lanes) as u32,
        )
    };
}

#[cube(launch_unchecked)]
fn ema_kernel<N: Size>(
    src: &Array<Vector<f32, N>>,
    average: &mut Array<Vector<f32, N>>,
    vectors: u32,
    decay: f32,
    rest: f32,
) {
    let i = ABSOLUTE_POS;
    if i < vectors as usize {
        average[i] = Vector::new(decay) * average[i] + Vector::new(rest) * src[i];
    }
}

/// `average = decay * average + (1 - decay) * src`, for `[len]` f32; two different buffers.
pub fn ema<R: Runtime>(client: &ComputeClient<R>, src: &Handle, average: &Handle, decay: f64, len: usize) {
    let lanes = lanes(len);
    let (count, dim) = grid(len / lanes);
    // SAFETY: both arrays hold `len` elements and the kernel checks its position against it.
    unsafe {
        ema_kernel::launch_unchecked::<R>(
            client,
            count,
            dim,
            lanes,
            ArrayArg::from_raw_parts(src.clone(), len),
            ArrayArg::from_raw_parts(average.clone(), len),
            (len / lanes) as u32,
            decay as f32,
            // Not from the rounded decay: of 0.9999 that would be off by 2e-4 of itself.
            (1.0 - decay) as f32,
        )
    };
}

#[cube(launch_unchecked)]
fn exchange_kernel<N: Size>(a: &mut Array<Vector<f32, N>>, b: &mut Array<Vector<f32, N>>, vectors: u32) {
    let i = ABSOLUTE_POS;
    if i < vectors as usize {
        let (of_a, of_b) = (a[i], b[i]);
        a[i] = of_b;
        b[i] = of_a;
    }
}

/// Exchanges the contents of two buffers, `[len]` f32.
pub fn exchange<R: Runtime>(client: &ComputeClient<R>, a: &Handle, b: &Handle, len: usize) {
    let lanes = lanes(len);
    let (count, dim) = grid(len / lanes);
    // SAFETY: both arrays hold `len` elements and the kernel checks its position against it.
    unsafe {
        exchange_kernel::launch_unchecked::<R>(
            client,
            count,
            dim,
            lanes,
            ArrayArg::from_raw_parts(a.clone(), len),
            ArrayArg::from_raw_parts(b.clone(), len),
            (len / lanes) as u32,
        )
    };
}
