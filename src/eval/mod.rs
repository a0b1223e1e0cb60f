//! Scores: retrieval metrics over similarity matrices, and the evaluations that fill them.

pub mod metrics;
