//! What a CUDA device of each architecture reports to CubeCL, so that launchers choose what they choose there.
//!
//! Source: `DeviceService for CudaServer` in cubecl-cuda 0.10, `runtime.rs`; numbers that it asks the driver for are
//! those of the CUDA C++ Programming Guide 13.0, table "Technical Specifications per Compute Capability".

use cubecl::{
    cuda::CudaCompiler,
    device::{Device, DeviceId},
    ir::{
        BarrierLevel, DeviceProperties, ElemType, FloatKind, HardwareProperties, MemoryDeviceProperties, OpaqueType,
        SemanticType, StorageType, Type, VectorSize,
        features::{AtomicUsage, Plane, Tma, TypeUsage},
    },
    profile::TimingMethod,
};
use cubecl_cpp::{
    DialectWmmaCompiler,
    cuda::{CudaDialect, arch::CudaArchitecture},
    register_supported_types,
    shared::{
        CompilationOptions, CppCompiler, CppSupportedFeatures, register_mma_features, register_scaled_mma_features,
        register_wmma_features,
    },
};
use std::{
    fmt::{self, Display, Formatter},
    marker::PhantomData,
    sync::atomic::{AtomicU8, Ordering},
};

/// The architectures that are checked.
pub const ARCHITECTURES: [Arch; 3] = [Arch(80), Arch(86), Arch(90)];

/// A compute capability, such as 80 for 8.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arch(pub u16);

/// As CubeCL hands it to NVRTC: from 9.0 on with the architecture's own features, `sm_90a`.
impl Display for Arch {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.0, if self.0 >= 90 { "a" } else { "" })
    }
}

impl Arch {
    /// The most shared memory that a block may ask for, in bytes.
    pub fn max_shared_memory(self) -> usize {
        let kib = match self.0 {
            80 | 87 => 163,
            86 | 89 | 120 => 99,
            _ => 227,
        };
        kib * 1024
    }
}

/// What happens to a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The kernel runs on the processor, over buffers in host memory.
    Emulate,
    /// The kernel's source is recorded; buffers have a size but no memory.
    Record,
}

/// A CUDA device that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostCudaDevice {
    pub arch: Arch,
    pub mode: Mode,
    /// Devices of different numbers work at the same time; one works through its launches in order.
    pub number: u8,
    /// Two multiprocessors instead of all: blocks that stay and take one item after another then have some to take.
    pub few: bool,
}

impl Default for HostCudaDevice {
    fn default() -> Self {
        Self { arch: Arch(80), mode: Mode::Emulate, number: 0, few: false }
    }
}

thread_local! {
    static NUMBER: u8 = {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % 16
    };
}

impl HostCudaDevice {
    /// The default, with a number of the thread's own: for tests that run side by side.
    pub fn of_this_thread() -> Self {
        Self { number: NUMBER.with(|number| *number), ..Self::default() }
    }
}

impl Device for HostCudaDevice {
    fn from_id(id: DeviceId) -> Self {
        let mode = if id.type_id & 1 == 0 { Mode::Emulate } else { Mode::Record };
        Self { arch: Arch(id.index_id), mode, few: id.type_id & 2 != 0, number: (id.type_id >> 2) as u8 }
    }

    fn to_id(&self) -> DeviceId {
        let flags = u16::from(self.few) << 1 | u16::from(self.mode == Mode::Record);
        DeviceId { type_id: u16::from(self.number) << 2 | flags, index_id: self.arch.0 }
    }
}

/// The tensor-core products of CubeCL's CUDA compiler, whichever of its two it was built with.
fn register_products<W>(_: PhantomData<CppCompiler<CudaDialect<W>>>, arch: Arch, properties: &mut DeviceProperties)
where
    W: DialectWmmaCompiler<CudaDialect<W>>,
{
    let arch = CudaArchitecture { version: arch.0.into() };
    let products = W::supported_wmma_combinations(&arch);
    properties.hardware.min_tensor_cores_dim = (!products.is_empty()).then_some(8);
    register_wmma_features(products, properties);
    register_mma_features(W::supported_mma_combinations(&arch), properties);
    register_scaled_mma_features(W::supported_scaled_mma_combinations(&arch), properties);
}

/// Properties and features as CubeCL registers them for this architecture (8.0 to 9.0).
pub fn properties(HostCudaDevice { arch, few, .. }: HostCudaDevice) -> DeviceProperties {
    let hardware = HardwareProperties {
        load_width: 128,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 1024,
        max_shared_memory_size: arch.max_shared_memory(),
        max_cube_count: (i32::MAX as u32, 65_535, 65_535),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 64),
        num_streaming_multiprocessors: Some(match arch.0 {
            _ if few => 2,
            80 => 108,
            86 => 84,
            _ => 132,
        }),
        num_tensor_cores: Some(4),
        min_tensor_cores_dim: None,
        num_cpu_cores: None,
        max_vector_size: VectorSize::MAX,
    };
    let memory = MemoryDeviceProperties { max_page_size: 1 << 40, alignment: 512 };
    let mut properties = DeviceProperties::new(Default::default(), memory, hardware, TimingMethod::System);
    register_supported_types(&mut properties);
    let float = |kind| ElemType::Float(kind);
    properties.register_type_usage(float(FloatKind::TF32), TypeUsage::Conversion);
    let mut atomic = |kind, lanes| {
        let ty = Type::new(StorageType::Atomic(float(kind))).with_vector_size(lanes);
        properties.register_atomic_type_usage(ty, AtomicUsage::Add | AtomicUsage::LoadStore);
    };
    atomic(FloatKind::F64, 1);
    atomic(FloatKind::F16, 1);
    atomic(FloatKind::F16, 2);
    if arch.0 >= 90 {
        atomic(FloatKind::F32, 2);
        atomic(FloatKind::F32, 4);
    }
    properties.register_semantic_type(SemanticType::Pipeline);
    for level in [BarrierLevel::Unit, BarrierLevel::Cube] {
        properties.register_type_usage(OpaqueType::Barrier(level), TypeUsage::Buffer);
    }
    if arch.0 >= 89 {
        for kind in [FloatKind::E4M3, FloatKind::E5M2] {
            properties.register_type_usage(float(kind), TypeUsage::Conversion | TypeUsage::Buffer);
        }
    }
    let halves: [StorageType; 2] = [float(FloatKind::F16).into(), float(FloatKind::BF16).into()];
    let features = &mut properties.features;
    features.matmul.ldmatrix.extend(halves);
    features.copy_async = arch.0 >= 80;
    features.memory_reinterpret = true;
    features.alignment = true;
    for plane in [Plane::Sync, Plane::Ops, Plane::NonUniformControlFlow] {
        features.plane.insert(plane);
    }
    if arch.0 >= 90 {
        features.tma.insert(Tma::Base);
        features.cube_cluster = true;
        features.matmul.stmatrix.extend(halves);
        properties.register_semantic_type(SemanticType::TensorMap);
    }
    register_products(PhantomData::<CudaCompiler>, arch, &mut properties);
    properties
}

/// The compiler options that go with [`properties`].
pub fn compilation_options(arch: Arch) -> CompilationOptions {
    CompilationOptions {
        warp_size: 32,
        supports_features: CppSupportedFeatures {
            grid_constants: true,
            clusters: arch.0 >= 90,
            fast_math: true,
            fast_tanh: true,
            elect_sync: arch.0 >= 90,
        },
    }
}
