//! From gradients to new weights: learning-rate schedule, gradient norm and clipping, update rule.

mod optimizer;
mod schedule;

pub use optimizer::{Optimizer, OptimizerState, UpdateStats};
pub use schedule::LrSchedule;
