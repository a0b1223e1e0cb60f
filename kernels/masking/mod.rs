//! Masked video modelling: which tokens of a clip the encoder sees, and everything that treats visible and masked tokens
//! differently.
//!
//! A token is a *tubelet*: `tubelet` frames of `patch_px` x `patch_px` pixels; a clip's tokens are ordered
//! (slot in time, row, column). Which ones are visible stands in a table on the device, `order`: u32
//! `[clips, visible + decoded]`, first the visible tokens ascending, then the masked ones to be decoded ascending. The
//! counts are the same for every clip, so that nothing is read back and all shapes are known ahead.
//!
//! | step | kernel |
//! | --- | --- |
//! | the table, from a key for each clip | [`generate`]; the same on the host: [`on_host`] |
//! | frames -> patches of the visible tokens | [`ingest`] |
//! | positions of the visible tokens | [`positions`], [`positions_backward`] |
//! | the decoder's input and its gradient | [`assemble`], [`disassemble`] |
//! | the decoder's output at the masked tokens | [`tail`], [`tail_backward`] |
//! | loss against the masked pixels, with its gradient | [`pixel_loss`], [`pixel_loss_finish`] |
//! | the predicted pixels | [`predicted_pixels`] |
//!
//! Masked patches are never read by [`ingest`], visible ones never by [`pixel_loss`]. Results repeat to the bit.
//!
//! Source: Tong et al. 2022, arXiv:2203.12602 (VideoMAE); Wang et al. 2023, arXiv:2303.16727 (running cells, decoding some
//! of the masked tokens).

mod assemble;
mod generate;
mod ingest;
mod pixel_loss;
mod plan;
mod positions;
mod tail;

pub use assemble::{Assemble, assemble, disassemble, reference as assemble_reference};
pub use generate::generate;
pub use ingest::{ingest, reference as ingest_reference};
pub use pixel_loss::{
    PixelLoss, PixelReference, pixel_loss, pixel_loss_finish, predicted_pixels, reference as pixel_loss_reference,
};
pub use plan::{MaskKind, MaskShape, on_host};
pub use positions::{positions, positions_backward};
pub use tail::{tail, tail_backward};

use crate::error::{numbered, positive};
use crate::walk::vector_width;
use crate::{FloatKind, KernelError};
use cubecl::prelude::*;

/// How many clips, and how many tokens of each are visible and decoded: the shape of the table `order`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub clips: usize,
    /// Tokens of a clip that the encoder sees.
    pub visible: usize,
    /// Masked tokens of a clip that the decoder predicts.
    pub decoded: usize,
}

impl Counts {
    /// Every token visible: fine-tuning, where no table is needed.
    pub fn all(clips: usize, tokens: usize) -> Self {
        Self { clips, visible: tokens, decoded: 0 }
    }

    /// Tokens of a clip in the table, `visible + decoded`.
    pub fn tokens(&self) -> usize {
        self.visible + self.decoded
    }

    /// Rows of a matrix of the visible tokens.
    pub fn visible_rows(&self) -> usize {
        self.clips * self.visible
    }

    /// Rows of a matrix of the decoded tokens.
    pub fn decoded_rows(&self) -> usize {
        self.clips * self.decoded
    }

    /// Rows of a matrix of both, and entries of the table.
    pub fn rows(&self) -> usize {
        self.clips * self.tokens()
    }

    fn check(&self, kernel: &'static str, width: usize) -> Result<(), KernelError> {
        positive(kernel, "clips", self.clips)?;
        positive(kernel, "visible tokens", self.visible)?;
        positive(kernel, "width", width)?;
        numbered(kernel, "rows x width", self.rows().saturating_mul(width))?;
        Ok(())
    }

    /// The same where masked tokens are needed.
    fn check_decoded(&self, kernel: &'static str, width: usize) -> Result<(), KernelError> {
        positive(kernel, "decoded tokens", self.decoded)?;
        self.check(kernel, width)
    }
}

/// How clips of square frames are cut into tubelets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TubeletGrid {
    /// Frames of a clip; a multiple of `tubelet`.
    pub frames: usize,
    /// Height and width of a frame, pixels.
    pub image_px: usize,
    /// Height and width of a patch, pixels; divides `image_px`.
    pub patch_px: usize,
    /// Frames of a tubelet: 2 for VideoMAE, 1 for patches of single frames.
    pub tubelet: usize,
}

impl TubeletGrid {
    /// Patches of a frame along one side.
    pub fn side(&self) -> usize {
        self.image_px / self.patch_px
    }

    /// Tubelets of a clip along time.
    pub fn slots(&self) -> usize {
        self.frames / self.tubelet
    }

    /// Tokens of a clip.
    pub fn tokens(&self) -> usize {
        self.slots() * self.side() * self.side()
    }

    /// Pixels of a tubelet.
    pub fn pixels(&self) -> usize {
        self.tubelet * self.patch_px * self.patch_px
    }

    /// Values of a tubelet: `3 * tubelet * patch_px^2`.
    pub fn columns(&self) -> usize {
        3 * self.pixels()
    }

    /// Bytes of the frames of `clips`, padded to whole 4-byte words.
    pub fn padded_bytes(&self, clips: usize) -> usize {
        (clips * self.frames * self.image_px * self.image_px * 3).next_multiple_of(4)
    }

    fn check(&self, kernel: &'static str, clips: usize) -> Result<(), KernelError> {
        positive(kernel, "patch", self.patch_px)?;
        positive(kernel, "tubelet", self.tubelet)?;
        positive(kernel, "frames", self.frames)?;
        positive(kernel, "image size", self.image_px)?;
        if !self.image_px.is_multiple_of(self.patch_px) {
            let expected = format!("a multiple of the patch, {} px", self.patch_px);
            return Err(KernelError::shape(kernel, "image size", expected, format!("{} px", self.image_px)));
        }
        if !self.frames.is_multiple_of(self.tubelet) {
            let expected = format!("a multiple of the tubelet's {} frames", self.tubelet);
            return Err(KernelError::shape(kernel, "frames", expected, self.frames));
        }
        numbered(kernel, "bytes of the frames", self.padded_bytes(clips))?;
        Ok(())
    }

    /// Pixels a unit takes: as many as a vector of `kind` holds, if that divides a patch's rows.
    fn pixels_per_unit<R: Runtime>(&self, client: &ComputeClient<R>, kind: FloatKind) -> usize {
        vector_width(client, kind, self.patch_px).min(8)
    }
}

/// First byte of run `run` of `pixels` pixels of a token, runs being numbered by (frame, row, column).
#[cube]
fn first_byte(clip: u32, token: u32, run: u32, #[comptime] pixels: u32, #[comptime] grid: TubeletGrid) -> u32 {
    let side = comptime!(grid.side() as u32);
    let patch_px = comptime!(grid.patch_px as u32);
    let image_px = comptime!(grid.image_px as u32);
    let runs = comptime!(patch_px * patch_px / pixels);
    let place = token % comptime!(side * side);
    let first_frame =
        clip * comptime!(grid.frames as u32) + token / comptime!(side * side) * comptime!(grid.tubelet as u32);
    let frame = first_frame + run / runs;
    let pixel = run % runs * pixels;
    let y = place / side * patch_px + pixel / patch_px;
    let x = place % side * patch_px + pixel % patch_px;
    ((frame * image_px + y) * image_px + x) * 3
}
