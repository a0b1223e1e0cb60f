//! CLIP-style training: clips and captions of a batch are each other's positives and negatives.

use super::Task;
use super::feed::{Arrived, Feed, chunks};
use crate::config::recipe::Recipe;
use crate::data::loader::ClipBatch;
use crate::device::DeviceError;
use crate::eval::retrieval::{EvalSet, Retriever};
use crate::eval::{EvalError, Evaluation};
use crate::loss::contrastive::contrastive;
use crate::model::init::MAX_LOGIT_SCALE;
use crate::model::params::ParamStore;
use crate::model::plan::StepPlan;
use crate::model::stack::DropKey;
use crate::model::{Clip, ClipShape, Pass};
use crate::ops::patch_embed::Frames;
use crate::ops::tensor::{Ad, AdT, T, primitive};
use crate::ops::workspace::Workspace;
use crate::text::{TokenBatch, Tokenizer};
use avion_kernels::cuda::pinned::PinnedPool;
use avion_kernels::{FloatKind, Handle, flat};
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeRuntime;
use std::ops::Range;
use std::sync::Arc;

/// The model with what it needs to learn from batches and to be scored.
pub struct ContrastiveTask<R: CubeRuntime> {
    pub clip: Clip<R>,
    tokenizer: Tokenizer,
    plan: Option<Arc<StepPlan>>,
    feed: Feed<R>,
    clips_at_once: usize,
    seed: u64,
    eval_sets: Vec<EvalSet>,
    eval_batch: usize,
    recipe: Recipe,
}

impl<R: CubeRuntime> ContrastiveTask<R> {
    /// `values`: one vector per parameter of the model the recipe asks for; `plan`: what a step keeps, where steps are to
    /// come.
    pub fn new(
        recipe: &Recipe,
        values: &[Vec<f32>],
        compute_dtype: DType,
        device: &R::Device,
        eval_sets: Vec<EvalSet>,
        plan: Option<Arc<StepPlan>>,
    ) -> Self {
        let clip = Clip::new(ClipShape::of(recipe), values, compute_dtype, device);
        if let Some(plan) = &plan {
            clip.ws.arena.reserve(plan.slab);
        }
        let clips_at_once = recipe.train.clips_at_once();
        ContrastiveTask {
            feed: Feed::new(recipe, &clip.params.client, device),
            tokenizer: Tokenizer::new(),
            plan,
            clips_at_once,
            seed: recipe.seed,
            eval_sets,
            eval_batch: recipe.eval.batch_size,
            recipe: recipe.clone(),
            clip,
        }
    }

    /// Both towers' features for some clips of a batch, and the frames they came from, which the video's backward pass
    /// reads again.
    fn encode(
        &mut self,
        batch: &ClipBatch,
        tokens: &TokenBatch,
        clips: Range<usize>,
        tracked: bool,
        step: u64,
    ) -> Result<([AdT<R, 2>; 2], Arrived), DeviceError> {
        let drop_path = Some(DropKey { seed: self.seed, step, first: clips.start as u64 });
        let pass = Pass { plan: self.plan.clone().filter(|_| tracked), drop_path };
        let filled = self.feed.take(batch, &clips)?;
        let grid = self.clip.grid(clips.len());
        let frames = Frames {
            pixels: filled.handle().clone(),
            batch: clips.len(),
            grid,
            norm: self.clip.shape.pixels,
            kept: None,
        };
        let ids = &tokens.ids[clips.start * tokens.length..clips.end * tokens.length];
        let captions = self.clip.upload_captions(ids, tokens.length, &tokens.eot[clips]);
        Ok(([self.clip.encode_video(frames, &pass), self.clip.encode_text(captions, &pass)], filled))
    }
}

/// Puts `logit_scale` back into `[0, MAX_LOGIT_SCALE]` where it is learned.
pub fn clamp_temperature<R: CubeRuntime>(clip: &Clip<R>) {
    if !clip.shape.learn_temperature {
        return;
    }
    let clamped = primitive(clip.logit_scale.value::<1>().clamp(0.0, MAX_LOGIT_SCALE));
    flat::cast(&clip.params.client, &clamped.handle, clip.logit_scale.value_handle(), FloatKind::F32, 1);
}

