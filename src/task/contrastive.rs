//! CLIP-style training: clips and captions of a batch are each other's positives and negatives.

use super::Task;
use crate::config::recipe::{Recipe, Recompute};
use crate::data::loader::ClipBatch;
use crate::device::DeviceError;
use crate::eval::retrieval::{EvalSet, Retriever};
use crate::eval::{EvalError, Evaluation};
use crate::loss::contrastive::contrastive;
use crate::model::init::MAX_LOGIT_SCALE;
use crate::model::params::ParamStore;
use crate::model::tower::{DropKey, Pass};
use crate::model::{Clip, ClipShape};
use crate::ops::tensor::{Ad, AdT, T, from_handle, primitive};
use crate::text::{TokenBatch, Tokenizer};
use avion_kernels::{FloatKind, flat};
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeRuntime;
use std::ops::Range;

/// The model with what it needs to learn from batches and to be scored.
pub struct ContrastiveTask<R: CubeRuntime> {
    pub clip: Clip<R>,
    tokenizer: Tokenizer,
    recompute: Recompute,
    clips_at_once: usize,
    seed: u64,
    eval_sets: Vec<EvalSet>,
    eval_batch: usize,
    recipe: Recipe,
}

impl<R: CubeRuntime> ContrastiveTask<R> {
    /// `values`: one vector per parameter of the model the recipe asks for.
    pub fn new(
        recipe: &Recipe,
        values: &[Vec<f32>],
        compute_dtype: DType,
        device: &R::Device,
        eval_sets: Vec<EvalSet>,
    ) -> Self {
        ContrastiveTask {
            clip: Clip::new(ClipShape::of(recipe), values, compute_dtype, device),
            tokenizer: Tokenizer::new(),
            recompute: recipe.train.recompute,
            clips_at_once: recipe.train.clips_at_once(),
            seed: recipe.seed,
            eval_sets,
            eval_batch: recipe.eval.batch_size,
            recipe: recipe.clone(),
        }
    }

    /// Both towers' features for some clips of a batch.
    fn encode(
        &self,
        batch: &ClipBatch,
        tokens: &TokenBatch,
        clips: Range<usize>,
        tracked: bool,
        step: u64,
    ) -> [AdT<R, 2>; 2] {
        let drop_path = Some(DropKey { seed: self.seed, step, first: clips.start as u64 });
        let pass = Pass { recompute: self.recompute, drop_path };
        let bytes = batch.frames.len() / batch.samples.len();
        let frames = &batch.frames[clips.start * bytes..clips.end * bytes];
        let ids = &tokens.ids[clips.start * tokens.length..clips.end * tokens.length];
        let frames = self.clip.upload_frames(frames, clips.len());
        let captions = self.clip.upload_captions(ids, tokens.length, &tokens.eot[clips.clone()]);
        [
            self.clip.encode_video(self.clip.anchor(tracked), frames, pass),
            self.clip.encode_text(self.clip.anchor(tracked), captions, pass),
        ]
    }
}

/// Sends `gradients` back through the graphs of `features`.
fn backward<R: CubeRuntime>(features: [AdT<R, 2>; 2], gradients: [T<R, 2>; 2]) {
    let [a, b] = features
        .into_iter()
        .zip(gradients)
        .map(|(x, g)| (x * Tensor::<Ad<R>, 2>::from_inner(g)).sum())
        .collect::<Vec<_>>()
        .try_into()
        .unwrap_or_else(|_| unreachable!("two in, two out"));
    (a + b).backward();
}

impl<R: CubeRuntime> Task<R> for ContrastiveTask<R> {
    fn params(&self) -> &ParamStore<R> {
        &self.clip.params
    }

    /// With `micro_batch` below the batch size, features of all clips come first, without gradients; the loss is taken
    /// over the whole batch, and each chunk is then run again with its share of the loss's gradient. The result is that
    /// of the whole batch at once. Source: Gao et al. 2021, arXiv:2101.06983 (GradCache).
    fn gradients(&self, batch: &ClipBatch, step: u64) -> T<R, 1> {
        let clips = batch.samples.len();
        let tokens = self.tokenizer.encode_batch(&batch.captions, self.clip.shape.context);
        let chunks: Vec<Range<usize>> = (0..clips)
            .step_by(self.clips_at_once)
            .map(|start| start..(start + self.clips_at_once).min(clips))
            .collect();
        let whole = (chunks.len() == 1).then(|| self.encode(batch, &tokens, 0..clips, true, step));
        let [video, text] = match &whole {
            Some([video, text]) => [video.clone().inner(), text.clone().inner()],
            None => {
                let encoded = chunks.iter().map(|chunk| self.encode(batch, &tokens, chunk.clone(), false, step));
                let (video, text) = encoded.map(|[video, text]| (video.inner(), text.inner())).unzip();
                [Tensor::cat(video, 0), Tensor::cat(text, 0)]
            }
        };
        let loss = contrastive::<R>(video, text, self.clip.logit_scale.value());
        if self.clip.shape.learn_temperature {
            self.clip.logit_scale.accumulate(loss.d_logit_scale);
        }
        match whole {
            Some(features) => backward(features, [loss.d_video, loss.d_text]),
            None => {
                for chunk in chunks {
                    let features = self.encode(batch, &tokens, chunk.clone(), true, step);
                    let part = |g: &T<R, 2>| g.clone().slice([chunk.clone()]);
                    backward(features, [part(&loss.d_video), part(&loss.d_text)]);
                }
            }
        }
        Tensor::cat(vec![loss.loss, loss.accuracy], 0)
    }

    fn constrain(&self) {
        if !self.clip.shape.learn_temperature {
            return;
        }
        let params = &self.clip.params;
        let clamped = primitive(self.clip.logit_scale.value::<1>().clamp(0.0, MAX_LOGIT_SCALE));
        let value = primitive(self.clip.logit_scale.value::<1>());
        flat::cast(&params.client, clamped.handle, value.handle, FloatKind::F32, 1);
    }

    fn logit_scale(&self) -> Result<Option<f32>, DeviceError> {
        let value = primitive(self.clip.logit_scale.value::<1>());
        let bytes = value.client.read_one(value.handle).map_err(DeviceError::from_server)?;
        Ok(bytemuck::cast_slice::<u8, f32>(&bytes).first().copied())
    }

    fn evaluate(&self, stop: &dyn Fn() -> bool) -> Result<Option<Vec<Evaluation>>, EvalError> {
        let retriever = Retriever { clip: &self.clip, tokenizer: &self.tokenizer, batch_size: self.eval_batch, stop };
        self.eval_sets.iter().map(|set| retriever.evaluate(set, &self.recipe)).collect()
    }
}

/// A feature matrix on the host as a tensor, `[rows, embed]`.
pub(crate) fn upload_features<R: CubeRuntime>(params: &ParamStore<R>, rows: &[f32], embed: usize) -> T<R, 2> {
    let handle = params.client.create_from_slice(bytemuck::cast_slice(rows));
    from_handle(&params.client, &params.device, handle, [rows.len() / embed, embed], DType::F32)
}
