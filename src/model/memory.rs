//! What a step needs of the device's memory, and what it therefore keeps.

use super::ask::tower_sizes;
use super::plan::{DoesNotFit, StepPlan, TowerSizes};
use crate::config::recipe::{KeepPolicy, Recipe, TaskKind};
use crate::config::{Geometry, parse_bytes};
use crate::data::loader::read_options;
use crate::ops::block::Keep;
use crate::optim::Average;
use avion_kernels::FloatKind;
use std::fmt;
use std::sync::Arc;

/// With no limit known, everything is kept when that takes no more than this.
const SMALL: u64 = 2 << 30;

/// Share of the memory found free that a run takes when no limit is given.
const SHARE: f64 = 0.94;

/// The driver's own share with compiled kernels, and the workspaces of matrix products, on CUDA.
const CUDA_OVERHEAD: u64 = 400 << 20;

/// What CUDA takes beyond the lines of the plan for each parameter, bytes. Measured on an H200 beside [`CUDA_OVERHEAD`]: 0.3
/// GiB in all for 86 and 94 million, 0.5 for 150, 0.86 for 428.
const CUDA_BYTES_PER_PARAMETER: f64 = 1.5;

/// Small buffers: statistics, partial sums, tables.
const SMALL_BUFFERS: u64 = 96 << 20;

/// Memory of a training step, bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryPlan {
    /// Trainable numbers (not bytes).
    pub parameters: u64,
    /// f32 weights: `4 N`.
    pub weights: u64,
    /// The weights in the compute type, none in f32: `2 N`.
    pub half_weights: u64,
    /// f32 gradients: `4 N`.
    pub gradients: u64,
    /// The optimizer's state, `8 N` for AdamW, and the moving average of the weights, `4 N`.
    pub state: u64,
    /// u8 frames of two micro-batches: one in use, one arriving; and those made of a third where the device scales them.
    pub frames: u64,
    /// Features of the whole batch with gradients, and logits.
    pub loss: u64,
    /// The driver, workspaces and small buffers.
    pub overhead: u64,
    /// Activations: what is kept of each block, and the slab that holds them.
    pub step: Arc<StepPlan>,
    /// Host memory: decoded u8 frames of the batches ahead, the one in use, and the one before, whose copy may not be done.
    pub host_frames: u64,
}

/// The limit cannot be met.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} is {:.2} GiB, and a step of {clips} clips at once needs at least {:.2} GiB: {advice}",
    gib(*limit),
    gib(*least)
)]
pub struct OverBudget {
    /// Where the limit comes from.
    pub what: &'static str,
    pub limit: u64,
    pub least: u64,
    pub clips: usize,
    /// The largest number of clips at once that fits; 0 = none.
    pub fits: usize,
    pub advice: String,
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}

/// What is known of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Bytes that no process uses.
    pub free: Option<u64>,
    /// Whether the driver's overhead counts.
    pub cuda: bool,
}

/// What a model asks for, whatever is kept.
struct Needs {
    parameters: u64,
    towers: Vec<TowerSizes>,
    /// Features, logits and targets.
    loss: u64,
    /// Bytes of a clip's frames: finished, and as the loader gives them.
    frame_bytes: u64,
    loaded_bytes: u64,
}

impl Needs {
    fn of(recipe: &Recipe, kind: FloatKind, clips: usize) -> Self {
        let (model, geometry) = (&recipe.model, Geometry::of(recipe.model.size));
        let (parameters, loss) = match recipe.task {
            TaskKind::Contrastive => {
                let batch = recipe.train.batch_size;
                let features = 2 * 3 * batch * model.embed_dim * 4;
                let logits = batch * batch.min(crate::loss::contrastive::ROWS_AT_ONCE) * 4;
                (geometry.parameters(model.frames, model.embed_dim, model.context).total(), features + logits)
            }
            TaskKind::Masked => {
                let tokens = geometry.tubelets(model.frames, model.tubelet);
                (geometry.masked_parameters(model.tubelet, &recipe.masking), 4 * clips * tokens)
            }
            TaskKind::Classify => {
                let classes = recipe.classify.classes;
                (geometry.classifier_parameters(model.tubelet, classes), 3 * 4 * clips * classes)
            }
        };
        let towers = tower_sizes(recipe, kind, clips, model.context);
        let px = geometry.image_px;
        let frame_bytes = (model.frames * 3 * px * px) as u64;
        let loaded_bytes = (model.frames * read_options(&recipe.data).frame_bytes(px)) as u64;
        Needs { parameters: parameters as u64, towers, loss: loss as u64, frame_bytes, loaded_bytes }
    }
}

