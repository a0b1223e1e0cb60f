//! Training: set-up, the loop, and what a run leaves behind.
//!
//! A run's folder holds `recipe.toml` (everything resolved), `checkpoints/`, `metrics.jsonl`, `tensorboard/`, and at the
//! end `report.html` and, for sets scored by recall, `results.json`.

mod error;
mod records;
mod setup;
mod signals;
mod summary;
mod training_loop;

pub use error::TrainError;
pub use setup::{RunOptions, compute_dtype, initial_values, load_sources, loader_config, weight_file_values};
pub use signals::StopSignal;

use crate::checkpoint::{CheckpointStore, TrainState};
use crate::config::Resolved;
use crate::config::recipe::{SourceConfig, TaskKind};
use crate::data::{Source, annotations};
use crate::device::DeviceInfo;
use crate::eval::retrieval::EvalSet;
use crate::eval::{EvalError, SourceSet};
use crate::model::{DeviceMemory, MemoryPlan, check_device};
use crate::ops::tensor::float_kind;
use crate::optim::{Optimizer, OptimizerState};
use crate::report::{Record, Results};
use crate::task::{ClassifyTask, ContrastiveTask, MaskedTask, Task};
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use records::Records;
use setup::Start;
use std::path::PathBuf;
use std::sync::Arc;
use training_loop::{Ended, Trainer};

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// All steps done; the report is written, and `results.json` when a set is scored by recall before and after.
    Finished { report: PathBuf, results: Option<Results> },
    /// Asked to stop; everything is in the checkpoint.
    Interrupted { checkpoint: PathBuf },
}

/// Trains as the recipe says, on `device`, resuming what the output folder holds.
///
/// # Errors
/// See [`TrainError`]; whatever was saved before stays usable.
pub fn run<R: CubeRuntime>(
    resolved: &Resolved,
    device: &R::Device,
    info: &DeviceInfo,
    options: &RunOptions,
) -> Result<Outcome, TrainError> {
    let recipe = &resolved.recipe;
    let folder = recipe.output_dir();
    let stop = StopSignal::install()?;
    let store = CheckpointStore::new(&folder, recipe.train.keep_checkpoints)?;
    let start = Start::find(&store, resolved, &folder, options)?;
    let recipe_toml = recipe.to_toml()?;
    crate::fs::write_atomic(&folder.join("recipe.toml"), |out| out.write_all(recipe_toml.as_bytes()))?;

    let sources = load_sources(&recipe.data.train)?;
    let classes = recipe.classify.classes;
    if recipe.task == TaskKind::Classify {
        for (config, source) in recipe.data.train.iter().zip(sources.iter()) {
            annotations::check_labels(&config.annotations, source, classes)?;
        }
    }
    let dtype = compute_dtype::<R>(recipe.train.precision, device)?;
    let kind = float_kind(dtype).ok_or_else(|| TrainError::Precision { device: info.name.clone() })?;
    let (values, optimizer, average, state) = match start.resumed {
        Some(resumed) => (resumed.values, Some(resumed.optimizer), resumed.average, Some(resumed.state)),
        None => (initial_values(recipe)?, None, None, None),
    };
    check_device::<R>(recipe, kind, device)?;
    let on_device = DeviceMemory { free: info.memory_free, cuda: info.backend == "cuda" };
    let memory = MemoryPlan::of(recipe, kind, on_device)?;
    let plan = Some(memory.step.clone());
    let run = Run { resolved, info, folder, recipe_toml, sources, dtype, memory, optimizer, state };
    match recipe.task {
        TaskKind::Contrastive => {
            let sets = eval_sets(&recipe.data.eval, EvalSet::load)?;
            run.with(ContrastiveTask::<R>::new(recipe, &values, dtype, device, sets, plan), store, &stop, options)
        }
        TaskKind::Masked => {
            let sets = eval_sets(&recipe.data.eval, SourceSet::load)?;
            run.with(MaskedTask::<R>::new(recipe, &values, dtype, device, sets, plan)?, store, &stop, options)
        }
        TaskKind::Classify => {
            let sets = eval_sets(&recipe.data.eval, |config| SourceSet::labelled(config, classes))?;
            let mut task = ClassifyTask::<R>::new(recipe, &values, dtype, device, sets, plan);
            if let Some(average) = average {
                task.resume_average(&average);
            }
            run.with(task, store, &stop, options)
        }
    }
}

fn eval_sets<S>(
    configs: &[SourceConfig],
    load: impl Fn(&SourceConfig) -> Result<S, EvalError>,
) -> Result<Vec<S>, TrainError> {
    Ok(configs.iter().map(load).collect::<Result<_, _>>()?)
}

/// What a run needs besides its task.
struct Run<'a> {
    resolved: &'a Resolved,
    info: &'a DeviceInfo,
    folder: PathBuf,
    recipe_toml: String,
    sources: Arc<[Source]>,
    dtype: DType,
    memory: MemoryPlan,
    optimizer: Option<OptimizerState>,
    state: Option<TrainState>,
}

impl Run<'_> {
    fn with<R: CubeRuntime, K: Task<R>>(
        self,
        mut task: K,
        mut store: CheckpointStore,
        stop: &StopSignal,
        options: &RunOptions,
    ) -> Result<Outcome, TrainError> {
        let Run { resolved, info, folder, recipe_toml, sources, dtype, memory, optimizer, state } = self;
        let recipe = &resolved.recipe;
        if options.fresh {
            // Only now: everything the new run needs has been found.
            store.clear()?;
        }
        let client = task.params().client.clone();
        let updates = state.as_ref().map_or(0, |state: &TrainState| state.updates());
        let optimizer = Optimizer::new(&recipe.optim, task.params(), optimizer, updates);
        let mut records = Records::open(&folder, recipe, state.as_ref())?;
        let mut trainer = Trainer::new(&mut task, &client, optimizer, recipe, &recipe_toml, memory, sources, state)?;
        records.announce(&trainer.announcement(info, dtype));
        match trainer.run(&mut store, &mut records, stop)? {
            Ended::Interrupted { checkpoint } => Ok(Outcome::Interrupted { checkpoint }),
            Ended::Finished { evaluations } => {
                let history: Vec<Record> = records.history()?;
                let (running_s, bad) = (trainer.running_s(), trainer.bad_samples());
                trainer.log_worker_times();
                let facts = summary::Facts { resolved, info, dtype, running_s, loading: trainer.worker_times(), bad };
                let (report, results) = summary::write(&folder, &facts, history, &evaluations)?;
                Ok(Outcome::Finished { report, results })
            }
        }
    }
}
