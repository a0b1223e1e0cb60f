//! Checkpoints of a run, and weights of other programs.
//!
//! ```text
//! save:   Snapshot -> hidden folder -> rename -> checkpoints/step-00001200/ -> keep the last few and the best
//! resume: run or checkpoint folder -> locate -> read -> Checkpoint
//! weights: safetensors, PyTorch file or checkpoint -> read_weights -> our names -> load_into the model's shapes
//! export: our names -> OpenAI's or Hugging Face's
//! ```
//!
//! Everything here works on tensors in host memory ([`HostTensor`]); nothing knows a device.

mod error;
mod export;
mod folder;
mod load;
mod names;
mod safetensors_file;
mod state;
mod store;
mod tensor;
pub mod torch_file;
mod weights;

pub use error::CheckpointError;
pub use export::{
    HuggingFaceModel, Temporal, VideoMaeSettings, to_hugging_face_names, to_hugging_face_videomae, to_openai_names,
};
pub use folder::{AVERAGE, Checkpoint, Snapshot, overlay_average, read, verify};
pub use load::{LoadOptions, LoadReport, load_into};
pub use names::{Naming, to_our_names};
pub use safetensors_file::{read_safetensors, write_safetensors};
pub use state::{BestMetric, FileSum, Manifest, ScheduleState, TrainState, UPDATES, recipe_hash};
pub use store::{CheckpointStore, Latest, Pick, Skipped, latest_valid, locate};
pub use tensor::{Dtype, HostTensor, Tensors};
pub use torch_file::TorchFile;
pub use weights::{WeightFile, read_weights};
