//! The device that these tests run on.

use cubecl::Runtime as _;
use cubecl::cuda::{CudaDevice, CudaRuntime};
use cubecl::prelude::*;
use std::io::Write;
use std::path::Path;

pub type Runtime = CudaRuntime;
pub type Client = ComputeClient<Runtime>;

/// Whether copies from the host run beside kernels.
pub const OVERLAPS: bool = true;

pub fn device() -> CudaDevice {
    CudaDevice::new(0)
}

/// The first CUDA device. Where there is none the whole program ends, saying so: nothing can be tested.
pub fn client() -> Client {
    // The driver's own device files: the control node on Linux, and under Windows' Linux.
    if !["/dev/nvidiactl", "/dev/dxg"].iter().any(|path| Path::new(path).exists()) {
        // Past the capture of the test harness.
        let _ = writeln!(std::io::stderr(), "SKIPPED: needs an NVIDIA GPU");
        std::process::exit(0);
    }
    CudaRuntime::client(&device())
}
