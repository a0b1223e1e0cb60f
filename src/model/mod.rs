//! From frames and token ids to features: shapes, parameters and the two towers of CLIP.

pub mod clip;
pub mod init;
pub mod params;
pub mod shape;
pub mod tower;

pub use clip::Clip;
pub use shape::{ClipShape, TowerShape};
