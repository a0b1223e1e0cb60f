//! What has to be there before the first step: folder, weights, data, and where an earlier run stopped.

use super::TrainError;
use crate::checkpoint::{
    self, CheckpointError, CheckpointStore, LoadOptions, LoadReport, Pick, Tensors, TrainState, load_into, read_weights,
};
use crate::config::recipe::{CaptionChoice, Precision, Recipe, SourceConfig};
use crate::config::{Geometry, Resolved, differences};
use crate::data::loader::LoaderConfig;
use crate::data::{Source, annotations};
use crate::model::params::ParamSpec;
use crate::model::{init, specs};
use crate::optim::{Average, OptimizerState};
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the command line says beside the recipe.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// A run or checkpoint to go on from, instead of what the output folder holds.
    pub resume: Option<PathBuf>,
    /// Forget what the output folder holds.
    pub fresh: bool,
}

/// Where the run starts.
pub(super) struct Start {
    pub resumed: Option<Resumed>,
}

/// A checkpoint, as the device wants it.
pub(super) struct Resumed {
    pub values: Vec<Vec<f32>>,
    pub optimizer: OptimizerState,
    /// The moving average of the weights, where the recipe asks for one.
    pub average: Option<Vec<Vec<f32>>>,
    pub state: TrainState,
}

/// Recipe keys that may differ between a checkpoint and the run that goes on from it: they change how long, where and
/// how fast, not what is computed.
const MAY_DIFFER: [&str; 18] = [
    "name",
    "model.init",
    "data.workers",
    "data.prefetch",
    "data.scale_on_device",
    "data.decoder",
    "data.max_bad_share",
    "train.max_steps",
    "train.keep",
    "train.fit",
    "train.micro_batch",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.max_bad_steps",
    "train.output",
    "eval",
    "data.eval",
];

/// Whether a key only says where something lies.
fn is_place(key: &str) -> bool {
    key.starts_with("data.train.") && [".root", ".annotations", ".name"].iter().any(|end| key.ends_with(end))
}

impl Start {
    /// The newest sound checkpoint of the folder (or of `--resume`), if any.
    pub fn find(
        store: &CheckpointStore,
        resolved: &Resolved,
        folder: &Path,
        options: &RunOptions,
    ) -> Result<Self, TrainError> {
        for path in &store.cleaned {
            tracing::warn!("removed what a killed run had left unfinished: {}", path.display());
        }
        let found = match &options.resume {
            _ if options.fresh => None,
            Some(path) => Some(checkpoint::locate(path, Pick::Latest)?),
            None => {
                let latest = store.latest_valid()?;
                if latest.found.is_none() && !latest.skipped.is_empty() {
                    // Starting over would bury what may still be saved by hand.
                    return Err(
                        CheckpointError::NoCheckpoint { path: folder.to_owned(), skipped: latest.skipped }.into()
                    );
                }
                latest.found.map(|(path, _)| (path, latest.skipped))
            }
        };
        let Some((path, skipped)) = found else { return Ok(Start { resumed: None }) };
        for one in &skipped {
            tracing::warn!("passed over a damaged checkpoint: {one}");
        }
        tracing::info!("resuming from {}", path.display());
        let saved = checkpoint::read(&path)?;
        check_recipe(&path, &saved.recipe, resolved, options)?;
        let specs = specs(&resolved.recipe)?;
        let values = in_order(&path, &specs, "", &saved.weights)?;
        let parts = resolved.recipe.optim.state_names().iter();
        let optimizer: Result<OptimizerState, TrainError> =
            parts.map(|part| in_order(&path, &specs, &format!("{part}."), &saved.optimizer)).collect();
        let average = Average::decay_of(&resolved.recipe)
            .map(|_| in_order(&path, &specs, checkpoint::AVERAGE, &saved.optimizer))
            .transpose()?;
        let (optimizer, state) = (optimizer?, saved.manifest.state);
        Ok(Start { resumed: Some(Resumed { values, optimizer, average, state }) })
    }
}

