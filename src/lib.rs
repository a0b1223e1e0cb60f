//! AVION in Rust: training large video-language models on one machine.
//!
//! The modules in the order data meets them:
//!
//! ```text
//! config -> data (annotations, clips, batches) -> text, video -> model -> ops -> kernels
//!                                                  loss, optim, checkpoint, eval, report -> train, inspect
//! ```
//!
//! Axis names used throughout: `batch`, `frames`, `height`, `width_px` (pixels), `patches`, `tokens`, `heads`,
//! `head_dim`, `width` (of a tower, never pixels), `embed` (of the space video and text share).

pub mod bench;
pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod config;
pub mod data;
pub mod device;
pub mod eval;
pub mod fs;
pub mod inspect;
pub mod loss;
pub mod model;
pub mod ops;
pub mod optim;
#[cfg(feature = "video")]
pub mod prepare;
pub mod report;
pub mod stats;
pub mod task;
pub mod text;
pub mod train;
pub mod video;
