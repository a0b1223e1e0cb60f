//! The device that these tests run on.

use cubecl::prelude::*;
use cuda_check::{Arch, HostCuda, HostCudaDevice};
use std::sync::atomic::{AtomicU8, Ordering};

pub type Client = ComputeClient<HostCuda>;

thread_local! {
    /// A device for each of the threads that run tests.
    static NUMBER: u8 = {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}

pub fn client() -> Client {
    HostCuda::client(&HostCudaDevice {
        arch: Arch(90),
        few: true,
        number: NUMBER.with(|number| *number % 16),
        ..HostCudaDevice::default()
    })
}
