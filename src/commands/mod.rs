//! What each subcommand does: resolve, check, choose a device, call the library, print.

mod bench;
mod config;
mod data;
#[cfg(feature = "video")]
mod demo;
#[cfg(feature = "video")]
mod demo_videomae;
mod devices;
mod eval;
mod export;
mod inspect;
mod prepare;
mod probe;
mod train;
mod weights;

use crate::cli::{Cli, Command, DemoArgs, DeviceArgs};
use crate::config::recipe::TaskKind;
use crate::config::{Recipe, Resolved, Warning, validate};
use crate::device::{self, Chosen};
use anyhow::Result;
use std::io::Write;

/// Exit code of a run that was asked to stop and did, after a checkpoint.
const INTERRUPTED: u8 = 130;

/// Runs a command; the number is the process's exit code.
///
/// # Errors
/// Whatever stopped it, with its causes.
pub fn run(cli: Cli) -> Result<u8> {
    match cli.command {
        Command::Train(args) => train::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Probe(args) => probe::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Export(args) => export::run(args),
        Command::Demo(args) => show(args),
        Command::Prepare(args) => prepare::run(args),
        Command::Devices(args) => devices::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Config(args) => config::run(args),
        Command::Data(args) => data::run(args),
    }
}

#[cfg(feature = "video")]
fn show(args: DemoArgs) -> Result<u8> {
    match args.what {
        crate::cli::DemoWhat::Clip => demo::run(args),
        crate::cli::DemoWhat::Videomae => demo_videomae::run(args),
    }
}

#[cfg(not(feature = "video"))]
fn show(_: DemoArgs) -> Result<u8> {
    anyhow::bail!("this avion was built without FFmpeg; build it with the feature `video` to generate and read videos")
}

/// Prints an error and its causes, one a line.
pub fn print_error(error: &(dyn std::error::Error + 'static)) {
    let mut last = error.to_string();
    eprintln!("error: {last}");
    let mut next = error.source();
    while let Some(cause) = next {
        // Some errors carry their source's text in their own.
        if !last.contains(&cause.to_string()) {
            eprintln!("  caused by: {cause}");
        }
        last = cause.to_string();
        next = cause.source();
    }
}

/// A task as recipes write it.
fn task_name(task: TaskKind) -> &'static str {
    match task {
        TaskKind::Contrastive => "contrastive",
        TaskKind::Masked => "masked",
        TaskKind::Classify => "classify",
    }
}

/// Writes to stdout; a reader that went away (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Loads a recipe and says what was changed in it.
fn load(config: &str, overrides: &[String]) -> Result<Resolved> {
    let resolved = Recipe::load(config, overrides)?;
    for (key, was, now) in &resolved.overridden {
        eprintln!("set {key} = {now} (was {was})");
    }
    Ok(resolved)
}

/// Checks a recipe, with the disk; prints warnings.
fn check(resolved: &Resolved) -> Result<()> {
    warn(validate(&resolved.recipe)?);
    Ok(())
}

/// Checks a recipe's values only: its files need not be there.
fn check_values(resolved: &Resolved) -> Result<()> {
    warn(crate::config::validate_values(&resolved.recipe)?);
    Ok(())
}

fn warn(warnings: Vec<Warning>) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

/// Takes a device and says which and why.
fn choose(args: &DeviceArgs) -> Result<Chosen> {
    let chosen = device::choose(args.backend, args.device)?;
    device::init(&chosen.target)?;
    // A decoder beside a device that computes elsewhere would take another GPU's memory unasked.
    crate::video::decode_on((chosen.info.backend == "cuda").then_some(chosen.info.index));
    eprintln!("{}", chosen.why);
    Ok(chosen)
}

/// Runs `$body` with `$R` bound to the runtime of `$target` and `$device` to its device.
macro_rules! on_target {
    ($target:expr, $R:ident, $device:ident => $body:expr) => {
        match $target {
            #[cfg(feature = "cuda")]
            $crate::device::Target::Cuda($device) => {
                type $R = cubecl::cuda::CudaRuntime;
                $body
            }
            #[cfg(feature = "wgpu")]
            $crate::device::Target::Wgpu($device) => {
                type $R = cubecl::wgpu::WgpuRuntime;
                $body
            }
        }
    };
}
use on_target;
