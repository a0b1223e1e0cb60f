//! VideoMAE's pre-training: masked tubelets are predicted from the visible ones.

use super::Task;
use super::feed::{Feed, chunks, mean_of};
use crate::config::recipe::Recipe;
use crate::data::loader::ClipBatch;
use crate::data::rng::{Purpose, keyed_repeat};
use crate::device::DeviceError;
use crate::eval::reconstruction::Reconstruction;
use crate::eval::{EvalError, Evaluation, SourceSet};
use crate::model::params::ParamStore;
use crate::model::plan::StepPlan;
use crate::model::stack::DropKey;
use crate::model::videomae::{MaeShape, VideoMae};
use crate::ops::workspace::Workspace;
use avion_kernels::cuda::pinned::PinnedPool;
use avion_kernels::{Handle, KernelError};
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use rand::RngCore;
use std::sync::Arc;

/// The model with what it needs to learn from batches and to be scored.
pub struct MaskedTask<R: CubeRuntime> {
    pub model: VideoMae<R>,
    plan: Option<Arc<StepPlan>>,
    feed: Feed<R>,
    clips_at_once: usize,
    seed: u64,
    eval_sets: Vec<SourceSet>,
    recipe: Recipe,
}

impl<R: CubeRuntime> MaskedTask<R> {
    /// As [`super::ContrastiveTask::new`].
    ///
    /// # Errors
    /// A mask that the frames cannot have.
    pub fn new(
        recipe: &Recipe,
        values: &[Vec<f32>],
        compute_dtype: DType,
        device: &R::Device,
        eval_sets: Vec<SourceSet>,
        plan: Option<Arc<StepPlan>>,
    ) -> Result<Self, KernelError> {
        let model = VideoMae::new(MaeShape::of(recipe)?, values, compute_dtype, device);
        if let Some(plan) = &plan {
            model.ws.arena.reserve(plan.slab);
        }
        let clips_at_once = recipe.train.clips_at_once();
        Ok(MaskedTask {
            feed: Feed::new(recipe, &model.params.client, device),
            plan,
            clips_at_once,
            seed: recipe.seed,
            eval_sets,
            recipe: recipe.clone(),
            model,
        })
    }
}

/// What draws the mask of each clip of a batch: the same clip gets another mask in every epoch and repetition.
pub fn mask_keys(seed: u64, epoch: u64, samples: &[u64], views: &[u32]) -> Vec<[u32; 2]> {
    let key = |(place, sample): (usize, &u64)| {
        let repeat = views.get(place).copied().unwrap_or(0);
        let word = keyed_repeat(seed, epoch, *sample, Purpose::Mask, repeat).next_u64();
        [word as u32, (word >> 32) as u32]
    };
    samples.iter().enumerate().map(key).collect()
}

impl<R: CubeRuntime> Task<R> for MaskedTask<R> {
    fn params(&self) -> &ParamStore<R> {
        &self.model.params
    }

    fn workspace(&self) -> &Workspace<R> {
        &self.model.ws
    }

    fn host_memory(&self) -> PinnedPool {
        self.feed.pool()
    }

    fn prefetch(&mut self, batch: &ClipBatch) -> Result<(), DeviceError> {
        let first = 0..self.clips_at_once.min(batch.samples.len());
        self.feed.prefetch(batch, &first)
    }

    fn gradients(&mut self, batch: &ClipBatch, step: u64) -> Result<Handle, DeviceError> {
        let keys = mask_keys(self.seed, batch.position.epoch, &batch.samples, &batch.views);
        let Some(plan) = self.plan.clone() else { unreachable!("a task that trains has a plan") };
        let parts = chunks(batch.samples.len(), self.clips_at_once);
        let mut results = Vec::new();
        for chunk in &parts {
            let filled = self.feed.take(batch, chunk)?;
            let clips = self.model.mask(filled.handle().clone(), &keys[chunk.clone()]);
            let drop_path = DropKey { seed: self.seed, step, first: chunk.start as u64 };
            results.push(self.model.gradients(&clips, &plan, Some(drop_path)));
            self.feed.give_back(filled);
            if let Some(next) = parts.iter().find(|next| next.start == chunk.end) {
                self.feed.prefetch(batch, next)?;
            }
        }
        Ok(mean_of(&self.model.ws, results))
    }

    fn gradient_factor(&self) -> f32 {
        1.0 / self.recipe.train.batch_size.div_ceil(self.clips_at_once) as f32
    }

    fn constrain(&self) {}

    fn logit_scale(&self) -> Option<Handle> {
        None
    }

    fn evaluate(&self, stop: &dyn Fn() -> bool) -> Result<Option<Vec<Evaluation>>, EvalError> {
        let scorer = Reconstruction { model: &self.model, recipe: &self.recipe, stop };
        self.eval_sets.iter().map(|set| scorer.evaluate(set)).collect()
    }
}
