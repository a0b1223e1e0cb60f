//! The device that the comparisons with PyTorch run on; `tests/model_on_cuda` has another.

use cubecl::wgpu::WgpuDevice;
pub use cubecl::wgpu::WgpuRuntime as R;

/// How far a product added to zeros may be from the product itself, over the largest element: our products are the same.
pub const SAME: f64 = 0.0;

pub fn device() -> WgpuDevice {
    WgpuDevice::default()
}
