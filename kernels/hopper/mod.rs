//! Kernels in CUDA C++ for Hopper GPUs: what they share. The text is compiled by CubeCL's NVRTC at the first launch of each
//! variant; to run without a GPU, `tools/cuda-check` puts functions of its own in the place of `ptx.cu`.

use crate::Handle;
use crate::walk::multiprocessors;
use cubecl::cuda::CudaCompiler;
use cubecl::features::Tma;
use cubecl::prelude::*;
use cubecl::server::{KernelArguments, MetadataBindingInfo, TensorMapBinding, TensorMapMeta};
use cubecl::zspace::{Shape, Strides, metadata::Metadata};
use cubecl::{CompilationError, Compiler, CubeTask, Info};
use cubecl_cpp::ComputeKernel;
use cubecl_cpp::shared::{Body, Elem, Flags, Item, SharedMemory};
use std::any::{Any, TypeId};
use std::fmt::Debug;
use std::hash::Hash;

/// The instructions that CUDA C++ has no words for, a function each. Comes before a kernel's own text.
pub(crate) const PTX: &str = include_str!("ptx.cu");

/// The width of a box of a tensor map, in elements of two bytes: a row of 128 bytes, which the swizzle works on.
pub(crate) const BOX_COLUMNS: usize = 64;

/// Threads of a warpgroup.
pub(crate) const WARPGROUP: u32 = 128;

/// One way of compiling a kernel; `ptx.cu` asks for the macro `HALF`, and its `BECOME_..` for `PRODUCER_REGISTERS` and
/// `CONSUMER_REGISTERS`.
pub(crate) trait Variant: Debug + Copy + Eq + Hash + Send + Sync + 'static {
    /// [`hash`] of the kernel's texts, so that compiled kernels kept on disk are not taken for newer ones.
    const TEXT: u64;
    fn entry(&self) -> &'static str;
    fn threads(&self) -> u32;
    fn shared_bytes(&self) -> usize;
    fn source(&self) -> String;
}

/// Of texts, together with [`PTX`] (FNV-1a).
pub(crate) const fn hash(texts: &[&str]) -> u64 {
    let (mut hash, mut text) = (fnv(0xcbf2_9ce4_8422_2325, PTX), 0);
    while text < texts.len() {
        hash = fnv(hash, texts[text]);
        text += 1;
    }
    hash
}

const fn fnv(mut hash: u64, text: &str) -> u64 {
    let (bytes, mut i) = (text.as_bytes(), 0);
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    hash
}

/// Lines that define macros.
pub(crate) fn defines(macros: &[(&str, usize)]) -> String {
    macros.iter().map(|(name, value)| format!("#define {name} {value}\n")).collect()
}

/// A variant, as CubeCL compiles and launches it.
#[derive(Debug, Clone)]
struct Task<V>(V);

impl<V: Variant> KernelMetadata for Task<V> {
    fn id(&self) -> KernelId {
        KernelId::new::<Self>().info((V::TEXT, self.0)).cube_dim(CubeDim::new_1d(self.0.threads()))
    }

    fn name(&self) -> &'static str {
        self.0.entry()
    }

    fn address_type(&self) -> StorageType {
        u32::as_type_native_unchecked().storage_type()
    }
}

impl<V: Variant> CubeTask<CudaCompiler> for Task<V> {
    fn compile(
        &self,
        _compiler: &mut CudaCompiler,
        _options: &<CudaCompiler as Compiler>::CompilationOptions,
        _mode: ExecutionMode,
        _address_type: StorageType,
    ) -> Result<CompiledKernel<CudaCompiler>, CompilationError> {
        let (entry, cube_dim) = (self.0.entry(), CubeDim::new_1d(self.0.threads()));
        let address_type = Item::scalar(Elem::U32, true);
        let shared = SharedMemory::Array {
            index: 0,
            item: Item::scalar(Elem::U8, true),
            length: self.0.shared_bytes(),
            align: 128,
            offset: 0,
        };
        // CubeCL reads nothing of this but the size of the shared memory.
        let representation = ComputeKernel {
            tensor_maps: Vec::new(),
            buffers: Vec::new(),
            scalars: Vec::new(),
            info: Info::default(),
            meta_static_len: 0,
            body: Body {
                instructions: Vec::new(),
                shared_memories: vec![shared],
                pipelines: Vec::new(),
                barriers: Vec::new(),
                const_arrays: Vec::new(),
                local_arrays: Vec::new(),
                info_by_ptr: false,
                has_dynamic_meta: false,
                address_type,
            },
            cube_dim,
            cluster_dim: None,
            extensions: Vec::new(),
            flags: Flags {
                elem_fp4: false,
                elem_fp6: false,
                elem_fp8: false,
                elem_bf16: false,
                elem_f16: false,
                elem_tf32: false,
                indexes: Default::default(),
                op_barrier: false,
                op_pipeline: false,
                inst_tma: false,
                inst_tma_im2col: false,
                inst_wmma: false,
                inst_ptx_wrappers: false,
                inst_async_copy: false,
                use_grid_constants: true,
                static_meta_length: 0,
                has_dynamic_meta: false,
                has_info: true,
                cube_dim,
                cluster_dim: None,
                address_type,
            },
            items: Default::default(),
            kernel_name: entry.to_owned(),
        };
        Ok(CompiledKernel {
            entrypoint_name: entry.to_owned(),
            debug_name: Some(entry),
            source: self.0.source(),
            repr: Some(representation),
            cube_dim,
            debug_info: None,
        })
    }
}

