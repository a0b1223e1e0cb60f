//! Launching a kernel on CUDA with the GPU's own power of two.
//!
//! CUDA compiles `exp`, `exp2` and `__powf(2, x)` to the instruction `ex2` and three more for subnormal results, unless
//! it flushes those to zero; CubeCL's compiler options don't. In attention these three are a fifth of all instructions,
//! and a weight below `2^-126` is nothing. So the source that CubeCL generates is changed before it is compiled: its
//! `__powf`, which the kernels here use with base 2 alone, becomes the flushing instruction.

use crate::Handle;
use cubecl::{
    CompilationError, Compiler, CubeTask, InfoBuilder,
    cuda::{CudaCompiler, CudaRuntime},
    prelude::*,
    server::KernelArguments,
};

const EXP2: &str = r#"
__device__ __forceinline__ float avion_exp2(float, float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
"#;

/// A kernel whose generated source is changed as said above.
struct WithExp2<K: CubeKernel>(KernelTask<CudaCompiler, K>);

impl<K: CubeKernel> KernelMetadata for WithExp2<K> {
    fn id(&self) -> KernelId {
        self.0.id()
    }

    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn address_type(&self) -> StorageType {
        self.0.address_type()
    }
}

impl<K: CubeKernel> CubeTask<CudaCompiler> for WithExp2<K> {
    fn compile(
        &self,
        compiler: &mut CudaCompiler,
        options: &<CudaCompiler as Compiler>::CompilationOptions,
        mode: ExecutionMode,
        address_type: StorageType,
    ) -> Result<CompiledKernel<CudaCompiler>, CompilationError> {
        let mut compiled = self.0.compile(compiler, options, mode, address_type)?;
        compiled.source = with_exp2(&compiled.source);
        Ok(compiled)
    }
}

/// The source as it is compiled.
#[doc(hidden)]
pub fn with_exp2(source: &str) -> String {
    EXP2.to_owned() + &source.replace("__powf(", "avion_exp2(")
}

/// The client as CUDA's, if it is.
pub(super) fn client<R: Runtime>(client: &ComputeClient<R>) -> Option<&ComputeClient<CudaRuntime>> {
    (client as &dyn core::any::Any).downcast_ref()
}

/// What a kernel's constructor takes before its arguments.
pub(super) fn settings(units: u32) -> KernelSettings {
    KernelSettings::default().cube_dim(CubeDim::new_1d(units)).address_type(AddressType::U32)
}

/// Launches a kernel of `buffers` (each with its elements and its elements' bytes) and of the scalars that all kernels here
/// take.
///
/// # Safety
/// As for the `launch_unchecked` that CubeCL makes for the kernel, whose part this takes: the buffers must be those of its
/// arguments, in their order.
pub(super) unsafe fn launch<K: CubeKernel>(
    client: &ComputeClient<CudaRuntime>,
    kernel: K,
    count: CubeCount,
    buffers: &[(&Handle, usize, usize)],
    (tokens, heads, scale): (u32, u32, f32),
) {
    let mut info = InfoBuilder::default();
    for (handle, len, bytes) in buffers {
        info.metadata.register_array(handle.size_in_used() / *bytes as u64, *len as u64, AddressType::U32);
    }
    info.scalars.push(tokens);
    info.scalars.push(heads);
    info.scalars.push(scale);
    let arguments = KernelArguments::new()
        .with_buffers(buffers.iter().map(|(handle, ..)| (*handle).clone().binding()).collect())
        .with_info(info.finish(AddressType::U32));
    // SAFETY: the caller's.
    unsafe { client.launch_unchecked(Box::new(WithExp2(KernelTask::new(kernel))), count, arguments) }
}
