//! The comparisons of `tests/model` with PyTorch, with slopes and with cleared gradients, on a CUDA device, in f32:
//! `cargo test --release --test model_on_cuda -- --test-threads=1`. Not run by a plain `cargo test`.

#[path = "../common/mod.rs"]
mod common;
mod device;

#[path = "../model/clip_parity.rs"]
mod clip_parity;
#[path = "../model/gradients.rs"]
mod gradients;
#[path = "../model/memory.rs"]
mod memory;
#[path = "../model/patch_dropout.rs"]
mod patch_dropout;
#[path = "../model/videomae_parity.rs"]
mod videomae_parity;
