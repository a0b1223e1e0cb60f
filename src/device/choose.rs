//! Which devices there are, and which one to run on.

use super::{
    AutoChoice, DeviceError, DeviceInfo, Kind, Listing, Problem, Target, ask_runtime, info::Scan, memory_free,
};

/// `--backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum BackendChoice {
    /// CUDA if it is usable, else a GPU through wgpu, else software Vulkan
    #[default]
    Auto,
    /// An NVIDIA GPU
    Cuda,
    /// Vulkan (Linux, Windows) or Metal (macOS)
    Wgpu,
}

impl std::str::FromStr for BackendChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(BackendChoice::Auto),
            "cuda" => Ok(BackendChoice::Cuda),
            "wgpu" => Ok(BackendChoice::Wgpu),
            other => Err(format!("unknown backend `{other}`: expected auto, cuda or wgpu")),
        }
    }
}

/// The device to run on.
#[derive(Debug, Clone)]
pub struct Chosen {
    pub target: Target,
    pub info: DeviceInfo,
    /// One sentence: what was taken, and why nothing better.
    pub why: String,
}

#[cfg(feature = "cuda")]
fn scan_cuda() -> Scan {
    super::cuda::scan()
}

#[cfg(not(feature = "cuda"))]
fn scan_cuda() -> Scan {
    not_compiled("cuda")
}

#[cfg(feature = "wgpu")]
fn scan_wgpu() -> Scan {
    super::wgpu_adapters::scan()
}

#[cfg(not(feature = "wgpu"))]
fn scan_wgpu() -> Scan {
    not_compiled("wgpu")
}

#[cfg(not(all(feature = "cuda", feature = "wgpu")))]
fn not_compiled(backend: &str) -> Scan {
    Scan::missing(Problem::new("not in this program", format!("build it with `--features {backend}`")))
}

/// A sentence about the device taken, for one who may have hoped for CUDA; `no_cuda` says why it is not that.
fn sentence(info: &DeviceInfo, no_cuda: Option<&Problem>) -> String {
    let slow = match info.kind {
        Kind::Cpu => ", software Vulkan: slow, for tests and the demo only",
        _ => "",
    };
    match no_cuda {
        Some(problem) => format!("no CUDA device ({}); taking {}{slow}", problem.what, info.title()),
        None => format!("{}{slow}", info.title()),
    }
}

/// Position of device `index` of a backend, or of its best one.
fn pick(backend: &'static str, scan: &Scan, index: Option<usize>) -> Result<usize, DeviceError> {
    let unavailable = |reason| DeviceError::Unavailable { backend, reason };
    if let Some(problem) = scan.problem() {
        return Err(unavailable(problem));
    }
    let position = match index {
        None => scan.best(),
        Some(index) => scan.found.iter().position(|(_, info)| info.index == index),
    };
    let Some(position) = position else {
        let valid: Vec<_> = scan.found.iter().map(|(_, info)| info.index.to_string()).collect();
        return Err(DeviceError::NoSuchDevice { backend, index: index.unwrap_or_default(), valid: valid.join(", ") });
    };
    match &scan.found[position].1.problem {
        Some(problem) => Err(unavailable(problem.clone())),
        None => Ok(position),
    }
}

/// [`choose`] without starting anything; a backend is only looked at when it matters.
fn decide(
    choice: BackendChoice,
    device: Option<usize>,
    cuda: impl FnOnce() -> Scan,
    wgpu: impl FnOnce() -> Scan,
) -> Result<Chosen, DeviceError> {
    let (backend, mut scan, no_cuda) = match choice {
        BackendChoice::Cuda => ("cuda", cuda(), None),
        BackendChoice::Wgpu => ("wgpu", wgpu(), None),
        BackendChoice::Auto => {
            let cuda = cuda();
            match cuda.problem() {
                None => ("cuda", cuda, None),
                Some(no_cuda) => {
                    let wgpu = wgpu();
                    if let Some(no_wgpu) = wgpu.problem() {
                        return Err(DeviceError::NoDevice { cuda: no_cuda, wgpu: no_wgpu });
                    }
                    ("wgpu", wgpu, Some(no_cuda))
                }
            }
        }
    };
    let position = pick(backend, &scan, device)?;
    let (target, info) = scan.found.swap_remove(position);
    let why = sentence(&info, no_cuda.as_ref());
    Ok(Chosen { target, info, why })
}

/// Takes the device that `--backend` and `--device` ask for and starts the runtime on it.
///
/// `auto` takes CUDA when a device is usable, then a GPU through wgpu (discrete before integrated before virtual), then
/// software Vulkan; `device` counts within the backend so found.
///
/// # Errors
/// A backend that is not in this program, that has no usable device, or that has no device with this number; and what
/// the driver says when the runtime cannot start.
pub fn choose(choice: BackendChoice, device: Option<usize>) -> Result<Chosen, DeviceError> {
    let backend = match choice {
        BackendChoice::Cuda if !cfg!(feature = "cuda") => Some("cuda"),
        BackendChoice::Wgpu if !cfg!(feature = "wgpu") => Some("wgpu"),
        _ => None,
    };
    if let Some(backend) = backend {
        return Err(DeviceError::NotCompiled { backend });
    }
    let mut chosen = decide(choice, device, scan_cuda, scan_wgpu)?;
    chosen.info.memory_free = memory_free(&chosen.target);
    ask_runtime(&chosen.target, &mut chosen.info)?;
    Ok(chosen)
}

