//! The device that these tests run on.

use cubecl::prelude::*;
use cuda_check::{HostCuda, HostCudaDevice};

pub type Client = ComputeClient<HostCuda>;

pub fn client() -> Client {
    HostCuda::client(&HostCudaDevice::of_this_thread())
}
