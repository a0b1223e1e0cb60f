//! From gradients to new weights: learning-rate schedule, gradient norm and clipping, update rule, moving average.

mod average;
mod optimizer;
mod schedule;

pub use average::Average;
pub use optimizer::{Optimizer, OptimizerState, UpdateStats};
pub use schedule::LrSchedule;
