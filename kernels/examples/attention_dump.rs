use avion_kernels::attention::flash::{Plan, backward::*, forward::*};
use cubecl::cuda::{CudaCompiler, CudaRuntime};
use cubecl::prelude::*;
use half::bf16;
type N8 = Const<8>;
type N2 = Const<2>;
macro_rules! src { ($name:literal, $file:expr, |$b:ident| $body:expr) => {{
    use cubecl::ir::{DeviceProperties, HardwareProperties, MemoryDeviceProperties, features::Features};
    let hw = HardwareProperties { load_width: 128, plane_size_min: 32, plane_size_max: 32, max_bindings: 1024, max_shared_memory_size: 232448, max_cube_count: (2147483647, 65535, 65535), max_units_per_cube: 1024, max_cube_dim: (1024, 1024, 64), num_streaming_multiprocessors: Some(132), num_cpu_cores: None, num_tensor_cores: Some(4), min_tensor_cores_dim: Some(8), max_vector_size: 16 };
    let props = DeviceProperties::new(Features::default(), MemoryDeviceProperties { max_page_size: 1 << 35, alignment: 512 }, hw, cubecl::profile::TimingMethod::System);
    let mut $b = KernelBuilder::default();
    $b.runtime_properties(<CudaRuntime as cubecl::Runtime>::target_properties());
    $b.device_properties(&props);
    let settings = KernelSettings::default().cube_dim(CubeDim::new_1d(128)).kernel_name($name);
    settings.address_type.register(&mut $b.scope);
    $body;
    let def = $b.build(settings);
    let mut c = CudaCompiler::default();
    let mut opts: <CudaCompiler as cubecl::Compiler>::CompilationOptions = Default::default();
    opts.supports_features.grid_constants = true; opts.supports_features.fast_math = true;
    let repr = cubecl::Compiler::compile(&mut c, def, &opts, ExecutionMode::Unchecked, u32::as_type_native_unchecked().storage_type()).unwrap();
    std::fs::write(&$file, repr.to_string()).unwrap();
    println!("{} smem {}", $file, repr.shared_memory_size());
}} }
macro_rules! arr { ($b:ident, $t:ty, $f:ident) => { <Array<$t> as LaunchArg>::$f(&ArrayCompilationArg { inplace: None }, &mut $b) } }
type E = bf16;
fn main() {
    // args: kind:dim:causal:row_tiles:columns:step
    for a in std::env::args().skip(1) {
        let p: Vec<&str> = a.split(':').collect();
        let n = |i: usize| p[i].parse::<u32>().unwrap();
        let plan = Plan { head_dim: n(1), causal: n(2) == 1, row_tiles: n(3), columns: n(4), step: n(5) };
        let file = format!("{}.cu", a.replace(':', "_"));
        match p[0] {
            "f" => src!("fwd", file, |b| {
                let q2 = arr!(b, Vector<E, N2>, expand); let q8 = arr!(b, Vector<E, N8>, expand);
                let o = arr!(b, Vector<E, N2>, expand_output); let l = arr!(b, f32, expand_output);
                let s = <u32 as LaunchArg>::expand(&Default::default(), &mut b); let h = <u32 as LaunchArg>::expand(&Default::default(), &mut b); let sc = <f32 as LaunchArg>::expand(&Default::default(), &mut b);
                forward_kernel::expand::<E>(&mut b.scope, q2, q8, o, l, s, h, sc, plan)
            }),
            "q" => src!("dq", file, |b| {
                let q2 = arr!(b, Vector<E, N2>, expand); let q8 = arr!(b, Vector<E, N8>, expand);
                let o = arr!(b, Vector<E, N2>, expand); let l = arr!(b, f32, expand);
                let d = arr!(b, Vector<E, N2>, expand); let dq = arr!(b, Vector<E, N2>, expand_output); let dl = arr!(b, f32, expand_output);
                let s = <u32 as LaunchArg>::expand(&Default::default(), &mut b); let h = <u32 as LaunchArg>::expand(&Default::default(), &mut b); let sc = <f32 as LaunchArg>::expand(&Default::default(), &mut b);
                query_kernel::expand::<E>(&mut b.scope, q2, q8, o, l, d, dq, dl, s, h, sc, plan)
            }),
            _ => src!("dkdv", file, |b| {
                let q2 = arr!(b, Vector<E, N2>, expand); let q8 = arr!(b, Vector<E, N8>, expand);
                let l = arr!(b, f32, expand); let dl = arr!(b, f32, expand);
                let d = arr!(b, Vector<E, N8>, expand); let dq = arr!(b, Vector<E, N2>, expand_output);
                let s = <u32 as LaunchArg>::expand(&Default::default(), &mut b); let h = <u32 as LaunchArg>::expand(&Default::default(), &mut b); let sc = <f32 as LaunchArg>::expand(&Default::default(), &mut b);
                key_kernel::expand::<E>(&mut b.scope, q2, q8, l, dl, d, dq, s, h, sc, plan)
            }),
        }
    }
}