impl MemoryPlan {
    /// Plans a step of the model that the recipe trains.
    ///
    /// # Errors
    /// [`OverBudget`] when the limit (of the recipe, or what the device has free) cannot be met.
    pub fn of(recipe: &Recipe, kind: FloatKind, device: DeviceMemory) -> Result<Self, OverBudget> {
        Self::with_clips(recipe, kind, device, recipe.train.clips_at_once()).map_err(|(what, limit, least)| {
            let clips = recipe.train.clips_at_once();
            let mut fitting = (1..clips).rev().filter(|c| recipe.train.batch_size.is_multiple_of(*c));
            let fits = fitting.find(|clips| Self::with_clips(recipe, kind, device, *clips).is_ok()).unwrap_or(0);
            let advice = match fits {
                0 => "not even one clip at once fits; take a smaller model or a larger device".to_owned(),
                fits => format!("set train.micro_batch = {fits} (the same result), or raise the limit"),
            };
            OverBudget { what, limit, least, clips, fits, advice }
        })
    }

    fn with_clips(
        recipe: &Recipe,
        kind: FloatKind,
        device: DeviceMemory,
        clips: usize,
    ) -> Result<Self, (&'static str, u64, u64)> {
        let count = |n: usize| n as u64;
        let needs = Needs::of(recipe, kind, clips);
        let parameters = needs.parameters;
        let towers = needs.towers.as_slice();
        let averages = usize::from(Average::decay_of(recipe).is_some());
        let cuda = CUDA_OVERHEAD + (CUDA_BYTES_PER_PARAMETER * parameters as f64) as u64;
        let made = if recipe.data.scale_on_device { needs.frame_bytes } else { 0 };
        let mut plan = MemoryPlan {
            parameters,
            weights: 4 * parameters,
            half_weights: if kind == FloatKind::F32 { 0 } else { 2 * parameters },
            gradients: 4 * parameters,
            state: 4 * count(recipe.optim.state_names().len() + averages) * parameters,
            frames: count(clips) * (2 * needs.loaded_bytes + made),
            loss: needs.loss,
            overhead: SMALL_BUFFERS + if device.cuda { cuda } else { 0 },
            step: Arc::new(StepPlan::uniform(towers, Keep::NOTHING)),
            host_frames: (count(recipe.data.prefetch) + 2) * count(recipe.train.batch_size) * needs.loaded_bytes,
        };
        let fixed = plan.total() - plan.step.slab;
        let limit = match (recipe.train.fit.as_str(), device.free) {
            ("", Some(free)) => Some(("the free memory of the device", (free as f64 * SHARE) as u64)),
            ("", None) => None,
            // Validation has refused what cannot be read.
            (text, _) => parse_bytes(text).ok().map(|bytes| ("train.fit", bytes)),
        };
        let all = || StepPlan::uniform(towers, Keep::ALL);
        let step = match (recipe.train.keep, limit) {
            (KeepPolicy::Store, _) => all(),
            (KeepPolicy::Recompute, _) => StepPlan::clone(&plan.step),
            (KeepPolicy::Fit, None) => {
                let all = all();
                if all.slab <= SMALL { all } else { StepPlan::clone(&plan.step) }
            }
            (KeepPolicy::Fit, Some((what, limit))) => {
                let fitted = StepPlan::fit(towers, limit.saturating_sub(fixed));
                fitted.map_err(|DoesNotFit { least }| (what, limit, fixed + least))?
            }
        };
        // A policy without a limit of its own may still be more than there is.
        if let (Some(free), true) = (device.free, recipe.train.keep != KeepPolicy::Fit)
            && fixed + step.slab > free
        {
            return Err(("the free memory of the device", free, fixed + step.slab));
        }
        plan.step = Arc::new(step);
        Ok(plan)
    }

