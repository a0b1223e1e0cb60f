//! CUDA libraries and copies beside CubeCL, in order with its kernels and without waiting for the device.
//!
//! | file | what |
//! | --- | --- |
//! | `gpu` | tasks on CubeCL's device thread that never block the caller, and the first failure among them |
//! | `queue` | ordering with CubeCL's stream: the stream itself, or context events around one of our own |
//! | [`pinned`] | page-locked host buffers that loader threads fill |
//! | [`upload`] | copies to the device that overlap with kernels; works on every runtime |

#[cfg(feature = "cuda")]
pub(crate) mod gpu;
pub mod pinned;
#[cfg(feature = "cuda")]
pub(crate) mod queue;
pub mod upload;

use cubecl::prelude::*;
use std::sync::OnceLock;

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Everyone: why nothing seems to happen.
    User,
    /// Who looks for a cause: chosen algorithms, an unreadable cache, how streams are ordered.
    Debugger,
}

static LISTENER: OnceLock<fn(Audience, &str)> = OnceLock::new();

/// Receives what this crate has to say, for the caller's log. Only the first call counts.
pub fn on_message(listener: fn(Audience, &str)) {
    let _ = LISTENER.set(listener);
}

/// Says something to the listener, if there is one.
#[cfg(feature = "cuda")]
pub(crate) fn say(message: impl FnOnce() -> String) {
    tell(Audience::Debugger, message);
}

#[cfg(feature = "cuda")]
pub(crate) fn tell(audience: Audience, message: impl FnOnce() -> String) {
    if let Some(listener) = LISTENER.get() {
        listener(audience, &message());
    }
}

/// First failure of a product or copy that was queued without waiting, if any since the last call. Whatever was
/// computed after it is wrong. Costs nothing: ask once per step.
pub fn take_failure<R: Runtime>(client: &ComputeClient<R>) -> Option<String> {
    #[cfg(feature = "cuda")]
    if let Some(Ok(gpu)) = gpu::Gpu::of(client) {
        return gpu.take_failure();
    }
    let _ = client;
    None
}
