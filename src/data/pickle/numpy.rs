//! numpy arrays and scalars inside pickles, as numpy 1.x and 2.x write them.
//!
//! - scalar: `numpy[._]core.multiarray.scalar(dtype, bytes)`
//! - array: `numpy[._]core.multiarray._reconstruct(ndarray, (0,), b'b')`, then the state
//!   `(version, shape, dtype, is_fortran, bytes)`
//! - array, protocol 5: `numpy[._]core.numeric._frombuffer(buffer, dtype, shape, order)`
//! - dtype: `numpy.dtype(code, align, copy)`, then the state `(version, byte order, ...)`
//!
//! Source: numpy's `__reduce__` of `ndarray`, `generic` and `dtype`.

use super::value::{Kind, Value};
use std::borrow::Cow;

/// Why a value is no array we can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumpyError {
    #[error("expected a numpy array, found {found}")]
    NotAnArray { found: String },
    #[error("numpy array: expected {expected}, found {found}")]
    Malformed { expected: &'static str, found: String },
    #[error("numpy array of type {found}: expected float, int, unsigned int or bool of 1 to 8 bytes")]
    ElementType { found: String },
    #[error("numpy array of shape {shape:?} with elements of {element_bytes} bytes has {found} bytes of data")]
    Length { shape: Vec<usize>, element_bytes: usize, found: usize },
}

/// What an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementKind {
    Float,
    Int,
    Unsigned,
    Bool,
    /// Text of a fixed number of UTF-32 characters.
    Text,
}

/// The dtype of an array or scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElementType {
    pub kind: ElementKind,
    pub bytes: usize,
    pub big_endian: bool,
}

/// A numpy array of numbers.
#[derive(Clone, Debug)]
pub struct NdArray<'p> {
    pub element: ElementType,
    pub shape: Vec<usize>,
    /// The first axis varies fastest.
    pub fortran: bool,
    /// `shape` elements, in the order that `fortran` says.
    pub data: Cow<'p, [u8]>,
}

impl<'p> NdArray<'p> {
    /// Interprets a pickled array.
    ///
    /// # Errors
    /// [`NumpyError`] when the value is something else, has elements that are no numbers, or when its data do not
    /// fit its shape.
    pub fn from_value(value: Value<'p>) -> Result<Self, NumpyError> {
        let not_an_array = || NumpyError::NotAnArray { found: value.describe() };
        let malformed = |expected| NumpyError::Malformed { expected, found: value.describe() };
        let (shape, dtype, fortran, data) = match value.class().ok_or_else(not_an_array)? {
            (module, "_reconstruct") if is_core(module, "multiarray") => {
                let state = value.state().and_then(Value::items);
                let state = state.ok_or_else(|| malformed("a state tuple"))?;
                let field = |i| state.get(i).ok_or_else(|| malformed("a state of 5 fields"));
                let fortran = field(3)?.as_bool();
                let fortran = fortran.ok_or_else(|| malformed("is_fortran as a bool"))?;
                (field(1)?, field(2)?, fortran, field(4)?)
            }
            (module, "_frombuffer") if is_core(module, "numeric") => {
                let args = value.args().ok_or_else(|| malformed("arguments"))?;
                let field = |i| args.get(i).ok_or_else(|| malformed("4 arguments"));
                let fortran = match field(3)?.as_str() {
                    Some("C") => false,
                    Some("F") => true,
                    _ => return Err(malformed("order 'C' or 'F'")),
                };
                (field(2)?, field(1)?, fortran, field(0)?)
            }
            _ => return Err(not_an_array()),
        };
        let element = element_type(dtype)
            .filter(|element| element.kind != ElementKind::Text)
            .ok_or_else(|| NumpyError::ElementType { found: dtype_name(dtype) })?;
        let shape: Vec<usize> = shape
            .items()
            .and_then(|sizes| sizes.map(|size| usize::try_from(size.as_int()?).ok()).collect())
            .ok_or_else(|| malformed("a shape of non-negative ints"))?;
        let data = data
            .as_bytes()
            .ok_or_else(|| NumpyError::Malformed { expected: "data as bytes", found: data.describe() })?;
        let needed = shape.iter().try_fold(element.bytes, |n, &size| n.checked_mul(size));
        if needed != Some(data.len()) {
            return Err(NumpyError::Length { shape, element_bytes: element.bytes, found: data.len() });
        }
        Ok(NdArray { element, shape, fortran, data })
    }

