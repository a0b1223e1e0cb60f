//! What a recipe's data sets hold, and whether this machine can feed them to the recipe: `avion data stats`.
//!
//! ```text
//! annotations -> clips, captions, labels   (all of them)
//! files       -> found or missing (all), opened and measured (a sample)
//! loader      -> clips a second on this machine, beside what the recipe's step needs
//! ```

mod captions;
mod feed;
mod files;
mod labels;
mod page;
mod sheet;
mod show;
mod spread;

pub use captions::CaptionStats;
pub use feed::{Feed, Need, Rate, StepTime, recorded_step_time};
pub use files::{BadClips, FileStats, Found};
pub use labels::LabelStats;
pub use page::page;
pub use sheet::contact_sheet;
pub use spread::{Bin, Spread};

use crate::config::recipe::{Recipe, SourceConfig, TaskKind};
use crate::data::annotations::{self, AnnotationError};
use crate::data::loader::{Decoder, LoaderConfig, LoaderError};
use crate::data::{Layout, Source};
use crate::report::ReportError;
use serde::Serialize;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// What is looked at, and how long.
#[derive(Clone, Debug)]
pub struct StatsOptions {
    /// Files of each set that are opened, at most.
    pub sample: usize,
    /// The time that each measurement of the decoding rate takes; zero = none.
    pub measure: Duration,
    /// How long a training step takes without waiting for data, if that is known.
    pub step: Option<StepTime>,
}

/// Everything that was found out.
#[derive(Clone, Debug, Serialize)]
pub struct DataStats {
    /// Name of the recipe.
    pub recipe: String,
    pub sources: Vec<SourceStats>,
    /// Clips a second; `None` when it was not measured.
    pub feed: Option<Feed>,
}

/// One training or evaluation set.
#[derive(Clone, Debug, Serialize)]
pub struct SourceStats {
    /// `train` or `eval`.
    pub set: &'static str,
    pub name: String,
    pub clips: u64,
    pub videos: u64,
    /// Length of all clips; `None` when it is that of the videos and none could be opened.
    pub hours: Option<f64>,
    /// The hours are those of the opened videos, taken for all.
    pub hours_estimated: bool,
    /// Seconds of a clip, as annotated; of whole videos, as opened.
    pub durations_s: Option<Spread>,
    /// `None` for sets without captions.
    pub captions: Option<CaptionStats>,
    /// `None` for sets without labels.
    pub labels: Option<LabelStats>,
    pub files: FileStats,
}

/// Why no statistics could be made.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    #[error(transparent)]
    Annotations(#[from] AnnotationError),
    #[error("the recipe names no data: add a [[data.train]] table with annotations and root")]
    NoData,
    #[error(transparent)]
    Loader(#[from] LoaderError),
    #[error(transparent)]
    Report(#[from] ReportError),
}

/// Reads all sets of a recipe: `("train" or "eval", set)`.
///
/// # Errors
/// What is wrong with an annotation file; that there is none.
pub fn load_sources(recipe: &Recipe) -> Result<Vec<(&'static str, Source)>, StatsError> {
    let load = |set| move |config: &SourceConfig| Ok((set, annotations::load(config)?));
    let train = recipe.data.train.iter().map(load("train"));
    let sources: Vec<_> = train.chain(recipe.data.eval.iter().map(load("eval"))).collect::<Result<_, StatsError>>()?;
    if sources.is_empty() { Err(StatsError::NoData) } else { Ok(sources) }
}

/// Looks at the sets; also returns them with only those clips that nothing was found against. `progress` is called now
/// and then with what is being done and how far it is, a share.
///
/// # Errors
/// A loader setting out of range.
pub fn gather(
    recipe: &Recipe,
    sources: &[(&'static str, Source)],
    loader: &LoaderConfig,
    options: &StatsOptions,
    decoder: &Arc<dyn Decoder>,
    progress: &(dyn Fn(&str, f64) + Sync),
) -> Result<(DataStats, Vec<(&'static str, Source)>), StatsError> {
    let of_source = |(set, source): &(&'static str, Source)| {
        let looking = |share| progress(&format!("files of {}", source.name), share);
        let (files, usable) = files::look(source, loader, options.sample, &**decoder, &looking);
        (source_stats(recipe, set, source, files), (*set, usable))
    };
    let (of_sources, usable): (Vec<_>, Vec<_>) = sources.iter().map(of_source).unzip();
    let mut stats = DataStats { recipe: recipe.name.clone(), sources: of_sources, feed: None };
    if !options.measure.is_zero() {
        let training = usable.iter().filter(|(set, _)| *set == "train").map(|(_, source)| source.clone()).collect();
        stats.feed = feed::measure(recipe, training, loader, options, decoder, progress)?;
    }
    Ok((stats, usable))
}

fn source_stats(recipe: &Recipe, set: &'static str, source: &Source, files: FileStats) -> SourceStats {
    let clips = &source.clips;
    let whole = clips.iter().all(|clip| clip.whole) && matches!(source.layout, Layout::Whole { .. });
    let durations_s = if whole {
        files.durations_s.clone()
    } else {
        Spread::of(clips.iter().map(|clip| clip.end_s - clip.start_s).filter(|length| *length >= 0.0).collect())
    };
    let hours = durations_s.as_ref().map(|spread| {
        let all = if whole { clips.len() as f64 } else { spread.count as f64 };
        spread.mean * all / 3600.0
    });
    let videos: HashSet<&str> = clips.iter().map(|clip| &*clip.video).collect();
    let classes = (recipe.task == TaskKind::Classify).then_some(recipe.classify.classes);
    SourceStats {
        set,
        name: source.name.clone(),
        clips: clips.len() as u64,
        videos: videos.len() as u64,
        hours,
        hours_estimated: whole && files.opened < files.named,
        durations_s,
        captions: captions::stats(clips, recipe.model.context),
        labels: labels::stats(clips, classes),
        files,
    }
}
