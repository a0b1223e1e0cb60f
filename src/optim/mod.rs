//! From gradients to new weights: learning-rate schedule, gradient norm and clipping, AdamW.

mod optimizer;
mod schedule;

pub use optimizer::{Optimizer, UpdateStats};
pub use schedule::LrSchedule;
