//! Devices: what there is, which one to take, whether it computes right, and what can go wrong on it.
//!
//! [`choose`] looks before CubeCL does: CubeCL panics when it is asked for an adapter or a driver that is not there.
//! The adapters are those CubeCL itself would consider, in the same order, so an index means the same to both.

#[cfg(not(any(feature = "cuda", feature = "wgpu")))]
compile_error!("avion needs a backend: build it with feature `cuda`, `wgpu` or both");

mod choose;
#[cfg(feature = "cuda")]
mod cuda;
mod error;
mod info;
mod self_check;
mod self_check_fused;
mod table;
#[cfg(feature = "wgpu")]
mod wgpu_adapters;

pub use choose::{BackendChoice, Chosen, choose, list};
#[cfg(all(feature = "cuda", feature = "video"))]
pub(crate) use cuda::{SharedCuda, shared_cuda};
pub use error::DeviceError;
pub use info::{AutoChoice, DeviceInfo, Dtype, Kind, Listing, Problem};
pub use self_check::{Check, CheckReport, check_all, self_check};
pub use table::{json, render};

/// A device as the runtimes know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    #[cfg(feature = "cuda")]
    Cuda(cubecl::cuda::CudaDevice),
    #[cfg(feature = "wgpu")]
    Wgpu(cubecl::wgpu::WgpuDevice),
}

/// Runs `$body` with `$client` bound to the runtime's client of `$target`.
macro_rules! with_client {
    ($target:expr, $client:ident => $body:expr) => {
        match *$target {
            #[cfg(feature = "cuda")]
            $crate::device::Target::Cuda(ref device) => {
                let $client = <cubecl::cuda::CudaRuntime as cubecl::Runtime>::client(device);
                $body
            }
            #[cfg(feature = "wgpu")]
            $crate::device::Target::Wgpu(ref device) => {
                let $client = <cubecl::wgpu::WgpuRuntime as cubecl::Runtime>::client(device);
                $body
            }
        }
    };
}
pub(crate) use with_client;

/// Keeps Mesa's Vulkan layer for choosing among GPUs from looking for a desktop where there is none: it would print
/// `error: XDG_RUNTIME_DIR is invalid` several times. Does nothing on a desktop, or where the user steers that layer.
///
/// # Safety
/// Sets an environment variable: to be called before the process has a second thread.
pub unsafe fn skip_desktop_layer() {
    let desktop = ["XDG_RUNTIME_DIR", "WAYLAND_DISPLAY", "DISPLAY", "MESA_VK_DEVICE_SELECT", "DRI_PRIME"];
    if desktop.iter().all(|name| std::env::var_os(name).is_none()) {
        // SAFETY: the caller vouches that no other thread reads the environment. The name is the layer's own switch
        // (`disable_environment` in its manifest, VkLayer_MESA_device_select.json).
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

/// Starts the runtime on the device, so that a driver which fails does so here and as an error.
///
/// Once per process is enough; a second call does nothing.
///
/// # Errors
/// [`DeviceError`] with what the driver said.
pub fn init(target: &Target) -> Result<(), DeviceError> {
    DeviceError::catch(|| {
        with_client!(target, client => {
            client.flush().map_err(DeviceError::from_server)
        })
    })
}

/// Bytes of device memory the runtime holds for this process, whether in use or kept for reuse.
///
/// Counts the calling thread's stream, as CubeCL keeps one pool per thread: call it on the thread that issues work.
/// The driver's own share (context, compiled kernels) is not in it. `None` on a device that has failed.
pub fn memory_used(target: &Target) -> Option<u64> {
    DeviceError::catch(|| {
        with_client!(target, client => {
            client
                .memory_usage()
                .map(|usage| usage.bytes_reserved)
                .map_err(DeviceError::from_server)
        })
    })
    .ok()
}

/// Bytes no process uses on the device; only CUDA's driver tells.
pub fn memory_free(target: &Target) -> Option<u64> {
    match *target {
        #[cfg(feature = "cuda")]
        Target::Cuda(ref device) => cuda::memory_free(device.index),
        #[cfg(feature = "wgpu")]
        Target::Wgpu(_) => None,
    }
}

/// Fills in what only the runtime knows: element types, matrix units, subgroups. Starts the runtime on the device.
fn ask_runtime(target: &Target, info: &mut DeviceInfo) -> Result<(), DeviceError> {
    DeviceError::catch(|| {
        with_client!(target, client => info.describe(client.properties()));
        Ok(())
    })
}
