//! Failures of a device, in words a user can act on.

/// Something went wrong on the way to, or on, the device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("the device ran out of memory ({detail})")]
    OutOfMemory { detail: String },
    #[error("the device failed: {detail}")]
    Failed { detail: String },
}

impl DeviceError {
    /// From what the runtime reports, whose texts do not always say that memory was the cause.
    pub fn from_server(error: impl std::fmt::Display) -> Self {
        let detail = error.to_string();
        let memory = ["out of memory", "OutOfMemory", "OUT_OF_MEMORY", "BufferTooBig", "buffer too big"];
        if memory.iter().any(|sign| detail.contains(sign)) {
            DeviceError::OutOfMemory { detail }
        } else {
            DeviceError::Failed { detail }
        }
    }
}
