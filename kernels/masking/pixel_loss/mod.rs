//! Mean squared error of predicted against true pixels of the masked tokens, with its gradient; the targets are made on
//! the way and never stored.
//!
//! Bytes per value of the prediction: 1 of the frames, read once, and `2 F`: the gradient takes the prediction's place.
//! Memory bound. For 64 clips of ViT-B in bf16 (90,112 rows of 1,536 columns): 138 MB and 554 MB. A plane has a row, whose
//! bytes stay in registers over the three walks that mean, variance and gradient take; without planes of 32 a unit has
//! a row and reads its bytes again.
//!
//! The target of value `p` of a tubelet of `n` pixels, per channel: `(p - mean) / (std + eps)` with the unbiased variance,
//! on the 0-255 scale. `n p - sum` is an integer below 2^24 and so exact: a flat patch gives targets of exactly 0 and not
//! rounding errors over `eps`, and nothing cancels.
//!
//! Source: He et al. 2022, arXiv:2111.06377 (normalised pixels); AVION divides by `std + 1e-6` on 0-255, VideoMAE on
//! 0-1, which is 255e-6 on this scale.

mod kernel;

use super::{Counts, TubeletGrid};
use crate::error::{numbered, positive};
use crate::launch::{UNITS, grid};
use crate::reduce::pair_sums;
use crate::walk::planes_of_32;
use crate::{FloatKind, Handle, KernelError, with_float};
use cubecl::prelude::*;
use kernel::pixel_kernel;

/// Words of the frames that a unit of a plane keeps in registers at most.
const REGISTERS: u32 = 48;

/// Pixels of a tubelet at most: `n p` must be exact in f32.
const MAX_PIXELS: usize = 1 << 16;

#[cube(launch_unchecked)]
fn finish_kernel(sums: &Array<Vector<f32, Const<2>>>, result: &mut Array<f32>, rows: u32, columns: u32) {
    let (error, energy) = pair_sums(sums, rows);
    if UNIT_POS == 0 {
        result[0usize] = error / (f32::cast_from(rows) * f32::cast_from(columns));
        result[1usize] = 1.0 - error / energy;
    }
}

/// What the loss compares predictions with.
#[derive(Clone, Copy)]
pub struct PixelLoss<'a> {
    /// u8 `[clips, frames, image_px, image_px, 3]`, padded to whole 4-byte words.
    pub frames: &'a Handle,
    pub tubelets: TubeletGrid,
    /// u32 `[clips, visible + decoded]`, entries below the grid's tokens.
    pub order: &'a Handle,
    pub counts: Counts,
    /// Normalises each tubelet's channels with this epsilon, on the 0-255 scale; without, targets are pixels / 255.
    pub normalize: Option<f32>,
}

impl PixelLoss<'_> {
    fn check(&self, kernel: &'static str) -> Result<(), KernelError> {
        let Self { tubelets, counts, .. } = self;
        tubelets.check(kernel, counts.clips)?;
        counts.check_decoded(kernel, tubelets.columns())?;
        numbered(kernel, "decoded rows x 32", counts.decoded_rows().saturating_mul(32))?;
        if counts.tokens() > tubelets.tokens() {
            let expected = format!("at most {}", tubelets.tokens());
            return Err(KernelError::shape(kernel, "tokens of a clip", expected, counts.tokens()));
        }
        if self.normalize.is_some() && !(2..=MAX_PIXELS).contains(&tubelets.pixels()) {
            let expected = format!("2 to {MAX_PIXELS} to be normalised");
            return Err(KernelError::shape(kernel, "pixels of a tubelet", expected, tubelets.pixels()));
        }
        match self.normalize {
            Some(eps) if eps.is_nan() || eps <= 0.0 => Err(KernelError::shape(kernel, "epsilon", "above 0", eps)),
            _ => Ok(()),
        }
    }

    fn launch<R: Runtime>(
        &self,
        client: &ComputeClient<R>,
        kind: FloatKind,
        prediction: &Handle,
        sums: Option<&Handle>,
        out: Option<&Handle>,
    ) {
        let Self { tubelets, counts, .. } = *self;
        let n = tubelets.pixels_per_unit(client, kind);
        let steps = (tubelets.pixels() / n).div_ceil(32) as u32;
        let planes = planes_of_32(client) && steps * (3 * n as u32).div_ceil(4) <= REGISTERS;
        let (rows, columns) = (counts.decoded_rows(), tubelets.columns());
        let (count, dim) = grid(if planes { rows * 32 } else { rows });
        with_float!(kind, F => unsafe {
            // SAFETY: lengths are those of the contract, the caller's tokens lie in the clip, and rows are checked.
            pixel_kernel::launch_unchecked::<F, R>(
                client,
                count,
                dim,
                n,
                ArrayArg::from_raw_parts(self.frames.clone(), tubelets.padded_bytes(counts.clips) / 4),
                ArrayArg::from_raw_parts(self.order.clone(), counts.rows()),
                ArrayArg::from_raw_parts(prediction.clone(), rows * columns),
                sums.map(|sums| ArrayArg::from_raw_parts(sums.clone(), 2 * rows)).into(),
                out.map(|out| ArrayArg::from_raw_parts(out.clone(), rows * columns)).into(),
                rows as u32,
                counts.visible as u32,
                counts.decoded as u32,
                (2.0 / (rows as f64 * columns as f64)) as f32,
                self.normalize.unwrap_or(0.0),
                tubelets,
                self.normalize.is_some(),
                planes,
            )
        });
    }
}

