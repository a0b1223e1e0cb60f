//! How well masked tubelets of clips not trained on are predicted.

use super::{EvalError, Evaluation, SourceSet};
use crate::config::recipe::Recipe;
use crate::data::loader::Loader;
use crate::device::DeviceError;
use crate::model::videomae::VideoMae;
use crate::task::masked::mask_keys;
use burn_cubecl::CubeRuntime;
use std::collections::BTreeMap;
use std::time::Instant;

/// Keys the masks of evaluation: the same every time, and in no epoch of training.
const EPOCH: u64 = u64::MAX;

/// A model, ready to be scored.
pub struct Reconstruction<'a, R: CubeRuntime> {
    pub model: &'a VideoMae<R>,
    pub recipe: &'a Recipe,
    /// Asked between batches; scoring ends when it says so.
    pub stop: &'a dyn Fn() -> bool,
}

impl<R: CubeRuntime> Reconstruction<'_, R> {
    /// Loss and explained share of the variance over the masked tokens of every clip, under masks that are the same in
    /// every evaluation. `None` when told to stop.
    ///
    /// # Errors
    /// More unreadable clips than `data.max_bad_share`, none readable, or what the device reports.
    pub fn evaluate(&self, set: &SourceSet) -> Result<Option<Evaluation>, EvalError> {
        let started = Instant::now();
        let failed = |source| EvalError::Loader { set: set.name.clone(), source };
        let config = set.loader_config(self.recipe, self.model.shape.grid.image_px);
        let (mut sums, mut videos, mut unreadable) = ([0.0f64; 2], 0, 0);
        for batch in Loader::eval(set.sources.clone(), config).map_err(failed)? {
            if (self.stop)() {
                return Ok(None);
            }
            let batch = batch.map_err(failed)?;
            unreadable += batch.bad.len();
            if batch.samples.is_empty() {
                continue;
            }
            let keys = mask_keys(self.recipe.seed, EPOCH, &batch.samples, &batch.views);
            let clips = self.model.mask(self.model.ws.upload_bytes(&batch.frames), &keys);
            let result = self.model.evaluate(&clips);
            let bytes = self.model.params.client.read_one(result).map_err(DeviceError::from_server)?;
            let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += f64::from(value) * batch.samples.len() as f64;
            }
            videos += batch.samples.len();
        }
        if videos == 0 {
            return Err(EvalError::NoClips { set: set.name.clone() });
        }
        let mean = sums.map(|sum| sum / videos as f64);
        Ok(Some(Evaluation {
            set: set.name.clone(),
            scores: BTreeMap::from([("loss".to_owned(), mean[0]), ("explained".to_owned(), mean[1])]),
            // Predicting each patch's mean.
            chance: BTreeMap::from([("explained".to_owned(), 0.0)]),
            seconds: started.elapsed().as_secs_f64(),
            videos,
            unreadable,
            ..Evaluation::default()
        }))
    }
}
