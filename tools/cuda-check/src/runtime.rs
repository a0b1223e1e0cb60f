//! A CubeCL runtime whose compiler is CUDA's and whose device is this machine's processor.

use crate::{
    canonical::canonical,
    device::{self, Arch, HostCudaDevice, Mode},
    emulator::{Kernel, TensorMap},
    record,
};
use cubecl::{
    CompilationError, CubeTask, Runtime,
    backtrace::BackTrace,
    bytes::Bytes,
    client::ComputeClient,
    cuda::{CudaCompiler, CudaRuntime},
    device::{Device, DeviceId, DeviceService},
    future::DynFut,
    ir::{MemoryDeviceProperties, TargetProperties},
    prelude::{CubeCount, ExecutionMode, TensorMapFormat, TensorMapSwizzle, TiledArgs},
    profile::ProfileDuration,
    server::{
        Binding, ComputeServer, CopyDescriptor, KernelArguments, ProfileError, ProfilingToken, ServerCommunication,
        ServerError, ServerUtilities, TensorMapBinding, TensorMapMeta,
    },
    stream_id::StreamId,
    zspace::{Shape, Strides},
};
use cubecl_cpp::shared::CompilationOptions;
use cubecl_runtime::{
    allocator::ContiguousMemoryLayoutPolicy,
    id::KernelId,
    logging::ServerLogger,
    memory_management::{
        ManagedMemoryHandle, MemoryAllocationMode, MemoryConfiguration, MemoryManagement, MemoryManagementOptions,
        MemoryUsage,
    },
    storage::{BytesResource, BytesStorage, ManagedResource},
    timestamp_profiler::TimestampProfiler,
};
use std::{
    any::Any,
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// Bytes after each buffer that no kernel may write.
const GUARD: u64 = 256;
/// What memory holds before it is written, guards included: a NaN in every float format.
const POISON: u8 = 0xFF;
/// Buffers start at multiples of this many bytes; large enough for every vector type.
const ALIGNMENT: usize = 16;

/// A kernel's CUDA C++, with what a launch must know.
#[derive(Debug)]
pub(crate) struct Generated {
    pub name: &'static str,
    pub entry: String,
    pub source: String,
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared_memory: usize,
}

/// The runtime. Launchers that are generic over `R: Runtime` run on it as they run on `CudaRuntime`.
#[derive(Debug, Clone)]
pub struct HostCuda;

impl Runtime for HostCuda {
    type Compiler = CudaCompiler;
    type Server = HostCudaServer;
    type Device = HostCudaDevice;

    fn client(device: &Self::Device) -> ComputeClient<Self> {
        ComputeClient::load(device)
    }

    fn name(_client: &ComputeClient<Self>) -> &'static str {
        "host-cuda"
    }

    fn require_array_lengths() -> bool {
        CudaRuntime::require_array_lengths()
    }

    fn max_cube_count() -> (u32, u32, u32) {
        CudaRuntime::max_cube_count()
    }

    fn can_read_tensor(shape: &Shape, strides: &Strides) -> bool {
        CudaRuntime::can_read_tensor(shape, strides)
    }

    fn target_properties() -> TargetProperties {
        CudaRuntime::target_properties()
    }

    fn enumerate_devices(_type_id: u16, _info: &()) -> Vec<DeviceId> {
        vec![HostCudaDevice::default().to_id()]
    }
}

/// Keeps buffers in host memory and carries launches out, or only records them.
#[derive(Debug)]
pub struct HostCudaServer {
    arch: Arch,
    mode: Mode,
    options: CompilationOptions,
    memory: MemoryManagement<BytesStorage>,
    kernels: HashMap<KernelId, Kernel>,
    /// What went wrong since the last synchronisation; the next one returns it, as CUDA's server does.
    errors: Vec<ServerError>,
    timestamps: TimestampProfiler,
    utilities: Arc<ServerUtilities<Self>>,
}

impl ServerCommunication for HostCudaServer {
    const SERVER_COMM_ENABLED: bool = false;
}

impl DeviceService for HostCudaServer {
    fn init(id: DeviceId) -> Self {
        let device = HostCudaDevice::from_id(id);
        let HostCudaDevice { arch, mode, .. } = device;
        let logger = Arc::new(ServerLogger::default());
        let memory = MemoryManagement::from_configuration(
            BytesStorage::default(),
            &MemoryDeviceProperties { max_page_size: 1 << 30, alignment: ALIGNMENT as u64 },
            MemoryConfiguration::ExclusivePages,
            logger.clone(),
            MemoryManagementOptions::new("host"),
        );
        let policy = ContiguousMemoryLayoutPolicy::new(ALIGNMENT);
        let utilities = Arc::new(ServerUtilities::new(device::properties(device), logger, (), policy));
        Self {
            arch,
            mode,
            options: device::compilation_options(arch),
            memory,
            kernels: HashMap::new(),
            errors: Vec::new(),
            timestamps: TimestampProfiler::default(),
            utilities,
        }
    }

