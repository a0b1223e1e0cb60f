//! Position embeddings of visible tokens, and the gradient of a table that is learned.
//!
//! Bytes per element: `2 F` for the matrix and 4 for the table, which the cache holds (4.8 MB for VideoMAE ViT-B); memory
//! bound, 16 bytes at a time. VideoMAE's table is fixed; the gradient is for CLIP's under PatchDropout: a unit owns a
//! vector of the table and looks its token up in every clip's list, which ascends, so no atomics are needed.

use super::Counts;
use crate::error::{numbered, positive};
use crate::launch::grid;
use crate::walk::vector_width;
use crate::{FloatKind, Handle, KernelError, with_float};
use cubecl::prelude::*;

#[cube(launch_unchecked)]
fn positions_kernel<F: Float, N: Size>(
    x: &mut Array<Vector<F, N>>,
    table: &Array<Vector<f32, N>>,
    order: &Array<u32>,
    vectors: u32,
    row_vectors: u32,
    visible: u32,
    stride: u32,
    #[comptime] class_row: bool,
) {
    let i = ABSOLUTE_POS as u32;
    if i < vectors {
        let (row, column) = (i / row_vectors, i % row_vectors);
        let per_clip = visible + comptime!(class_row as u32);
        let (clip, index) = (row / per_clip, row % per_clip);
        let mut entry = 0u32.runtime();
        if comptime!(class_row) {
            if index > 0 {
                entry = order[(clip * stride + index - 1) as usize] + 1;
            }
        } else {
            entry = order[(clip * stride + index) as usize];
        }
        let sum = Vector::<f32, N>::cast_from(x[i as usize]) + table[(entry * row_vectors + column) as usize];
        x[i as usize] = Vector::cast_from(sum);
    }
}

#[cube(launch_unchecked)]
fn backward_kernel<F: Float, N: Size>(
    d: &Array<Vector<F, N>>,
    order: &Array<u32>,
    d_table: &mut Array<Vector<f32, N>>,
    vectors: u32,
    row_vectors: u32,
    clips: u32,
    visible: u32,
    stride: u32,
    #[comptime] class_row: bool,
) {
    let i = ABSOLUTE_POS as u32;
    if i < vectors {
        let (entry, column) = (i / row_vectors, i % row_vectors);
        let extra = comptime!(class_row as u32);
        let mut sum = Vector::<f32, N>::new(0.0);
        for clip in 0..clips {
            let mut row = clip * (visible + extra);
            let mut found = true.runtime();
            if entry >= extra {
                // The first of the clip's tokens that is not below this one.
                let token = entry - extra;
                let mut low = 0u32.runtime();
                let mut high = visible;
                while low < high {
                    let middle = (low + high) / 2;
                    if order[(clip * stride + middle) as usize] < token {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                found = order[(clip * stride + min(low, visible - 1)) as usize] == token;
                row += low + extra;
            }
            if found {
                sum += Vector::cast_from(d[(row * row_vectors + column) as usize]);
            }
        }
        d_table[i as usize] += sum;
    }
}

/// Elements of the matrix and of the table, checked.
fn lengths(
    kernel: &'static str,
    counts: Counts,
    class_row: bool,
    tokens: usize,
    width: usize,
) -> Result<[usize; 2], KernelError> {
    counts.check(kernel, width)?;
    positive(kernel, "tokens of the table", tokens)?;
    if counts.tokens() > tokens {
        return Err(KernelError::shape(kernel, "tokens of a clip", format!("at most {tokens}"), counts.tokens()));
    }
    let x = (counts.visible_rows() + if class_row { counts.clips } else { 0 }) * width;
    let table = (tokens + usize::from(class_row)) * width;
    numbered(kernel, "rows x width", x)?;
    numbered(kernel, "table", table)?;
    Ok([x, table])
}

/// Adds each visible token's row of `table` to its row of `x`. Where all tokens are visible,
/// [`crate::residual::add_table`] does the same without `order`.
///
/// # Shapes
/// - `x`: `[clips * visible, width]` of `kind`, updated; with `class_row` `[clips * (1 + visible), width]`, where the first
///   row of each clip gets row 0 of the table and a token the row after its own number
/// - `table`: f32 `[tokens, width]`, or `[1 + tokens, width]`
/// - `order`: u32 `[clips, visible + decoded]`, entries below `tokens`
///
/// # Errors
/// [`KernelError::Shape`] when a clip has more tokens than the table, or a buffer 2^32 elements or more.
pub fn positions<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    x: &Handle,
    table: &Handle,
    order: &Handle,
    counts: Counts,
    class_row: bool,
    [tokens, width]: [usize; 2],
) -> Result<(), KernelError> {
    let [len, table_len] = lengths("masking::positions", counts, class_row, tokens, width)?;
    let n = vector_width(client, kind, width);
    let (count, dim) = grid(len / n);
    with_float!(kind, F => unsafe {
        // SAFETY: lengths are those of the contract, positions are checked, the caller's tokens lie in the table.
        positions_kernel::launch_unchecked::<F, R>(
            client,
            count,
            dim,
            n,
            ArrayArg::from_raw_parts(x.clone(), len),
            ArrayArg::from_raw_parts(table.clone(), table_len),
            ArrayArg::from_raw_parts(order.clone(), counts.rows()),
            (len / n) as u32,
            (width / n) as u32,
            counts.visible as u32,
            counts.tokens() as u32,
            class_row,
        )
    });
    Ok(())
}

/// The gradient of [`positions`]' table: adds to each of its rows those of `d` that got it, in the order of the clips.
/// The visible tokens of `order` must ascend, as [`super::generate`] writes them.
///
/// # Shapes
/// - `d`: like `x` there; `d_table`: f32, like `table`, updated
///
/// # Errors
/// As [`positions`].
pub fn positions_backward<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    d: &Handle,
    d_table: &Handle,
    order: &Handle,
    counts: Counts,
    class_row: bool,
    [tokens, width]: [usize; 2],
) -> Result<(), KernelError> {
    let [len, table_len] = lengths("masking::positions_backward", counts, class_row, tokens, width)?;
    let n = vector_width(client, kind, width);
    let (count, dim) = grid(table_len / n);
    with_float!(kind, F => unsafe {
        // SAFETY: as above.
        backward_kernel::launch_unchecked::<F, R>(
            client,
            count,
            dim,
            n,
            ArrayArg::from_raw_parts(d.clone(), len),
            ArrayArg::from_raw_parts(order.clone(), counts.rows()),
            ArrayArg::from_raw_parts(d_table.clone(), table_len),
            (table_len / n) as u32,
            (width / n) as u32,
            counts.clips as u32,
            counts.visible as u32,
            counts.tokens() as u32,
            class_row,
        )
    });
    Ok(())
}
