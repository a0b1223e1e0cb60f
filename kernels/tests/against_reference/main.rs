//! Every kernel against its f64 reference, on whatever wgpu adapter there is (Mesa's software Vulkan is enough).
//!
//! Shapes are odd on purpose: 1, primes, just off a power of two, and a ragged last cube.

mod activation;
mod attention;
mod classifier;
mod contrastive;
mod device;
mod embedding;
mod flat;
mod gemm;
mod layer_norm;
mod masking;
mod optimizer;
mod pixel_loss;
mod pooled;
mod residual;
mod rows;
mod scale_planes;
mod sums_and_ingest;
mod support;
mod typed;
mod upload;
mod wgsl;
