//! Mean over the tokens of each sample: what a classifier without a class token reads.
//!
//! Bytes: forward reads the matrix once, backward writes it once; memory bound, 16 bytes at a time. For 32 clips of 1,568
//! tokens of 768 in bf16: 77 MB either way. Forward, a cube has 32 vectors of one sample: its units go down the tokens side
//! by side and meet in shared memory, in a fixed order; where barriers are dear a unit has a column alone.

use crate::error::{numbered, positive};
use crate::launch::grid;
use crate::reduce::{Split, row_grid};
use crate::walk::vector_width;
use crate::{FloatKind, Handle, KernelError, with_float};
use cubecl::prelude::*;

/// Vectors across a cube, and units that share a column.
const ACROSS: u32 = 32;
const DOWN: u32 = 8;

/// Tokens that a unit has in flight.
const UNROLL: u32 = 8;

#[cube(launch_unchecked)]
fn forward_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    y: &mut Array<Vector<F, N>>,
    batch: u32,
    tokens: u32,
    vectors: u32,
    blocks: u32,
    #[comptime] down: u32,
) {
    let cube = CUBE_POS as u32;
    let (sample, block) = (cube / blocks, cube % blocks);
    let column = block * ACROSS + UNIT_POS % ACROSS;
    let group = UNIT_POS / ACROSS;
    // The grid's last row of cubes, and a sample's last cube, may be ragged.
    let inside = sample < batch && column < vectors;
    let mut sum = Vector::<f32, N>::new(0.0);
    if inside {
        let mut token = group;
        while token < tokens {
            let mut values = Array::<Vector<F, N>>::new(UNROLL as usize);
            #[unroll]
            for i in 0..UNROLL {
                let at = min(token + i * down, tokens - 1);
                values[i as usize] = x[((sample * tokens + at) * vectors + column) as usize];
            }
            #[unroll]
            for i in 0..UNROLL {
                if token + i * down < tokens {
                    sum += Vector::cast_from(values[i as usize]);
                }
            }
            token += comptime!(UNROLL * down);
        }
    }
    if comptime!(down > 1) {
        let mut scratch = SharedMemory::<Vector<f32, N>>::new(comptime!((ACROSS * down) as usize));
        scratch[UNIT_POS as usize] = sum;
        sync_cube();
        if group == 0 {
            #[unroll]
            for other in 1..down {
                sum += scratch[(other * ACROSS + UNIT_POS) as usize];
            }
        }
    }
    if group == 0 && inside {
        y[(sample * vectors + column) as usize] = Vector::cast_from(sum / Vector::new(f32::cast_from(tokens)));
    }
}

#[cube(launch_unchecked)]
fn backward_kernel<F: Float, N: Size>(
    dy: &Array<Vector<F, N>>,
    dx: &mut Array<Vector<F, N>>,
    len: u32,
    tokens: u32,
    vectors: u32,
) {
    let i = ABSOLUTE_POS as u32;
    if i < len {
        let sample = i / vectors / tokens;
        let value = Vector::<f32, N>::cast_from(dy[(sample * vectors + i % vectors) as usize]);
        dx[i as usize] = Vector::cast_from(value / Vector::new(f32::cast_from(tokens)));
    }
}

fn check(kernel: &'static str, [batch, tokens, width]: [usize; 3]) -> Result<(), KernelError> {
    positive(kernel, "batch", batch)?;
    positive(kernel, "tokens", tokens)?;
    positive(kernel, "width", width)?;
    numbered(kernel, "batch x tokens x width", batch.saturating_mul(tokens).saturating_mul(width))?;
    Ok(())
}

/// `y[sample] = mean over tokens of x[sample, token]`, summed in f32.
///
/// # Shapes
/// - `x`: `[batch, tokens, width]` of `kind`
/// - `y`: `[batch, width]` of `kind`
///
/// # Errors
/// [`KernelError::Shape`] when a size is 0 or `x` holds 2^32 elements or more.
pub fn forward<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    x: &Handle,
    y: &Handle,
    [batch, tokens, width]: [usize; 3],
) -> Result<(), KernelError> {
    check("pool::forward", [batch, tokens, width])?;
    let n = vector_width(client, kind, width);
    let blocks = (width / n).div_ceil(ACROSS as usize);
    let down = if Split::of(client) == Split::Cube { DOWN } else { 1 };
    let (cubes, _) = row_grid(batch * blocks, Split::Cube);
    with_float!(kind, F => unsafe {
        // SAFETY: lengths are those of the contract; the kernel checks sample, column and token.
        forward_kernel::launch_unchecked::<F, R>(
            client,
            cubes,
            CubeDim::new_1d(ACROSS * down),
            n,
            ArrayArg::from_raw_parts(x.clone(), batch * tokens * width),
            ArrayArg::from_raw_parts(y.clone(), batch * width),
            batch as u32,
            tokens as u32,
            (width / n) as u32,
            blocks as u32,
            down,
        )
    });
    Ok(())
}

/// `dx[sample, token] = dy[sample] / tokens`.
///
/// # Shapes
/// - `dy`: `[batch, width]` of `kind`
/// - `dx`: `[batch, tokens, width]` of `kind`
///
/// # Errors
/// As [`forward`].
pub fn backward<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    dy: &Handle,
    dx: &Handle,
    [batch, tokens, width]: [usize; 3],
) -> Result<(), KernelError> {
    check("pool::backward", [batch, tokens, width])?;
    let n = vector_width(client, kind, width);
    let len = batch * tokens * width;
    let (count, dim) = grid(len / n);
    with_float!(kind, F => unsafe {
        // SAFETY: lengths are those of the contract, and the kernel checks its position against them.
        backward_kernel::launch_unchecked::<F, R>(
            client,
            count,
            dim,
            n,
            ArrayArg::from_raw_parts(dy.clone(), batch * width),
            ArrayArg::from_raw_parts(dx.clone(), len),
            (len / n) as u32,
            tokens as u32,
            (width / n) as u32,
        )
    });
    Ok(())
}

/// [`forward`] in f64.
pub fn reference(x: &[f32], [batch, tokens, width]: [usize; 3]) -> Vec<f64> {
    let mean = |i: usize| {
        let sum: f64 = (0..tokens).map(|token| f64::from(x[(i / width * tokens + token) * width + i % width])).sum();
        sum / tokens as f64
    };
    (0..batch * width).map(mean).collect()
}
