//! Recognition of labelled clips: several views of each, averaged.

use super::metrics::Tally;
use super::views::{ClipMean, Views};
use super::{EvalError, Evaluation, SourceSet};
use crate::config::recipe::Recipe;
use crate::data::loader::Loader;
use crate::device::DeviceError;
use crate::model::videomae::Classifier;
use burn_cubecl::CubeRuntime;
use std::time::Instant;

/// A classifier, ready to be scored.
pub struct ViewScorer<'a, R: CubeRuntime> {
    pub model: &'a Classifier<R>,
    pub recipe: &'a Recipe,
    /// Asked between batches; scoring ends when it says so.
    pub stop: &'a dyn Fn() -> bool,
}

impl<R: CubeRuntime> ViewScorer<'_, R> {
    /// Top-1 and top-5 of every clip's mean over `eval.views` stretches of time times `eval.crops` crops. Clips of which
    /// no view can be read are left out and counted. `None` when told to stop.
    ///
    /// # Errors
    /// More unreadable clips than `data.max_bad_share`, none readable, a logit that is not finite, or what the device
    /// reports.
    pub fn evaluate(&self, set: &SourceSet) -> Result<Option<Evaluation>, EvalError> {
        let started = Instant::now();
        let failed = |source| EvalError::Loader { set: set.name.clone(), source };
        let wrong = |source| EvalError::Views { set: set.name.clone(), source };
        let metric = |source| EvalError::Metric { set: set.name.clone(), source };
        let (classes, labels) = (self.model.shape.classes, set.labels());
        let config = set.loader_config(self.recipe, self.model.shape.grid.image_px);
        let mut views = Views::new(labels.len(), config.views * config.crops, classes);
        let mut tally = Tally::new(classes);
        let mut count = |mean: ClipMean| -> Result<(), EvalError> {
            tally.add(mean.clip, &mean.mean, labels[mean.clip] as usize).map_err(metric)
        };
        for batch in Loader::eval(set.sources.clone(), config).map_err(failed)? {
            if (self.stop)() {
                return Ok(None);
            }
            let batch = batch.map_err(failed)?;
            if batch.samples.is_empty() {
                continue;
            }
            let logits = self.model.logits(self.model.ws.upload_bytes(&batch.frames), batch.samples.len());
            let read = logits.try_into_data().map_err(|e| DeviceError::Failed { detail: format!("{e:?}") })?;
            let logits = read.to_vec::<f32>().map_err(|e| DeviceError::Failed { detail: format!("{e:?}") })?;
            for ((row, sample), view) in logits.chunks(classes).zip(&batch.samples).zip(&batch.views) {
                if let Some(mean) = views.add(*sample as usize, *view as usize, row).map_err(wrong)? {
                    count(mean)?;
                }
            }
        }
        let (rest, counts) = views.finish().map_err(wrong)?;
        for mean in rest {
            count(mean)?;
        }
        if counts.complete + counts.partial == 0 {
            return Err(EvalError::NoClips { set: set.name.clone() });
        }
        if counts.partial > 0 {
            tracing::warn!("{}: {} clips are scored by the views that could be read", set.name, counts.partial);
        }
        Ok(Some(Evaluation {
            set: set.name.clone(),
            scores: tally.scores().map_err(metric)?.named(),
            chance: tally.chance_majority().map_err(metric)?.named(),
            seconds: started.elapsed().as_secs_f64(),
            videos: counts.complete + counts.partial,
            unreadable: counts.unreadable,
            confusion: Some(tally.confusion().clone()),
            ..Evaluation::default()
        }))
    }
}
