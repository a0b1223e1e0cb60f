//! The recipe of a run: its types, loading, overriding, checking and describing.
//!
//! ```text
//! file or built-in name -> TOML -> --set key=value -> Recipe (+ where each value is from) -> validate
//! ```
//!
//! [`Recipe::load`] refuses unknown keys and wrong types with the line and the nearest name,
//! [`validate`] judges the values, [`describe`] lists every key with its type, default and doc.

mod defaults;
mod describe;
mod error;
mod geometry;
mod load;
mod overrides;
mod print;
pub mod recipe;
mod schema;
mod size;
mod typed;
mod validate;

pub use describe::{Field, describe};
pub use error::{ConfigError, Problem, Warning};
pub use geometry::{Geometry, ParameterCount, VOCABULARY};
pub use load::{BUILT_IN, Origin, Resolved};
pub use print::{differences, flatten};
pub use recipe::*;
pub use size::parse_bytes;
pub use validate::{validate, validate_for_eval, validate_values};
