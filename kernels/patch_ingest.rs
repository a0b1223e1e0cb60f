//! From decoded frames to the rows of the patch-embedding GEMM in one pass: unpack bytes, normalise, reorder, cast.
//!
//! Bytes: 1 read and `F` written per pixel and channel; memory bound. Frames arrive as `u32` words of four bytes, because
//! WGSL has no 8-bit storage and one kernel then serves every runtime. A unit takes a run of pixels of one patch row (8
//! where the patch allows: 24 contiguous bytes) and writes one vector for each channel.
//!
//! Source of the order: AVION's "fast conv1", a Linear over rows `(t, h, w)` with columns `(c, sh, sw)`
//! (the convolution's weight flattened from dimension 1).

use crate::walk::vector_width;
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
    /// Divides `images`; read only with `class_row`.
    pub frames_per_clip: usize,
    /// Whether a row of zeros precedes each clip's patches: the place of the class token, so that one GEMM over all rows
    /// makes tokens to which class and position embeddings are then added as one table.
    pub class_row: bool,
}

impl PatchGrid {
    /// Patches only.
    pub fn patches_of(images: usize, image_px: usize, patch_px: usize) -> Self {
        Self { images, image_px, patch_px, frames_per_clip: 1, class_row: false }
    }

    /// Patches per frame.
    pub fn patches(&self) -> usize {
        (self.image_px / self.patch_px).pow(2)
    }

    /// Values per patch: `3 * patch_px^2`.
    pub fn columns(&self) -> usize {
        3 * self.patch_px * self.patch_px
    }

    /// Rows of the output: a row per patch, and one per clip with `class_row`.
    pub fn rows(&self) -> usize {
        self.images * self.patches() + if self.class_row { self.images / self.frames_per_clip } else { 0 }
    }

    /// Bytes of the frames, padded to whole words.
    pub fn padded_bytes(&self) -> usize {
        (self.images * self.image_px * self.image_px * 3).next_multiple_of(4)
    }

    pub(crate) fn check(&self) -> Result<(), KernelError> {
        let error =
            |what, expected: String, got: String| KernelError::Shape { kernel: "patch_ingest", what, expected, got };
        if self.patch_px == 0 || !self.image_px.is_multiple_of(self.patch_px) {
            let expected = format!("a multiple of the patch, {} px", self.patch_px);
            return Err(error("image size", expected, format!("{} px", self.image_px)));
        }
        if self.padded_bytes() > u32::MAX as usize {
            return Err(error("frames", "at most 4 GiB".into(), format!("{} bytes", self.padded_bytes())));
        }
        if self.class_row && (self.frames_per_clip == 0 || !self.images.is_multiple_of(self.frames_per_clip)) {
            let expected = format!("whole clips of {} frames", self.frames_per_clip);
            return Err(error("images", expected, self.images.to_string()));
        }
        Ok(())
    }

    /// Pixels a unit takes: as many as a vector of `kind` holds, if that divides the patch's rows. Words then start at a
    /// unit's first byte, except for 2 and 1.
    fn pixels_per_unit<R: Runtime>(&self, client: &ComputeClient<R>, kind: FloatKind) -> usize {
        vector_width(client, kind, self.patch_px).min(8)
    }
}

/// Per-channel mean and standard deviation on the 0-255 scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelNorm {
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// Mean and reciprocal standard deviation of each channel.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(crate) struct Scales {
    mean_r: f32,
    mean_g: f32,
    mean_b: f32,
    scale_r: f32,
    scale_g: f32,
    scale_b: f32,
}

impl PixelNorm {
    pub(crate) fn scales<R: Runtime>(&self) -> ScalesLaunch<R> {
        let ([r, g, b], std) = (self.mean, self.std);
        ScalesLaunch::new(r, g, b, 1.0 / std[0], 1.0 / std[1], 1.0 / std[2])
    }
}

#[cube]
pub(crate) fn of_channel(scales: &Scales, #[comptime] channel: u32) -> (f32, f32) {
    if comptime!(channel == 0) {
        (scales.mean_r, scales.scale_r)
    } else if comptime!(channel == 1) {
        (scales.mean_g, scales.scale_g)
    } else {
        (scales.mean_b, scales.scale_b)
    }
}

