//! CLIP for video: a ViT over all frames' patches and a causal text transformer, meeting in one space.
//!
//! Source: AVION `model_clip.py` and `transformer.py`; Radford et al. 2021, arXiv:2103.00020.

use super::init;
use super::params::{ParamStore, Weight};
use super::plan::{StepPlan, TowerSizes};
use super::shape::ClipShape;
use super::stack::DropKey;
use super::text::{Captions, TextTower};
use super::vision::VisionTower;
use crate::ops::differentiable::differentiable;
use crate::ops::patch_embed::{Frames, PatchGrid};
use crate::ops::tensor::{Ad, AdT, float_kind};
use crate::ops::token_embed::TokenIds;
use crate::ops::workspace::{Matrix, Workspace};
use avion_kernels::embedding::Groups;
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeRuntime;
use std::sync::Arc;

/// The model: parameters, the layers that view them, and the memory they work in.
pub struct Clip<R: CubeRuntime> {
    pub params: ParamStore<R>,
    pub shape: ClipShape,
    pub ws: Workspace<R>,
    vision: Arc<VisionTower<R>>,
    text: Arc<TextTower<R>>,
    pub logit_scale: Weight<R>,
}

/// How one pass through the model is to be run.
#[derive(Debug, Clone, Default)]
pub struct Pass {
    /// What is kept for a backward pass; none is to come when absent.
    pub plan: Option<Arc<StepPlan>>,
    /// Training only: what keys drop path.
    pub drop_path: Option<DropKey>,
}

impl Pass {
    /// No gradients, nothing dropped.
    pub const INFERENCE: Pass = Pass { plan: None, drop_path: None };
}

impl<R: CubeRuntime> Clip<R> {
    /// A model with the given parameter values (one vector per entry of [`init::specs`]).
    pub fn new(shape: ClipShape, values: &[Vec<f32>], compute_dtype: DType, device: &R::Device) -> Self {
        let params = ParamStore::new(device, init::specs(&shape), values, compute_dtype);
        let kind = float_kind(compute_dtype);
        let kind = kind.unwrap_or_else(|| unreachable!("a recipe's precision is never {compute_dtype:?}"));
        let ws = Workspace::new(device, kind).with_residues();
        Clip {
            vision: Arc::new(VisionTower::new(&ws, &params, &shape)),
            text: Arc::new(TextTower::new(&ws.varying(), &params, &shape)),
            logit_scale: params.weight("logit_scale"),
            shape,
            params,
            ws,
        }
    }

    /// Sizes of a step over `clips` clips and captions of `caption` tokens.
    pub fn sizes(&self, clips: usize, caption: usize) -> [TowerSizes; 2] {
        self.shape.tower_sizes(clips, caption, self.ws.kind.size())
    }

    /// The leaf of a graph.
    fn anchor(&self, pass: &Pass) -> AdT<R, 1> {
        let leaf = Tensor::<Ad<R>, 1>::zeros([1], &self.params.device);
        if pass.plan.is_some() { leaf.require_grad() } else { leaf }
    }

    /// How `batch` clips' frames are cut.
    pub fn grid(&self, batch: usize) -> PatchGrid {
        PatchGrid {
            images: batch * self.shape.frames,
            image_px: self.shape.image_px,
            patch_px: self.shape.patch_px,
            frames_per_clip: self.shape.frames,
            class_row: true,
        }
    }

    /// Uploads decoded frames.
    ///
    /// # Shapes
    /// - `pixels`: u8 `[batch, frames, image_px, image_px, 3]`
    pub fn upload_frames(&self, pixels: &[u8], batch: usize) -> Frames {
        let grid = self.grid(batch);
        assert_eq!(pixels.len(), grid.images * grid.image_px * grid.image_px * 3, "bytes of {batch} clips");
        Frames { pixels: self.ws.upload_bytes(pixels), batch, grid, norm: self.shape.pixels, kept: None }
    }

    /// Uploads token ids.
    ///
    /// # Shapes
    /// - `ids`: `[batch, tokens]`, every caption padded to the longest
    /// - `ends`: `[batch]`, place of each caption's end-of-text token
    pub fn upload_captions(&self, ids: &[i32], tokens: usize, ends: &[usize]) -> Captions {
        let batch = ends.len();
        assert_eq!(ids.len(), batch * tokens, "ids of {batch} captions");
        let rows: Vec<u32> = ends.iter().enumerate().map(|(i, end)| (i * tokens + end) as u32).collect();
        let ids: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
        // The tower is causal and pools at the end: what comes after it has no gradient.
        let groups = Groups::of(&ids, |row| row % tokens > ends[row / tokens]);
        Captions { ids: TokenIds { ids: self.ws.upload(&ids), groups, batch, tokens }, ends: self.ws.upload(&rows) }
    }

    /// Features of clips, `[batch, embed]`, f32, rows of length 1; one node of the graph when `pass` has a plan.
    pub fn encode_video(&self, frames: Frames, pass: &Pass) -> AdT<R, 2> {
        let (vision, pass_) = (self.vision.clone(), pass.clone());
        differentiable(self.anchor(pass), move |_| {
            let plan = pass_.plan.as_ref().map(|plan| &plan.towers[0]);
            let (feature, kept) = vision.forward(frames, plan, pass_.drop_path);
            let backward = move |dy| {
                if let Some(kept) = kept {
                    vision.backward(kept, dy);
                }
                None
            };
            (feature, backward)
        })
    }

    /// Queries, keys and values of a block of the video tower: see [`VisionTower::qkv`].
    pub fn video_qkv(&self, frames: &Frames, layer: usize) -> Matrix {
        self.vision.qkv(frames, layer)
    }

    /// Features of captions, `[batch, embed]`, f32, rows of length 1; one node of the graph when `pass` has a plan.
    pub fn encode_text(&self, captions: Captions, pass: &Pass) -> AdT<R, 2> {
        let (text, plan) = (self.text.clone(), pass.plan.clone());
        differentiable(self.anchor(pass), move |_| {
            let (feature, kept) = text.forward(captions, plan.as_ref().map(|plan| &plan.towers[1]));
            let backward = move |dy| {
                if let Some(kept) = kept {
                    text.backward(kept, dy);
                }
                None
            };
            (feature, backward)
        })
    }
}
