//! One object per training objective: it owns the model, the loss, how a batch is used, and its evaluation. The training
//! loop, checkpoints, meters and the optimizer know none of them.

pub mod contrastive;

use crate::data::loader::ClipBatch;
use crate::device::DeviceError;
use crate::eval::{EvalError, Evaluation};
use crate::model::params::ParamStore;
use crate::ops::tensor::T;
use burn_cubecl::CubeRuntime;
pub use contrastive::ContrastiveTask;

/// What the training loop asks of an objective.
pub trait Task<R: CubeRuntime> {
    /// The parameters, their gradients, and the device they are on.
    fn params(&self) -> &ParamStore<R>;

    /// Adds the gradients of `batch`'s loss to the parameters' gradients. Returns loss and accuracy, `[2]`, still on
    /// the device. `step` keys whatever is random.
    fn gradients(&self, batch: &ClipBatch, step: u64) -> T<R, 1>;

    /// Puts parameters back into their range after an update.
    fn constrain(&self);

    /// `ln` of the inverse temperature, when there is one.
    ///
    /// # Errors
    /// What the device reports.
    fn logit_scale(&self) -> Result<Option<f32>, DeviceError>;

    /// Scores every evaluation set of the recipe; `None` when `stop` said to stop meanwhile.
    ///
    /// # Errors
    /// Unreadable clips beyond the allowed share, or what the device reports.
    fn evaluate(&self, stop: &dyn Fn() -> bool) -> Result<Option<Vec<Evaluation>>, EvalError>;
}
