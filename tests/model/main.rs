//! The model on a device: against PyTorch, and through whole training runs. One program, because each that holds the model
//! takes minutes to compile.

#[path = "../common/mod.rs"]
mod common;

mod clip_parity;
mod device;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod device_parity;
mod gradients;
mod memory;
mod patch_dropout;
mod scale_on_device;
mod training;
mod videomae_parity;
mod videomae_training;
