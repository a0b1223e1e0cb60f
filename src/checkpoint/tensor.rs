//! Tensors in host memory, as files hold them.

pub use super::torch_file::Dtype;

use half::{bf16, f16};
use std::collections::BTreeMap;
use std::fmt;

/// Tensors by name.
pub type Tensors = BTreeMap<String, HostTensor>;

/// A contiguous, row-major tensor; every number little-endian.
#[derive(Clone, PartialEq)]
pub struct HostTensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// `product(shape) * dtype.bytes()` bytes.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for HostTensor {
    /// Type and shape only: a weight matrix would fill the screen.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostTensor({:?} {:?})", self.dtype, self.shape)
    }
}

impl HostTensor {
    /// A tensor of f32 numbers.
    ///
    /// # Errors
    /// The reason, when `values` does not hold `product(shape)` numbers.
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Result<Self, String> {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        Self::new(Dtype::F32, shape, bytes.collect())
    }

    /// A tensor of raw little-endian bytes.
    ///
    /// # Errors
    /// The reason, when there are more or fewer bytes than the shape needs.
    pub fn new(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Result<Self, String> {
        let expected = shape.iter().try_fold(dtype.bytes(), |total, &side| total.checked_mul(side));
        if expected != Some(bytes.len()) {
            let found = bytes.len();
            return Err(format!("shape {shape:?} of {dtype:?} does not take {found} bytes"));
        }
        Ok(Self { dtype, shape: shape.to_vec(), bytes })
    }

    /// How many numbers it holds.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers as f32; f64 is rounded.
    ///
    /// # Errors
    /// The reason, for integers and booleans: weights are never stored so.
    pub fn to_f32(&self) -> Result<Vec<f32>, String> {
        fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            let (chunks, _) = bytes.as_chunks::<N>();
            chunks.iter().map(|&chunk| number(chunk)).collect()
        }
        let bytes = &self.bytes;
        match self.dtype {
            Dtype::F32 => Ok(each(bytes, f32::from_le_bytes)),
            Dtype::F64 => Ok(each(bytes, |b| f64::from_le_bytes(b) as f32)),
            Dtype::F16 => Ok(each(bytes, |b| f16::from_le_bytes(b).to_f32())),
            Dtype::Bf16 => Ok(each(bytes, |b| bf16::from_le_bytes(b).to_f32())),
            other => Err(format!("expected floating point, found {other:?}")),
        }
    }

    /// The same numbers, as f32, under another shape of as many elements.
    pub(crate) fn into_f32_shaped(self, shape: &[usize]) -> Result<Self, String> {
        if self.dtype == Dtype::F32 {
            return Self::new(Dtype::F32, shape, self.bytes);
        }
        Self::from_f32(shape, &self.to_f32()?)
    }

    /// Rows and columns exchanged, whatever the number format.
    ///
    /// # Errors
    /// The reason, for anything but a matrix.
    pub(crate) fn transposed(&self) -> Result<Self, String> {
        let &[rows, columns] = self.shape.as_slice() else {
            return Err(format!("expected a matrix, found shape {:?}", self.shape));
        };
        let size = self.dtype.bytes();
        let mut bytes = Vec::with_capacity(self.bytes.len());
        for column in 0..columns {
            for row in 0..rows {
                let at = (row * columns + column) * size;
                bytes.extend_from_slice(&self.bytes[at..at + size]);
            }
        }
        Self::new(self.dtype, &[columns, rows], bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_format_becomes_f32() {
        let values = [1.0f32, -0.5, 3.25, 0.0];
        let make = |dtype, bytes: Vec<u8>| HostTensor::new(dtype, &[2, 2], bytes).unwrap();
        let doubles = values.iter().flat_map(|&v| f64::from(v).to_le_bytes());
        let halves = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes());
        let brains = values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes());
        for tensor in [
            HostTensor::from_f32(&[2, 2], &values).unwrap(),
            make(Dtype::F64, doubles.collect()),
            make(Dtype::F16, halves.collect()),
            make(Dtype::Bf16, brains.collect()),
        ] {
            assert_eq!(tensor.to_f32().unwrap(), values, "{tensor:?}");
        }
        let whole = make(Dtype::I8, vec![1, 2, 3, 4]);
        assert!(whole.to_f32().unwrap_err().contains("I8"));
    }

    #[test]
    fn shapes_must_fit_the_bytes() {
        assert!(HostTensor::from_f32(&[3], &[1.0]).is_err());
        assert!(HostTensor::new(Dtype::F32, &[usize::MAX, 2], vec![]).is_err());
        assert_eq!(HostTensor::from_f32(&[], &[1.0]).unwrap().len(), 1);
    }

    #[test]
    fn transposing_moves_numbers() {
        let tensor = HostTensor::from_f32(&[2, 3], &[1., 2., 3., 4., 5., 6.]).unwrap();
        let turned = tensor.transposed().unwrap();
        assert_eq!(turned.shape, [3, 2]);
        assert_eq!(turned.to_f32().unwrap(), [1., 4., 2., 5., 3., 6.]);
        assert_eq!(turned.transposed().unwrap(), tensor);
    }
}
