//! `cuda-check`: compiles every CUDA kernel of `avion-kernels` for every architecture and holds its registers and spills
//! against `kernels/cuda-budget.toml`. Needs NVRTC and CUDA's headers, no GPU.

use cubecl::{Runtime, future::block_on};
use cuda_check::{
    ARCHITECTURES, Arch, HostCuda, HostCudaDevice, Mode,
    budget::{self, Usages},
    cache_folder, catalogue,
    nvrtc::{Nvrtc, Usage},
    record::{self, Recorded},
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

const USAGE: &str = "usage: cuda-check CUDA_FOLDER [--bless] [--sources FOLDER]
  CUDA_FOLDER        has lib/libnvrtc.so* and include/
  --bless            write what is found to kernels/cuda-budget.toml
  --sources FOLDER   also write each kernel's CUDA C++ there";

struct Options {
    cuda: PathBuf,
    bless: bool,
    sources: Option<PathBuf>,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
    let (mut cuda, mut bless, mut sources) = (None, false, None);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bless" => bless = true,
            "--sources" => sources = Some(arguments.next()?.into()),
            option if option.starts_with('-') => return None,
            folder => cuda = Some(folder.into()),
        }
    }
    Some(Options { cuda: cuda?, bless, sources })
}

fn main() -> ExitCode {
    let Some(options) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("cuda-check: error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let kernels_folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels");
    let nvrtc = Nvrtc::load(&options.cuda)?;
    let mut kernels = generated()?;
    kernels.extend(hand_written());
    if let Some(folder) = &options.sources {
        write_sources(folder, &kernels)?;
    }
    let found = compile(&nvrtc, &kernels)?;
    print_table(&kernels, &found);
    let path = kernels_folder.join("cuda-budget.toml");
    if options.bless {
        budget::write(&path, &found)?;
        println!("cuda-check: wrote kernels/cuda-budget.toml");
        return Ok(());
    }
    let violations = budget::violations(&budget::read(&path)?, &found);
    if violations.is_empty() {
        println!("cuda-check: {} kernels within kernels/cuda-budget.toml", found.len());
        return Ok(());
    }
    let list = violations.join("\n  ");
    Err(format!(
        "{} entries against kernels/cuda-budget.toml:\n  {list}\nIf this is meant: make check-cuda ARGS=--bless",
        violations.len()
    ))
}

/// What the launchers launch on each architecture.
fn generated() -> Result<Vec<Recorded>, String> {
    for arch in ARCHITECTURES {
        let client = HostCuda::client(&HostCudaDevice { arch, mode: Mode::Record, ..HostCudaDevice::default() });
        catalogue::launch_all(&client).map_err(|error| format!("{arch}: {error}"))?;
        block_on(client.sync()).map_err(|error| format!("{arch}: {error}"))?;
    }
    Ok(record::take())
}

/// CUDA C++ written by hand, which the catalogue does not launch.
fn hand_written() -> Vec<Recorded> {
    let (products, norms) = (avion_kernels::gemm::hopper::sources(), avion_kernels::layer_norm::hopper::sources());
    let sources = avion_kernels::attention::hopper::sources().into_iter().chain(products).chain(norms);
    let recorded = |(variant, source)| Recorded { arch: Arch(90), variant, source, units: 0, shared_memory: 0 };
    sources.map(recorded).collect()
}

fn write_sources(folder: &Path, kernels: &[Recorded]) -> Result<(), String> {
    for kernel in kernels {
        let name: String = kernel
            .variant
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "=_.".contains(c) { c } else { '-' })
            .collect();
        let path = folder.join(format!("{name}.{}.cu", kernel.arch));
        let write = || fs::create_dir_all(folder).and_then(|()| fs::write(&path, &kernel.source));
        write().map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Compiles all kernels, as many at a time as there are processors.
fn compile(nvrtc: &Nvrtc, kernels: &[Recorded]) -> Result<Usages, String> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new((Usages::new(), Vec::new())));
    let cache = cache_folder().join("reports");
    let work = || {
        while let Some(kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
            let compiled = nvrtc.compile(&kernel.source, kernel.arch, &cache);
            let (usages, errors) = &mut *results.lock().unwrap_or_else(PoisonError::into_inner);
            match compiled {
                Ok(entries) => usages.extend(
                    entries.into_iter().map(|(_, usage)| ((kernel.variant.clone(), kernel.arch.to_string()), usage)),
                ),
                Err(error) => errors.push(format!("{}, {}: {error}", kernel.variant, kernel.arch)),
            }
        }
    };
    let threads = thread::available_parallelism().map_or(2, |count| count.get());
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let (usages, errors) = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    if errors.is_empty() { Ok(usages) } else { Err(errors.join("\n")) }
}

/// A row per kernel: shared memory, then registers and spilled bytes per architecture.
fn print_table(kernels: &[Recorded], found: &Usages) {
    let names: BTreeSet<&str> = found.keys().map(|(name, _)| name.as_str()).collect();
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let title = "registers (spilled bytes)";
    print!("{title:width$} {:>9}", "shared");
    ARCHITECTURES.iter().for_each(|arch| print!(" {:>14}", arch.to_string()));
    println!();
    for name in names {
        let shared = kernels.iter().filter(|kernel| kernel.variant == name).map(|kernel| kernel.shared_memory).max();
        print!("{name:width$} {:>9}", shared.unwrap_or(0));
        for arch in ARCHITECTURES {
            let cell = match found.get(&(name.to_string(), arch.to_string())) {
                Some(Usage { registers, spill_bytes: 0 }) => registers.to_string(),
                Some(Usage { registers, spill_bytes }) => format!("{registers} ({spill_bytes})"),
                None => "-".into(),
            };
            print!(" {cell:>14}");
        }
        println!();
    }
}
