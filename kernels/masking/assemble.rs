//! The decoder's input from the encoder's visible tokens and one learned row for all masked ones, with positions.
//!
//! Bytes per element of the input: forward, `F` written, and `F` read for a visible token; the table (4 bytes, 2.4 MB in
//! all for VideoMAE ViT-B) comes from the cache. Backward: `F` read once for every token and `F` written for a visible
//! one, and the mask token's sum, in two launches with a fixed order ([`crate::column_sum`]). Memory bound.
//!
//! For 64 clips of ViT-B in bf16 (1,568 tokens of 384): 77 MB written and 8 MB read, 77 MB read and 8 MB written.

use super::Counts;
use crate::column_sum::fold;
use crate::launch::grid;
use crate::walk::{Grain, Walk, vector_width};
use crate::{FloatKind, Handle, KernelError, with_float};
use cubecl::prelude::*;

/// That of [`crate::column_sum`].
const GRAIN: Grain = Grain { unroll: 8, cubes_per_sm: 4 };

#[cube(launch_unchecked)]
fn assemble_kernel<F: Float, N: Size>(
    projected: &Array<Vector<F, N>>,
    table: &Array<Vector<f32, N>>,
    mask_token: &Array<Vector<f32, N>>,
    order: &Array<u32>,
    y: &mut Array<Vector<F, N>>,
    vectors: u32,
    row_vectors: u32,
    visible: u32,
    stride: u32,
) {
    let i = ABSOLUTE_POS as u32;
    if i < vectors {
        let (row, column) = (i / row_vectors, i % row_vectors);
        let (clip, index) = (row / stride, row % stride);
        let mut value = table[(order[row as usize] * row_vectors + column) as usize];
        if index < visible {
            value += Vector::cast_from(projected[((clip * visible + index) * row_vectors + column) as usize]);
        } else {
            value += mask_token[column as usize];
        }
        y[i as usize] = Vector::cast_from(value);
    }
}

/// Copies visible rows and sums the others by column, as [`crate::column_sum`] sums all rows.
#[cube(launch_unchecked)]
fn disassemble_kernel<F: Float, N: Size>(
    d: &Array<Vector<F, N>>,
    d_projected: &mut Array<Vector<F, N>>,
    partials: &mut Array<Vector<f32, N>>,
    rows: u32,
    vectors: u32,
    rows_per_chunk: u32,
    visible: u32,
    stride: u32,
    #[comptime] unroll: u32,
) {
    let column = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    if column < vectors {
        let last = min((CUBE_POS_Y + 1) * rows_per_chunk, rows);
        let mut row = CUBE_POS_Y * rows_per_chunk + UNIT_POS_Y;
        let mut sum = Vector::<f32, N>::new(0.0);
        while row < last {
            let mut values = Array::<Vector<F, N>>::new(unroll as usize);
            #[unroll]
            for i in 0..unroll {
                let at = min(row + i * CUBE_DIM_Y, last - 1) * vectors + column;
                values[i as usize] = d[at as usize];
            }
            #[unroll]
            for i in 0..unroll {
                let here = row + i * CUBE_DIM_Y;
                if here < last {
                    let index = here % stride;
                    if index < visible {
                        let to = (here / stride * visible + index) * vectors + column;
                        d_projected[to as usize] = values[i as usize];
                    } else {
                        sum += Vector::cast_from(values[i as usize]);
                    }
                }
            }
            row += unroll * CUBE_DIM_Y;
        }
        partials[((CUBE_POS_Y * CUBE_DIM_Y + UNIT_POS_Y) * vectors + column) as usize] = sum;
    }
}

/// Inputs of [`assemble`].
#[derive(Clone, Copy)]
pub struct Assemble<'a> {
    /// `[clips * visible, width]`: the encoder's output, projected to the decoder's width.
    pub projected: &'a Handle,
    /// f32 `[tokens, width]`: positions.
    pub table: &'a Handle,
    /// f32 `[width]`.
    pub mask_token: &'a Handle,
    /// u32 `[clips, visible + decoded]`, entries below `tokens`.
    pub order: &'a Handle,
    /// Rows of the table.
    pub tokens: usize,
    pub width: usize,
}

