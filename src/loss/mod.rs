//! What training minimises.

pub mod contrastive;
