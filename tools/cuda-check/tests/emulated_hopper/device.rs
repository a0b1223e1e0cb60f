//! The device that these tests run on.

use cubecl::prelude::*;
use cuda_check::{Arch, HostCuda, HostCudaDevice};

pub type Client = ComputeClient<HostCuda>;

pub fn client() -> Client {
    HostCuda::client(&HostCudaDevice { arch: Arch(90), few: true, ..HostCudaDevice::of_this_thread() })
}
