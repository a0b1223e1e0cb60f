//! NVIDIA GPUs, and what CubeCL needs on this system to compile kernels for them.
//!
//! CubeCL loads `libcuda` and NVRTC when first used and panics when one is missing, and it hands NVRTC the toolkit's
//! headers, without which nothing compiles. All three are looked for here first.

use super::{DeviceInfo, Kind, Problem, Target, info::Scan};
use cudarc::driver::{result, sys};

/// Oldest driver that has every function CubeCL 0.10 calls (`cuLaunchKernelEx`, `cuTensorMapEncodeTiled`).
const OLDEST_DRIVER: i32 = 12_000;

/// Every CUDA device the driver shows this process (`CUDA_VISIBLE_DEVICES` applies).
pub(super) fn scan() -> Scan {
    // SAFETY: loads a library and drops it; libcuda and NVRTC may be loaded and unloaded at any time.
    if !unsafe { sys::is_culib_present() } {
        return Scan::missing(Problem::new(
            "libcuda.so not found",
            "for an NVIDIA GPU install NVIDIA's driver (Ubuntu: `ubuntu-drivers install`; Debian: \
             `apt-get install nvidia-driver`); in a container, start it with the GPU (`--gpus all`)",
        ));
    }
    let driver = driver_version();
    if driver < OLDEST_DRIVER {
        return Scan::missing(Problem::new(
            format!("the NVIDIA driver is for CUDA {}", version(driver)),
            "install one for CUDA 12.0 or newer (version 525 or newer)",
        ));
    }
    let count = match result::init().and_then(|()| result::device::get_count()) {
        Ok(0) => return Scan::missing(no_device("the driver shows no device")),
        Ok(count) => count,
        Err(error) => return Scan::missing(no_device(&describe_error(error))),
    };
    let compiler = Compiler::find();
    let problem = compiler.problem(driver);
    let (mut found, mut notes) = (Vec::new(), Vec::new());
    for index in 0..count {
        match describe(index, driver, &compiler) {
            Ok(mut info) => {
                info.problem = problem.clone();
                let target = Target::Cuda(cubecl::cuda::CudaDevice::new(index as usize));
                found.push((target, info));
            }
            Err(error) => notes.push(format!("device {index}: {}", describe_error(error))),
        }
    }
    let missing = found.is_empty().then(|| no_device("no device answers"));
    Scan { found, missing, notes }
}

fn no_device(what: &str) -> Problem {
    Problem::new(what, "check that `nvidia-smi` lists the GPU and that CUDA_VISIBLE_DEVICES does not hide it")
}

fn describe_error(error: result::DriverError) -> String {
    let name = error.error_name().map(|name| name.to_string_lossy().into_owned());
    let text = error.error_string().map(|text| text.to_string_lossy().into_owned());
    match (name, text) {
        (Ok(name), Ok(text)) => format!("{name} ({text})"),
        _ => format!("CUDA error {}", error.0 as u32),
    }
}

/// `13020` -> `13.2`.
fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// The newest CUDA version the driver supports, as `1000 * major + 10 * minor`; 0 when it does not say.
fn driver_version() -> i32 {
    let mut version = 0;
    // SAFETY: writes one integer; allowed before `cuInit`.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_or(0, |()| version)
}

