//! AdamW over the flat buffers of a [`ParamStore`]: three launches a step, whatever the number of parameters.

use crate::config::recipe::OptimConfig;
use crate::device::DeviceError;
use crate::model::params::ParamStore;
use avion_kernels::adamw::{AdamwBuffers, AdamwStep, adamw};
use avion_kernels::grad_norm::{STATS_LEN, grad_norm};
use avion_kernels::{Handle, KernelError};
use burn_cubecl::CubeRuntime;

/// Moments, groups and settings of one run.
pub struct Optimizer {
    config: OptimConfig,
    moment1: Handle,
    moment2: Handle,
    groups: Handle,
    hyper: Handle,
    stats: Handle,
}

/// What an update saw: read back with the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpdateStats {
    /// Global L2 norm of the gradient, before clipping.
    pub grad_norm: f32,
    /// Whether it was finite, and the weights therefore updated.
    pub applied: bool,
}

/// Groups by treatment: learning-rate factor and whether weight decay applies.
const GROUPS: [(f32, bool); 3] = [(1.0, true), (1.0, false), (0.0, false)];

impl Optimizer {
    /// Fresh state, or `moments` read from a checkpoint (one vector per parameter, first and second).
    pub fn new<R: CubeRuntime>(
        config: &OptimConfig,
        params: &ParamStore<R>,
        moments: Option<[Vec<Vec<f32>>; 2]>,
    ) -> Self {
        let [first, second] = moments.unwrap_or_else(|| {
            let zeros: Vec<Vec<f32>> = params.specs().iter().map(|spec| vec![0.0; spec.len()]).collect();
            [zeros.clone(), zeros]
        });
        let group = |decay: bool, trainable: bool| match (trainable, decay) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 2,
        };
        let groups = params.per_block(|spec| group(spec.decay, spec.trainable));
        let decay = |applies: bool| if applies { config.weight_decay as f32 } else { 0.0 };
        let hyper: Vec<f32> = GROUPS.iter().flat_map(|(factor, decays)| [*factor, decay(*decays)]).collect();
        Optimizer {
            config: config.clone(),
            moment1: params.upload(&first),
            moment2: params.upload(&second),
            groups: params.client.create_from_slice(bytemuck::cast_slice(&groups)),
            hyper: params.client.create_from_slice(bytemuck::cast_slice(&hyper)),
            stats: params.client.empty(STATS_LEN * 4),
        }
    }

    /// Norm, clipping and update from the gradients in `params`, at learning rate `lr`; `update` counts the updates
    /// applied so far, this one included. Queued, not waited for. A gradient that is not finite changes nothing.
    ///
    /// # Errors
    /// [`KernelError`] when the buffers do not fit the kernel: a bug here, not a user's fault.
    pub fn step<R: CubeRuntime>(&mut self, params: &ParamStore<R>, lr: f64, update: u32) -> Result<(), KernelError> {
        let (config, client) = (&self.config, &params.client);
        let max_norm = config.clip_grad_norm as f32;
        grad_norm(client, params.gradients(), params.len(), 1.0, max_norm, self.stats.clone());
        let copy = params.copy().zip(crate::ops::tensor::float_kind(params.compute_dtype()));
        let buffers = AdamwBuffers {
            params: params.values(),
            grads: params.gradients(),
            moment1: self.moment1.clone(),
            moment2: self.moment2.clone(),
            groups: self.groups.clone(),
            hyper: self.hyper.clone(),
            num_groups: GROUPS.len(),
            stats: self.stats.clone(),
            copy,
            len: params.len(),
        };
        let step = AdamwStep {
            lr: lr as f32,
            beta1: config.betas[0] as f32,
            beta2: config.betas[1] as f32,
            eps: config.eps as f32,
            step: update,
        };
        adamw(client, buffers, step)
    }

    /// Waits for the last step and tells what it saw.
    ///
    /// # Errors
    /// What the device reports.
    pub fn stats<R: CubeRuntime>(&self, params: &ParamStore<R>) -> Result<UpdateStats, DeviceError> {
        let bytes = params.client.read_one(self.stats.clone()).map_err(DeviceError::from_server)?;
        let stats: &[f32] = bytemuck::cast_slice(&bytes);
        Ok(UpdateStats { grad_norm: stats[0], applied: stats[2] > 0.5 })
    }

    /// Both moments, one vector per parameter.
    ///
    /// # Errors
    /// What the device reports.
    pub fn moments<R: CubeRuntime>(&self, params: &ParamStore<R>) -> Result<[Vec<Vec<f32>>; 2], DeviceError> {
        Ok([params.read(self.moment1.clone())?, params.read(self.moment2.clone())?])
    }
}
