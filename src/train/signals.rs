//! SIGTERM and SIGINT: finish the step, write a checkpoint, leave. A second one ends the process at once, with exit code 1.

use super::TrainError;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set once the process was asked to stop.
#[derive(Clone, Debug, Default)]
pub struct StopSignal(Arc<AtomicBool>);

impl StopSignal {
    /// Watches both signals for the rest of the process.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn install() -> Result<Self, TrainError> {
        let stop = Self::default();
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal finds the flag down, passes the first handler and raises it.
            signal_hook::flag::register_conditional_shutdown(signal, 1, stop.0.clone())
                .and_then(|_| signal_hook::flag::register(signal, stop.0.clone()))
                .map_err(|source| TrainError::Signals { source })?;
        }
        Ok(stop)
    }

    /// Whether to stop after the current step.
    pub fn raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
