//! From a video file to cropped, scaled RGB frames.
//!
//! ```text
//! path -> container (demuxer, index) -> plan (seek or count) -> decoder -> crop + scale -> u8 RGB
//! ```
//!
//! Frame `k` always means the `k`-th picture that FFmpeg shows when it decodes the whole file in order, edit
//! lists applied. [`VideoReader`] seeks when the index proves where that picture lies, checks the prediction
//! against what comes out of the decoder, and counts pictures from the start when anything does not fit.

pub mod crop;
mod error;
mod options;
mod stages;

#[cfg(feature = "video")]
#[doc(hidden)] // for fuzzing
pub mod bitstream;
#[cfg(feature = "video")]
mod cache;
#[cfg(feature = "video")]
mod colour;
#[cfg(feature = "video")]
mod columns;
#[cfg(feature = "video")]
#[doc(hidden)] // for fuzzing
pub mod container;
#[cfg(feature = "video")]
pub(crate) mod decoder;
#[cfg(feature = "video")]
mod filter;
#[cfg(feature = "video")]
mod hardware;
#[cfg(feature = "video")]
#[doc(hidden)] // for fuzzing
pub mod index;
#[cfg(feature = "video")]
mod indexing;
#[cfg(feature = "video")]
pub(crate) mod orientation;
#[cfg(feature = "video")]
mod planes;
#[cfg(feature = "video")]
mod reader;
#[cfg(feature = "video")]
mod record;
#[cfg(feature = "video")]
mod request;
#[cfg(feature = "video")]
mod scale;
#[cfg(feature = "video")]
mod seek;
#[cfg(feature = "video")]
mod sequential;
#[cfg(feature = "video")]
#[doc(hidden)] // for fuzzing
pub mod sps;
#[cfg(feature = "video")]
mod sws;
#[cfg(not(feature = "video"))]
mod unavailable;

pub use crop::{CropBox, Read, center_square, multi_scale_crop, random_resized_crop, square_along};
pub use error::VideoError;
pub use options::{ReadOptions, decode_on};
#[cfg(feature = "video")]
pub use reader::VideoReader;
pub use stages::Stages;
#[cfg(not(feature = "video"))]
pub use unavailable::VideoReader;
