//! From decoded frames to the rows of the patch-embedding GEMM in one pass: unpack bytes, normalise, reorder, cast.
//!
//! Bytes: 1 read and `F` written per pixel and channel; memory bound. Frames arrive as `u32` words of four bytes, because
//! WGSL has no 8-bit storage and one kernel then serves every runtime.
//!
//! Source of the order: AVION's "fast conv1", a Linear over rows `(t, h, w)` with columns `(c, sh, sw)`
//! (the convolution's weight flattened from dimension 1).

use crate::{FloatKind, Handle, KernelError, launch::grid, with_float};
use cubecl::prelude::*;

/// Geometry of a batch of frames cut into square patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchGrid {
    /// Clips times frames per clip.
    pub images: usize,
    /// Height and width of a frame, pixels.
    pub image_px: usize,
    /// Height and width of a patch, pixels; divides `image_px`.
    pub patch_px: usize,
}

impl PatchGrid {
    /// Patches per frame.
    pub fn patches(&self) -> usize {
        (self.image_px / self.patch_px).pow(2)
    }

    /// Values per patch: `3 * patch_px^2`.
    pub fn columns(&self) -> usize {
        3 * self.patch_px * self.patch_px
    }

    /// Bytes of the frames, padded to whole words.
    pub fn padded_bytes(&self) -> usize {
        (self.images * self.image_px * self.image_px * 3).next_multiple_of(4)
    }

    fn check(&self) -> Result<(), KernelError> {
        let error =
            |what, expected: String, got: String| KernelError::Shape { kernel: "patch_ingest", what, expected, got };
        if self.patch_px == 0 || !self.image_px.is_multiple_of(self.patch_px) {
            let expected = format!("a multiple of the patch, {} px", self.patch_px);
            return Err(error("image size", expected, format!("{} px", self.image_px)));
        }
        if self.padded_bytes() > u32::MAX as usize {
            return Err(error("frames", "at most 4 GiB".into(), format!("{} bytes", self.padded_bytes())));
        }
        Ok(())
    }
}

/// Per-channel mean and standard deviation on the 0-255 scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelNorm {
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

#[cube(launch_unchecked)]
fn patch_ingest_kernel<F: Float>(
    frames: &Array<u32>,
    out: &mut Array<F>,
    len: u32,
    mean_r: f32,
    mean_g: f32,
    mean_b: f32,
    scale_r: f32,
    scale_g: f32,
    scale_b: f32,
    #[comptime] image_px: u32,
    #[comptime] patch_px: u32,
) {
    let position = ABSOLUTE_POS;
    if position < len as usize {
        let columns = comptime!(3 * patch_px * patch_px);
        let grid = comptime!(image_px / patch_px);
        let i = position as u32;
        let (row, column) = (i / columns, i % columns);
        let (channel, inside) = (column / comptime!(patch_px * patch_px), column % comptime!(patch_px * patch_px));
        let (image, patch) = (row / comptime!(grid * grid), row % comptime!(grid * grid));
        let y = (patch / grid) * patch_px + inside / patch_px;
        let x = (patch % grid) * patch_px + inside % patch_px;
        let byte = ((image * image_px + y) * image_px + x) * 3 + channel;
        let word = frames[(byte / 4) as usize];
        let value = f32::cast_from((word >> ((byte % 4) * 8)) & 255);
        let mut mean = mean_b;
        let mut scale = scale_b;
        if channel == 0 {
            mean = mean_r;
            scale = scale_r;
        }
        if channel == 1 {
            mean = mean_g;
            scale = scale_g;
        }
        out[position] = F::cast_from((value - mean) * scale);
    }
}

/// Frames to normalised patch rows.
///
/// # Shapes
/// - `frames`: u8 `[images, image_px, image_px, 3]`, padded to whole 4-byte words
/// - `out`: `[images * patches, 3 * patch_px^2]` of `kind`, columns ordered (channel, row, column)
///
/// # Errors
/// [`KernelError::Shape`] when the patch does not divide the image or the frames exceed 4 GiB.
pub fn patch_ingest<R: Runtime>(
    client: &ComputeClient<R>,
    frames: Handle,
    grid_of: PatchGrid,
    norm: PixelNorm,
    out: Handle,
    kind: FloatKind,
) -> Result<(), KernelError> {
    grid_of.check()?;
    let len = grid_of.images * grid_of.patches() * grid_of.columns();
    let (count, dim) = grid(len);
    with_float!(kind, F => unsafe {
        // SAFETY: `out` holds `len` elements, `frames` the padded bytes of that geometry; positions are checked.
        patch_ingest_kernel::launch_unchecked::<F, R>(
            client,
            count,
            dim,
            ArrayArg::from_raw_parts(frames, grid_of.padded_bytes() / 4),
            ArrayArg::from_raw_parts(out, len),
            len as u32,
            norm.mean[0],
            norm.mean[1],
            norm.mean[2],
            1.0 / norm.std[0],
            1.0 / norm.std[1],
            1.0 / norm.std[2],
            grid_of.image_px as u32,
            grid_of.patch_px as u32,
        )
    });
    Ok(())
}

/// The same in f64, written as the definition reads.
pub fn reference(frames: &[u8], grid: PatchGrid, norm: PixelNorm) -> Vec<f64> {
    let (px, p) = (grid.image_px, grid.patch_px);
    let side = px / p;
    let mut out = Vec::with_capacity(frames.len());
    for image in 0..grid.images {
        for patch in 0..side * side {
            for channel in 0..3 {
                for sh in 0..p {
                    for sw in 0..p {
                        let (y, x) = (patch / side * p + sh, patch % side * p + sw);
                        let byte = frames[((image * px + y) * px + x) * 3 + channel] as f64;
                        out.push((byte - norm.mean[channel] as f64) / norm.std[channel] as f64);
                    }
                }
            }
        }
    }
    out
}
