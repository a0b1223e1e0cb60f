//! What can be wrong with a kernel call; found before anything is launched.

/// A kernel was asked for something it does not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    #[error("{kernel}: {what}: expected {expected}, got {got}")]
    Shape { kernel: &'static str, what: &'static str, expected: String, got: String },
}
