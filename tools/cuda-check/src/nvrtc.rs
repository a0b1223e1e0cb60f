//! CUDA's run-time compiler, with the options CubeCL gives it and the assembler's report of registers and spills.

use crate::device::Arch;
use libloading::{Library, Symbol};
use std::{
    ffi::{CString, c_char, c_int, c_void},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    ptr::{null, null_mut},
};

/// NVRTC of one CUDA folder, and its headers.
#[derive(Debug)]
pub struct Nvrtc {
    library: Library,
    /// NVRTC looks for this by name; loaded first, it is found without `LD_LIBRARY_PATH`.
    _builtins: Library,
    includes: [PathBuf; 2],
    /// Tells this compiler from others.
    id: String,
}

/// What a kernel takes of a multiprocessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// 32-bit registers per thread.
    pub registers: u32,
    /// Bytes per thread that are stored to and loaded from memory because registers ran out.
    pub spill_bytes: u32,
}

type Create = unsafe extern "C" fn(
    *mut *mut c_void,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(*mut c_void, c_int, *const *const c_char) -> c_int;
type LogSize = unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int;
type Log = unsafe extern "C" fn(*mut c_void, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut *mut c_void) -> c_int;

impl Nvrtc {
    /// Loads NVRTC from `cuda/lib` or `cuda/lib64`.
    ///
    /// # Errors
    /// A message that names the folder and what is missing there.
    pub fn load(cuda: &Path) -> Result<Self, String> {
        let folder = ["lib", "lib64"].map(|lib| cuda.join(lib)).into_iter().find(|folder| folder.is_dir());
        let folder = folder.ok_or_else(|| format!("{} has no folder lib or lib64", cuda.display()))?;
        let open = |prefix: &str| {
            let entries = folder.read_dir().map_err(|error| format!("{}: {error}", folder.display()))?;
            let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            let matches =
                |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
            files.retain(matches);
            files.sort();
            let path = files.first().ok_or_else(|| format!("{} has no {prefix}*", folder.display()))?;
            let bytes = path.metadata().map_or(0, |data| data.len());
            // SAFETY: NVIDIA's libraries set up nothing of ours when they are loaded.
            let library = unsafe { Library::new(path) }.map_err(|error| format!("{}: {error}", path.display()))?;
            Ok::<_, String>((library, format!("{} of {bytes} bytes", path.display())))
        };
        let (_builtins, _) = open("libnvrtc-builtins.so")?;
        let (library, id) = open("libnvrtc.so")?;
        let include = cuda.join("include");
        Ok(Self { library, _builtins, includes: [include.join("cccl"), include], id })
    }

    /// Compiles `source`, and returns what each of its kernels takes. The assembler's report is kept in `cache`, and read
    /// from there when this compiler has seen this source before.
    ///
    /// # Errors
    /// The compiler's messages.
    pub fn compile(&self, source: &str, arch: Arch, cache: &Path) -> Result<Vec<(String, Usage)>, String> {
        let mut hasher = DefaultHasher::new();
        (source, arch, &self.id).hash(&mut hasher);
        let file = cache.join(format!("{:016x}.log", hasher.finish()));
        let kept = fs::read_to_string(&file).map(|log| parse(&log)).unwrap_or_default();
        if !kept.is_empty() {
            return Ok(kept);
        }
        let log = self.report(source, arch)?;
        let usages = parse(&log);
        if usages.is_empty() {
            return Err(format!("NVRTC reports no kernel:\n{log}"));
        }
        // Without the file, the next run compiles again.
        let _ = fs::create_dir_all(cache).and_then(|()| fs::write(file, log));
        Ok(usages)
    }

    /// Compiles `source`, and returns the compiler's log.
    fn report(&self, source: &str, arch: Arch) -> Result<String, String> {
        let mut options = vec![format!("--gpu-architecture={arch}"), "-lineinfo".into(), "--ptxas-options=-v".into()];
        options.extend(self.includes.iter().rev().map(|folder| format!("--include-path={}", folder.display())));
        options.push("--disable-warnings".into());
        let text = |text: String| CString::new(text).map_err(|error| error.to_string());
        let source = text(source.to_string())?;
        let options = options.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let check = |code: c_int, call: &str| if code == 0 { Ok(()) } else { Err(format!("{call} returned {code}")) };
        // SAFETY: the types are those of nvrtc.h, strings end with a zero and outlive the calls, and the log has room
        // for the size that NVRTC names.
        let (log, compiled) = unsafe {
            let mut program = null_mut();
            let create: Symbol<Create> = self.symbol(b"nvrtcCreateProgram\0")?;
            check(create(&mut program, source.as_ptr(), null(), 0, null(), null()), "nvrtcCreateProgram")?;
            let compile: Symbol<Compile> = self.symbol(b"nvrtcCompileProgram\0")?;
            let compiled = check(compile(program, options.len() as c_int, options.as_ptr()), "nvrtcCompileProgram");
            let mut size = 0;
            check(self.symbol::<LogSize>(b"nvrtcGetProgramLogSize\0")?(program, &mut size), "nvrtcGetProgramLogSize")?;
            let mut log = vec![0u8; size.max(1)];
            check(
                self.symbol::<Log>(b"nvrtcGetProgramLog\0")?(program, log.as_mut_ptr().cast()),
                "nvrtcGetProgramLog",
            )?;
            self.symbol::<Destroy>(b"nvrtcDestroyProgram\0")?(&mut program);
            (String::from_utf8_lossy(&log[..log.len() - 1]).into_owned(), compiled)
        };
        compiled.map_err(|error| format!("{error}\n{log}"))?;
        Ok(log)
    }

    /// # Safety
    /// `T` must be the function's type.
    unsafe fn symbol<T>(&self, name: &[u8]) -> Result<Symbol<'_, T>, String> {
        // SAFETY: the caller's.
        unsafe { self.library.get(name) }.map_err(|error| error.to_string())
    }
}

/// The assembler's report, kernel by kernel.
fn parse(log: &str) -> Vec<(String, Usage)> {
    let number = |line: &str, after: &str| -> Option<u32> {
        let before = line[..line.find(after)?].trim_end();
        before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let mut found: Vec<(String, Usage)> = Vec::new();
    for line in log.lines() {
        if let Some((_, name)) = line.split_once("Compiling entry function '") {
            let name = name.split('\'').next().unwrap_or(name).to_string();
            found.push((name, Usage { registers: 0, spill_bytes: 0 }));
        }
        let Some((_, usage)) = found.last_mut() else { continue };
        if let (Some(stores), Some(loads)) = (number(line, "bytes spill stores"), number(line, "bytes spill loads")) {
            usage.spill_bytes = stores + loads;
        }
        if let Some(registers) = number(line, "registers") {
            usage.registers = registers;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Usage, parse};

    #[test]
    fn reports_are_read_kernel_by_kernel() {
        let log = "ptxas info    : Compiling entry function 'a' for 'sm_80'\nptxas info    : Function properties for a\n\
                   ptxas         .     24 bytes stack frame, 20 bytes spill stores, 12 bytes spill loads\n\
                   ptxas info    : Used 255 registers, used 1 barriers, 392 bytes cmem[0]\n\
                   ptxas info    : Compiling entry function 'b' for 'sm_80'\nptxas info    : Used 18 registers\n";
        let expected = [("a", 255, 32), ("b", 18, 0)];
        let expected = expected.map(|(name, registers, spill_bytes)| (name.into(), Usage { registers, spill_bytes }));
        assert_eq!(parse(log), expected);
    }
}
