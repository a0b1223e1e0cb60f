//! From frames and token ids to features: shapes, parameters and the two towers of CLIP.

pub mod clip;
pub mod init;
pub mod memory;
pub mod params;
pub mod plan;
pub mod shape;
pub mod text;
pub mod tower;
pub mod vision;

pub use clip::{Clip, Pass, check_device};
pub use memory::{DeviceMemory, MemoryPlan, OverBudget};
pub use shape::{ClipShape, TowerShape};
