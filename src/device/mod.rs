//! Devices: what there is, which one to take, and what can go wrong on it.

mod error;

pub use error::DeviceError;
