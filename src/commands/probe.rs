//! `avion probe`: what a model's features hold, as they are.

use super::weights::Weights;
use super::{choose, on_target, print, warn};
use crate::checkpoint::LoadOptions;
use crate::cli::ProbeArgs;
use crate::config::recipe::{Recipe, SourceConfig, SourceFormat, TaskKind};
use crate::config::{Warning, validate};
use crate::device::DeviceError;
use crate::eval::SourceSet;
use crate::eval::neighbours::NeighbourOptions;
use crate::eval::probe::ProbeOptions;
use crate::inspect::{Encoder, FrozenScores, FrozenSet, probe};
use crate::train::{TrainError, compute_dtype};
use anyhow::{Context, Result, bail};
use burn_cubecl::CubeRuntime;

pub(super) fn run(args: ProbeArgs) -> Result<u8> {
    let weights = Weights::find(&args.weights)?;
    let recipe = weights.recipe();
    for (list, sources) in [("train", &recipe.data.train), ("eval", &recipe.data.eval)] {
        if sources.is_empty() {
            bail!(
                "the recipe has no [[data.{list}]] set, which a probe needs: add one with --set \
                 data.{list}.0.format=kinetics, data.{list}.0.annotations=... and data.{list}.0.root=..."
            );
        }
    }
    warn(check(recipe)?);
    let train = labelled(&recipe.data.train)?;
    let tests = labelled(&recipe.data.eval)?;
    // A classifier's head is not used; its norm is, where the file has one.
    let projections = recipe.task == TaskKind::Contrastive;
    let values = weights.values(LoadOptions { projections })?;
    let chosen = choose(&args.device)?;
    let read: Result<_, TrainError> = DeviceError::catch(|| {
        Ok(on_target!(&chosen.target, R, device => features::<R>(recipe, &values, &[train, tests], device)))
    })?;
    let read = read?;
    let [train, tests] = read.as_slice() else { unreachable!("two lists went in") };
    let train = FrozenSet::joined(train);
    for (config, test) in recipe.data.eval.iter().zip(tests) {
        let neighbours = NeighbourOptions { k: args.neighbours, ..NeighbourOptions::default() };
        let linear = ProbeOptions { seed: recipe.seed, ..ProbeOptions::default() };
        let name = config.label();
        let scores = probe(&train, test, neighbours, &linear).with_context(|| format!("probe on {name}"))?;
        print(&text(&name, &train, test, &scores, args.json))?;
    }
    Ok(0)
}

/// Checks the recipe for a probe: weights to start from are not needed, nor are captions.
fn check(recipe: &Recipe) -> Result<Vec<Warning>> {
    let mut probed = recipe.clone();
    (probed.model.init, probed.model.init_projections) = (None, false);
    if probed.task == TaskKind::Contrastive {
        let sources = probed.data.train.iter_mut().chain(&mut probed.data.eval);
        sources.filter(|s| s.format == SourceFormat::Kinetics).for_each(|s| s.format = SourceFormat::Table);
    }
    Ok(validate(&probed)?)
}

/// Sets of which every clip has a label, whatever its number.
fn labelled(configs: &[SourceConfig]) -> Result<Vec<SourceSet>> {
    Ok(configs.iter().map(|config| SourceSet::labelled(config, usize::MAX)).collect::<Result<_, _>>()?)
}

/// Features of all sets of all lists.
fn features<R: CubeRuntime>(
    recipe: &Recipe,
    values: &[Vec<f32>],
    lists: &[Vec<SourceSet>],
    device: &R::Device,
) -> Result<Vec<Vec<FrozenSet>>, TrainError> {
    let dtype = compute_dtype::<R>(recipe.train.precision, device)?;
    let encoder = Encoder::<R>::new(recipe, values, dtype, device)?;
    let of = |set: &SourceSet| -> Result<FrozenSet, TrainError> {
        eprintln!("features of {}", set.name);
        Ok(FrozenSet::of(&encoder, recipe, set)?)
    };
    lists.iter().map(|sets| sets.iter().map(of).collect()).collect()
}

fn text(set: &str, train: &FrozenSet, test: &FrozenSet, scores: &FrozenScores, json: bool) -> String {
    let FrozenScores { neighbours, linear, chance } = scores;
    if json {
        let value = serde_json::json!({
            "set": set,
            "train_clips": train.clips(),
            "test_clips": test.clips(),
            "unreadable": train.unreadable + test.unreadable,
            "neighbours": { "top1": neighbours.top1, "top5": neighbours.top5 },
            "linear": {
                "top1": linear.top1,
                "top5": linear.top5,
                "train_top1": linear.train_top1,
                "l2": linear.l2,
                "converged": linear.converged,
            },
            "chance": { "top1": chance },
        });
        return format!("{value}\n");
    }
    let mut text = format!(
        "{set}: {} training clips, {} test clips, {} unreadable\n  {:<20}{:>9}{:>9}\n",
        train.clips(),
        test.clips(),
        train.unreadable + test.unreadable,
        "",
        "top-1",
        "top-5"
    );
    let mut line = |name: &str, top1: f64, top5: Option<f64>| {
        let top5 = top5.map_or(String::new(), |top5| format!("{:.2}", top5 * 100.0));
        let line = format!("  {name:<20}{:>9.2}{top5:>9}", top1 * 100.0);
        text.push_str(&format!("{}\n", line.trim_end()));
    };
    line("nearest neighbours", neighbours.top1, Some(neighbours.top5));
    line("linear probe", linear.top1, Some(linear.top5));
    line("  on training clips", linear.train_top1, None);
    line("chance", *chance, None);
    text.push_str(&format!("  penalty {:e}, chosen on a fifth of the training clips\n", linear.l2));
    if !linear.converged {
        text.push_str(&format!("  the linear probe was not done after {} steps\n", linear.iterations));
    }
    text
}