/// The words that hold the `3 pixels` bytes from `byte` on, the first byte lowest; `byte` is a multiple of that number.
#[cube]
pub(crate) fn load_words(frames: &Array<u32>, byte: u32, #[comptime] pixels: u32) -> Array<u32> {
    let count = comptime!((3 * pixels).div_ceil(4));
    let mut words = Array::<u32>::new(count as usize);
    let first = byte / 4;
    if comptime!(pixels >= 4) {
        #[unroll]
        for i in 0..count {
            words[i as usize] = frames[(first + i) as usize];
        }
    } else if comptime!(pixels == 2) {
        // Two bytes into the first word, or none.
        let (low, high) = (frames[first as usize], frames[(first + 1) as usize]);
        let offset = byte % 4;
        words[0usize] = select(offset == 2, (low >> 16) | (high << 16), low);
        words[1usize] = select(offset == 2, high >> 16, high);
    } else {
        let mut word = 0u32.runtime();
        #[unroll]
        for i in 0..3u32 {
            let at = byte + i;
            word |= ((frames[(at / 4) as usize] >> ((at % 4) * 8)) & 255) << comptime!(8 * i);
        }
        words[0usize] = word;
    }
    words
}

/// `frames`: bytes of `[images, image_px, image_px, 3]`; `out`: `[rows, 3, patch_px^2]`, `N` pixels a vector. With
/// `tokens > 0`, the first of each `tokens` rows is zero.
#[cube(launch_unchecked)]
pub(crate) fn patch_ingest_kernel<F: Float, N: Size>(
    frames: &Array<u32>,
    out: &mut Array<Vector<F, N>>,
    scales: Scales,
    units: u32,
    tokens: u32,
    #[comptime] image_px: u32,
    #[comptime] patch_px: u32,
) {
    let position = ABSOLUTE_POS as u32;
    if position < units {
        let lanes = N::value();
        let pixels = comptime!(lanes as u32);
        let runs = comptime!(patch_px * patch_px / pixels);
        let side = comptime!(image_px / patch_px);
        let (row, run) = (position / runs, position % runs);
        let mut patch = row;
        let mut class = false.runtime();
        if tokens > 0 {
            class = row % tokens == 0;
            patch = row - row / tokens - 1;
        }
        let at = row * comptime!(3 * runs) + run;
        if class {
            #[unroll]
            for channel in 0..3u32 {
                out[(at + comptime!(channel * runs)) as usize] = Vector::new(F::new(0.0));
            }
        } else {
            let (image, patch) = (patch / comptime!(side * side), patch % comptime!(side * side));
            let y = (patch / side) * patch_px + run * pixels / patch_px;
            let x = (patch % side) * patch_px + run * pixels % patch_px;
            let words = load_words(frames, ((image * image_px + y) * image_px + x) * 3, pixels);
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

/// Frames to normalised patch rows.
///
/// # Shapes
/// - `frames`: u8 `[images, image_px, image_px, 3]`, padded to whole 4-byte words
/// - `out`: `[rows, 3 * patch_px^2]` of `kind`, columns ordered (channel, row, column); rows are `[images, patches]`, or
///   with `class_row` `[clips, 1 + frames_per_clip * patches]`, the first of each clip zero
///
/// # Errors
/// [`KernelError::Shape`] when the patch does not divide the image, a clip the images, or the frames exceed 4 GiB.
pub fn patch_ingest<R: Runtime>(
    client: &ComputeClient<R>,
    frames: Handle,
    grid_of: PatchGrid,
    norm: PixelNorm,
    out: Handle,
    kind: FloatKind,
) -> Result<(), KernelError> {
    grid_of.check()?;
    let len = grid_of.rows() * grid_of.columns();
    let pixels = grid_of.pixels_per_unit(client, kind);
    let units = len / (3 * pixels);
    let (count, dim) = grid(units);
    let tokens = if grid_of.class_row { 1 + grid_of.frames_per_clip * grid_of.patches() } else { 0 };
    let scales = norm.scales();
    with_float!(kind, F => unsafe {
        // SAFETY: `out` holds `len` elements, `frames` the padded bytes of that geometry; positions are checked.
        patch_ingest_kernel::launch_unchecked::<F, R>(
            client,
            count,
            dim,
            pixels,
            ArrayArg::from_raw_parts(frames, grid_of.padded_bytes() / 4),
            ArrayArg::from_raw_parts(out, len),
            scales,
            units as u32,
            tokens as u32,
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
        if grid.class_row && image % grid.frames_per_clip == 0 {
            out.extend(vec![0.0; grid.columns()]);
        }
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
