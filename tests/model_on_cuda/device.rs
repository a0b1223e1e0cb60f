//! The device that these tests run on.

use cubecl::cuda::CudaDevice;
pub use cubecl::cuda::CudaRuntime as R;
use std::io::Write;
use std::path::Path;

/// How far a product added to zeros may be from the product itself, over the largest element: cuBLASLt may take another
/// algorithm.
pub const SAME: f64 = 1e-5;

/// The first CUDA device. Where there is none the whole program ends, saying so: nothing can be tested.
pub fn device() -> CudaDevice {
    // The driver's own device files: the control node on Linux, and under Windows' Linux.
    if !["/dev/nvidiactl", "/dev/dxg"].iter().any(|path| Path::new(path).exists()) {
        // Past the capture of the test harness.
        let _ = writeln!(std::io::stderr(), "SKIPPED: needs an NVIDIA GPU");
        std::process::exit(0);
    }
    CudaDevice::new(0)
}
