//! Cross entropy against soft targets, as mixup, CutMix and label smoothing make them, with its gradient.
//!
//! Bytes per logit: `2 F` and 4 for the target, once from memory (three walks over a row, from cache), and 0.1 MB in all
//! for 32 clips of 400 classes: what it costs is two launches. A cube, or a unit, has a row; results repeat to the bit.
//!
//! Source: timm `SoftTargetCrossEntropy`; `torch.nn.functional.cross_entropy` with probabilities as target.

use crate::error::{numbered, positive};
use crate::launch::UNITS;
use crate::reduce::{Split, cube_max, cube_sum, pair_sums, row_grid, share};
use crate::{FloatKind, Handle, KernelError, with_float};
use cubecl::prelude::*;

/// Below every logit, and far enough from f32's limit that differences stay finite.
const LOWEST: f32 = -1.0e30;

/// Where the largest of all units' `values` stands, the first of equals. Each unit gives its own first and largest.
#[cube]
fn first_largest(value: f32, at: u32, scratch: &mut SharedMemory<f32>, #[comptime] cooperate: bool) -> (f32, u32) {
    let mut largest = value;
    let mut first = at;
    if comptime!(cooperate) {
        largest = cube_max(value, scratch);
        // Classes number below 2^24, so f32 holds them.
        let candidate = select(value == largest, -f32::cast_from(at), f32::new(LOWEST));
        first = u32::cast_from(-cube_max(candidate, scratch));
    }
    (largest, first)
}

#[cube]
fn row_sum(value: f32, scratch: &mut SharedMemory<f32>, #[comptime] cooperate: bool) -> f32 {
    if comptime!(cooperate) { cube_sum(value, scratch) } else { value }
}

#[cube(launch_unchecked)]
fn rows_kernel<F: Float>(
    logits: &mut Array<F>,
    targets: &Array<f32>,
    sums: &mut Array<f32>,
    batch: u32,
    classes: u32,
    scale: f32,
    #[comptime] cooperate: bool,
) {
    let mut scratch = SharedMemory::<f32>::new(comptime!(if cooperate { UNITS as usize } else { 1 }));
    let (row, first, step) = share(cooperate);
    if row < batch {
        let start = row * classes;
        let mut logit = f32::new(LOWEST);
        let mut target = f32::new(LOWEST);
        let mut at_logit = first;
        let mut at_target = first;
        let mut class = first;
        while class < classes {
            let (x, y) = (f32::cast_from(logits[(start + class) as usize]), targets[(start + class) as usize]);
            at_logit = select(x > logit, class, at_logit);
            logit = max(logit, x);
            at_target = select(y > target, class, at_target);
            target = max(target, y);
            class += step;
        }
        let (largest, predicted) = first_largest(logit, at_logit, &mut scratch, cooperate);
        let (_, truth) = first_largest(target, at_target, &mut scratch, cooperate);

        let mut exponentials = f32::new(0.0);
        let mut mass = f32::new(0.0);
        let mut weighted = f32::new(0.0);
        class = first;
        while class < classes {
            let x = f32::cast_from(logits[(start + class) as usize]) - largest;
            let y = targets[(start + class) as usize];
            exponentials += x.exp();
            mass += y;
            weighted += y * x;
            class += step;
        }
        let exponentials = row_sum(exponentials, &mut scratch, cooperate);
        let mass = row_sum(mass, &mut scratch, cooperate);
        let weighted = row_sum(weighted, &mut scratch, cooperate);

        class = first;
        while class < classes {
            let at = (start + class) as usize;
            let softmax = (f32::cast_from(logits[at]) - largest).exp() / exponentials;
            logits[at] = F::cast_from((softmax * mass - targets[at]) * scale);
            class += step;
        }
        if first == 0 {
            sums[(2 * row) as usize] = mass * exponentials.ln() - weighted;
            sums[(2 * row + 1) as usize] = select(predicted == truth, f32::new(1.0), f32::new(0.0));
        }
    }
}