/// The recipe of a checkpoint must compute what the new one computes.
/// With an explicit `--resume` the optimizer's settings may be changed too: what one does after a run diverged. Another
/// optimizer may not: its state cannot be made from the saved one.
fn check_recipe(path: &Path, saved: &str, resolved: &Resolved, options: &RunOptions) -> Result<(), TrainError> {
    let before = Recipe::from_toml(saved, &path.display().to_string(), &[])?.recipe;
    let same_state = before.optim.state_names() == resolved.recipe.optim.state_names();
    let mut changed = Vec::new();
    for (key, was, now) in differences(&before, &resolved.recipe)? {
        let harmless = |allowed: &&str| key == *allowed || key.starts_with(&format!("{allowed}."));
        if MAY_DIFFER.iter().any(harmless) || is_place(&key) {
            continue;
        }
        let other_state = !same_state && ["optim.optimizer", "optim.momentum"].contains(&key.as_str());
        if options.resume.is_some() && key.starts_with("optim.") && !other_state {
            tracing::warn!("{key} was {was} in {}, is {now} from here on", path.display());
            continue;
        }
        changed.push(format!("{key} was {was}, is {now}"));
    }
    if changed.is_empty() {
        return Ok(());
    }
    Err(TrainError::OtherRecipe { checkpoint: path.to_owned(), differences: changed.join("; ") })
}

/// One vector per parameter from tensors by name.
fn in_order(path: &Path, specs: &[ParamSpec], prefix: &str, tensors: &Tensors) -> Result<Vec<Vec<f32>>, TrainError> {
    let other = |what: String| TrainError::OtherModel { checkpoint: path.to_owned(), what };
    specs
        .iter()
        .map(|spec| {
            let name = format!("{prefix}{}", spec.name);
            let tensor = tensors.get(&name).ok_or_else(|| other(format!("no tensor {name}")))?;
            if tensor.shape != spec.shape {
                return Err(other(format!("{name}: expected {:?}, found {:?}", spec.shape, tensor.shape)));
            }
            tensor.to_f32().map_err(|e| other(format!("{name}: {e}")))
        })
        .collect()
}

/// Random weights, overlaid with those of `model.init`.
///
/// # Errors
/// A weight file that cannot be read or does not fit; every tensor concerned is named.
pub fn initial_values(recipe: &Recipe) -> Result<Vec<Vec<f32>>, TrainError> {
    let Some(path) = &recipe.model.init else {
        return Ok(init::values(&specs(recipe)?, recipe.seed));
    };
    let (values, report) =
        weight_file_values(recipe, path, LoadOptions { projections: recipe.model.init_projections })?;
    tracing::info!("{}: {report}", path.display());
    Ok(values)
}

/// Random weights, overlaid with those of a file, and what was taken from it.
///
/// # Errors
/// As [`initial_values`].
pub fn weight_file_values(
    recipe: &Recipe,
    path: &Path,
    options: LoadOptions,
) -> Result<(Vec<Vec<f32>>, LoadReport), TrainError> {
    let specs = specs(recipe)?;
    let expected: Vec<_> = specs.iter().map(|spec| (spec.name.clone(), spec.shape.clone())).collect();
    let (tensors, report) = load_into(&expected, read_weights(path)?, options)?;
    let mut values = init::values(&specs, recipe.seed);
    for (spec, value) in specs.iter().zip(&mut values) {
        if let Some(tensor) = tensors.get(&spec.name) {
            *value = tensor.to_f32().map_err(|what| TrainError::OtherModel { checkpoint: path.to_owned(), what })?;
        }
    }
    Ok((values, report))
}

/// Reads all training sets.
///
/// # Errors
/// What is wrong with their annotations; that there is none.
pub fn load_sources(configs: &[SourceConfig]) -> Result<Arc<[Source]>, TrainError> {
    if configs.is_empty() {
        return Err(TrainError::NoTrainingData);
    }
    let sources: Result<Vec<Source>, _> = configs.iter().map(annotations::load).collect();
    Ok(sources?.into())
}

/// The training loader's settings.
pub fn loader_config(recipe: &Recipe) -> LoaderConfig {
    let captions: Vec<CaptionChoice> = recipe.data.train.iter().map(|source| source.captions).collect();
    let config = LoaderConfig {
        batch_size: recipe.train.batch_size,
        size_px: Geometry::of(recipe.model.size).image_px as u32,
        captions,
        ..LoaderConfig::default()
    };
    config.with_recipe(recipe)
}

/// The type activations are computed in: bf16 where the device multiplies it with tensor cores, else f32.
///
/// # Errors
/// When bf16 is demanded and the device has none.
pub fn compute_dtype<R: CubeRuntime>(precision: Precision, device: &R::Device) -> Result<DType, TrainError> {
    use burn::tensor::backend::Backend;
    let has_bf16 = crate::ops::tensor::Inner::<R>::supports_dtype(device, DType::BF16);
    match (precision, has_bf16) {
        (Precision::F32, _) | (Precision::Auto, false) => Ok(DType::F32),
        (Precision::Auto | Precision::Bf16, true) => Ok(DType::BF16),
        (Precision::Bf16, false) => Err(TrainError::Precision { device: format!("{device:?}") }),
    }
}
