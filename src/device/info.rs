//! What is said about a device.

use super::Target;
use cubecl::ir::{DeviceProperties, ElemType, FloatKind, UIntKind, features::Plane, features::TypeUsage};

/// What sort of hardware stands behind a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Discrete,
    Integrated,
    /// A GPU lent to a virtual machine, or one the driver does not classify.
    Virtual,
    /// No GPU: Mesa's software Vulkan.
    Cpu,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Discrete => "discrete",
            Kind::Integrated => "integrated",
            Kind::Virtual => "virtual",
            Kind::Cpu => "cpu",
        }
    }
}

/// An element type that buffers on the device can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Dtype {
    pub name: &'static str,
    /// Whether kernels compute in it too; without, they convert on load and store.
    pub arithmetic: bool,
}

/// What keeps a device or a backend from being used.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    pub what: String,
    /// What to install or to set.
    pub remedy: String,
}

impl Problem {
    pub(super) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Problem { what: what.into(), remedy: remedy.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

/// One device.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct DeviceInfo {
    /// `cuda` or `wgpu`.
    pub backend: &'static str,
    /// What `--device` takes to select it within its backend.
    pub index: usize,
    pub name: String,
    pub kind: Kind,
    /// API and driver with their versions.
    pub driver: String,
    /// Bytes. On a device of kind `cpu` this is main memory.
    pub memory_total: Option<u64>,
    /// Bytes not in use by any process, where the driver tells.
    pub memory_free: Option<u64>,
    /// Empty until the runtime has been started on the device.
    pub dtypes: Vec<Dtype>,
    /// Units that multiply small matrices (tensor cores) are reachable.
    pub tensor_cores: bool,
    /// Kernels may exchange values within a subgroup (warp).
    pub subgroups: bool,
    /// Why the device cannot be used as things are.
    pub problem: Option<Problem>,
}

impl DeviceInfo {
    /// A device of which only this much is known.
    pub(super) fn bare(backend: &'static str, index: usize, kind: Kind) -> Self {
        DeviceInfo {
            backend,
            index,
            name: String::new(),
            kind,
            driver: String::new(),
            memory_total: None,
            memory_free: None,
            dtypes: Vec::new(),
            tensor_cores: false,
            subgroups: false,
            problem: None,
        }
    }

    /// Takes over what the runtime reports.
    pub(super) fn describe(&mut self, properties: &DeviceProperties) {
        let candidates = [
            ("f32", ElemType::Float(FloatKind::F32)),
            ("f16", ElemType::Float(FloatKind::F16)),
            ("bf16", ElemType::Float(FloatKind::BF16)),
            ("u8", ElemType::UInt(UIntKind::U8)),
        ];
        self.dtypes = candidates
            .into_iter()
            .map(|(name, element)| (name, properties.type_usage(element.into())))
            .filter(|(_, usage)| usage.contains(TypeUsage::Buffer))
            .map(|(name, usage)| Dtype { name, arithmetic: usage.contains(TypeUsage::Arithmetic) })
            .collect();
        let matmul = &properties.features.matmul;
        self.tensor_cores = !matmul.mma.is_empty() || !matmul.cmma.is_empty();
        self.subgroups = properties.features.plane.contains(Plane::Ops);
    }

    /// As a sentence names it: `CUDA device 0 (NVIDIA H200)`.
    pub fn title(&self) -> String {
        match self.backend {
            "cuda" => format!("CUDA device {} ({})", self.index, self.name),
            _ => format!("wgpu adapter {} ({}, {})", self.index, self.name, self.kind.name()),
        }
    }
}

/// What `--backend auto` would take.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct AutoChoice {
    /// Position in [`Listing::devices`].
    pub position: usize,
    pub why: String,
}

/// Every device of every backend in this program.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Listing {
    pub devices: Vec<DeviceInfo>,
    /// What was not found or looks wrong, one sentence each.
    pub notes: Vec<String>,
    /// `None` when there is nothing to run on.
    pub auto: Option<AutoChoice>,
    #[serde(skip)]
    pub(super) targets: Vec<Target>,
}

impl Listing {
    /// The runtime's name for `devices[position]`.
    pub fn target(&self, position: usize) -> Option<&Target> {
        self.targets.get(position)
    }
}

/// What one backend found.
#[derive(Debug)]
pub(super) struct Scan {
    pub found: Vec<(Target, DeviceInfo)>,
    /// Why nothing was found.
    pub missing: Option<Problem>,
    pub notes: Vec<String>,
}

impl Scan {
    /// Nothing found, for this reason.
    pub fn missing(problem: Problem) -> Self {
        Scan { found: Vec::new(), missing: Some(problem), notes: Vec::new() }
    }

    /// Position of the best usable device: discrete before integrated before virtual before software.
    pub fn best(&self) -> Option<usize> {
        (0..self.found.len()).filter(|&i| self.found[i].1.problem.is_none()).min_by_key(|&i| (self.found[i].1.kind, i))
    }

    /// Why no device can be used; `None` when one can.
    pub fn problem(&self) -> Option<Problem> {
        if self.best().is_some() {
            return None;
        }
        let of_device = self.found.iter().find_map(|(_, info)| info.problem.clone());
        of_device
            .or_else(|| self.missing.clone())
            .or_else(|| Some(Problem::new("no device found", "see `avion devices`")))
    }
}