    /// Everything on the device.
    pub fn total(&self) -> u64 {
        self.weights
            + self.half_weights
            + self.gradients
            + self.state
            + self.frames
            + self.loss
            + self.overhead
            + self.step.slab
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "parameters        {:>9.1} M", self.parameters as f64 / 1e6)?;
        let lines = [
            ("weights, f32", self.weights),
            ("weights, half", self.half_weights),
            ("gradients", self.gradients),
            ("optimizer state", self.state),
            ("activations", self.step.slab),
            ("frames", self.frames),
            ("features, logits", self.loss),
            ("driver, scratch", self.overhead),
            ("device, together", self.total()),
        ];
        for (name, bytes) in lines.into_iter().filter(|(_, bytes)| *bytes > 0) {
            writeln!(f, "{name:<18}{:>8.2} GiB", gib(bytes))?;
        }
        writeln!(f, "{:<18}{:>8.2} GiB", "host, frames", gib(self.host_frames))?;
        write!(f, "{}", self.step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const CARD: DeviceMemory = DeviceMemory { free: Some(23 * GIB), cuda: true };

    fn recipe(batch: usize, micro: usize, keep: KeepPolicy, fit: &str) -> Recipe {
        let mut recipe = Recipe::default();
        recipe.train.batch_size = batch;
        recipe.train.micro_batch = micro;
        recipe.train.keep = keep;
        recipe.train.fit = fit.into();
        recipe
    }

    /// ViT-B/16, 4 frames, batch 256, in bf16: PyTorch measured 16.5 GiB with every block checkpointed.
    #[test]
    fn a_24_gb_card_trains_a_batch_of_256() {
        let plan = |keep, fit| MemoryPlan::of(&recipe(256, 0, keep, fit), FloatKind::Bf16, CARD);
        let least = plan(KeepPolicy::Recompute, "").unwrap();
        assert_eq!(least.parameters, 149_296_129);
        assert!((10.0..15.0).contains(&gib(least.total())), "{least}");
        let fitted = plan(KeepPolicy::Fit, "22GiB").unwrap();
        assert!(fitted.total() <= 22 * GIB && fitted.total() > 20 * GIB, "{fitted}");
        assert!(fitted.step.recomputed < 0.5 * least.step.recomputed, "{fitted}\n{least}");
        let free = plan(KeepPolicy::Fit, "").unwrap();
        assert!(free.total() <= 22 * GIB, "{free}");
        let over = plan(KeepPolicy::Store, "").unwrap_err();
        assert!(over.least > 36 * GIB && over.fits > 0 && over.to_string().contains("micro_batch"), "{over}");
    }

    #[test]
    fn a_limit_too_low_names_what_would_fit() {
        let over = MemoryPlan::of(&recipe(256, 0, KeepPolicy::Fit, "8GiB"), FloatKind::Bf16, CARD).unwrap_err();
        assert!(over.least > 8 * GIB && over.least < 15 * GIB && over.clips == 256, "{over}");
        let fits = recipe(256, over.fits, KeepPolicy::Fit, "8GiB");
        assert!(MemoryPlan::of(&fits, FloatKind::Bf16, CARD).is_ok());
        let tiny = MemoryPlan::of(&recipe(256, 0, KeepPolicy::Fit, "1GiB"), FloatKind::Bf16, CARD).unwrap_err();
        assert_eq!(tiny.fits, 0);
    }

    #[test]
    fn micro_batches_bound_activations_and_f32_has_no_half_copy() {
        let unknown = DeviceMemory::default();
        let plan = |batch, micro, kind| {
            MemoryPlan::of(&recipe(batch, micro, KeepPolicy::Recompute, ""), kind, unknown).unwrap()
        };
        let (whole, split) = (plan(256, 0, FloatKind::Bf16), plan(2048, 256, FloatKind::Bf16));
        assert_eq!(whole.step, split.step);
        assert!(split.loss > whole.loss);
        assert_eq!(plan(8, 0, FloatKind::F32).half_weights, 0);
    }

    /// Without a limit, small models keep everything and large ones little.
    #[test]
    fn unknown_memory_is_used_with_care() {
        let plan = |recipe: &Recipe| MemoryPlan::of(recipe, FloatKind::F32, DeviceMemory::default()).unwrap();
        assert!(plan(&recipe(256, 0, KeepPolicy::Fit, "")).step.recomputed > 0.5);
        let mut tiny = recipe(32, 0, KeepPolicy::Fit, "");
        tiny.model.size = crate::config::recipe::ModelSize::Tiny;
        assert_eq!(plan(&tiny).step.recomputed, 0.0);
    }
}
