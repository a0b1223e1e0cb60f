//! The device that these tests run on: whatever wgpu adapter there is. `tools/cuda-check` runs the same tests on another.

use cubecl::prelude::*;
use cubecl::wgpu::WgpuDevice;

pub type Runtime = cubecl::wgpu::WgpuRuntime;
pub type Client = ComputeClient<Runtime>;

/// Whether copies from the host run beside kernels.
pub const OVERLAPS: bool = false;

pub fn device() -> WgpuDevice {
    WgpuDevice::default()
}

pub fn client() -> Client {
    <Runtime as cubecl::Runtime>::client(&device())
}
