//! Rows added to some rows of a matrix, where few of them get one.

use crate::launch::grid;
use crate::{FloatKind, Handle, with_float};
use cubecl::prelude::*;

#[cube(launch_unchecked)]
fn row_add_kernel<F: Float>(d: &Array<F>, indices: &Array<u32>, y: &mut Array<F>, len: u32, width: u32) {
    let i = ABSOLUTE_POS as u32;
    if i < len {
        let at = (indices[(i / width) as usize] * width + i % width) as usize;
        y[at] = F::cast_from(f32::cast_from(y[at]) + f32::cast_from(d[i as usize]));
    }
}

/// `y[indices[i]] += d[i]`, for indices that are all different.
///
/// # Shapes
/// - `d`: `[count, width]`, `y`: `[rows, width]`, of `kind`; `indices`: `[count]`, u32, below `rows`
pub fn row_add<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    d: &Handle,
    indices: &Handle,
    y: &Handle,
    [count, rows, width]: [usize; 3],
) {
    let (cubes, dim) = grid(count * width);
    with_float!(kind, F => unsafe {
        // SAFETY: lengths are those of the buffers, positions are checked, and the caller's indices lie below `rows`.
        row_add_kernel::launch_unchecked::<F, R>(
            client,
            cubes,
            dim,
            ArrayArg::from_raw_parts(d.clone(), count * width),
            ArrayArg::from_raw_parts(indices.clone(), count),
            ArrayArg::from_raw_parts(y.clone(), rows * width),
            (count * width) as u32,
            width as u32,
        )
    });
}
