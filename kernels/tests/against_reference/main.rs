//! Every kernel against its f64 reference, on whatever wgpu adapter there is (Mesa's software Vulkan is enough).
//!
//! Shapes are odd on purpose: 1, primes, just off a power of two, and a ragged last cube.

mod flat_kernels;
mod support;
