//! One tensor: how a pickle describes it, and how its bytes are gathered from its storage.
//!
//! Source: `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...)` and its siblings; storages are
//! persistent ids `('storage', class, key, device, elements)` (`torch/serialization.py`).

use crate::data::pickle::{Items, Kind, Value};
use std::borrow::Cow;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Dtype {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 | Dtype::Bf16 | Dtype::I16 => 2,
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
        }
    }

    /// From the name of a storage class or of a dtype.
    fn from_name(name: &str) -> Option<Dtype> {
        Some(match name {
            "DoubleStorage" | "float64" => Dtype::F64,
            "FloatStorage" | "float32" => Dtype::F32,
            "HalfStorage" | "float16" => Dtype::F16,
            "BFloat16Storage" | "bfloat16" => Dtype::Bf16,
            "LongStorage" | "int64" => Dtype::I64,
            "IntStorage" | "int32" => Dtype::I32,
            "ShortStorage" | "int16" => Dtype::I16,
            "CharStorage" | "int8" => Dtype::I8,
            "ByteStorage" | "UntypedStorage" | "uint8" => Dtype::U8,
            "BoolStorage" | "bool" => Dtype::Bool,
            _ => return None,
        })
    }
}

/// A tensor's values, last axis fastest.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorData<'f> {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Little-endian; borrowed from the file where it lies there in this order.
    pub data: Cow<'f, [u8]>,
}

/// What is wrong with a tensor's description.
#[derive(Debug)]
pub(super) struct Malformed {
    pub expected: &'static str,
    pub found: String,
}

/// Where a tensor's elements lie. Sizes and strides count elements.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TensorSpec {
    pub dtype: Dtype,
    /// Name of the storage: entry `data/KEY`.
    pub storage: String,
    offset: usize,
    pub shape: Vec<usize>,
    strides: Vec<usize>,
}

impl TensorSpec {
    /// Interprets a value as a tensor; `None` when it is something else.
    pub fn from_value(value: Value<'_>) -> Option<Result<Self, Malformed>> {
        let mut value = value;
        // a parameter around a tensor, perhaps more than once
        for _ in 0..4 {
            let args = value.args()?;
            match value.class()? {
                ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                    value = args.get(0)?;
                }
                // a subclass of Tensor: (function, class, arguments, state)
                ("torch._tensor", "_rebuild_from_type_v2") => {
                    let (_, function) = args.get(0)?.global()?;
                    return is_rebuild(function).then(|| {
                        let inner = args.get(2).and_then(Value::items);
                        Self::from_args(function, inner.ok_or_else(|| malformed(value))?)
                    });
                }
                ("torch._utils", function) if is_rebuild(function) => {
                    return Some(Self::from_args(function, args));
                }
                _ => return None,
            }
        }
        None
    }

    fn from_args(function: &str, args: Items<'_>) -> Result<Self, Malformed> {
        let arg = |index, expected| {
            args.get(index).ok_or_else(|| Malformed { expected, found: format!("{} arguments", args.len()) })
        };
        let reference = arg(0, "a storage")?;
        let fields = match reference.kind() {
            Kind::PersistentId(id) => id.items(),
            _ => None,
        };
        let fields =
            fields.filter(|fields| fields.len() >= 5 && fields.get(0).and_then(Value::as_str) == Some("storage"));
        let (Some(class), Some(key)) =
            (fields.and_then(|fields| fields.get(1)), fields.and_then(|fields| fields.get(2)?.as_str()))
        else {
            return Err(Malformed {
                expected: "a storage ('storage', class, key, device, elements)",
                found: reference.describe(),
            });
        };
        let dtype_of = if function == "_rebuild_tensor_v3" { arg(6, "an element type")? } else { class };
        let name = dtype_of.global().map_or("", |(_, name)| name);
        let dtype = Dtype::from_name(name).ok_or_else(|| Malformed {
            expected: "real numbers or bool of 1 to 8 bytes",
            found: dtype_of.describe(),
        })?;
        let offset = arg(1, "an offset")?;
        let shape = sizes(arg(2, "a shape")?)?;
        let strides = sizes(arg(3, "strides")?)?;
        if shape.len() != strides.len() {
            return Err(Malformed {
                expected: "as many strides as axes",
                found: format!("shape {shape:?}, strides {strides:?}"),
            });
        }
        Ok(TensorSpec {
            dtype,
            storage: key.into(),
            offset: size(offset).ok_or_else(|| malformed(offset))?,
            shape,
            strides,
        })
    }

    /// Bytes of all elements, `None` when beyond `u64`.
    pub fn len_bytes(&self) -> Option<u64> {
        let mut bytes = self.dtype.bytes() as u64;
        for &size in &self.shape {
            bytes = bytes.checked_mul(size as u64)?;
        }
        Some(bytes)
    }

    /// Bytes the storage must have at least, `None` when beyond `usize`.
    pub fn storage_bytes(&self) -> Option<usize> {
        if self.shape.contains(&0) {
            return Some(0);
        }
        let mut last = self.offset;
        for (&size, &stride) in self.shape.iter().zip(&self.strides) {
            last = last.checked_add((size - 1).checked_mul(stride)?)?;
        }
        last.checked_add(1)?.checked_mul(self.dtype.bytes())
    }

    /// The elements in row-major order. `storage` has at least [`Self::storage_bytes`].
    pub fn gather<'f>(&self, storage: Cow<'f, [u8]>) -> Cow<'f, [u8]> {
        let element = self.dtype.bytes();
        let elements: usize = self.shape.iter().product();
        if elements == 0 {
            return Cow::Borrowed(&[]);
        }
        let start = self.offset * element;
        if self.is_contiguous() {
            let range = start..start + elements * element;
            return match storage {
                Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[range]),
                Cow::Owned(bytes) => Cow::Owned(bytes[range].to_vec()),
            };
        }
        let (outer, inner, stride) = match self.shape.len() {
            0 => (0, 1, 1),
            rank => (rank - 1, self.shape[rank - 1], self.strides[rank - 1]),
        };
        let mut gathered = Vec::with_capacity(elements * element);
        let mut index = vec![0; outer];
        let mut row = start; // byte of the first element of the innermost row
        loop {
            if stride == 1 {
                gathered.extend_from_slice(&storage[row..row + inner * element]);
            } else {
                for i in 0..inner {
                    let place = row + i * stride * element;
                    gathered.extend_from_slice(&storage[place..place + element]);
                }
            }
            // The next row, counting like an odometer. Wrapping, because an axis of size 1 may have any stride:
            // what it adds it takes off again before the next read.
            let mut axis = outer;
            loop {
                if axis == 0 {
                    return Cow::Owned(gathered);
                }
                axis -= 1;
                index[axis] += 1;
                let step = self.strides[axis].wrapping_mul(element);
                row = row.wrapping_add(step);
                if index[axis] < self.shape[axis] {
                    break;
                }
                row = row.wrapping_sub(step.wrapping_mul(self.shape[axis]));
                index[axis] = 0;
            }
        }
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if size != 1 && stride != expected {
                return false;
            }
            expected *= size;
        }
        true
    }
}

