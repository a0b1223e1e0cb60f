//! Training a classifier of clips: fine-tuning VideoMAE's encoder, or its head alone.

use super::Task;
use super::feed::{Feed, chunks, mean_of};
use crate::config::recipe::Recipe;
use crate::data::augment::MixPlan;
use crate::data::loader::ClipBatch;
use crate::device::DeviceError;
use crate::eval::classification::ViewScorer;
use crate::eval::{EvalError, Evaluation, SourceSet};
use crate::model::params::ParamStore;
use crate::model::plan::StepPlan;
use crate::model::stack::DropKey;
use crate::model::videomae::{Classifier, ClassifierShape};
use crate::ops::workspace::Workspace;
use crate::optim::Average;
use avion_kernels::Handle;
use avion_kernels::cuda::pinned::PinnedPool;
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use std::sync::Arc;

/// The model with what it needs to learn from batches and to be scored.
pub struct ClassifyTask<R: CubeRuntime> {
    pub model: Classifier<R>,
    average: Option<Average>,
    plan: Option<Arc<StepPlan>>,
    feed: Feed<R>,
    clips_at_once: usize,
    seed: u64,
    eval_sets: Vec<SourceSet>,
    recipe: Recipe,
}

impl<R: CubeRuntime> ClassifyTask<R> {
    /// As [`super::ContrastiveTask::new`]. A moving average, where the recipe asks for one and steps are to come, starts
    /// with `values`.
    pub fn new(
        recipe: &Recipe,
        values: &[Vec<f32>],
        compute_dtype: DType,
        device: &R::Device,
        eval_sets: Vec<SourceSet>,
        plan: Option<Arc<StepPlan>>,
    ) -> Self {
        let model = Classifier::new(ClassifierShape::of(recipe), values, compute_dtype, device);
        if let Some(plan) = &plan {
            model.ws.arena.reserve(plan.slab);
        }
        let decay = Average::decay_of(recipe).filter(|_| plan.is_some());
        let average = decay.map(|decay| Average::new(decay, &model.params, values));
        let clips_at_once = recipe.train.clips_at_once();
        ClassifyTask {
            feed: Feed::new(recipe, &model.params.client, device),
            plan,
            clips_at_once,
            seed: recipe.seed,
            eval_sets,
            recipe: recipe.clone(),
            average,
            model,
        }
    }

    /// Goes on with the moving average of a checkpoint, one vector per parameter.
    pub fn resume_average(&mut self, values: &[Vec<f32>]) {
        self.average = Average::decay_of(&self.recipe).map(|decay| Average::new(decay, &self.model.params, values));
    }

    /// How a batch is mixed; the same each time it is asked for.
    fn mix(&self, batch: &ClipBatch) -> MixPlan {
        MixPlan::draw(&self.recipe.augment, self.seed, batch.position, self.model.shape.grid.image_px)
    }
}

impl<R: CubeRuntime> Task<R> for ClassifyTask<R> {
    fn params(&self) -> &ParamStore<R> {
        &self.model.params
    }

    fn workspace(&self) -> &Workspace<R> {
        &self.model.ws
    }

    fn prepare(&self, batch: &mut ClipBatch) {
        let clips = batch.samples.len();
        self.mix(batch).apply(batch.frames.make_mut(), clips, self.model.shape.grid.image_px);
    }

    fn host_memory(&self) -> PinnedPool {
        self.feed.pool()
    }

    fn prefetch(&mut self, batch: &ClipBatch) -> Result<(), DeviceError> {
        let first = 0..self.clips_at_once.min(batch.samples.len());
        self.feed.prefetch(batch, &first)
    }

    fn gradients(&mut self, batch: &ClipBatch, step: u64) -> Result<Handle, DeviceError> {
        let classes = self.model.shape.classes;
        let targets = self.mix(batch).targets(&batch.labels, classes);
        let Some(plan) = self.plan.clone() else { unreachable!("a task that trains has a plan") };
        let parts = chunks(batch.samples.len(), self.clips_at_once);
        let mut results = Vec::new();
        for chunk in &parts {
            let filled = self.feed.take(batch, chunk)?;
            let key = DropKey { seed: self.seed, step, first: chunk.start as u64 };
            let targets = &targets[chunk.start * classes..chunk.end * classes];
            results.push(self.model.gradients(filled.handle().clone(), targets, &plan, key));
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

    fn constrain(&self) {
        if let Some(average) = &self.average {
            average.update(&self.model.params);
        }
    }

    fn average(&self) -> Option<&Average> {
        self.average.as_ref()
    }

    fn logit_scale(&self) -> Option<Handle> {
        None
    }

    fn evaluate(&self, stop: &dyn Fn() -> bool) -> Result<Option<Vec<Evaluation>>, EvalError> {
        let scorer = ViewScorer { model: &self.model, recipe: &self.recipe, stop };
        let score = || self.eval_sets.iter().map(|set| scorer.evaluate(set)).collect();
        match &self.average {
            Some(average) => average.instead(&self.model.params, score),
            None => score(),
        }
    }
}
