//! Features of labelled clips from a model that is not trained further, and how far they separate the classes.

use super::Encoder;
use crate::config::Geometry;
use crate::config::recipe::Recipe;
use crate::data::loader::{Loader, LoaderConfig};
use crate::eval::neighbours::{NeighbourOptions, NeighbourScores, classify_by_neighbours};
use crate::eval::probe::{ProbeOptions, ProbeScores, linear_probe};
use crate::eval::{EvalError, FeatureError, Labelled, SourceSet};
use burn_cubecl::CubeRuntime;

/// Features of the clips that could be read.
#[derive(Clone, Debug)]
pub struct FrozenSet {
    /// `[clips, width]`.
    features: Vec<f32>,
    width: usize,
    /// `[clips]`.
    labels: Vec<usize>,
    pub unreadable: usize,
}

/// How far features separate the classes.
#[derive(Clone, Debug)]
pub struct FrozenScores {
    pub neighbours: NeighbourScores,
    pub linear: ProbeScores,
    /// What always guessing the class that is most frequent among the test clips scores.
    pub chance: f64,
}

impl FrozenSet {
    /// One central view of every clip of `set`, through the model.
    ///
    /// # Errors
    /// More unreadable clips than `data.max_bad_share`, none readable, or what the device reports.
    pub fn of<R: CubeRuntime>(encoder: &Encoder<R>, recipe: &Recipe, set: &SourceSet) -> Result<Self, EvalError> {
        let failed = |source| EvalError::Loader { set: set.name.clone(), source };
        let config = set.loader_config(recipe, Geometry::of(recipe.model.size).image_px);
        let config = LoaderConfig { views: 1, crops: 1, ..config };
        let mut all = FrozenSet { features: Vec::new(), width: 0, labels: Vec::new(), unreadable: 0 };
        for batch in Loader::eval(set.sources.clone(), config).map_err(failed)? {
            let batch = batch.map_err(failed)?;
            all.unreadable += batch.bad.len();
            if batch.samples.is_empty() {
                continue;
            }
            let features = encoder.features(&batch.frames, batch.samples.len())?;
            all.width = features.len() / batch.samples.len();
            all.features.extend(features);
            all.labels.extend(batch.labels.iter().map(|label| *label as usize));
        }
        if all.labels.is_empty() {
            return Err(EvalError::NoClips { set: set.name.clone() });
        }
        Ok(all)
    }

    /// Several sets of one model as one.
    pub fn joined(sets: &[FrozenSet]) -> Self {
        FrozenSet {
            features: sets.iter().flat_map(|set| &set.features).copied().collect(),
            width: sets.first().map_or(0, |set| set.width),
            labels: sets.iter().flat_map(|set| &set.labels).copied().collect(),
            unreadable: sets.iter().map(|set| set.unreadable).sum(),
        }
    }

    pub fn clips(&self) -> usize {
        self.labels.len()
    }

    fn labelled(&self, set: &'static str) -> Labelled<'_> {
        Labelled { set, features: &self.features, width: self.width, labels: &self.labels }
    }
}

/// Classifies `test` by its neighbours in `train`, and by a linear classifier trained on `train`.
///
/// # Errors
/// Features that are not finite or all 0, too few training clips.
pub fn probe(
    train: &FrozenSet,
    test: &FrozenSet,
    neighbours: NeighbourOptions,
    linear: &ProbeOptions,
) -> Result<FrozenScores, FeatureError> {
    let classes = train.labels.iter().chain(&test.labels).max().map_or(0, |most| most + 1);
    let mut counts = vec![0usize; classes];
    test.labels.iter().for_each(|&label| counts[label] += 1);
    let most = counts.into_iter().max().unwrap_or(0);
    let (train, test_set) = (train.labelled("train"), test.labelled("test"));
    Ok(FrozenScores {
        neighbours: classify_by_neighbours(train, test_set, classes, neighbours)?,
        linear: linear_probe(train, test_set, classes, linear)?,
        chance: most as f64 / test.labels.len() as f64,
    })
}