    /// All elements as `f64`, last axis fastest. Integers beyond 2^53 are rounded.
    pub fn to_f64(&self) -> Vec<f64> {
        let stored =
            self.data.chunks_exact(self.element.bytes).map(|bytes| self.element.to_f64(bytes).unwrap_or(f64::NAN));
        if !self.fortran || self.shape.len() < 2 {
            return stored.collect();
        }
        let mut row_major = vec![0.0; self.data.len() / self.element.bytes];
        let strides: Vec<usize> = (0..self.shape.len()).map(|axis| self.shape[axis + 1..].iter().product()).collect();
        let mut index = vec![0; self.shape.len()];
        for element in stored {
            let place: usize = index.iter().zip(&strides).map(|(i, s)| i * s).sum();
            row_major[place] = element;
            for (i, &size) in index.iter_mut().zip(&self.shape) {
                *i += 1;
                if *i < size {
                    break;
                }
                *i = 0;
            }
        }
        row_major
    }
}

impl ElementType {
    /// One element; `None` when the bytes are not of this type's length.
    fn to_f64(self, bytes: &[u8]) -> Option<f64> {
        let mut wide = [0; 8];
        let filled = wide.get_mut(..self.bytes)?;
        if bytes.len() != filled.len() {
            return None;
        }
        filled.copy_from_slice(bytes);
        if self.big_endian {
            filled.reverse();
        }
        let bits = u64::from_le_bytes(wide);
        Some(match (self.kind, self.bytes) {
            (ElementKind::Float, 2) => half::f16::from_bits(bits as u16).to_f64(),
            (ElementKind::Float, 4) => f64::from(f32::from_bits(bits as u32)),
            (ElementKind::Float, 8) => f64::from_bits(bits),
            (ElementKind::Int, 1) => f64::from(bits as u8 as i8),
            (ElementKind::Int, 2) => f64::from(bits as u16 as i16),
            (ElementKind::Int, 4) => f64::from(bits as u32 as i32),
            (ElementKind::Int, 8) => bits as i64 as f64,
            (ElementKind::Unsigned | ElementKind::Bool, _) => bits as f64,
            _ => return None,
        })
    }
}

/// The number in a numpy scalar.
pub(super) fn scalar_f64(value: Value<'_>) -> Option<f64> {
    let (element, bytes) = scalar(value)?;
    element.to_f64(&bytes)
}

/// The text in a `numpy.str_`.
pub fn scalar_str(value: Value<'_>) -> Option<String> {
    let (element, bytes) = scalar(value)?;
    if element.kind != ElementKind::Text || bytes.len() != element.bytes {
        return None;
    }
    let characters = bytes.chunks_exact(4).map(|c| {
        let bytes = [c[0], c[1], c[2], c[3]];
        char::from_u32(if element.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    });
    let text: Option<String> = characters.collect();
    text.map(|text| text.trim_end_matches('\0').to_owned())
}

fn scalar(value: Value<'_>) -> Option<(ElementType, Cow<'_, [u8]>)> {
    let (module, name) = value.class()?;
    if !(is_core(module, "multiarray") && name == "scalar") {
        return None;
    }
    let args = value.args()?;
    Some((element_type(args.get(0)?)?, args.get(1)?.as_bytes()?))
}

fn is_core(module: &str, part: &str) -> bool {
    let inner = module.strip_prefix("numpy.core.").or_else(|| module.strip_prefix("numpy._core."));
    inner == Some(part)
}

fn element_type(dtype: Value<'_>) -> Option<ElementType> {
    if dtype.class()? != ("numpy", "dtype") {
        return None;
    }
    let code = dtype.args()?.get(0)?.as_str()?;
    let state = dtype.state()?.items()?;
    let big_endian = match state.get(1)?.as_str()? {
        "<" | "|" | "=" => false,
        ">" => true,
        _ => return None,
    };
    let mut characters = code.chars();
    let kind = match characters.next()? {
        'f' => ElementKind::Float,
        'i' => ElementKind::Int,
        'u' => ElementKind::Unsigned,
        'b' => ElementKind::Bool,
        'U' => ElementKind::Text,
        _ => return None,
    };
    let size: usize = characters.as_str().parse().ok()?;
    let bytes = match (kind, size) {
        (ElementKind::Text, _) => size.checked_mul(4)?,
        (ElementKind::Float, 2 | 4 | 8) | (ElementKind::Bool, 1) => size,
        (ElementKind::Int | ElementKind::Unsigned, 1 | 2 | 4 | 8) => size,
        _ => return None,
    };
    Some(ElementType { kind, bytes, big_endian })
}

fn dtype_name(dtype: Value<'_>) -> String {
    let code = dtype.args().and_then(|args| args.get(0));
    match code.map(Value::kind) {
        Some(Kind::Str(code)) => code.chars().take(20).collect(),
        _ => dtype.describe(),
    }
}