    fn utilities(&self) -> Arc<dyn Any + Send + Sync> {
        ComputeServer::utilities(self) as Arc<dyn Any + Send + Sync>
    }
}

/// A map for the emulator: of four dimensions, in boxes, with rows of 128 bytes swizzled.
fn tensor_map(start: *mut u8, map: &TensorMapMeta) -> Option<TensorMap> {
    let size = map.storage_ty.size();
    let TensorMapFormat::Tiled(TiledArgs { tile_size }) = &map.format else { return None };
    let four = |values: &[usize]| -> Option<[u64; 4]> {
        let mut values: [usize; 4] = values.try_into().ok()?;
        values.reverse();
        Some(values.map(|value| value as u64))
    };
    let tile = four(tile_size)?;
    let strides = four(map.metadata.strides())?.map(|stride| stride * size as u64);
    let known = map.swizzle == TensorMapSwizzle::B128 && tile[0] * size as u64 == 128 && size == 2;
    known.then_some(TensorMap { start, lengths: four(map.metadata.shape())?, strides, tile })
}

fn error(reason: impl ToString) -> ServerError {
    ServerError::Generic { reason: reason.to_string(), backtrace: BackTrace::capture() }
}

impl HostCudaServer {
    /// Memory of a binding, from its offset on.
    fn resource(&mut self, binding: &Binding) -> Result<BytesResource, ServerError> {
        Ok(self.memory.get_resource(binding.memory.clone(), binding.offset_start, None)?)
    }

    /// The first byte of the guard behind `binding`'s buffer that was written.
    fn broken_guard(&mut self, binding: &Binding) -> Result<Option<u64>, ServerError> {
        let whole = self.memory.get_resource(binding.memory.clone(), None, None)?;
        let guard = &whole.read()[binding.size() as usize..][..GUARD as usize];
        Ok(guard.iter().position(|byte| *byte != POISON).map(|at| at as u64))
    }

    /// The CUDA C++ of a kernel.
    fn generate(&self, kernel: &dyn CubeTask<CudaCompiler>, mode: ExecutionMode) -> Result<Generated, ServerError> {
        let name = kernel.name();
        let compile = || kernel.compile(&mut CudaCompiler::default(), &self.options, mode, kernel.address_type());
        let mut compiled = catch_unwind(AssertUnwindSafe(compile))
            .map_err(|_| error(format!("{name}: CubeCL's compiler panicked; its message is above")))?
            .map_err(|source: CompilationError| error(format!("{name}: {source}")))?;
        let shared_memory = compiled.repr.as_ref().map_or(0, |repr| repr.shared_memory_size());
        let most = self.arch.max_shared_memory();
        if shared_memory > most {
            return Err(error(format!("{name}: {shared_memory} bytes of shared memory; {} has {most}", self.arch)));
        }
        let (source, shared_memory) = canonical(&compiled.source, shared_memory);
        Ok(Generated {
            name,
            entry: std::mem::take(&mut compiled.entrypoint_name),
            source,
            block: [compiled.cube_dim.x, compiled.cube_dim.y, compiled.cube_dim.z],
            shared_memory,
        })
    }

    /// Carries a launch out, or records it.
    fn run(
        &mut self,
        kernel: Box<dyn CubeTask<CudaCompiler>>,
        count: CubeCount,
        arguments: KernelArguments,
        mode: ExecutionMode,
    ) -> Result<(), ServerError> {
        let name = kernel.name();
        // As CUDA's server: what was compiled once for this id is not looked at again.
        let mut id = kernel.id();
        id.mode(mode);
        if !self.kernels.contains_key(&id) {
            let generated = self.generate(&*kernel, mode)?;
            if self.mode == Mode::Record {
                record::push(self.arch, &id, generated);
                return Ok(());
            }
            self.kernels.insert(id.clone(), Kernel::compile(&generated).map_err(error)?);
        }
        let CubeCount::Static(x, y, z) = count else {
            return Err(error(format!("{name}: the emulator takes static cube counts only")));
        };
        let mut maps = Vec::new();
        for TensorMapBinding { binding, map } in &arguments.tensor_maps {
            let start = self.resource(binding)?.get_write_ptr_and_length().0;
            maps.push(tensor_map(start, map).ok_or_else(|| error(format!("{name}: the emulator knows no {map:?}")))?);
        }
        // As CUDA's server: the maps, the mapped buffers, the others.
        let mapped = arguments.tensor_maps.iter().map(|mapped| &mapped.binding);
        let bindings: Vec<&Binding> = mapped.chain(&arguments.buffers).collect();
        let mut pointers = Vec::new();
        for binding in &bindings {
            pointers.push(self.resource(binding)?.get_write_ptr_and_length().0);
        }
        let info = &arguments.info;
        let mut dynamic = info.data.get(info.dynamic_metadata_offset..).unwrap_or(&[]).to_vec();
        if !dynamic.is_empty() {
            pointers.push(dynamic.as_mut_ptr().cast());
        }
        self.kernels[&id].run([x, y, z], &maps, &pointers, &info.data).map_err(error)?;
        for (at, binding) in bindings.into_iter().enumerate() {
            if let Some(byte) = self.broken_guard(binding)? {
                let size = binding.size();
                return Err(error(format!("{name}: wrote byte {byte} past the {size} bytes of its argument {at}")));
            }
        }
        Ok(())
    }

