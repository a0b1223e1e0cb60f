//! From frames and token ids to features: shapes, parameters, the two towers of CLIP, and VideoMAE.

pub mod clip;
pub mod init;
pub mod memory;
pub mod params;
pub mod plan;
pub mod shape;
pub mod stack;
pub mod text;
pub mod tower;
pub mod videomae;
pub mod vision;

pub use clip::{Clip, Pass, check_device};
pub use memory::{DeviceMemory, MemoryPlan, OverBudget};
pub use shape::{ClipShape, TowerShape};
