//! From decoded frames to the rows of the tubelet-embedding GEMM, of the visible tokens only: unpack bytes, normalise,
//! reorder, cast. [`crate::patch_ingest`] for tubelets, with a table.
//!
//! Bytes per visible pixel and channel: 1 read, `F` written; memory bound. Masked tubelets are not read. For VideoMAE ViT-B
//! (160 of 1,568 tokens, 64 clips, bf16): 16 MB read and 31 MB written; fine-tuning, where all are visible (32 clips):
//! 77 MB and 154 MB. A unit takes a run of pixels of one patch row and writes one vector for each channel.
//!
//! Source of the order: a `Conv3d` weight `[width, 3, tubelet, patch, patch]` flattened from dimension 1.

use super::{Counts, TubeletGrid, first_byte};
use crate::error::numbered;
use crate::launch::grid;
use crate::patch_ingest::{PixelNorm, Scales, load_words, of_channel};
use crate::{FloatKind, Handle, KernelError, with_float};
use cubecl::prelude::*;

#[cube(launch_unchecked)]
fn ingest_kernel<F: Float, N: Size>(
    frames: &Array<u32>,
    order: &ComptimeOption<Array<u32>>,
    out: &mut Array<Vector<F, N>>,
    scales: Scales,
    units: u32,
    visible: u32,
    stride: u32,
    #[comptime] tubelets: TubeletGrid,
    #[comptime] class_row: bool,
) {
    let position = ABSOLUTE_POS as u32;
    if position < units {
        let lanes = N::value();
        let pixels = comptime!(lanes as u32);
        let runs = comptime!(tubelets.pixels() as u32 / pixels);
        let (row, run) = (position / runs, position % runs);
        let at = row * comptime!(3 * runs) + run;
        let per_clip = visible + comptime!(class_row as u32);
        let clip = row / per_clip;
        let mut index = row % per_clip;
        let mut is_class = false.runtime();
        if comptime!(class_row) {
            is_class = index == 0;
            index = max(index, 1) - 1;
        }
        if is_class {
            #[unroll]
            for channel in 0..3u32 {
                out[(at + comptime!(channel * runs)) as usize] = Vector::new(F::new(0.0));
            }
        } else {
            let mut token = index;
            #[comptime]
            match order {
                ComptimeOption::Some(order) => token = order[(clip * stride + index) as usize],
                ComptimeOption::None => {}
            }
            let words = load_words(frames, first_byte(clip, token, run, pixels, tubelets), pixels);
            #[unroll]
            for channel in 0..3u32 {
                let (mean, scale) = of_channel(&scales, channel);
                let mut values = Vector::<f32, N>::new(0.0);
                #[unroll]
                for i in 0..N::value() {
                    let byte = comptime!(3 * i as u32 + channel);
                    let value = (words[comptime!((byte / 4) as usize)] >> comptime!(8 * (byte % 4))) & 255;
                    values[i] = (f32::cast_from(value) - mean) * scale;
                }
                out[(at + comptime!(channel * runs)) as usize] = Vector::cast_from(values);
            }
        }
    }
}

/// Frames to normalised rows of the visible tokens.
///
/// With `class_row` a row of zeros precedes each clip's: the place of the class token, as in
/// [`PatchGrid`](crate::patch_ingest::PatchGrid); for CLIP's PatchDropout.
///
/// # Shapes
/// - `frames`: u8 `[clips, frames, image_px, image_px, 3]`, padded to whole 4-byte words
/// - `order`: u32 `[clips, visible + decoded]`, entries below the grid's tokens; without it every token is visible, in order
/// - `out`: `[clips * visible, 3 * tubelet * patch_px^2]` of `kind`, columns ordered (channel, frame, row, column); with
///   `class_row` `[clips * (1 + visible), ..]`
///
/// # Errors
/// [`KernelError::Shape`] when tubelets don't divide the clip, the counts exceed its tokens, or a buffer holds 2^32
/// elements or more.
pub fn ingest<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    frames: &Handle,
    tubelets: TubeletGrid,
    norm: PixelNorm,
    order: Option<&Handle>,
    counts: Counts,
    class_row: bool,
    out: &Handle,
) -> Result<(), KernelError> {
    const KERNEL: &str = "masking::ingest";
    tubelets.check(KERNEL, counts.clips)?;
    counts.check(KERNEL, tubelets.columns())?;
    let fits = if order.is_some() { counts.tokens() <= tubelets.tokens() } else { counts.visible == tubelets.tokens() };
    if !fits {
        let expected = format!("{}{}", if order.is_some() { "at most " } else { "" }, tubelets.tokens());
        return Err(KernelError::shape(KERNEL, "tokens of a clip", expected, counts.tokens()));
    }
    let rows = counts.visible_rows() + if class_row { counts.clips } else { 0 };
    let len = rows * tubelets.columns();
    numbered(KERNEL, "rows x columns", len)?;
    let pixels = tubelets.pixels_per_unit(client, kind);
    let units = len / (3 * pixels);
    let (count, dim) = grid(units);
    with_float!(kind, F => unsafe {
        // SAFETY: buffers have these lengths by contract, the caller's tokens lie in the clip; positions are checked.
        ingest_kernel::launch_unchecked::<F, R>(
            client,
            count,
            dim,
            pixels,
            ArrayArg::from_raw_parts(frames.clone(), tubelets.padded_bytes(counts.clips) / 4),
            order.map(|order| ArrayArg::from_raw_parts(order.clone(), counts.rows())).into(),
            ArrayArg::from_raw_parts(out.clone(), len),
            norm.scales(),
            units as u32,
            counts.visible as u32,
            counts.tokens() as u32,
            tubelets,
            class_row,
        )
    });
    Ok(())
}

/// The same in f64, without a class row; `order` is the whole table.
pub fn reference(frames: &[u8], tubelets: TubeletGrid, norm: PixelNorm, order: &[u32], counts: Counts) -> Vec<f64> {
    let (side, p, px) = (tubelets.side(), tubelets.patch_px, tubelets.image_px);
    let mut out = Vec::new();
    for clip in 0..counts.clips {
        for index in 0..counts.visible {
            let token = order[clip * counts.tokens() + index] as usize;
            let (slot, row, column) = (token / (side * side), token / side % side, token % side);
            for channel in 0..3 {
                for frame in 0..tubelets.tubelet {
                    for (y, x) in (0..p * p).map(|pixel| (pixel / p, pixel % p)) {
                        let image = clip * tubelets.frames + slot * tubelets.tubelet + frame;
                        let at = ((image * px + row * p + y) * px + column * p + x) * 3 + channel;
                        let [mean, std] = [norm.mean[channel], norm.std[channel]].map(f64::from);
                        out.push((f64::from(frames[at]) - mean) / std);
                    }
                }
            }
        }
    }
    out
}
