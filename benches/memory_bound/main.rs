//! Checks the memory-bound kernels on a CUDA device against f64, then times them at the size of a training step.
//!
//! `cargo bench --workspace --bench memory_bound`: GB/s and the share of a plain copy's, which is
//! measured in the same run. 200,960 rows are 256 clips of 4 frames in ViT-B/16.

#[cfg(feature = "cuda")]
mod cases;
#[cfg(feature = "cuda")]
mod check;

fn main() {
    #[cfg(feature = "cuda")]
    cases::run();
}
