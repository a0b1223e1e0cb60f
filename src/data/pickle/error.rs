//! What can be wrong with a pickle.

/// Why a pickle could not be read. Offsets count bytes from the start of the pickle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    #[error("byte {offset}: {opcode} needs {needed} more bytes but only {available} are left: the file is truncated")]
    Truncated { offset: usize, opcode: &'static str, needed: u64, available: u64 },
    #[error("byte {offset}: 0x{byte:02x} is not a pickle opcode: not a Python pickle, or damaged")]
    UnknownOpcode { offset: usize, byte: u8 },
    #[error("byte {offset}: {opcode} expected {expected}, found {found}")]
    Unexpected { offset: usize, opcode: &'static str, expected: &'static str, found: String },
}
