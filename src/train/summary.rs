//! The end of a run: `report.html` and `results.json`.

use super::TrainError;
use crate::config::Resolved;
use crate::config::recipe::{Recipe, TaskKind};
use crate::data::annotations::read_names;
use crate::data::loader::WorkerTimes;
use crate::device::DeviceInfo;
use crate::eval::{Evaluation, Example, class_rows};
use crate::report::{
    BadSamples, ClassSection, ClipCard, EvalTable, Fact, Match, Record, ReportData, ReportError, Results, ScoreRow,
    Scored, Scores, Thumbnail, draw_confusion,
};
use burn::tensor::DType;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(super) struct Facts<'a> {
    pub resolved: &'a Resolved,
    pub info: &'a DeviceInfo,
    pub dtype: DType,
    /// Seconds the run has taken over all restarts, evaluation included.
    pub running_s: f64,
    /// What the decode threads did since the last restart.
    pub loading: WorkerTimes,
    pub bad: BadSamples,
}

/// Scores shown, with their names for people.
const SHOWN: [(&str, &str); 19] = [
    ("t2v_r1", "text to video R@1"),
    ("v2t_r1", "video to text R@1"),
    ("t2v_r5", "text to video R@5"),
    ("v2t_r5", "video to text R@5"),
    ("t2v_r10", "text to video R@10"),
    ("v2t_r10", "video to text R@10"),
    ("map_avg", "mAP"),
    ("ndcg_avg", "nDCG"),
    ("map_v2t", "mAP, video to text"),
    ("map_t2v", "mAP, text to video"),
    ("ndcg_v2t", "nDCG, video to text"),
    ("ndcg_t2v", "nDCG, text to video"),
    ("textbook_map_avg", "mAP, textbook"),
    ("top1", "top-1"),
    ("top5", "top-5"),
    ("mean_class", "class mean"),
    ("top1_probabilities", "top-1, probabilities averaged"),
    ("top5_probabilities", "top-5, probabilities averaged"),
    ("explained", "explained share of the variance"),
];

/// What a task's scores measure.
pub(super) fn scored(task: TaskKind) -> Scored {
    match task {
        TaskKind::Contrastive => Scored::Retrieval,
        TaskKind::Classify => Scored::Recognition,
        TaskKind::Masked => Scored::Reconstruction,
    }
}

/// Writes both files; returns the report's path and what `results.json` holds.
pub(super) fn write(
    folder: &Path,
    facts: &Facts,
    history: Vec<Record>,
    evaluations: &[Evaluation],
) -> Result<(PathBuf, Option<Results>), TrainError> {
    let tables: Vec<EvalTable> = evaluations.iter().map(|e| table(e, before(&history, &e.set))).collect();
    let results = evaluations.iter().find_map(|e| results(e, before(&history, &e.set), facts));
    if let Some(results) = &results {
        results.write(&folder.join("results.json"))?;
    }
    let recipe = &facts.resolved.recipe;
    let data = ReportData {
        title: recipe.name.clone(),
        subtitle: format!("{:?} training of {:?} on {}", recipe.task, recipe.model.size, facts.info.name),
        facts: vec![
            Fact::new("device", facts.info.name.clone()),
            Fact::new("precision", facts.dtype.name()),
            Fact::new("recipe", facts.resolved.source.clone()),
            Fact::new("batch", format!("{} clips, {} at once", recipe.train.batch_size, recipe.train.clips_at_once())),
            Fact::new("running time, evaluation included", duration(facts.running_s)),
            Fact::new("decode threads, together", facts.loading.to_string()),
            Fact::new("avion", env!("CARGO_PKG_VERSION")),
        ],
        scored: scored(recipe.task),
        tables,
        classes: classes(recipe, evaluations)?,
        records: history,
        searches: evaluations.iter().flat_map(|e| e.searches.clone()).collect(),
        clips: evaluations.iter().flat_map(|e| e.examples.iter().map(card)).collect(),
        bad_samples: facts.bad.clone(),
    };
    let report = folder.join("report.html");
    data.write(&report)?;
    Ok((report, results))
}

/// What each class was taken for, of the sets that have classes.
fn classes(recipe: &Recipe, evaluations: &[Evaluation]) -> Result<Vec<ClassSection>, ReportError> {
    let names = match &recipe.data.labels {
        // A finished run must not be lost to a list of names.
        Some(path) => read_names(path, recipe.classify.classes).unwrap_or_else(|error| {
            tracing::warn!("{error}; the report numbers the classes");
            Vec::new()
        }),
        None => Vec::new(),
    };
    let with_classes = evaluations.iter().filter_map(|evaluation| Some((evaluation, evaluation.confusion.as_ref()?)));
    with_classes
        .map(|(evaluation, confusion)| {
            let picture = draw_confusion(&confusion.counts, confusion.classes)?;
            Ok(ClassSection {
                set: evaluation.set.clone(),
                rows: class_rows(confusion, &names),
                confusion: Some(Thumbnail::from_picture(&picture)?),
            })
        })
        .collect()
}

/// The scores of a set before the first step.
fn before<'a>(history: &'a [Record], set: &str) -> Option<&'a BTreeMap<String, f64>> {
    history.iter().find_map(|record| match record {
        Record::Eval(eval) if eval.step == 0 && eval.set == set => Some(&eval.scores),
        _ => None,
    })
}

fn table(evaluation: &Evaluation, before: Option<&BTreeMap<String, f64>>) -> EvalTable {
    let row = |(key, name): &(&str, &str)| {
        let after = evaluation.scores.get(*key)?;
        Some(ScoreRow {
            name: (*name).into(),
            chance: evaluation.chance.get(*key).copied(),
            before: before.and_then(|scores| scores.get(*key)).copied(),
            after: Some(*after),
        })
    };
    EvalTable { set: evaluation.set.clone(), rows: SHOWN.iter().filter_map(row).collect() }
}

/// For sets scored by recall that were scored before training too.
fn results(evaluation: &Evaluation, before: Option<&BTreeMap<String, f64>>, facts: &Facts) -> Option<Results> {
    let scores = |by_name: &BTreeMap<String, f64>| {
        let score = |key: &str| by_name.get(key).copied();
        Some(Scores {
            t2v_r1: score("t2v_r1")?,
            v2t_r1: score("v2t_r1")?,
            map: score("map_avg")?,
            ndcg: score("ndcg_avg")?,
        })
    };
    Some(Results {
        chance: scores(&evaluation.chance)?,
        before: scores(before?)?,
        after: scores(&evaluation.scores)?,
        seconds: facts.running_s,
        device: facts.info.name.clone(),
    })
}

fn card(example: &Example) -> ClipCard {
    let matches = example.matches.iter().map(|(caption, similarity, right)| Match {
        caption: caption.to_string(),
        similarity: *similarity,
        right: *right,
    });
    ClipCard {
        frames: example.frames.clone(),
        caption: example.caption.to_string(),
        rank: example.rank,
        candidates: example.candidates,
        matches: matches.collect(),
    }
}

fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}
