//! Loss and accuracy from the statistics of all rows and columns.

use super::Statistics;
use crate::{Handle, launch::UNITS, reduce::cube_sum};
use cubecl::prelude::*;

#[cube(launch_unchecked)]
fn finish_kernel(
    row_lse: &Array<f32>,
    column_max: &Array<f32>,
    column_sum: &Array<f32>,
    own: &Array<f32>,
    row_hit: &Array<f32>,
    column_lse: &mut Array<f32>,
    result: &mut Array<f32>,
    n: u32,
) {
    let mut scratch = SharedMemory::<f32>::new(UNITS as usize);
    let mut loss = f32::new(0.0);
    let mut hits = f32::new(0.0);
    let mut i = UNIT_POS;
    while i < n {
        let at = i as usize;
        let column = column_max[at] + column_sum[at].ln();
        column_lse[at] = column;
        // Differences first: each is small, the log-sum-exps need not be.
        loss += (row_lse[at] - own[at]) + (column - own[at]);
        hits += row_hit[at];
        i += UNITS;
    }
    let loss = cube_sum(loss, &mut scratch);
    let hits = cube_sum(hits, &mut scratch);
    if UNIT_POS == 0 {
        let count = f32::cast_from(n);
        result[0usize] = loss / (2.0 * count);
        result[1usize] = hits / count;
    }
}

/// Writes `(loss, accuracy)` to `result` and fills `statistics.column_lse`, once every chunk's statistics are in.
///
/// # Shapes
/// - `statistics`: `[n]` each
/// - `result`: `[2]`, f32: the mean loss over both directions, and the share of rows whose own logit is the largest
pub fn finish<R: Runtime>(client: &ComputeClient<R>, statistics: &Statistics, n: usize, result: &Handle) {
    // SAFETY: the statistics are `[n]` by contract, and the kernel checks its position against that.
    unsafe {
        let array = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), n);
        finish_kernel::launch_unchecked::<R>(
            client,
            CubeCount::Static(1, 1, 1),
            CubeDim::new_1d(UNITS),
            array(&statistics.row_lse),
            array(&statistics.column_max),
            array(&statistics.column_sum),
            array(&statistics.own),
            array(&statistics.row_hit),
            array(&statistics.column_lse),
            ArrayArg::from_raw_parts(result.clone(), 2),
            n as u32,
        );
    }
}
