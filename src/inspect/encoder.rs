//! A model of any task, for what is asked of it beside training.

use crate::config::recipe::{Recipe, TaskKind};
use crate::device::DeviceError;
use crate::model::videomae::{Classifier, ClassifierShape, MaeShape, VideoMae};
use crate::model::{Clip, ClipShape, Pass};
use crate::ops::tensor::contiguous;
use crate::ops::workspace::{Matrix, Workspace};
use avion_kernels::{Handle, KernelError, flat};
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;

/// The model of a recipe.
pub enum Encoder<R: CubeRuntime> {
    Clip(Box<Clip<R>>),
    Masked(Box<VideoMae<R>>),
    Classifier(Box<Classifier<R>>),
}

impl<R: CubeRuntime> Encoder<R> {
    /// The model that a recipe asks for, with the given values (one vector per entry of [`crate::model::specs`]).
    ///
    /// # Errors
    /// A mask that the frames cannot have.
    pub fn new(
        recipe: &Recipe,
        values: &[Vec<f32>],
        compute_dtype: DType,
        device: &R::Device,
    ) -> Result<Self, KernelError> {
        Ok(match recipe.task {
            TaskKind::Contrastive => {
                Self::Clip(Box::new(Clip::new(ClipShape::of(recipe), values, compute_dtype, device)))
            }
            TaskKind::Masked => {
                Self::Masked(Box::new(VideoMae::new(MaeShape::of(recipe)?, values, compute_dtype, device)))
            }
            TaskKind::Classify => {
                let shape = ClassifierShape::of(recipe);
                Self::Classifier(Box::new(Classifier::new(shape, values, compute_dtype, device)))
            }
        })
    }

    fn ws(&self) -> &Workspace<R> {
        match self {
            Self::Clip(model) => &model.ws,
            Self::Masked(model) => &model.ws,
            Self::Classifier(model) => &model.ws,
        }
    }

    /// Features of whole clips: the class token in the shared space, the encoder's mean token, or what the classifier's
    /// head sees.
    ///
    /// # Shapes
    /// `pixels`: `[clips, frames, image_px, image_px, 3]`; returns `[clips, width]`.
    ///
    /// # Errors
    /// What the device reports.
    pub fn features(&self, pixels: &[u8], clips: usize) -> Result<Vec<f32>, DeviceError> {
        let frames = || self.ws().upload_bytes(pixels);
        match self {
            Self::Clip(model) => {
                let features = model.encode_video(model.upload_frames(pixels, clips), &Pass::INFERENCE);
                read(&model.ws, contiguous(features.inner()).handle)
            }
            Self::Masked(model) => self.host(&model.features(frames(), clips)),
            Self::Classifier(model) => self.host(&model.features(frames(), clips)),
        }
    }

    /// Queries, keys and values of block `layer` over one clip, `[tokens, 3 * width]`, columns ordered (q|k|v, head, dim).
    pub(super) fn qkv(&self, pixels: &[u8], layer: usize) -> Result<Vec<f32>, DeviceError> {
        let frames = || self.ws().upload_bytes(pixels);
        let qkv = match self {
            Self::Clip(model) => model.video_qkv(&model.upload_frames(pixels, 1), layer),
            Self::Masked(model) => model.qkv(frames(), 1, layer),
            Self::Classifier(model) => model.qkv(frames(), 1, layer),
        };
        self.host(&qkv)
    }

    /// A matrix's numbers.
    fn host(&self, matrix: &Matrix) -> Result<Vec<f32>, DeviceError> {
        let (ws, len) = (self.ws(), matrix.len());
        let copy = ws.client.empty(len * 4);
        flat::clear(&ws.client, &copy, len);
        flat::accumulate(&ws.client, matrix.handle(), matrix.kind, &copy, len);
        read(ws, copy)
    }
}

/// Numbers on the device, f32 or u32.
pub(super) fn read<R: CubeRuntime, E: bytemuck::Pod>(ws: &Workspace<R>, handle: Handle) -> Result<Vec<E>, DeviceError> {
    let bytes = ws.client.read_one(handle).map_err(DeviceError::from_server)?;
    Ok(bytemuck::pod_collect_to_vec(&bytes))
}
