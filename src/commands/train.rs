//! `avion train`.

use super::{INTERRUPTED, check, choose, load, on_target, print, print_error};
use crate::cli::TrainArgs;
use crate::config::Resolved;
use crate::device::{Chosen, DeviceError};
use crate::train::{self, Outcome, RunOptions, TrainError};
use anyhow::Result;

pub(super) fn run(args: TrainArgs) -> Result<u8> {
    let mut overrides = args.recipe.overrides.clone();
    if let Some(output) = &args.output {
        overrides.push(format!("train.output={}", toml_string(&output.display().to_string())));
    }
    let resolved = load(&args.recipe.config, &overrides)?;
    check(&resolved)?;
    let chosen = choose(&args.device)?;
    let options = RunOptions { resume: args.resume, fresh: args.fresh };
    finish(&run_on(&chosen, &resolved, &options))
}

/// Trains on whatever device was chosen.
pub(super) fn run_on(chosen: &Chosen, resolved: &Resolved, options: &RunOptions) -> Result<Outcome, TrainError> {
    // CubeCL panics when an allocation fails; that is no bug of ours and no reason for a backtrace.
    DeviceError::catch(|| {
        Ok(on_target!(&chosen.target, R, device => train::run::<R>(resolved, device, &chosen.info, options)))
    })?
}

/// Says how a run ended, as text and as an exit code.
pub(super) fn finish(outcome: &Result<Outcome, TrainError>) -> Result<u8> {
    match outcome {
        Ok(Outcome::Finished { report, .. }) => {
            print(&format!("report: {}\n", report.display()))?;
            Ok(0)
        }
        Ok(Outcome::Interrupted { checkpoint }) => {
            eprintln!("interrupted; everything is in {}: the same command goes on from there", checkpoint.display());
            Ok(INTERRUPTED)
        }
        Err(error) => {
            print_error(error);
            Ok(error.exit_code())
        }
    }
}

/// `text` as a TOML string.
pub(super) fn toml_string(text: &str) -> String {
    toml::Value::from(text).to_string()
}
