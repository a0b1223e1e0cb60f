//! `avion eval`.

use super::weights::Weights;
use super::{choose, on_target, print, warn};
use crate::checkpoint::LoadOptions;
use crate::cli::EvalArgs;
use crate::config::recipe::{Recipe, TaskKind};
use crate::config::validate_for_eval;
use crate::data::annotations::read_names;
use crate::device::DeviceError;
use crate::eval::metrics::Confusion;
use crate::eval::retrieval::EvalSet;
use crate::eval::{Evaluation, SourceSet, class_rows};
use crate::report::{ClassRow, draw_confusion};
use crate::task::{ClassifyTask, ContrastiveTask, MaskedTask, Task};
use crate::train::{TrainError, compute_dtype};
use anyhow::{Result, bail};
use burn_cubecl::CubeRuntime;
use std::path::{Path, PathBuf};

pub(super) fn run(args: EvalArgs) -> Result<u8> {
    let weights = Weights::find(&args.weights)?;
    let recipe = weights.recipe();
    if recipe.data.eval.is_empty() {
        bail!(
            "the recipe has no [[data.eval]] set; add one with --set data.eval.0.annotations=... and data.eval.0.root=..."
        );
    }
    if recipe.task != TaskKind::Classify && (args.per_class || args.confusion.is_some()) {
        bail!("--per-class and --confusion need classes: expected a recipe of task = \"classify\"");
    }
    warn(validate_for_eval(recipe)?);
    let names = match &recipe.data.labels {
        Some(path) if recipe.task == TaskKind::Classify => read_names(path, recipe.classify.classes)?,
        _ => Vec::new(),
    };
    let sets = Sets::load(recipe)?;
    let values = weights.values(LoadOptions { projections: true })?;
    let chosen = choose(&args.device)?;
    let scored: Result<_, TrainError> = DeviceError::catch(|| {
        Ok(on_target!(&chosen.target, R, device => evaluate::<R>(recipe, &values, sets, device)))
    })?;
    for (number, evaluation) in scored?.iter().enumerate() {
        let rows = evaluation.confusion.as_ref().filter(|_| args.per_class).map(|c| class_rows(c, &names));
        print(&text(evaluation, rows.as_deref(), args.json))?;
        if let Some((path, confusion)) = args.confusion.as_deref().zip(evaluation.confusion.as_ref()) {
            write_confusion(&numbered(path, number), confusion)?;
        }
    }
    Ok(0)
}

/// The evaluation sets of a recipe, as its task needs them.
enum Sets {
    Retrieval(Vec<EvalSet>),
    Masked(Vec<SourceSet>),
    Labelled(Vec<SourceSet>),
}

impl Sets {
    fn load(recipe: &Recipe) -> Result<Self> {
        let configs = recipe.data.eval.iter();
        Ok(match recipe.task {
            TaskKind::Contrastive => Self::Retrieval(configs.map(EvalSet::load).collect::<Result<_, _>>()?),
            TaskKind::Masked => Self::Masked(configs.map(SourceSet::load).collect::<Result<_, _>>()?),
            TaskKind::Classify => {
                let load = |config| SourceSet::labelled(config, recipe.classify.classes);
                Self::Labelled(configs.map(load).collect::<Result<_, _>>()?)
            }
        })
    }
}

fn evaluate<R: CubeRuntime>(
    recipe: &Recipe,
    values: &[Vec<f32>],
    sets: Sets,
    device: &R::Device,
) -> Result<Vec<Evaluation>, TrainError> {
    let dtype = compute_dtype::<R>(recipe.train.precision, device)?;
    let go_on = || false;
    let scored = match sets {
        Sets::Retrieval(sets) => ContrastiveTask::<R>::new(recipe, values, dtype, device, sets, None).evaluate(&go_on),
        Sets::Masked(sets) => MaskedTask::<R>::new(recipe, values, dtype, device, sets, None)?.evaluate(&go_on),
        Sets::Labelled(sets) => ClassifyTask::<R>::new(recipe, values, dtype, device, sets, None).evaluate(&go_on),
    };
    Ok(scored?.unwrap_or_default())
}

