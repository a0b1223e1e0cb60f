//! Compiles generated CUDA C++ for the processor, with `emulator.h` in place of CUDA's headers, and runs it.

use crate::{cache_folder, runtime::Generated};
use libloading::Library;
use std::{
    collections::BTreeMap,
    ffi::{CStr, c_char, c_void},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

const HEADER: &str = include_str!("emulator.h");

/// Takes the place of a kernel's own functions around PTX, between these lines.
const HOPPER: &str = include_str!("hopper.h");
const PTX: [&str; 2] = ["// begin ptx\n", "// end ptx\n"];

/// A tensor as the copy engine is told of it, in boxes: `TensorMap` in `hopper.h`. Innermost dimension first.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
pub struct TensorMap {
    pub start: *mut u8,
    /// Elements.
    pub lengths: [u64; 4],
    /// Bytes.
    pub strides: [u64; 4],
    /// Elements.
    pub tile: [u64; 4],
}

/// `emulate` of a compiled kernel: arguments, their number, grid, block, bytes of shared memory; null or a message.
type Emulate =
    unsafe extern "C" fn(*const *mut c_void, usize, *const [u32; 3], *const [u32; 3], usize) -> *const c_char;

/// What makes threads wait for each other. Kernels without any run thread after thread, without fibers.
const SWITCHES: [&str; 6] = ["__syncthreads(", "_sync(", "__syncwarp(", "arrive", "__ldmatrix", "__mma"];

/// A kernel that was compiled for the processor.
#[derive(Debug)]
pub struct Kernel {
    name: &'static str,
    /// A kernel keeps its threads in global variables: one launch at a time, whichever device asks.
    library: Arc<Mutex<Library>>,
    block: [u32; 3],
    shared_memory: usize,
}

/// Every library of this process by its path. Loading one twice would give the same global variables.
static LIBRARIES: Mutex<BTreeMap<PathBuf, Arc<Mutex<Library>>>> = Mutex::new(BTreeMap::new());

impl Kernel {
    /// Compiles a generated kernel, or finds it compiled by an earlier run.
    ///
    /// # Errors
    /// A message that names the kernel and the file, with the compiler's first lines.
    pub(crate) fn compile(generated: &Generated) -> Result<Self, String> {
        let Generated { name, block, shared_memory, .. } = *generated;
        let path = build(&generated.source, &generated.entry).map_err(|problem| format!("{name}: {problem}"))?;
        let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
        let library = match libraries.get(&path) {
            Some(library) => library.clone(),
            None => {
                // SAFETY: it was built from the kernel and the header alone; loading it runs no code of theirs.
                let library = unsafe { Library::new(&path) }.map_err(|problem| format!("{name}: {problem}"))?;
                libraries.entry(path).or_insert(Arc::new(Mutex::new(library))).clone()
            }
        };
        Ok(Self { name, library, block, shared_memory })
    }

    /// Runs `grid` blocks, one after another, over `maps` and `buffers`; `info` is what `cuLaunchKernel` gets by value.
    ///
    /// # Errors
    /// A message that names the kernel, when it hangs or writes past its shared memory.
    pub fn run(&self, grid: [u32; 3], maps: &[TensorMap], buffers: &[*mut u8], info: &[u64]) -> Result<(), String> {
        let mut arguments: Vec<*mut c_void> = Vec::new();
        arguments.extend(maps.iter().map(|map| (map as *const TensorMap).cast_mut().cast::<c_void>()));
        arguments.extend(buffers.iter().map(|buffer| (buffer as *const *mut u8).cast_mut().cast::<c_void>()));
        if !info.is_empty() {
            arguments.push(info.as_ptr().cast_mut().cast());
        }
        let library = self.library.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: `emulate` has this type; it checks the number of arguments, and each points to what the generated
        // kernel expects at its place, because both follow from the same launch.
        let problem = unsafe {
            let emulate = library.get::<Emulate>(b"emulate\0").map_err(|source| source.to_string())?;
            let problem = emulate(arguments.as_ptr(), arguments.len(), &grid, &self.block, self.shared_memory);
            (!problem.is_null()).then(|| CStr::from_ptr(problem).to_string_lossy().into_owned())
        };
        problem.map_or(Ok(()), |problem| Err(format!("{} {problem}; grid {grid:?}, block {:?}", self.name, self.block)))
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The generated kernel without what only a GPU's compiler understands.
///
/// # Errors
/// A message when the source is not laid out as CubeCL's.
fn for_host(source: &str, entry: &str) -> Result<String, String> {
    let unexpected = |what: &str| format!("the generated source has no {what}; has CubeCL changed?");
    let own = source.split_once(PTX[0]).and_then(|(before, rest)| Some((before, rest.split_once(PTX[1])?.1)));
    let source = &own.map_or(source.to_owned(), |(before, after)| format!("{before}{HOPPER}{after}"));
    let kernel = source.find("extern \"C\" __global__").ok_or_else(|| unexpected("kernel"))?;
    let (head, kernel) = source.split_at(kernel);
    // Includes come first, then types, then wrappers of PTX instructions, which the header has its own of.
    let types = ["// Wrapper for", "inline __device__"].iter().filter_map(|mark| head.find(mark)).min();
    let types = head[..types.unwrap_or(head.len())].lines().filter(|line| !line.starts_with("#include"));
    let types: String = types.flat_map(|line| [line, "\n"]).collect();
    let kernel = match kernel.split_once("extern __shared__") {
        Some((before, after)) => {
            let (_, after) = after.split_once(';').ok_or_else(|| unexpected("end of its shared memory"))?;
            format!("{before}{after}")
        }
        None => kernel.to_string(),
    };
    let switches = SWITCHES.iter().any(|mark| kernel.contains(mark));
    Ok(format!(
        "#include \"emulator.h\"\n{types}\n{kernel}\n
extern \"C\" const char* emulate(void** arguments, size_t count, const unsigned* grid, const unsigned* block,
                                 size_t shared) {{
  if (count != emu_arity({entry})) return \"has another number of arguments than its launch\";
  return emu_launch([](void** a) {{ emu_call({entry}, a); }}, {switches}, arguments, grid, block, shared);
}}\n"
    ))
}

/// Builds the kernel, unless an earlier run did, and returns the library's path.
fn build(generated: &str, entry: &str) -> Result<PathBuf, String> {
    let folder = cache_folder().join("emulated").join(format!("{:016x}", hash(&(HEADER, HOPPER))));
    let library = folder.join(format!("{entry}-{:016x}.so", hash(&generated)));
    if library.exists() {
        return Ok(library);
    }
    static HEADER_READY: Mutex<bool> = Mutex::new(false);
    let mut ready = HEADER_READY.lock().unwrap_or_else(PoisonError::into_inner);
    if !*ready {
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let header = write(&folder.join("emulator.h"), HEADER)?;
        if !folder.join("emulator.h.gch").exists() {
            run_compiler(&["-x", "c++-header"], &header, &folder.join("emulator.h.gch"))?;
        }
        *ready = true;
    }
    drop(ready);
    let source = write(&library.with_extension("cpp"), &for_host(generated, entry)?)?;
    run_compiler(&["-shared"], &source, &library)?;
    Ok(library)
}

/// Two processes may build the same kernel: files appear only when they are complete.
fn write(path: &Path, text: &str) -> Result<PathBuf, String> {
    let partial = partial(path);
    let written = fs::write(&partial, text).and_then(|()| fs::rename(&partial, path));
    written.map(|()| path.to_path_buf()).map_err(|error| format!("{}: {error}", path.display()))
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.{:?}.tmp", std::process::id(), std::thread::current().id()));
    name.into()
}

fn run_compiler(options: &[&str], source: &Path, output: &Path) -> Result<(), String> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let partial = partial(output);
    let mut command = Command::new(&compiler);
    command.args(["-std=c++20", "-O1", "-w", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off"]).args(options);
    let done = command.arg("-o").arg(&partial).arg(source).output().map_err(|error| format!("{compiler}: {error}"))?;
    if !done.status.success() {
        let messages = String::from_utf8_lossy(&done.stderr);
        let first: Vec<&str> = messages.lines().take(12).collect();
        return Err(format!("{compiler} cannot compile {}:\n{}", source.display(), first.join("\n")));
    }
    fs::rename(&partial, output).map_err(|error| format!("{}: {error}", output.display()))
}
