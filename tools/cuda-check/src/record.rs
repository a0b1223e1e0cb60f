//! The kernels that were launched on a recording device.

use crate::{device::Arch, runtime::Generated};
use cubecl_runtime::id::KernelId;
use std::sync::{Mutex, PoisonError};

/// One kernel as CubeCL would hand it to NVRTC.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub arch: Arch,
    /// Path, types and compile-time choices: `attention::flash::forward_kernel<bf16> causal=true`.
    pub variant: String,
    pub source: String,
    pub units: u32,
    /// Bytes of dynamic shared memory.
    pub shared_memory: usize,
}

static RECORDS: Mutex<Vec<Recorded>> = Mutex::new(Vec::new());

pub(crate) fn push(arch: Arch, id: &KernelId, generated: Generated) {
    let Generated { source, block, shared_memory, .. } = generated;
    let units = block.iter().product();
    let record = Recorded { arch, variant: variant(&id.stable_format(), units), source, units, shared_memory };
    let mut records = RECORDS.lock().unwrap_or_else(PoisonError::into_inner);
    if !records.iter().any(|other| other.arch == arch && other.variant == record.variant) {
        records.push(record);
    }
}

/// Everything recorded so far, each variant once, in order; the list is empty afterwards.
pub fn take() -> Vec<Recorded> {
    std::mem::take(&mut RECORDS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A short name that tells two kernels apart wherever CubeCL's id does.
///
/// The id reads `crate::module::kernel::Kernel<types, runtime>-u32-CubeDim { .. }-mode-Some(Info { name: value, .. })`;
/// compile-time choices are the fields that are neither buffers (`ArrayCompilationArg ..`) nor scalars (`()`).
fn variant(id: &str, units: u32) -> String {
    let end = id.find("-u32-").or_else(|| id.find("-u64-")).unwrap_or(id.len());
    let (path, rest) = id.split_at(end);
    let (path, types) = path.split_once('<').unwrap_or((path, ""));
    let mut segments: Vec<&str> = path.split("::").collect();
    // The crate, and the type that CubeCL derives from the function's name.
    if segments.len() > 2 {
        segments.remove(0);
        segments.pop();
    }
    let last = |ty: &str| ty.rsplit("::").next().unwrap_or(ty).trim_end_matches('>').to_string();
    let types: Vec<String> = types.split(", ").map(last).filter(|ty| !ty.is_empty() && ty != "HostCuda").collect();
    let mut name = segments.join("::");
    if !types.is_empty() {
        name += &format!("<{}>", types.join(", "));
    }
    if rest.starts_with("-u64-") {
        name += " u64";
    }
    let info = rest.split_once("-Some(").map_or("", |(_, info)| info.strip_suffix(')').unwrap_or(info));
    for (field, value) in fields(info) {
        // A struct of scalars prints as `Lie { offset: (), .. }`.
        let runtime = value == "()" || value.contains("CompilationArg") || value.contains(": ()");
        if !runtime {
            name += &format!(" {field}={value}");
        }
    }
    format!("{name} x{units}")
}

/// Fields of a struct as `Debug` prints it, one level deep.
fn fields(debug: &str) -> Vec<(&str, &str)> {
    let Some((_, inside)) = debug.split_once(" { ") else { return Vec::new() };
    let inside = inside.strip_suffix(" }").unwrap_or(inside);
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in inside.char_indices().chain([(inside.len(), ',')]) {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            ',' if depth == 0 => {
                found.extend(inside[start..at].trim().split_once(": "));
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::variant;

    #[test]
    fn variants_keep_types_and_choices() {
        let id = "avion_kernels::attention::flash::backward_kernel::BackwardKernel<half::bfloat::bf16, \
                  cuda_check::runtime::HostCuda>-u32-CubeDim { x: 128, y: 1, z: 1 }-Unchecked-Some(BackwardKernelInfo \
                  { causal: false, bt: 32, q: ArrayCompilationArg { inplace: None }, s: () })";
        assert_eq!(variant(id, 128), "attention::flash::backward_kernel<bf16> causal=false bt=32 x128");
        let id = "avion_kernels::grad_norm::finish_norm::FinishNorm<cuda_check::runtime::HostCuda>-u64-CubeDim { x: 256, \
                  y: 1, z: 1 }-Unchecked-None";
        assert_eq!(variant(id, 256), "grad_norm::finish_norm u64 x256");
    }
}
