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
pub use setup::{RunOptions, compute_dtype, initial_values, load_sources, loader_config};
pub use signals::StopSignal;

use crate::checkpoint::CheckpointStore;
use crate::config::Resolved;
use crate::device::DeviceInfo;
use crate::eval::retrieval::EvalSet;
use crate::optim::Optimizer;
use crate::report::Record;
use crate::task::{ContrastiveTask, Task};
use burn_cubecl::CubeRuntime;
use records::Records;
use setup::Start;
use std::path::PathBuf;
use std::time::Instant;
use training_loop::Trainer;

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// All steps done; the report is written.
    Finished { report: PathBuf },
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
    let started = Instant::now();
    let recipe = &resolved.recipe;
    let folder = recipe.output_dir();
    let stop = StopSignal::install()?;
    setup::prepare_folder(&folder, options)?;
    let mut store = CheckpointStore::new(&folder, recipe.train.keep_checkpoints)?;
    let start = Start::find(&store, resolved, &folder, options)?;
    let recipe_toml = recipe.to_toml()?;
    crate::fs::write_atomic(&folder.join("recipe.toml"), |out| out.write_all(recipe_toml.as_bytes()))?;

    let sources = load_sources(&recipe.data.train)?;
    let eval_sets = recipe.data.eval.iter().map(EvalSet::load).collect::<Result<Vec<_>, _>>()?;
    let dtype = compute_dtype::<R>(recipe.train.precision, device)?;
    let values = match &start.resumed {
        Some(resumed) => resumed.values.clone(),
        None => initial_values(recipe)?,
    };
    let task = ContrastiveTask::<R>::new(recipe, &values, dtype, device, eval_sets);
    drop(values);
    let optimizer = Optimizer::new(&recipe.optim, task.params(), start.resumed.as_ref().map(|r| r.moments.clone()));

    let state = start.resumed.as_ref().map(|r| r.state.clone());
    let mut records = Records::open(&folder, recipe, state.as_ref())?;
    let mut trainer = Trainer::new(&task, optimizer, recipe, &recipe_toml, sources, state)?;
    records.announce(&trainer.announcement(info, dtype));
    let ended = trainer.run(&mut store, &mut records, &stop)?;
    match ended {
        training_loop::Ended::Interrupted { checkpoint } => Ok(Outcome::Interrupted { checkpoint }),
        training_loop::Ended::Finished { evaluations } => {
            let history: Vec<Record> = records.finish()?;
            let facts = summary::Facts {
                resolved,
                info,
                dtype,
                trained_s: trainer.trained_s(),
                wall_s: started.elapsed().as_secs_f64(),
                bad: trainer.bad_samples(),
            };
            let report = summary::write(&folder, &facts, history, &evaluations)?;
            Ok(Outcome::Finished { report })
        }
    }
}
