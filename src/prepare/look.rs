//! Looks at sources before the work begins: what has changed, what is there, how long each is.

use super::error::fault;
use super::input::Input;
use super::plan::Plan;
use super::state::{Begun, Stage};
use super::work::Work;
use super::{Options, in_parallel, source_file};
use crate::data::manifest::Failed;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What there is to do for a video.
pub enum Looked {
    Finished,
    Work(Work),
    /// It cannot be prepared.
    Bad(Work, Failed),
    /// It cannot be read now, but was when it was prepared.
    Away(Work, Failed),
}

/// Looks at every video, of which `known` may tell something.
pub fn look_at_all(
    plan: &Plan,
    options: &Options,
    known: &(dyn Fn(&str) -> Option<Stage> + Sync),
    stop: &(dyn Fn() -> bool + Sync),
) -> Vec<Looked> {
    let looked = Mutex::new(Vec::new());
    in_parallel(&plan.videos, options.workers, |(path, video, problem)| {
        if stop() {
            return;
        }
        let file = |chunk: usize| options.output.join(plan.settings.file(video, chunk));
        let looked_at = look(path, video, problem.as_deref(), known(video), file);
        looked.lock().unwrap_or_else(PoisonError::into_inner).push(looked_at);
    });
    looked.into_inner().unwrap_or_default()
}

/// Compares a source with what is known of it, and opens it if there is something to do.
fn look(
    path: &Path,
    video: &str,
    problem: Option<&str>,
    stage: Option<Stage>,
    file: impl Fn(usize) -> PathBuf,
) -> Looked {
    let source = source_file::undescribed(path, std::fs::metadata(path).ok().as_ref());
    let mut work = Work { path: path.to_owned(), video: video.to_owned(), source, kept: None, duration_s: 0.0 };
    if let Some(problem) = problem {
        return Looked::Bad(work, fault("name", problem));
    }
    let compared = match &stage {
        Some(stage) => source_file::compare(path, stage.source()),
        None => source_file::describe(path).map(|source| (source, false)),
    };
    let same = match (compared, stage.clone().and_then(Stage::into_begun)) {
        (Ok((source, same)), _) => {
            work.source = source;
            same
        }
        (Err(failed), None) => return Looked::Bad(work, failed),
        (Err(failed), Some(_)) => return Looked::Away(work, failed),
    };
    let finished = matches!(stage, Some(Stage::Done(_)));
    if let Some(mut begun) = stage.filter(|_| same).and_then(Stage::into_begun) {
        let chunks = begun.chunks.len();
        begun
            .chunks
            .retain(|number, chunk| std::fs::metadata(file(*number)).is_ok_and(|found| found.len() == chunk.bytes));
        if finished && begun.chunks.len() == chunks {
            return Looked::Finished;
        }
        work.kept = Some(Begun { source: work.source.clone(), ..begun });
    }
    match Input::open(path) {
        Ok(input) => Looked::Work(Work { duration_s: input.facts.duration_s, ..work }),
        Err(failed) if work.kept.is_some() => Looked::Away(work, failed),
        Err(failed) => Looked::Bad(work, failed),
    }
}
