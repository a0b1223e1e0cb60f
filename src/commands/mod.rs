//! What each subcommand does: resolve, check, choose a device, call the library, print.

mod config;
mod demo;
mod devices;
mod eval;
mod train;

use crate::cli::{Cli, Command, DeviceArgs};
use crate::config::{Recipe, Resolved, validate};
use crate::device::{self, Chosen};
use anyhow::Result;

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
        Command::Demo(args) => demo::run(args),
        Command::Devices(args) => devices::run(args),
        Command::Config(args) => config::run(args),
    }
}

/// Prints an error and its causes, one a line.
pub fn print_error(error: &anyhow::Error) {
    eprintln!("error: {error}");
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        // Some errors carry their source's text in their own.
        if !last.contains(&cause.to_string()) {
            eprintln!("  caused by: {cause}");
        }
        last = cause.to_string();
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
    for warning in validate(&resolved.recipe)? {
        tracing::warn!("{warning}");
    }
    Ok(())
}

/// Takes a device and says which and why.
fn choose(args: &DeviceArgs) -> Result<Chosen> {
    let chosen = device::choose(args.backend, args.device)?;
    device::init(&chosen.target)?;
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
