//! Looking into a trained model: what it makes of hidden patches, where it looks, and its features as they are.
//!
//! - [`reconstruct`]: hides patches of a clip and draws what the model puts in their place
//! - [`attention_maps`]: the attention that each place of a clip receives
//! - [`FrozenSet`]: features of labelled clips, and how far they separate the classes
//! - [`Encoder`]: a model of any task, read back to the host
//! - [`Strip`]: rows of frames, as a PNG and as a GIF

mod attention;
mod encoder;
mod frames;
mod frozen;
mod reconstruct;
mod strip;

pub use attention::{AttentionMaps, attention_maps};
pub use encoder::Encoder;
pub use frames::{ClipFrames, read_clip};
pub use frozen::{FrozenScores, FrozenSet, probe};
pub use reconstruct::{Reconstructed, reconstruct};
pub use strip::Strip;

use crate::device::DeviceError;

/// Why a model could not be looked into.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("the model has no layer {layer}: expected 0 to {}", .layers - 1)]
    NoLayer { layer: usize, layers: usize },
    #[error("the attention of layer {layer} is not finite: the weights are not, or belong to another model")]
    NotFinite { layer: usize },
}