/// Sends `gradients` back through the graphs of `features`. The text's goes first: it then no longer holds memory while
/// the video's, the larger, needs most.
fn backward<R: CubeRuntime>([video, text]: [AdT<R, 2>; 2], [d_video, d_text]: [T<R, 2>; 2]) {
    for (feature, gradient) in [(text, d_text), (video, d_video)] {
        (feature * Tensor::<Ad<R>, 2>::from_inner(gradient)).sum().backward();
    }
}

impl<R: CubeRuntime> Task<R> for ContrastiveTask<R> {
    fn params(&self) -> &ParamStore<R> {
        &self.clip.params
    }

    fn workspace(&self) -> &Workspace<R> {
        &self.clip.ws
    }

    fn host_memory(&self) -> PinnedPool {
        self.feed.pool()
    }

    fn prefetch(&mut self, batch: &ClipBatch) -> Result<(), DeviceError> {
        let first = 0..self.clips_at_once.min(batch.samples.len());
        self.feed.prefetch(batch, &first)
    }

    /// With `micro_batch` below the batch size, features of all clips come first, without gradients; the loss is taken
    /// over the whole batch, and each chunk is then run again with its share of the loss's gradient. The result is that
    /// of the whole batch at once. Source: Gao et al. 2021, arXiv:2101.06983 (GradCache).
    fn gradients(&mut self, batch: &ClipBatch, step: u64) -> Result<Handle, DeviceError> {
        let chunks = chunks(batch.samples.len(), self.clips_at_once);
        let tokens = self.tokenizer.encode_batch(&batch.captions, self.clip.shape.context);
        let learned = self.clip.shape.learn_temperature;
        if let [whole] = chunks.as_slice() {
            let (features, frames) = self.encode(batch, &tokens, whole.clone(), true, step)?;
            let [video, text] = features.clone().map(Tensor::inner);
            let loss = contrastive(&self.clip.ws, video, text, &self.clip.logit_scale, learned);
            backward(features, [loss.d_video, loss.d_text]);
            self.feed.give_back(frames);
            return Ok(loss.result);
        }
        let (mut videos, mut texts) = (Vec::new(), Vec::new());
        for chunk in &chunks {
            let ([video, text], frames) = self.encode(batch, &tokens, chunk.clone(), false, step)?;
            self.feed.give_back(frames);
            videos.push(video.inner());
            texts.push(text.inner());
            // The next chunk, or the first again for the second round.
            let next = chunks.iter().find(|next| next.start == chunk.end).unwrap_or(&chunks[0]);
            self.feed.prefetch(batch, next)?;
        }
        let (video, text) = (Tensor::cat(videos, 0), Tensor::cat(texts, 0));
        let loss = contrastive(&self.clip.ws, video, text, &self.clip.logit_scale, learned);
        for chunk in &chunks {
            let (features, frames) = self.encode(batch, &tokens, chunk.clone(), true, step)?;
            let part = |g: &T<R, 2>| g.clone().slice([chunk.clone()]);
            backward(features, [part(&loss.d_video), part(&loss.d_text)]);
            self.feed.give_back(frames);
            if let Some(next) = chunks.iter().find(|next| next.start == chunk.end) {
                self.feed.prefetch(batch, next)?;
            }
        }
        Ok(loss.result)
    }

    fn constrain(&self) {
        clamp_temperature(&self.clip);
    }

    fn logit_scale(&self) -> Option<Handle> {
        Some(self.clip.logit_scale.value_handle().clone())
    }

    fn evaluate(&self, stop: &dyn Fn() -> bool) -> Result<Option<Vec<Evaluation>>, EvalError> {
        let retriever = Retriever { clip: &self.clip, tokenizer: &self.tokenizer, batch_size: self.eval_batch, stop };
        self.eval_sets.iter().map(|set| retriever.evaluate(set, &self.recipe)).collect()
    }
}