#[cube(launch_unchecked)]
fn finish_kernel(sums: &Array<Vector<f32, Const<2>>>, result: &mut Array<f32>, batch: u32) {
    let (loss, hits) = pair_sums(sums, batch);
    if UNIT_POS == 0 {
        result[0usize] = loss / f32::cast_from(batch);
        result[1usize] = hits / f32::cast_from(batch);
    }
}

/// `loss = -mean over rows of sum over classes of y log softmax(x)`, and over the logits its gradient
/// `(softmax(x) sum(y) - y) / batch`, where `sum(y)` is 1 but for rounding.
///
/// # Shapes
/// - `logits`: `[batch, classes]` of `kind`, above -1e30; overwritten
/// - `targets`: f32 `[batch, classes]`
/// - `result`: f32 `[2]`: the loss, and the share of rows whose largest logit stands where the largest target does (the
///   first of equals, either time)
///
/// # Errors
/// [`KernelError::Shape`] when a size is 0, the classes are 2^24 or more, or the logits 2^32 or more.
pub fn soft_cross_entropy<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    logits: &Handle,
    targets: &Handle,
    result: &Handle,
    batch: usize,
    classes: usize,
) -> Result<(), KernelError> {
    const KERNEL: &str = "soft_cross_entropy";
    positive(KERNEL, "batch", batch)?;
    positive(KERNEL, "classes", classes)?;
    numbered(KERNEL, "batch x classes", batch.saturating_mul(classes))?;
    if classes >= 1 << 24 {
        return Err(KernelError::shape(KERNEL, "classes", "fewer than 2^24", classes));
    }
    let split = Split::of(client);
    let (count, dim) = row_grid(batch, split);
    let sums = client.empty(8 * batch);
    // SAFETY: lengths are those of the contract; rows and classes are checked in the kernels.
    unsafe {
        with_float!(kind, F => rows_kernel::launch_unchecked::<F, R>(
            client,
            count,
            dim,
            ArrayArg::from_raw_parts(logits.clone(), batch * classes),
            ArrayArg::from_raw_parts(targets.clone(), batch * classes),
            ArrayArg::from_raw_parts(sums.clone(), 2 * batch),
            batch as u32,
            classes as u32,
            1.0 / batch as f32,
            split == Split::Cube,
        ));
        finish_kernel::launch_unchecked::<R>(
            client,
            CubeCount::Static(1, 1, 1),
            CubeDim::new_1d(UNITS),
            ArrayArg::from_raw_parts(sums, 2 * batch),
            ArrayArg::from_raw_parts(result.clone(), 2),
            batch as u32,
        );
    }
    Ok(())
}

/// The same in f64: loss, share of hits, gradient `[batch, classes]`.
pub fn reference(logits: &[f32], targets: &[f32], classes: usize) -> (f64, f64, Vec<f64>) {
    let first_largest =
        |row: &[f32]| (0..classes).fold(0, |best, class| if row[class] > row[best] { class } else { best });
    let batch = (logits.len() / classes) as f64;
    let (mut loss, mut hits, mut gradient) = (0.0, 0.0, Vec::new());
    for (x, y) in logits.chunks(classes).zip(targets.chunks(classes)) {
        let top = x.iter().fold(f64::NEG_INFINITY, |top, x| top.max(f64::from(*x)));
        let total: f64 = x.iter().map(|x| (f64::from(*x) - top).exp()).sum();
        let mass: f64 = y.iter().map(|y| f64::from(*y)).sum();
        for (x, y) in x.iter().zip(y) {
            let log_softmax = f64::from(*x) - top - total.ln();
            loss -= f64::from(*y) * log_softmax / batch;
            gradient.push((log_softmax.exp() * mass - f64::from(*y)) / batch);
        }
        hits += if first_largest(x) == first_largest(y) { 1.0 / batch } else { 0.0 };
    }
    (loss, hits, gradient)
}
