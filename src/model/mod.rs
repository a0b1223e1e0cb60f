//! From frames and token ids to features: shapes, parameters, the two towers of CLIP, and VideoMAE.

mod ask;
pub mod clip;
mod gradient;
pub mod init;
mod ledger;
pub mod memory;
pub mod params;
pub mod plan;
pub mod shape;
mod sizes;
pub mod stack;
pub mod text;
pub mod tower;
pub mod videomae;
pub mod vision;
mod walk;

pub use ask::{check_device, specs, tower_sizes};
pub use clip::{Clip, Pass};
pub use memory::{DeviceMemory, MemoryPlan, OverBudget};
pub use shape::{ClipShape, TowerShape};
