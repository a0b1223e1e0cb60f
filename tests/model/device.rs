//! The device that the comparisons with PyTorch run on; `tests/model_on_cuda` has another.

use cubecl::wgpu::WgpuDevice;
pub use cubecl::wgpu::WgpuRuntime as R;

pub fn device() -> WgpuDevice {
    WgpuDevice::default()
}
