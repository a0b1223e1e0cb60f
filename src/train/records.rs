//! What a run writes down while it goes: progress line, `metrics.jsonl`, TensorBoard.

use super::TrainError;
use super::summary::scored;
use crate::checkpoint::TrainState;
use crate::config::recipe::Recipe;
use crate::eval::Evaluation;
use crate::fs::WriteError;
use crate::report::{
    EvalRecord, EventWriter, MetricsLog, Progress, ProgressPlan, Record, Scored, StepRecord, read_metrics,
};
use std::io::Stderr;
use std::path::{Path, PathBuf};

/// Smoothing horizon of the progress line's rate.
const HORIZON_BATCHES: usize = 50;

pub(super) struct Records {
    metrics_path: PathBuf,
    metrics: MetricsLog,
    tensorboard: EventWriter,
    progress: Option<Progress<Stderr>>,
    batch_size: usize,
    scored: Scored,
    first_step: u64,
}

impl Records {
    /// Starts the files, or goes on after the step of `state`, dropping what was recorded beyond it.
    pub fn open(folder: &Path, recipe: &Recipe, state: Option<&TrainState>) -> Result<Self, TrainError> {
        let metrics_path = folder.join("metrics.jsonl");
        let tensorboard = folder.join("tensorboard");
        let metrics = match state {
            Some(state) => MetricsLog::resume(&metrics_path, state.step)?,
            None => {
                if tensorboard.is_dir() {
                    // Curves of a run that was started over would be drawn into this one's.
                    let failed = |source| WriteError::new("remove", &tensorboard, 0, source);
                    crate::fs::remove_folder(&tensorboard).map_err(failed)?;
                }
                MetricsLog::create(&metrics_path)?
            }
        };
        Ok(Records {
            metrics,
            metrics_path,
            tensorboard: EventWriter::create(&tensorboard, state.map(|s| s.step))?,
            progress: None,
            batch_size: recipe.train.batch_size,
            scored: scored(recipe.task),
            first_step: state.map_or(0, |s| s.step),
        })
    }

    /// Starts the progress line for `total_steps`.
    pub fn plan(&mut self, total_steps: u64) {
        let plan = ProgressPlan {
            total_steps,
            batch_size: self.batch_size,
            scored: self.scored,
            horizon_samples: HORIZON_BATCHES * self.batch_size,
        };
        self.progress = Some(Progress::stderr(plan, self.first_step));
    }

    pub fn announce(&mut self, text: &str) {
        match &mut self.progress {
            Some(progress) => progress.message(text),
            None => eprintln!("{text}"),
        }
    }

    pub fn step(&mut self, record: StepRecord) -> Result<(), TrainError> {
        if let Some(progress) = &mut self.progress {
            progress.update(&record);
        }
        self.write(Record::Step(record))
    }

    pub fn evaluation(&mut self, step: u64, epoch: f64, evaluation: &Evaluation) -> Result<(), TrainError> {
        self.announce(&describe(step, evaluation));
        self.write(Record::Eval(EvalRecord {
            step,
            epoch,
            set: evaluation.set.clone(),
            seconds: evaluation.seconds,
            scores: evaluation.scores.clone(),
        }))
    }

    fn write(&mut self, record: Record) -> Result<(), TrainError> {
        self.metrics.write(&record)?;
        self.tensorboard.record(&record)?;
        Ok(self.tensorboard.flush()?)
    }

    /// The whole history, earlier runs included.
    pub fn history(&self) -> Result<Vec<Record>, TrainError> {
        Ok(read_metrics(&self.metrics_path)?)
    }
}

impl Drop for Records {
    /// However the run ends, what is said next starts on a line of its own.
    fn drop(&mut self) {
        if let Some(progress) = &mut self.progress {
            progress.finish();
        }
    }
}

/// One line per evaluation: the scores that matter, each beside chance.
fn describe(step: u64, evaluation: &Evaluation) -> String {
    let shown =
        ["t2v_r1", "v2t_r1", "map_avg", "ndcg_avg", "textbook_map_avg", "top1", "top5", "mean_class", "explained"];
    let scores = shown.iter().filter_map(|name| {
        let (score, chance) = (evaluation.scores.get(*name)?, evaluation.chance.get(*name)?);
        Some(format!("{name} {:.2}% (chance {:.2}%)", score * 100.0, chance * 100.0))
    });
    let loss = evaluation.scores.get("loss").map(|loss| format!("loss {loss:.4}"));
    let scores: Vec<String> = loss.into_iter().chain(scores).collect();
    let unreadable = match evaluation.unreadable {
        0 => String::new(),
        n => format!(", {n} unreadable left out"),
    };
    format!(
        "evaluation at step {step}: {}: {} clips{unreadable}: {} in {:.1} s",
        evaluation.set,
        evaluation.videos,
        scores.join(", "),
        evaluation.seconds
    )
}