    fn take_errors(&mut self) -> Result<(), ServerError> {
        let errors = std::mem::take(&mut self.errors);
        if errors.is_empty() {
            return Ok(());
        }
        Err(ServerError::ServerUnhealthy { errors, backtrace: BackTrace::capture() })
    }

    fn copy_out(&mut self, descriptors: Vec<CopyDescriptor>) -> Result<Vec<Bytes>, ServerError> {
        self.take_errors()?;
        let copy = |descriptor: CopyDescriptor| {
            let len = descriptor.handle.size_in_used() as usize;
            Ok(Bytes::from_bytes_vec(self.resource(&descriptor.handle)?.read()[..len].to_vec()))
        };
        descriptors.into_iter().map(copy).collect()
    }
}

impl ComputeServer for HostCudaServer {
    type Kernel = Box<dyn CubeTask<CudaCompiler>>;
    type Storage = BytesStorage;
    type MemoryLayoutPolicy = ContiguousMemoryLayoutPolicy;
    type Info = ();

    fn logger(&self) -> Arc<ServerLogger> {
        self.utilities.logger.clone()
    }

    fn utilities(&self) -> Arc<ServerUtilities<Self>> {
        self.utilities.clone()
    }

    fn initialize_memory(&mut self, handle: ManagedMemoryHandle, size: u64, _stream: StreamId) {
        if self.mode == Mode::Record {
            return;
        }
        let reserved = self.memory.reserve(size + GUARD).and_then(|reserved| {
            self.memory.bind(reserved, handle.clone(), 0)?;
            self.memory.get_resource(handle.binding(), None, None)
        });
        match reserved {
            Ok(mut resource) => resource.write().fill(POISON),
            Err(source) => self.errors.push(source.into()),
        }
    }

    fn read(&mut self, descriptors: Vec<CopyDescriptor>, _stream: StreamId) -> DynFut<Result<Vec<Bytes>, ServerError>> {
        let result = self.copy_out(descriptors);
        Box::pin(async move { result })
    }

    fn write(&mut self, descriptors: Vec<(CopyDescriptor, Bytes)>, _stream: StreamId) {
        if self.mode == Mode::Record {
            return;
        }
        for (descriptor, data) in descriptors {
            match self.resource(&descriptor.handle) {
                Ok(mut resource) => resource.write()[..data.len()].copy_from_slice(&data),
                Err(source) => self.errors.push(source),
            }
        }
    }

    fn sync(&mut self, _stream: StreamId) -> DynFut<Result<(), ServerError>> {
        let result = self.take_errors();
        Box::pin(async move { result })
    }

    fn get_resource(
        &mut self,
        binding: Binding,
        _stream: StreamId,
    ) -> Result<ManagedResource<BytesResource>, ServerError> {
        let resource = self.resource(&binding)?;
        Ok(ManagedResource::new(binding.memory, resource))
    }

    unsafe fn launch(
        &mut self,
        kernel: Self::Kernel,
        count: CubeCount,
        arguments: KernelArguments,
        mode: ExecutionMode,
        _stream: StreamId,
    ) {
        if let Err(source) = self.run(kernel, count, arguments, mode) {
            self.errors.push(source);
        }
    }

    fn flush(&mut self, _stream: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn memory_usage(&mut self, _stream: StreamId) -> Result<MemoryUsage, ServerError> {
        Ok(self.memory.memory_usage())
    }

    fn memory_cleanup(&mut self, _stream: StreamId) {
        self.memory.cleanup(true);
    }

    fn start_profile(&mut self, _stream: StreamId) -> Result<ProfilingToken, ServerError> {
        Ok(self.timestamps.start())
    }

    fn end_profile(&mut self, _stream: StreamId, token: ProfilingToken) -> Result<ProfileDuration, ProfileError> {
        self.timestamps.stop(token)
    }

    fn allocation_mode(&mut self, mode: MemoryAllocationMode, _stream: StreamId) {
        self.memory.mode(mode);
    }
}