/// Every device there is; starts the runtime on each usable one to ask what it can do.
pub fn list() -> Listing {
    let (cuda, wgpu) = (scan_cuda(), scan_wgpu());
    let auto = match (cuda.best(), cuda.problem()) {
        (Some(best), _) => Some((best, sentence(&cuda.found[best].1, None))),
        (None, no_cuda) => wgpu.best().map(|best| {
            let why = sentence(&wgpu.found[best].1, no_cuda.as_ref());
            (cuda.found.len() + best, why)
        }),
    };
    let mut notes = Vec::new();
    for (name, scan) in [("CUDA", &cuda), ("wgpu", &wgpu)] {
        notes.extend(scan.missing.iter().map(|problem| format!("{name}: {problem}")));
        notes.extend(scan.notes.iter().map(|note| format!("{name}: {note}")));
    }
    let (targets, mut devices): (Vec<_>, Vec<_>) = cuda.found.into_iter().chain(wgpu.found).unzip();
    for (target, info) in targets.iter().zip(&mut devices) {
        if let Some(problem) = &info.problem {
            notes.push(format!("{}: {problem}", info.title()));
            continue;
        }
        info.memory_free = memory_free(target);
        if let Err(error) = ask_runtime(target, info) {
            notes.push(format!("{}: {error}", info.title()));
        }
    }
    Listing { devices, notes, auto: auto.map(|(position, why)| AutoChoice { position, why }), targets }
}

#[cfg(all(test, feature = "wgpu"))]
mod tests {
    use super::*;
    use cubecl::wgpu::WgpuDevice;

    fn device(backend: &'static str, index: usize, kind: Kind) -> (Target, DeviceInfo) {
        let info = DeviceInfo { name: format!("{} {index}", kind.name()), ..DeviceInfo::bare(backend, index, kind) };
        (Target::Wgpu(WgpuDevice::Cpu), info)
    }

    fn scan(found: Vec<(Target, DeviceInfo)>) -> Scan {
        Scan { found, missing: None, notes: Vec::new() }
    }

    fn no_cuda() -> Scan {
        Scan::missing(Problem::new("no libcuda", "install it"))
    }

    #[test]
    fn auto_prefers_cuda_then_real_gpus_then_software() {
        let cuda = || scan(vec![device("cuda", 0, Kind::Discrete)]);
        let never = || -> Scan { panic!("wgpu is not looked at when CUDA is usable") };
        let chosen = decide(BackendChoice::Auto, None, cuda, never).unwrap();
        assert_eq!(chosen.why, "CUDA device 0 (discrete 0)");

        let gpus = || {
            scan(vec![
                device("wgpu", 0, Kind::Cpu),
                device("wgpu", 1, Kind::Integrated),
                device("wgpu", 2, Kind::Discrete),
            ])
        };
        let chosen = decide(BackendChoice::Auto, None, no_cuda, gpus).unwrap();
        assert_eq!(chosen.why, "no CUDA device (no libcuda); taking wgpu adapter 2 (discrete 2, discrete)");
        let chosen = decide(BackendChoice::Auto, Some(0), no_cuda, gpus).unwrap();
        assert!(chosen.why.contains("software Vulkan: slow"), "{}", chosen.why);
    }

    #[test]
    fn a_blocked_cuda_device_is_passed_over_by_auto_and_explained_when_asked_for() {
        let cuda = || {
            let (target, mut info) = device("cuda", 0, Kind::Discrete);
            info.problem = Some(Problem::new("libnvrtc.so not found", "install cuda-nvrtc"));
            scan(vec![(target, info)])
        };
        let wgpu = || scan(vec![device("wgpu", 0, Kind::Discrete)]);
        let chosen = decide(BackendChoice::Auto, None, cuda, wgpu).unwrap();
        assert!(chosen.why.starts_with("no CUDA device (libnvrtc.so not found); taking wgpu"), "{}", chosen.why);
        let error = decide(BackendChoice::Cuda, Some(0), cuda, wgpu).unwrap_err();
        assert!(error.to_string().contains("install cuda-nvrtc"), "{error}");
    }

    #[test]
    fn a_wrong_number_names_the_right_ones_and_nothing_at_all_names_both_remedies() {
        let two = || scan(vec![device("wgpu", 0, Kind::Discrete), device("wgpu", 1, Kind::Cpu)]);
        let error = decide(BackendChoice::Wgpu, Some(7), no_cuda, two).unwrap_err();
        assert!(error.to_string().contains("has no device 7; --device takes 0, 1"), "{error}");

        let no_vulkan = || Scan::missing(Problem::new("no adapter", "install a driver"));
        let error = decide(BackendChoice::Auto, None, no_cuda, no_vulkan).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no device to run on. CUDA: no libcuda; install it. wgpu: no adapter; install a driver"
        );
    }
}
