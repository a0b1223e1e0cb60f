//! Tests for CUDA kernels on machines without a GPU.
//!
//! [`HostCuda`] is a CubeCL runtime with CUDA's compiler and the processor for a device: launchers that are generic over
//! `R: Runtime` choose the variant they choose on CUDA, and the generated CUDA C++ either runs over host memory
//! ([`Mode::Emulate`], for tests against references) or is recorded ([`Mode::Record`], for the register budget).
//!
//! | module | what it does |
//! | --- | --- |
//! | [`device`] | properties and features of each architecture |
//! | [`runtime`] | the runtime and its server |
//! | [`emulator`] | compiles a kernel with the system's C++ compiler and `emulator.h`, and `hopper.h` for our own; runs it |
//! | [`record`] | the kernels that were launched on a recording device |
//! | [`catalogue`] | launches every kernel as training does |
//! | [`nvrtc`] | compiles CUDA C++ and reports registers and spills |
//! | [`budget`] | what is allowed, and what broke it |

pub mod budget;
mod canonical;
pub mod catalogue;
pub mod device;
pub mod emulator;
pub mod nvrtc;
pub mod record;
pub mod runtime;

pub use device::{ARCHITECTURES, Arch, HostCudaDevice, Mode};
pub use runtime::HostCuda;

use std::path::{Path, PathBuf};

/// Where compiled kernels and compilers' reports are kept between runs: `cuda-check` in Cargo's target folder.
pub fn cache_folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target")).join("cuda-check")
}