/// `confusion.png` for the first set, `confusion-2.png` for the second.
fn numbered(path: &Path, number: usize) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map_or(String::new(), |extension| format!(".{}", extension.to_string_lossy()));
    path.with_file_name(format!("{stem}-{}{extension}", number + 1))
}

fn write_confusion(path: &Path, confusion: &Confusion) -> Result<()> {
    draw_confusion(&confusion.counts, confusion.classes)?.write_png(path)?;
    eprintln!("confusion matrix: {}", path.display());
    Ok(())
}

fn text(evaluation: &Evaluation, rows: Option<&[ClassRow]>, json: bool) -> String {
    if json {
        let mut value = serde_json::json!({
            "set": evaluation.set,
            "videos": evaluation.videos,
            "unreadable": evaluation.unreadable,
            "seconds": evaluation.seconds,
            "scores": evaluation.scores,
            "chance": evaluation.chance,
        });
        if let Some(rows) = rows {
            value["classes"] = serde_json::json!(rows);
        }
        return format!("{value}\n");
    }
    let Evaluation { set, videos, unreadable, seconds, .. } = evaluation;
    let mut text = format!("{set}: {videos} clips, {unreadable} unreadable, {seconds:.1} s\n");
    text.push_str(&format!("  {:<22}{:>9}{:>9}\n", "", "score", "chance"));
    for (name, score) in &evaluation.scores {
        let chance = evaluation.chance.get(name).map_or(String::new(), |c| format!("{:.2}", c * 100.0));
        // The loss is no share.
        let score = if name == "loss" { format!("{score:.4}") } else { format!("{:.2}", score * 100.0) };
        text.push_str(&format!("  {name:<22}{score:>9}{chance:>9}\n"));
    }
    if let Some(rows) = rows {
        text.push_str(&class_table(rows));
    }
    text
}

/// From the worst recognised class to the best; those without clips are counted only.
fn class_table(rows: &[ClassRow]) -> String {
    let mut shown: Vec<&ClassRow> = rows.iter().filter(|row| row.clips > 0).collect();
    // Fractions compared without rounding.
    shown.sort_by_key(|row| row.class);
    shown.sort_by(|a, b| (u128::from(a.right) * u128::from(b.clips)).cmp(&(u128::from(b.right) * u128::from(a.clips))));
    let width = shown.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(4);
    let mut text =
        format!("  class {:<width$}{:>8}{:>8}{:>9}  most often taken for\n", "name", "clips", "right", "share");
    for row in &shown {
        let ClassRow { class, name, clips, right, .. } = row;
        let share = *right as f64 / *clips as f64 * 100.0;
        let other = row.confused_with.as_ref().map_or(String::new(), |(name, times)| format!("  {name} ({times})"));
        text.push_str(&format!("  {class:>5} {name:<width$}{clips:>8}{right:>8}{share:>9.2}{other}\n"));
    }
    match rows.len() - shown.len() {
        0 => text,
        empty => text + &format!("  classes without clips: {empty}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_of_further_sets_are_numbered() {
        assert_eq!(numbered(Path::new("a/c.png"), 0), Path::new("a/c.png"));
        assert_eq!(numbered(Path::new("a/c.png"), 1), Path::new("a/c-2.png"));
        assert_eq!(numbered(Path::new("c"), 2), Path::new("c-3"));
    }

    #[test]
    fn the_worst_class_comes_first() {
        let row = |class, name: &str, clips, right| ClassRow {
            class,
            name: name.into(),
            clips,
            right,
            confused_with: (right < clips).then(|| ("other".to_owned(), 1)),
        };
        let text = class_table(&[row(0, "half", 4, 2), row(1, "all", 3, 3), row(2, "none", 0, 0), row(3, "bad", 3, 1)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5);
        assert!(lines[1].contains("3 bad") && lines[1].contains("33.33  other (1)"), "{text}");
        assert!(lines[2].contains("0 half") && lines[3].contains("1 all") && lines[3].ends_with("100.00"), "{text}");
        assert_eq!(lines[4], "  classes without clips: 1");
    }
}
