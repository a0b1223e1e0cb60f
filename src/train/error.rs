//! Why a run stopped.

use crate::checkpoint::CheckpointError;
use crate::config::ConfigError;
use crate::data::annotations::AnnotationError;
use crate::data::loader::LoaderError;
use crate::device::DeviceError;
use crate::eval::EvalError;
use crate::fs::WriteError;
use crate::report::ReportError;
use avion_kernels::KernelError;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    #[error(transparent)]
    Loader(#[from] LoaderError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Eval(#[from] EvalError),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(
        "{source}; the same command goes on from the last checkpoint. If memory ran out, lower train.micro_batch \
             (same result, less memory) or set train.keep = \"recompute\""
    )]
    Device {
        #[from]
        source: DeviceError,
    },
    #[error(transparent)]
    Memory(#[from] crate::model::OverBudget),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(
        "loss or gradient was not finite in {steps} steps in a row, up to step {step} (loss {loss}, gradient norm \
         {grad_norm}); the weights are those of step {last_good}, in {0}. Go on with --resume {0} and a lower optim.lr or an \
         optim.clip_grad_norm, or look at the clips of these steps", checkpoint.display()
    )]
    NotFinite { steps: u64, step: u64, last_good: u64, loss: f32, grad_norm: f32, checkpoint: PathBuf },
    #[error(
        "{} was made with another recipe: {differences}. Use the recipe it was made with, another --output, or --fresh \
         to start over", checkpoint.display()
    )]
    OtherRecipe { checkpoint: PathBuf, differences: String },
    #[error("{}: {what}; the checkpoint belongs to another model", checkpoint.display())]
    OtherModel { checkpoint: PathBuf, what: String },
    #[error(
        "train.precision = \"bf16\" needs a device that computes in bf16, and {device} does not; use \"auto\" or \"f32\""
    )]
    Precision { device: String },
    #[error("data.train is empty: a recipe needs at least one [[data.train]] set")]
    NoTrainingData,
    #[error(
        "the training data have changed since the checkpoint was made: {was_clips} clips and {was_batches} batches an \
         epoch then, {clips} and {batches} now; restore them, or start over with --fresh"
    )]
    OtherData { was_clips: u64, was_batches: u64, clips: u64, batches: u64 },
    #[error("the training data ended at step {step} of {last_step}: a bug, please report it with the recipe")]
    EndedEarly { step: u64, last_step: u64 },
    #[error("cannot watch for SIGTERM and SIGINT: {source}")]
    Signals { source: std::io::Error },
}

impl TrainError {
    /// The process's exit code for this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            TrainError::NotFinite { .. } => 3,
            _ => 1,
        }
    }
}