/// `y[clip, r] = table[order[clip, r]] + (projected[clip, r] if r < visible, else mask_token)`, with `projected` and `y`,
/// `[clips * (visible + decoded), width]`, of `kind`.
///
/// # Errors
/// [`KernelError::Shape`] when a clip has more tokens than the table, or a buffer 2^32 elements or more.
pub fn assemble<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    args: Assemble,
    counts: Counts,
    y: &Handle,
) -> Result<(), KernelError> {
    const KERNEL: &str = "masking::assemble";
    let Assemble { projected, table, mask_token, order, tokens, width } = args;
    counts.check(KERNEL, width)?;
    if counts.tokens() > tokens {
        return Err(KernelError::shape(KERNEL, "tokens of a clip", format!("at most {tokens}"), counts.tokens()));
    }
    crate::error::numbered(KERNEL, "table", tokens.saturating_mul(width))?;
    let n = vector_width(client, kind, width);
    let len = counts.rows() * width;
    let (count, dim) = grid(len / n);
    with_float!(kind, F => unsafe {
        // SAFETY: lengths are those of the contract, positions are checked, the caller's tokens lie in the table.
        assemble_kernel::launch_unchecked::<F, R>(
            client,
            count,
            dim,
            n,
            ArrayArg::from_raw_parts(projected.clone(), counts.visible_rows() * width),
            ArrayArg::from_raw_parts(table.clone(), tokens * width),
            ArrayArg::from_raw_parts(mask_token.clone(), width),
            ArrayArg::from_raw_parts(order.clone(), counts.rows()),
            ArrayArg::from_raw_parts(y.clone(), len),
            (len / n) as u32,
            (width / n) as u32,
            counts.visible as u32,
            counts.tokens() as u32,
        )
    });
    Ok(())
}

/// The gradient of [`assemble`]: `d_projected` gets the visible rows of `d`, and the sum of all others is added to
/// `d_mask_token`, in f32. Positions are not learned.
///
/// # Shapes
/// - `d`: `[clips * (visible + decoded), width]` of `kind`
/// - `d_projected`: `[clips * visible, width]` of `kind`, another buffer
/// - `d_mask_token`: f32 `[width]`, updated
///
/// # Errors
/// [`KernelError::Shape`] when `d` holds 2^32 elements or more.
pub fn disassemble<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    d: &Handle,
    counts: Counts,
    width: usize,
    d_projected: &Handle,
    d_mask_token: &Handle,
) -> Result<(), KernelError> {
    counts.check("masking::disassemble", width)?;
    let n = vector_width(client, kind, width);
    let walk = Walk::new(client, counts.rows(), width / n, GRAIN);
    let partials = client.empty(walk.partial_rows() * width * 4);
    with_float!(kind, F => unsafe {
        // SAFETY: lengths are those of the contract; the kernel checks its positions against rows and columns.
        disassemble_kernel::launch_unchecked::<F, R>(
            client,
            walk.count(),
            walk.dim(),
            n,
            ArrayArg::from_raw_parts(d.clone(), counts.rows() * width),
            ArrayArg::from_raw_parts(d_projected.clone(), counts.visible_rows() * width),
            ArrayArg::from_raw_parts(partials.clone(), walk.partial_rows() * width),
            counts.rows() as u32,
            walk.vectors as u32,
            walk.rows_per_chunk,
            counts.visible as u32,
            counts.tokens() as u32,
            GRAIN.unroll,
        )
    });
    fold(client, &partials, walk.partial_rows(), width, [Some(d_mask_token), None, None]);
    Ok(())
}

/// [`assemble`] in f64.
pub fn reference(
    projected: &[f32],
    table: &[f32],
    mask_token: &[f32],
    order: &[u32],
    counts: Counts,
    width: usize,
) -> Vec<f64> {
    let mut y = Vec::new();
    for (row, token) in order.iter().enumerate() {
        let (clip, index) = (row / counts.tokens(), row % counts.tokens());
        for column in 0..width {
            let own = match index < counts.visible {
                true => projected[(clip * counts.visible + index) * width + column],
                false => mask_token[column],
            };
            y.push(f64::from(own) + f64::from(table[*token as usize * width + column]));
        }
    }
    y
}
