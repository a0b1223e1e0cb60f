//! The ingest step in hand-written WGSL (`shaders/patch_ingest.wgsl`): what [`patch_ingest`](crate::patch_ingest) does, and
//! crops, resizes and flips each clip in the same pass.
//!
//! Bytes: without a crop 1 read and 4 written per pixel and channel; a resize reads up to four neighbours, mostly from
//! caches. Memory bound.
//!
//! Resizing is bilinear with centres at half pixels (PyTorch's `interpolate(mode="bilinear", align_corners=False)`).

use crate::launch::CUBES_X;
use crate::patch_ingest::{PatchGrid, PixelNorm};
use crate::{Handle, KernelError};
use cubecl::prelude::*;
use cubecl::server::{ExecutionMode, KernelArguments, MetadataBindingInfo};
use cubecl::{CompilationError, Compiler, CubeTask};

/// The shader's text; a test validates it with naga.
pub const SOURCE: &str = include_str!("../shaders/patch_ingest.wgsl");

/// Invocations per workgroup, as the shader says.
pub const UNITS: u32 = 64;

/// Part of a source frame that becomes a clip's image, pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
    /// Mirror left and right.
    pub flip: bool,
}

/// Frames larger than the image, and which part of each clip's is taken.
#[derive(Debug, Clone, Copy)]
pub struct Crops<'a> {
    pub source_width: usize,
    pub source_height: usize,
    /// One per clip.
    pub clips: &'a [Crop],
}

/// The shader's uniforms. Four bytes each, in the shader's order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Params {
    pub pairs: u32,
    pub source_width: u32,
    pub source_height: u32,
    pub image_px: u32,
    pub patch_px: u32,
    pub frames_per_clip: u32,
    pub class_row: u32,
    pub cropped: u32,
    pub factor: [f32; 3],
    pub shift: [f32; 3],
}

impl Params {
    /// Fields as the shader names them, with their bits.
    pub fn fields(&self) -> [(&'static str, u32); 14] {
        let ([factor_r, factor_g, factor_b], [shift_r, shift_g, shift_b]) =
            (self.factor.map(f32::to_bits), self.shift.map(f32::to_bits));
        [
            ("pairs", self.pairs),
            ("source_width", self.source_width),
            ("source_height", self.source_height),
            ("image_px", self.image_px),
            ("patch_px", self.patch_px),
            ("frames_per_clip", self.frames_per_clip),
            ("class_row", self.class_row),
            ("cropped", self.cropped),
            ("factor_r", factor_r),
            ("factor_g", factor_g),
            ("factor_b", factor_b),
            ("shift_r", shift_r),
            ("shift_g", shift_g),
            ("shift_b", shift_b),
        ]
    }

    /// Two fields a word, padded to the 16 bytes a uniform buffer is made of.
    fn words(&self) -> Vec<u64> {
        let mut words: Vec<u64> =
            self.fields().chunks(2).map(|pair| u64::from(pair[0].1) | u64::from(pair[1].1) << 32).collect();
        words.resize(words.len().next_multiple_of(2), 0);
        words
    }
}

/// The shader as CubeCL takes it: text, whatever language its own compiler writes.
struct PatchIngest;

impl KernelMetadata for PatchIngest {
    fn id(&self) -> KernelId {
        KernelId::new::<Self>().cube_dim(CubeDim::new_1d(UNITS))
    }

