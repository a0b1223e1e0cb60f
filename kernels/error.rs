//! What can be wrong with a kernel call; found before anything is launched.

/// A kernel was asked for something it does not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    #[error("{kernel}: {what}: expected {expected}, got {got}")]
    Shape { kernel: &'static str, what: &'static str, expected: String, got: String },
}

impl KernelError {
    pub(crate) fn shape(
        kernel: &'static str,
        what: &'static str,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> Self {
        Self::Shape { kernel, what, expected: expected.into(), got: got.to_string() }
    }
}

/// `elements`, if kernels, which count in 32 bits, can number them.
pub(crate) fn numbered(kernel: &'static str, what: &'static str, elements: usize) -> Result<u32, KernelError> {
    u32::try_from(elements).map_err(|_| KernelError::shape(kernel, what, "fewer than 2^32 elements", elements))
}

/// Fails when `value` is 0.
pub(crate) fn positive(kernel: &'static str, what: &'static str, value: usize) -> Result<(), KernelError> {
    if value == 0 { Err(KernelError::shape(kernel, what, "at least 1", value)) } else { Ok(()) }
}
