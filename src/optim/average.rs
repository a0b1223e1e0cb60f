//! A moving average of the weights, which is evaluated in their place: `classify.ema`.
//!
//! After every update `average = decay * average + (1 - decay) * weights`, from the first weights on. Source: timm's
//! `ModelEmaV2`, as VideoMAE's fine-tuning uses it.

use crate::config::recipe::{Recipe, TaskKind};
use crate::device::DeviceError;
use crate::model::params::ParamStore;
use avion_kernels::{Handle, flat};
use burn_cubecl::CubeRuntime;

/// The average, on the device.
pub struct Average {
    decay: f64,
    values: Handle,
}

impl Average {
    /// The decay that a recipe asks for, if it asks for an average.
    pub fn decay_of(recipe: &Recipe) -> Option<f64> {
        let decay = recipe.classify.ema;
        (recipe.task == TaskKind::Classify && decay > 0.0).then_some(decay)
    }

    /// An average that starts with `values`, one vector per parameter.
    pub fn new<R: CubeRuntime>(decay: f64, params: &ParamStore<R>, values: &[Vec<f32>]) -> Self {
        Average { decay, values: params.upload(values) }
    }

    /// Takes in the weights as they are now.
    pub fn update<R: CubeRuntime>(&self, params: &ParamStore<R>) {
        flat::ema(&params.client, &params.values(), &self.values, self.decay, params.len());
    }

    /// Runs `work` with the average as the weights, and puts the weights back, to the bit, whatever came of it.
    pub fn instead<R: CubeRuntime, T>(&self, params: &ParamStore<R>, work: impl FnOnce() -> T) -> T {
        let exchange = || {
            flat::exchange(&params.client, &params.values(), &self.values, params.len());
            params.refresh_copy();
        };
        exchange();
        let result = work();
        exchange();
        result
    }

    /// One vector per parameter.
    ///
    /// # Errors
    /// What the device reports.
    pub fn read<R: CubeRuntime>(&self, params: &ParamStore<R>) -> Result<Vec<Vec<f32>>, DeviceError> {
        params.read(self.values.clone())
    }
}