/// Whether these kernels run here, with `shared_bytes` of shared memory a block: CUDA on compute capability 9.0.
pub(crate) fn supported<R: Runtime>(client: &ComputeClient<R>, shared_bytes: usize) -> bool {
    let features = client.features();
    TypeId::of::<R::Compiler>() == TypeId::of::<CudaCompiler>()
        // CubeCL reports bulk copies from 9.0 on, their wide variant from 10.0 on; `wgmma` is of 9.0 alone.
        && features.tma.contains(Tma::Base)
        && !features.tma.contains(Tma::Im2colWide)
        && shared_bytes <= client.properties().hardware.max_shared_memory_size
}

/// Blocks for so many items: they stay and take every so many-th, one block a multiprocessor, which it fills.
pub(crate) fn blocks<R: Runtime>(client: &ComputeClient<R>, items: usize) -> u32 {
    multiprocessors(client).min(items) as u32
}

/// A buffer `[batch, rows, columns, 64]` in boxes of one column and so many rows, swizzled as `wgmma` reads them. Rows past the
/// end are read as zero and not written.
pub(crate) fn map(kind: StorageType, [batch, rows, columns]: [usize; 3], box_rows: usize) -> TensorMapMeta {
    let row = columns * BOX_COLUMNS;
    TensorMapMeta {
        format: TensorMapFormat::Tiled(TiledArgs { tile_size: Shape::new([1, box_rows, 1, BOX_COLUMNS]) }),
        metadata: Metadata::new(
            Shape::new([batch, rows, columns, BOX_COLUMNS]),
            Strides::new(&[rows * row, row, BOX_COLUMNS, 1]),
        ),
        elem_stride: Strides::new(&[1, 1, 1, 1]),
        interleave: TensorMapInterleave::None,
        swizzle: TensorMapSwizzle::B128,
        prefetch: TensorMapPrefetch::B128,
        oob_fill: OobFill::Zero,
        storage_ty: kind,
    }
}

/// Launches `blocks` blocks of a variant. The kernel's parameters: the maps, the addresses of the mapped buffers, the other buffers,
/// and `data` by value. CubeCL waits for other streams' writes to the other buffers alone: the mapped ones must have been
/// written on the calling thread's stream.
///
/// # Safety
/// The kernel stays within these buffers.
pub(crate) unsafe fn launch<R: Runtime>(
    client: &ComputeClient<R>,
    variant: impl Variant,
    blocks: u32,
    mapped: Vec<(&Handle, TensorMapMeta)>,
    buffers: &[&Handle],
    data: Vec<u64>,
) {
    let task: Box<dyn CubeTask<CudaCompiler>> = Box::new(Task(variant));
    // The task for this runtime's compiler, if that is CUDA's.
    let Ok(task) = (Box::new(task) as Box<dyn Any>).downcast::<Box<dyn CubeTask<R::Compiler>>>() else { return };
    let maps = mapped.into_iter().map(|(buffer, map)| TensorMapBinding::new(buffer.clone().binding(), map));
    let arguments = KernelArguments::new()
        .with_tensor_maps(maps.collect())
        .with_buffers(buffers.iter().map(|buffer| (*buffer).clone().binding()).collect())
        .with_info(MetadataBindingInfo { dynamic_metadata_offset: data.len(), data });
    // SAFETY: the contract above.
    unsafe { client.launch_unchecked(*task, CubeCount::Static(blocks, 1, 1), arguments) }
}