/// The loss's gradient, `2 (prediction - target) / (rows columns)`, in the prediction's place, and what
/// [`pixel_loss_finish`] makes the loss of. `rows = clips * decoded`, `columns = 3 * tubelet * patch_px^2`.
///
/// # Shapes
/// - `prediction`: `[rows, columns]` of `kind`, columns ordered (frame, row, column, channel); overwritten
/// - `sums`: f32 `[rows, 2]`, each row's sums of squared errors and of squared targets
///
/// # Errors
/// [`KernelError::Shape`] when tubelets don't divide the clip, have too many pixels or one only, nothing is decoded, or
/// a buffer holds 2^32 elements or more.
pub fn pixel_loss<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    args: &PixelLoss,
    prediction: &Handle,
    sums: &Handle,
) -> Result<(), KernelError> {
    args.check("masking::pixel_loss")?;
    args.launch(client, kind, prediction, Some(sums), None);
    Ok(())
}

/// Loss and explained share from the sums of [`pixel_loss`].
///
/// # Shapes
/// - `sums`: f32 `[rows, 2]`
/// - `result`: f32 `[2]`: the mean squared error over all values, and `1 - loss / mean(target^2)`, which for normalised
///   targets, whose means are 0, is the share of their variance that the prediction explains
///
/// # Errors
/// [`KernelError::Shape`] without rows or columns, or with 2^32 of them or more.
pub fn pixel_loss_finish<R: Runtime>(
    client: &ComputeClient<R>,
    sums: &Handle,
    rows: usize,
    columns: usize,
    result: &Handle,
) -> Result<(), KernelError> {
    const KERNEL: &str = "masking::pixel_loss_finish";
    positive(KERNEL, "rows", rows)?;
    positive(KERNEL, "columns", columns)?;
    numbered(KERNEL, "sums", rows.saturating_mul(2))?;
    numbered(KERNEL, "columns", columns)?;
    // SAFETY: lengths are those of the contract, and the kernel checks its position against them.
    unsafe {
        finish_kernel::launch_unchecked::<R>(
            client,
            CubeCount::Static(1, 1, 1),
            CubeDim::new_1d(UNITS),
            ArrayArg::from_raw_parts(sums.clone(), 2 * rows),
            ArrayArg::from_raw_parts(result.clone(), 2),
            rows as u32,
            columns as u32,
        );
    }
    Ok(())
}

/// The predicted pixels on the 0-255 scale, not clamped: `prediction (std + eps) + mean` with the true tubelet's mean and
/// standard deviation, or `255 prediction`.
///
/// # Shapes
/// - `prediction`: as for [`pixel_loss`], kept
/// - `out`: f32, of the same shape
///
/// # Errors
/// As [`pixel_loss`].
pub fn predicted_pixels<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    args: &PixelLoss,
    prediction: &Handle,
    out: &Handle,
) -> Result<(), KernelError> {
    args.check("masking::predicted_pixels")?;
    args.launch(client, kind, prediction, None, Some(out));
    Ok(())
}

/// What [`reference`] computes.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelReference {
    pub loss: f64,
    /// `1 - loss / mean(target^2)`.
    pub explained: f64,
    /// `[rows, columns]`.
    pub gradient: Vec<f64>,
    /// `[rows, columns]`, on the 0-255 scale.
    pub pixels: Vec<f64>,
}

/// [`pixel_loss`], [`pixel_loss_finish`] and [`predicted_pixels`] in f64, as the definition reads.
pub fn reference(
    frames: &[u8],
    tubelets: TubeletGrid,
    order: &[u32],
    counts: Counts,
    normalize: Option<f32>,
    prediction: &[f32],
) -> PixelReference {
    let (side, p, px, n) = (tubelets.side(), tubelets.patch_px, tubelets.image_px, tubelets.pixels());
    let (mut targets, mut pixels) = (Vec::new(), Vec::new());
    for row in 0..counts.decoded_rows() {
        let (clip, index) = (row / counts.decoded, row % counts.decoded);
        let token = order[clip * counts.tokens() + counts.visible + index] as usize;
        let first = clip * tubelets.frames + token / (side * side) * tubelets.tubelet;
        let value = |pixel: usize, channel: usize| {
            let (frame, y, x) = (first + pixel / (p * p), pixel / p % p, pixel % p);
            let at = (frame * px + token / side % side * p + y) * px + token % side * p + x;
            f64::from(frames[at * 3 + channel])
        };
        // Shift and scale of each channel: target = (value - shift) / scale.
        let of_channel = [0, 1, 2].map(|channel| match normalize {
            None => (0.0, 255.0),
            Some(eps) => {
                let mean = (0..n).map(|pixel| value(pixel, channel)).sum::<f64>() / n as f64;
                let squares = (0..n).map(|pixel| (value(pixel, channel) - mean).powi(2)).sum::<f64>();
                (mean, (squares / (n as f64 - 1.0)).sqrt() + f64::from(eps))
            }
        });
        for column in 0..3 * n {
            let (shift, scale) = of_channel[column % 3];
            targets.push((value(column / 3, column % 3) - shift) / scale);
            pixels.push(f64::from(prediction[row * 3 * n + column]) * scale + shift);
        }
    }
    let len = targets.len() as f64;
    let differences: Vec<f64> = prediction.iter().zip(&targets).map(|(p, t)| f64::from(*p) - t).collect();
    let error: f64 = differences.iter().map(|d| d * d).sum();
    let energy: f64 = targets.iter().map(|t| t * t).sum();
    let gradient = differences.iter().map(|d| 2.0 * d / len).collect();
    PixelReference { loss: error / len, explained: 1.0 - error / energy, gradient, pixels }
}
