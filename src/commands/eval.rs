//! `avion eval`.

use super::{choose, load, on_target, print, warn};
use crate::checkpoint::{self, LoadOptions, Pick};
use crate::cli::EvalArgs;
use crate::config::{Recipe, Resolved, validate_for_eval};
use crate::device::DeviceError;
use crate::eval::Evaluation;
use crate::eval::retrieval::EvalSet;
use crate::task::{ContrastiveTask, Task};
use crate::train::{TrainError, compute_dtype, weight_file_values};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

pub(super) fn run(args: EvalArgs) -> Result<u8> {
    let (weights, own_recipe) = find(&args)?;
    let resolved: Resolved = match (&args.config, own_recipe) {
        (Some(config), _) => load(config, &args.overrides)?,
        (None, Some(text)) => {
            let source = format!("recipe of {}", weights.display());
            Recipe::from_toml(&text, &source, &args.overrides)?
        }
        (None, None) => bail!("{} is a weight file: say which model it is with --config", weights.display()),
    };
    let recipe = &resolved.recipe;
    if recipe.data.eval.is_empty() {
        bail!(
            "the recipe has no [[data.eval]] set; add one with --set data.eval.0.annotations=... and data.eval.0.root=..."
        );
    }
    warn(validate_for_eval(recipe)?);
    let (values, report) = weight_file_values(recipe, &weights, LoadOptions { projections: true })?;
    eprintln!("{}: {report}", weights.display());
    let sets = recipe.data.eval.iter().map(EvalSet::load).collect::<Result<Vec<_>, _>>()?;
    let chosen = choose(&args.device)?;
    let scored: Result<_, TrainError> = DeviceError::catch(|| {
        Ok(on_target!(&chosen.target, R, device => {
            compute_dtype::<R>(recipe.train.precision, device).and_then(|dtype| {
                let task = ContrastiveTask::<R>::new(recipe, &values, dtype, device, sets, None);
                Ok(task.evaluate(&|| false)?)
            })
        }))
    })?;
    for evaluation in &scored?.unwrap_or_default() {
        print(&text(evaluation, args.json))?;
    }
    Ok(0)
}

/// The weights that `--checkpoint` means, and the recipe beside them when there is one.
fn find(args: &EvalArgs) -> Result<(PathBuf, Option<String>)> {
    if args.checkpoint.is_file() {
        return Ok((args.checkpoint.clone(), None));
    }
    let (folder, skipped) = checkpoint::locate(&args.checkpoint, Pick::Best)?;
    for one in skipped {
        tracing::warn!("passed over a damaged checkpoint: {one}");
    }
    checkpoint::verify(&folder)?;
    let recipe = folder.join("recipe.toml");
    let text = std::fs::read_to_string(&recipe).with_context(|| format!("cannot read {}", recipe.display()))?;
    Ok((folder, Some(text)))
}

fn text(evaluation: &Evaluation, json: bool) -> String {
    if json {
        let value = serde_json::json!({
            "set": evaluation.set,
            "videos": evaluation.videos,
            "unreadable": evaluation.unreadable,
            "seconds": evaluation.seconds,
            "scores": evaluation.scores,
            "chance": evaluation.chance,
        });
        return format!("{value}\n");
    }
    let Evaluation { set, videos, unreadable, seconds, .. } = evaluation;
    let mut text = format!("{set}: {videos} clips, {unreadable} unreadable, {seconds:.1} s\n");
    text.push_str(&format!("  {:<22}{:>9}{:>9}\n", "", "score", "chance"));
    for (name, score) in &evaluation.scores {
        let chance = evaluation.chance.get(name).map_or(String::new(), |c| format!("{:.2}", c * 100.0));
        text.push_str(&format!("  {name:<22}{:>9.2}{chance:>9}\n", score * 100.0));
    }
    text
}
