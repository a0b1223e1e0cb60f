//! The device that these tests run on: whatever wgpu adapter there is. `tools/cuda-check` runs the same tests on another.

use cubecl::prelude::*;
use cubecl::wgpu::{WgpuDevice, WgpuRuntime};

pub type Client = ComputeClient<WgpuRuntime>;

pub fn client() -> Client {
    WgpuRuntime::client(&WgpuDevice::default())
}