fn is_rebuild(function: &str) -> bool {
    matches!(function, "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3")
}

fn malformed(found: Value<'_>) -> Malformed {
    Malformed { expected: "a tensor's offset and arguments", found: found.describe() }
}

fn size(value: Value<'_>) -> Option<usize> {
    usize::try_from(value.as_int()?).ok()
}

/// A tuple of sizes or strides, or a `torch.Size` of one.
fn sizes(value: Value<'_>) -> Result<Vec<usize>, Malformed> {
    let tuple = match value.class() {
        Some(("torch", "Size")) => value.args().and_then(|args| args.get(0)),
        _ => Some(value),
    };
    let items = tuple.and_then(Value::items);
    let all = items.and_then(|items| items.map(size).collect());
    all.ok_or_else(|| Malformed { expected: "a tuple of non-negative sizes or strides", found: value.describe() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(offset: usize, shape: &[usize], strides: &[usize]) -> TensorSpec {
        TensorSpec { dtype: Dtype::U8, storage: "0".into(), offset, shape: shape.to_vec(), strides: strides.to_vec() }
    }

    #[test]
    fn strides_are_honoured() {
        let storage: Vec<u8> = (0..24).collect();
        let gather = |spec: &TensorSpec| {
            assert!(spec.storage_bytes().unwrap() <= 24);
            spec.gather(Cow::Borrowed(&storage)).into_owned()
        };
        assert_eq!(gather(&spec(5, &[], &[])), [5]);
        assert_eq!(gather(&spec(2, &[2, 3], &[3, 1])), [2, 3, 4, 5, 6, 7]);
        assert_eq!(gather(&spec(0, &[3, 2], &[1, 3])), [0, 3, 1, 4, 2, 5]);
        assert_eq!(gather(&spec(1, &[2, 3], &[1, 0])), [1, 1, 1, 2, 2, 2]);
        assert_eq!(gather(&spec(0, &[2, 2, 2], &[1, 12, 4])), [0, 4, 12, 16, 1, 5, 13, 17]);
        assert_eq!(gather(&spec(0, &[2, 1, 2], &[2, 99, 1])), [0, 1, 2, 3]);
        assert_eq!(gather(&spec(0, &[2, 1, 2], &[5, usize::MAX, 1])), [0, 1, 5, 6]);
        assert_eq!(gather(&spec(90, &[0, 5], &[5, 1])), [0u8; 0]);
    }

    #[test]
    fn extents_do_not_overflow() {
        assert_eq!(spec(0, &[usize::MAX, 3], &[2, 1]).storage_bytes(), None);
        assert_eq!(spec(usize::MAX, &[1], &[1]).storage_bytes(), None);
        assert_eq!(spec(3, &[2, 3], &[0, 4]).storage_bytes(), Some(12));
        assert_eq!(spec(0, &[usize::MAX, 3], &[0, 0]).len_bytes(), None);
    }
}