fn describe(index: i32, driver: i32, compiler: &Compiler) -> Result<DeviceInfo, result::DriverError> {
    use sys::CUdevice_attribute::*;
    let device = result::device::get(index)?;
    // SAFETY: `device` comes from `cuDeviceGet`; the calls only read its properties.
    let attribute = |attribute| unsafe { result::device::get_attribute(device, attribute) };
    let capability = (
        attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    let kind = match attribute(CU_DEVICE_ATTRIBUTE_INTEGRATED)? {
        0 => Kind::Discrete,
        _ => Kind::Integrated,
    };
    // SAFETY: as above.
    let memory = unsafe { result::device::total_mem(device)? };
    let mut text = format!("CUDA {}, sm_{}{}", version(driver), capability.0, capability.1);
    if let Some(nvrtc) = compiler.nvrtc {
        text += &format!(", NVRTC {}", version(nvrtc));
    }
    Ok(DeviceInfo {
        name: result::device::get_name(device)?,
        driver: text,
        memory_total: Some(memory as u64),
        ..DeviceInfo::bare("cuda", index as usize, kind)
    })
}

/// What compiles kernels at run time.
struct Compiler {
    /// NVRTC's version as `1000 * major + 10 * minor`.
    nvrtc: Option<i32>,
    /// Where CubeCL looks for headers.
    toolkit: Option<std::path::PathBuf>,
}

impl Compiler {
    fn find() -> Self {
        Compiler { nvrtc: nvrtc_version(), toolkit: cubecl::cuda::install::cuda_path() }
    }

    fn problem(&self, driver: i32) -> Option<Problem> {
        let packages = format!("cuda-toolkit-{}-{}", driver / 1000, driver % 1000 / 10);
        let Some(nvrtc) = self.nvrtc else {
            return Some(Problem::new(
                "libnvrtc.so, CUDA's run-time compiler, is not found",
                format!(
                    "install {packages} from NVIDIA's package repository (Debian, Ubuntu: nvidia-cuda-toolkit), or \
                     `pip install nvidia-cuda-nvrtc` and put its lib folder on LD_LIBRARY_PATH"
                ),
            ));
        };
        // The driver translates NVRTC's output and refuses that of a newer CUDA than its own.
        if nvrtc > driver {
            return Some(Problem::new(
                format!("NVRTC {} is newer than the driver, which is for CUDA {}", version(nvrtc), version(driver)),
                format!("put {packages} first on LD_LIBRARY_PATH, or update the driver"),
            ));
        }
        let header = |path: &std::path::Path| path.join("include/cuda_runtime.h").is_file();
        match &self.toolkit {
            Some(path) if header(path) => None,
            Some(path) => Some(Problem::new(
                format!("{} has no include/cuda_runtime.h", path.display()),
                format!("set CUDA_PATH to a CUDA toolkit, or install {packages}"),
            )),
            None => Some(Problem::new(
                "CUDA's headers are not found",
                format!(
                    "set CUDA_PATH to a CUDA toolkit (default: /usr/local/cuda), or install {packages} (Debian, \
                     Ubuntu: nvidia-cuda-toolkit)"
                ),
            )),
        }
    }
}

fn nvrtc_version() -> Option<i32> {
    // SAFETY: loads a library and drops it.
    if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        return None;
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is there, and the function writes two integers.
    let status = unsafe { cudarc::nvrtc::sys::nvrtcVersion(&mut major, &mut minor) };
    status.result().ok().map(|()| major * 1000 + minor * 10)
}

/// Bytes free on device `index`, over all processes. Starts a context on it for the moment.
pub(super) fn memory_free(index: usize) -> Option<u64> {
    let device = result::device::get(index as i32).ok()?;
    let before = result::ctx::get_current().ok()?;
    // SAFETY: the primary context is retained while it is current, the thread's own is put back before the release, and
    // the release undoes exactly this retain, whoever else holds the context.
    unsafe {
        let context = result::primary_ctx::retain(device).ok()?;
        let free = result::ctx::set_current(context).and_then(|()| result::mem_get_info());
        let restored = result::ctx::set_current(before.unwrap_or(std::ptr::null_mut()));
        let released = result::primary_ctx::release(device);
        restored.and(released).ok()?;
        free.ok().map(|(free, _)| free as u64)
    }
}

/// The context of a device that CubeCL computes in, and a stream that does not wait for its streams.
#[cfg(feature = "video")]
pub(crate) struct SharedCuda {
    pub context: *mut std::ffi::c_void,
    pub stream: *mut std::ffi::c_void,
}

/// Device `index` for others beside CubeCL; both are kept until the process ends. `None` where there is none.
#[cfg(feature = "video")]
pub(crate) fn shared_cuda(index: usize) -> Option<SharedCuda> {
    // SAFETY: loads a library and drops it.
    if !unsafe { sys::is_culib_present() } {
        return None;
    }
    result::init().ok()?;
    let device = result::device::get(i32::try_from(index).ok()?).ok()?;
    let before = result::ctx::get_current().ok()?;
    // SAFETY: the primary context is retained and never released; the thread's own is put back.
    unsafe {
        let context = result::primary_ctx::retain(device).ok()?;
        let kind = result::stream::StreamKind::NonBlocking;
        let stream = result::ctx::set_current(context).and_then(|()| result::stream::create(kind));
        result::ctx::set_current(before.unwrap_or(std::ptr::null_mut())).ok()?;
        Some(SharedCuda { context: context.cast(), stream: stream.ok()?.cast() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_part_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let compiler = |nvrtc, toolkit: Option<&std::path::Path>| Compiler {
            nvrtc,
            toolkit: toolkit.map(|path| path.to_path_buf()),
        };
        let what = |compiler: Compiler| compiler.problem(12_040).map(|problem| problem.what);
        assert!(what(compiler(None, None)).unwrap().contains("libnvrtc.so"));
        let newer = what(compiler(Some(13_000), None)).unwrap();
        assert_eq!(newer, "NVRTC 13.0 is newer than the driver, which is for CUDA 12.4");
        assert!(what(compiler(Some(12_040), None)).unwrap().contains("headers"));
        let path = Some(folder.path());
        assert!(what(compiler(Some(12_040), path)).unwrap().contains("cuda_runtime.h"));
        std::fs::create_dir(folder.path().join("include")).unwrap();
        std::fs::write(folder.path().join("include/cuda_runtime.h"), "").unwrap();
        assert_eq!(what(compiler(Some(12_040), path)), None);
    }
}
