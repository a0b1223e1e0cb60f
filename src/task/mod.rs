//! One object per training objective: it owns the model, the loss, how a batch is used, and its evaluation. The training
//! loop, checkpoints, meters and the optimizer know none of them.

pub mod classify;
pub mod contrastive;
mod feed;
pub mod masked;

use crate::data::loader::ClipBatch;
use crate::device::DeviceError;
use crate::eval::{EvalError, Evaluation};
use crate::model::params::ParamStore;
use crate::ops::workspace::Workspace;
use crate::optim::Average;
use avion_kernels::Handle;
use avion_kernels::cuda::pinned::PinnedPool;
use burn_cubecl::CubeRuntime;
pub use classify::ClassifyTask;
pub use contrastive::ContrastiveTask;
pub use masked::MaskedTask;

/// What the training loop asks of an objective.
pub trait Task<R: CubeRuntime> {
    /// The parameters, their gradients, and the device they are on.
    fn params(&self) -> &ParamStore<R>;

    /// The memory that activations live in.
    fn workspace(&self) -> &Workspace<R>;

    /// Memory for batches, that the device copies from.
    fn host_memory(&self) -> PinnedPool;

    /// Changes a batch before it is used: what is done to all its clips together.
    fn prepare(&self, _: &mut ClipBatch) {}

    /// Starts to bring a batch's frames to the device while the device is busy with the batch before.
    ///
    /// # Errors
    /// What the device reports.
    fn prefetch(&mut self, batch: &ClipBatch) -> Result<(), DeviceError>;

    /// Adds the gradients of `batch`'s loss, over [`gradient_factor`](Self::gradient_factor), to the parameters'
    /// gradients. Returns loss and accuracy (or what measures success beside the loss), `[2]`, f32, still on the device. `step` keys whatever is random.
    ///
    /// # Errors
    /// What the device reports.
    fn gradients(&mut self, batch: &ClipBatch, step: u64) -> Result<Handle, DeviceError>;

    /// What the sum of the gradients is to be multiplied by.
    fn gradient_factor(&self) -> f32 {
        1.0
    }

    /// What follows an update: parameters back into their range, the moving average.
    fn constrain(&self);

    /// The moving average of the weights, where one is kept.
    fn average(&self) -> Option<&Average> {
        None
    }

    /// `ln` of the inverse temperature, `[1]`, f32, on the device, when there is one.
    fn logit_scale(&self) -> Option<Handle>;

    /// Scores every evaluation set of the recipe; `None` when `stop` said to stop meanwhile.
    ///
    /// # Errors
    /// Unreadable clips beyond the allowed share, or what the device reports.
    fn evaluate(&self, stop: &dyn Fn() -> bool) -> Result<Option<Vec<Evaluation>>, EvalError>;
}
