//! One parameter's part of the flat gradient buffer, and whether what lies there counts.
//!
//! To set a large gradient to zero and to add a product to the zeros costs a write and a read of all of it. So the
//! optimizer leaves such gradients as they are, and the step's first product is written over them instead of added. Whoever
//! else adds to a gradient, or reads it, finds zeros: a stale gradient is cleared first.

use avion_kernels::{Handle, flat};
use burn_cubecl::CubeRuntime;
use cubecl::prelude::ComputeClient;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Shared by everything that stands for the parameter or a part of it.
///
/// The flag says what the device will find once it has done what is queued so far, so it belongs to the thread that queues
/// a step's work; it is atomic because the closures of a backward pass have to be `Send`.
pub(super) struct Gradient {
    pub handle: Handle,
    len: usize,
    /// Whether the content is left over from the last step, and counts as zero.
    stale: AtomicBool,
}

impl Gradient {
    /// The gradient of `len` values at `handle`, f32.
    pub fn new(handle: Handle, len: usize) -> Self {
        Gradient { handle, len, stale: AtomicBool::new(false) }
    }

    /// Whether `len` elements are all of it.
    pub fn is_whole(&self, len: usize) -> bool {
        len == self.len
    }

    /// What lies there counts as zero from here on.
    pub fn leave(&self) {
        self.stale.store(true, Relaxed);
    }

    /// Takes what is left over, if anything is: the caller overwrites or clears all of it.
    pub fn take_stale(&self) -> bool {
        self.stale.swap(false, Relaxed)
    }

    /// Clears what is left over: the gradient is what lies there.
    pub fn settle<R: CubeRuntime>(&self, client: &ComputeClient<R>) {
        if self.take_stale() {
            flat::clear(client, &self.handle, self.len);
        }
    }
}
