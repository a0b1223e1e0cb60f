//! The device that these tests run on.

use cubecl::cuda::{CudaDevice, CudaRuntime};
use cubecl::prelude::*;
use std::io::Write;
use std::path::Path;

pub type Client = ComputeClient<CudaRuntime>;

/// The first CUDA device. Where there is none the whole program ends, saying so: nothing can be tested.
pub fn client() -> Client {
    // The driver's own device files: the control node on Linux, and under Windows' Linux.
    if !["/dev/nvidiactl", "/dev/dxg"].iter().any(|path| Path::new(path).exists()) {
        // Past the capture of the test harness.
        let _ = writeln!(std::io::stderr(), "SKIPPED: needs an NVIDIA GPU");
        std::process::exit(0);
    }
    CudaRuntime::client(&CudaDevice::new(0))
}
