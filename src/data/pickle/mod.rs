//! Reads Python pickles (protocols 0 to 5) without running any Python.
//!
//! In goes a file somebody else wrote: annotation lists, numpy matrices, the `data.pkl` of a PyTorch
//! checkpoint. Out comes a graph of plain [`Value`]s. Classes and functions stay names, calls stay unmade:
//! what Python would build with `numpy.dtype('f8')` is an object whose class is `("numpy", "dtype")` and
//! whose arguments are `("f8",)`. So no file can execute anything, and a caller interprets exactly the
//! classes it expects ([`NdArray`] does for numpy).
//!
//! Damaged and hostile files give a [`PickleError`] with byte offset and opcode. Memory stays within a
//! constant factor of the file's size, time is linear, nothing recurses.
//!
//! The crate `serde-pickle` was considered: it has no globals, persistent ids or numpy objects, so it can
//! read neither checkpoints nor relevancy matrices.
//!
//! Strings of Python 2 become [`Kind::Str`] when they are valid UTF-8, else [`Kind::Bytes`]. Lone
//! surrogates become U+FFFD.

mod error;
mod machine;
mod node;
mod numpy;
mod opcode;
mod opcode_name;
mod text;
mod value;

pub use error::PickleError;
pub use numpy::{ElementKind, ElementType, NdArray, NumpyError, scalar_str};
pub use value::{Items, Kind, Value};

use machine::{KeepAll, Outcome, Sink};
use node::{Id, Node};

/// A pickle read as a whole.
#[derive(Clone, Debug)]
pub struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    root: Id,
    length: usize,
}

impl<'a> Pickle<'a> {
    /// Reads the first pickle in `data`, which may go on behind it.
    ///
    /// # Errors
    /// [`PickleError`] when `data` is truncated, damaged, or refers to buffers or registries outside itself.
    pub fn parse(data: &'a [u8]) -> Result<Self, PickleError> {
        let Outcome { nodes, root, length } = machine::run(data, KeepAll)?;
        Ok(Pickle { nodes, root, length })
    }

    /// The pickled value.
    pub fn root(&self) -> Value<'_> {
        Value { nodes: &self.nodes, id: self.root }
    }

    /// Bytes the pickle takes in the data it was read from.
    pub fn encoded_len(&self) -> usize {
        self.length
    }

    /// Distinct values, for bounding walks over the graph.
    pub fn num_values(&self) -> usize {
        self.nodes.len()
    }

    /// Copies all strings and bytes, so that the data it was read from may go.
    pub fn into_owned(self) -> Pickle<'static> {
        Pickle { nodes: self.nodes.into_iter().map(Node::into_owned).collect(), root: self.root, length: self.length }
    }
}

/// Calls `each` with every element of a pickled list, in order, without ever holding the whole list:
/// for files with millions of records. Elements and their parts live only during the call.
///
/// # Errors
/// [`PickleError`] (converted) as in [`Pickle::parse`] or when the pickle is not a list, and what `each` returns.
/// Elements before a damaged place have been handed over by then.
pub fn for_each_element<E: From<PickleError>>(
    data: &[u8],
    each: impl FnMut(Value<'_>) -> Result<(), E>,
) -> Result<(), E> {
    struct Each<F, E>(F, std::marker::PhantomData<E>);
    impl<E: From<PickleError>, F: FnMut(Value<'_>) -> Result<(), E>> Sink for Each<F, E> {
        type Error = E;
        const STREAMS: bool = true;
        fn item(&mut self, value: Value<'_>) -> Result<(), E> {
            (self.0)(value)
        }
    }
    machine::run(data, Each(each, std::marker::PhantomData)).map(|_| ())
}

/// Maps a file into memory for reading.
///
/// # Errors
/// As [`std::fs::File::open`] and the mapping itself.
pub fn map_file(path: &std::path::Path) -> std::io::Result<memmap2::Mmap> {
    let file = std::fs::File::open(path)?;
    // SAFETY: the map is only read. If another process shortens the file meanwhile, the run ends with SIGBUS;
    // it never goes on with wrong data.
    unsafe { memmap2::Mmap::map(&file) }
}

#[cfg(test)]
mod tests;
