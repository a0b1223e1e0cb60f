//! The update over the flat buffers of a [`ParamStore`]: three launches a step, whatever the number of parameters, and one
//! for each large matrix that the step gave no gradient.

use crate::config::recipe::{OptimConfig, OptimizerKind};
use crate::device::DeviceError;
use crate::model::params::ParamStore;
use avion_kernels::grad_norm::{STATS_LEN, grad_norm};
use avion_kernels::optimizer::{
    OptimizerBuffers, TREATMENTS,
    adamw::{AdamwStep, adamw},
    lion::{LionStep, lion},
    sgd::{SgdStep, sgd},
};
use avion_kernels::{Handle, KernelError};
use burn_cubecl::CubeRuntime;

/// What an optimizer keeps between steps: for each of [`OptimConfig::state_names`], one vector per parameter.
pub type OptimizerState = Vec<Vec<Vec<f32>>>;

/// State, treatment of each parameter, and settings of one run.
pub struct Optimizer {
    config: OptimConfig,
    state: Vec<Handle>,
    treatment: Handle,
    stats: Handle,
}

/// What an update saw: read back with the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpdateStats {
    /// Global L2 norm of the gradient, before clipping.
    pub grad_norm: f32,
    /// Whether it was finite, and the weights therefore updated.
    pub applied: bool,
    /// Updates applied so far.
    pub updates: u64,
}

impl UpdateStats {
    /// # Errors
    /// When these are not the numbers of [`Optimizer::stats_handle`].
    pub fn read(stats: &[f32]) -> Result<Self, DeviceError> {
        match *stats {
            [grad_norm, _, finite, updates, ..] => {
                Ok(UpdateStats { grad_norm, applied: finite > 0.5, updates: updates as u64 })
            }
            _ => Err(DeviceError::Failed { detail: format!("{} statistics of an update", stats.len()) }),
        }
    }
}

impl Optimizer {
    /// Fresh state, or that of a checkpoint after `updates` updates.
    pub fn new<R: CubeRuntime>(
        config: &OptimConfig,
        params: &ParamStore<R>,
        state: Option<OptimizerState>,
        updates: u64,
    ) -> Self {
        let names = config.state_names();
        let state = state.unwrap_or_else(|| {
            let zeros: Vec<Vec<f32>> = params.specs().iter().map(|spec| vec![0.0; spec.len()]).collect();
            vec![zeros; names.len()]
        });
        debug_assert_eq!(state.len(), names.len());
        let table: Vec<[f32; TREATMENTS]> = params.per_block(|spec| {
            let [factor, decay] = match (spec.trainable, spec.decay) {
                (true, true) => [spec.lr_scale, config.weight_decay as f32],
                (true, false) => [spec.lr_scale, 0.0],
                (false, _) => [0.0, 0.0],
            };
            [factor, decay, f32::from(!spec.leaves_gradient()), 0.0]
        });
        let mut stats = [0.0f32; STATS_LEN];
        stats[3] = updates as f32;
        Optimizer {
            config: config.clone(),
            state: state.iter().map(|values| params.upload(values)).collect(),
            treatment: params.client.create_from_slice(bytemuck::cast_slice(&table)),
            stats: params.client.create_from_slice(bytemuck::cast_slice(&stats)),
        }
    }

    /// Norm, clipping and update from `factor` times the gradients in `params`, at learning rate `lr`. Queued, not waited for. A
    /// gradient that is not finite changes no weight and does not count. The gradients count as zero afterwards
    /// ([`ParamStore::leave_gradients`]).
    ///
    /// # Errors
    /// [`KernelError`] when the buffers do not fit the kernel: a bug here, not a user's fault.
    pub fn step<R: CubeRuntime>(&mut self, params: &ParamStore<R>, lr: f64, factor: f32) -> Result<(), KernelError> {
        let (config, client) = (&self.config, &params.client);
        let max_norm = config.clip_grad_norm as f32;
        let gradients = params.gradients();
        grad_norm(client, &gradients, params.len(), factor, max_norm, config.betas, &self.stats);
        let buffers = OptimizerBuffers {
            params: params.values(),
            grads: gradients,
            state: self.state.clone(),
            treatment: self.treatment.clone(),
            stats: self.stats.clone(),
            copy: params.copy().zip(crate::ops::tensor::float_kind(params.compute_dtype())),
            len: params.len(),
        };
        let (lr, [beta1, beta2]) = (lr as f32, config.betas.map(|beta| beta as f32));
        match config.optimizer {
            OptimizerKind::Adamw => {
                let step = AdamwStep { lr, beta1, beta2, eps: config.eps as f32 };
                adamw(client, &buffers, step)?;
            }
            OptimizerKind::Lion => lion(client, &buffers, LionStep { lr, beta1, beta2 })?,
            OptimizerKind::Sgd => {
                let step = SgdStep { lr, momentum: config.momentum as f32, nesterov: config.nesterov };
                sgd(client, &buffers, step)?;
            }
        }
        params.leave_gradients();
        Ok(())
    }

    /// What the last step saw, `[STATS_LEN]`, f32, on the device: for [`UpdateStats::read`].
    pub fn stats_handle(&self) -> Handle {
        self.stats.clone()
    }

    /// Waits for the last step and tells what it saw.
    ///
    /// # Errors
    /// What the device reports.
    pub fn stats<R: CubeRuntime>(&self, params: &ParamStore<R>) -> Result<UpdateStats, DeviceError> {
        let bytes = params.client.read_one(self.stats.clone()).map_err(DeviceError::from_server)?;
        UpdateStats::read(bytemuck::cast_slice(&bytes))
    }

    /// Each part of the state with its name, one vector per parameter.
    ///
    /// # Errors
    /// What the device reports.
    pub fn state<R: CubeRuntime>(
        &self,
        params: &ParamStore<R>,
    ) -> Result<Vec<(&'static str, Vec<Vec<f32>>)>, DeviceError> {
        let named = self.config.state_names().iter().zip(&self.state);
        named.map(|(name, handle)| Ok((*name, params.read(handle.clone())?))).collect()
    }
}