    fn address_type(&self) -> StorageType {
        u32::as_type_native_unchecked().storage_type()
    }
}

impl<C: Compiler> CubeTask<C> for PatchIngest {
    fn compile(
        &self,
        _: &mut C,
        _: &C::CompilationOptions,
        _: ExecutionMode,
        _: StorageType,
    ) -> Result<CompiledKernel<C>, CompilationError> {
        Ok(CompiledKernel {
            entrypoint_name: "patch_ingest".into(),
            debug_name: None,
            source: SOURCE.into(),
            repr: None,
            cube_dim: CubeDim::new_1d(UNITS),
            debug_info: None,
        })
    }
}

/// Whether the client's device takes WGSL.
pub fn supported<R: Runtime>(client: &ComputeClient<R>) -> bool {
    #[cfg(feature = "wgpu")]
    let wgpu = (client as &dyn std::any::Any).is::<ComputeClient<cubecl::wgpu::WgpuRuntime>>();
    #[cfg(not(feature = "wgpu"))]
    let (wgpu, _) = (false, client);
    wgpu
}

fn error(what: &'static str, expected: String, got: String) -> KernelError {
    KernelError::Shape { kernel: "patch_ingest_wgsl", what, expected, got }
}

fn check(grid: &PatchGrid, crops: Option<Crops>) -> Result<(), KernelError> {
    grid.check()?;
    if !grid.patch_px.is_multiple_of(2) {
        return Err(error("patch size", "an even number of pixels".into(), grid.patch_px.to_string()));
    }
    if grid.frames_per_clip == 0 || !grid.images.is_multiple_of(grid.frames_per_clip) {
        let expected = format!("whole clips of {} frames", grid.frames_per_clip);
        return Err(error("images", expected, grid.images.to_string()));
    }
    let Some(Crops { source_width, source_height, clips }) = crops else { return Ok(()) };
    if source_width * source_height * 3 * grid.images > u32::MAX as usize {
        let bytes = source_width * source_height * 3 * grid.images;
        return Err(error("frames", "at most 4 GiB".into(), format!("{bytes} bytes")));
    }
    // Positions between pixels are counted in 31 bits.
    if (2 * grid.image_px + 1) * source_width.max(source_height) > i32::MAX as usize {
        return Err(error(
            "source size",
            "sides whose product with the image's fits 31 bits".into(),
            format!("{source_width} x {source_height} px"),
        ));
    }
    if clips.len() != grid.images / grid.frames_per_clip {
        let expected = format!("{}, one per clip", grid.images / grid.frames_per_clip);
        return Err(error("crops", expected, clips.len().to_string()));
    }
    for crop in clips {
        let fits = |start: u32, length: u32, limit: usize| length > 0 && start as usize + length as usize <= limit;
        if !fits(crop.x, crop.width, source_width) || !fits(crop.y, crop.height, source_height) {
            let expected = format!("a part of {source_width} x {source_height} px");
            return Err(error("crop", expected, format!("{crop:?}")));
        }
    }
    Ok(())
}

/// Frames to normalised patch rows, in f32.
///
/// # Shapes
/// - `frames`: u8 `[images, source_height, source_width, 3]` (the image's own size without `crops`), padded to whole
///   4-byte words
/// - `out`: f32 `[rows, 3 * patch_px^2]`, columns ordered (channel, row, column); rows are `[images, patches]`, or with
///   `class_row` `[clips, 1 + frames_per_clip * patches]`, the first of each clip zero
///
/// # Errors
/// [`KernelError::Shape`] when the device takes no WGSL, the patch does not divide the image or is odd, a clip the images,
/// the frames exceed 4 GiB, or a crop reaches past the source.
pub fn patch_ingest_wgsl<R: Runtime>(
    client: &ComputeClient<R>,
    frames: Handle,
    grid: PatchGrid,
    crops: Option<Crops>,
    norm: PixelNorm,
    out: Handle,
) -> Result<(), KernelError> {
    if !supported(client) {
        return Err(error("device", "a wgpu device".into(), R::name(client).into()));
    }
    check(&grid, crops)?;
    let pairs = grid.rows() * grid.columns() / 6;
    if pairs == 0 {
        return Ok(());
    }
    let boxes: Vec<u32> = crops
        .map_or(&[][..], |crops| crops.clips)
        .iter()
        .flat_map(|crop| [crop.x, crop.y, crop.width, crop.height, u32::from(crop.flip)])
        .collect();
    // Never read without crops; bound because the shader declares it.
    let boxes = if boxes.is_empty() { client.empty(64) } else { client.create_from_slice(u32::as_bytes(&boxes)) };
    let params = Params {
        pairs: pairs as u32,
        source_width: crops.map_or(grid.image_px, |crops| crops.source_width) as u32,
        source_height: crops.map_or(grid.image_px, |crops| crops.source_height) as u32,
        image_px: grid.image_px as u32,
        patch_px: grid.patch_px as u32,
        frames_per_clip: grid.frames_per_clip as u32,
        class_row: u32::from(grid.class_row),
        cropped: u32::from(crops.is_some()),
        factor: norm.std.map(|std| 255.0 / std),
        shift: std::array::from_fn(|channel| -norm.mean[channel] / norm.std[channel]),
    };
    let groups = params.pairs.div_ceil(UNITS);
    let across = groups.min(CUBES_X);
    // CubeCL writes `info` to a uniform buffer and binds that after the others.
    let arguments = KernelArguments::new()
        .with_buffers(vec![frames.binding(), boxes.binding(), out.binding()])
        .with_info(MetadataBindingInfo::custom(params.words()));
    client.launch(Box::new(PatchIngest), CubeCount::Static(across, groups.div_ceil(across), 1), arguments);
    Ok(())
}

/// The same in f64, written as the definition reads.
pub fn reference(frames: &[u8], grid: PatchGrid, crops: Option<Crops>, norm: PixelNorm) -> Vec<f64> {
    let (px, patch_px) = (grid.image_px, grid.patch_px);
    let (width, height) = crops.map_or((px, px), |crops| (crops.source_width, crops.source_height));
    let whole = Crop { x: 0, y: 0, width: px as u32, height: px as u32, flip: false };
    let byte = |image: usize, y: usize, x: usize, channel: usize| {
        f64::from(frames[((image * height + y) * width + x) * 3 + channel])
    };
    // The taps along one dimension and the second one's weight.
    let taps = |at: usize, start: u32, length: u32| {
        let position = (at as f64 + 0.5) * f64::from(length) / px as f64 - 0.5;
        let position = position.clamp(0.0, f64::from(length - 1));
        let first = position.floor() as usize;
        let second = (first + 1).min(length as usize - 1);
        (start as usize + first, start as usize + second, position - position.floor())
    };
    let mut out = Vec::with_capacity(grid.rows() * grid.columns());
    for image in 0..grid.images {
        let clip = image / grid.frames_per_clip;
        let crop = crops.map_or(whole, |crops| crops.clips[clip]);
        if grid.class_row && image % grid.frames_per_clip == 0 {
            out.extend(vec![0.0; grid.columns()]);
        }
        for patch in 0..grid.patches() {
            let side = px / patch_px;
            for column in 0..grid.columns() {
                let (channel, inside) = (column / (patch_px * patch_px), column % (patch_px * patch_px));
                let y = patch / side * patch_px + inside / patch_px;
                let x = patch % side * patch_px + inside % patch_px;
                let x = if crop.flip { px - 1 - x } else { x };
                let (top, bottom, down) = taps(y, crop.y, crop.height);
                let (left, right, along) = taps(x, crop.x, crop.width);
                let row =
                    |y: usize| byte(image, y, left, channel) * (1.0 - along) + byte(image, y, right, channel) * along;
                let value = row(top) * (1.0 - down) + row(bottom) * down;
                out.push((value - f64::from(norm.mean[channel])) / f64::from(norm.std[channel]));
            }
        }
    }
    out
}
