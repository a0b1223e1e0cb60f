//! Parameters: one flat f32 buffer with named views, and gradients that mirror it.
//!
//! One buffer makes the optimizer one launch, the gradient norm one pass and a checkpoint one read. Every parameter
//! starts at a multiple of 256 elements, so views satisfy every runtime's alignment (512 bytes in bf16) and each block
//! of 256 elements belongs to one optimizer group.

use crate::ops::gemm::View;
use crate::ops::tensor::{T, contiguous, float_kind, tensor};
use crate::ops::workspace::{Matrix, Workspace};
use avion_kernels::{Handle, arena::exact, column_sum, flat, optimizer::BLOCK};
use burn::tensor::{DType, Shape};
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::ComputeClient;
use std::ops::Range;

/// How a parameter starts when nothing is loaded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    Zeros,
    Ones,
    Constant(f32),
    Normal {
        std: f32,
    },
    /// Normal cut at two standard units of the absolute scale, as timm's `trunc_normal_` (bounds -2 and 2).
    TruncatedNormal {
        std: f32,
    },
    /// PyTorch's default for a Linear or convolution: uniform in `+-1 / sqrt(fan_in)`.
    Uniform {
        bound: f32,
    },
}

/// Name, shape and treatment of one parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    /// The name PyTorch users know (`visual.transformer.resblocks.0.attn.in_proj_weight`).
    pub name: String,
    pub shape: Vec<usize>,
    pub init: Init,
    /// Whether weight decay applies.
    pub decay: bool,
    /// Whether the optimizer touches it.
    pub trainable: bool,
    /// Factor on the learning rate.
    pub lr_scale: f32,
}

impl ParamSpec {
    /// A trainable parameter with AVION's weight-decay rule (its `main_lavila_pretrain.py`): none for vectors and
    /// scalars, and none when the name contains `bias`, `ln`, `bn`, `pos_embed` or `positional_embedding`.
    pub fn new(name: impl Into<String>, shape: &[usize], init: Init) -> Self {
        let name = name.into();
        let exempt = ["bias", "ln", "bn", "pos_embed", "positional_embedding"];
        let decay = shape.len() >= 2 && !exempt.iter().any(|part| name.contains(part));
        ParamSpec { name, shape: shape.to_vec(), init, decay, trainable: true, lr_scale: 1.0 }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds no value at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One parameter as a layer sees it: f32 value, value in the compute type, and its gradient.
#[derive(Clone)]
pub struct Weight<R: CubeRuntime> {
    value: CubeTensor<R>,
    compute: CubeTensor<R>,
    gradient: Handle,
}

impl<R: CubeRuntime> Weight<R> {
    /// The f32 master value.
    pub fn value<const D: usize>(&self) -> T<R, D> {
        tensor(self.value.clone())
    }

    /// The value in the type activations are computed in.
    pub fn compute<const D: usize>(&self) -> T<R, D> {
        tensor(self.compute.clone())
    }

    /// The f32 master value, the value in the compute type, and the f32 gradient, each without gaps.
    pub fn value_handle(&self) -> &Handle {
        &self.value.handle
    }

    pub fn compute_handle(&self) -> &Handle {
        &self.compute.handle
    }

    pub fn gradient_handle(&self) -> &Handle {
        &self.gradient
    }

    /// Rows and columns of a matrix; a vector is one row.
    pub fn rows(&self) -> usize {
        let shape = self.value.meta.shape();
        if shape.num_dims() < 2 { 1 } else { shape[0] }
    }

    pub fn columns(&self) -> usize {
        self.value.meta.shape().num_elements() / self.rows()
    }

    /// The value in the compute type, as an operand of products.
    pub fn view(&self) -> View {
        let kind = float_kind(self.compute.dtype);
        let kind = kind.unwrap_or_else(|| unreachable!("weights are never {:?}", self.compute.dtype));
        View::new(&self.compute.handle, self.rows(), self.columns(), kind)
    }

    /// Some rows of a matrix, or some elements of a vector, as a parameter of their own that shares the memory. Their
    /// first element must lie where a binding may start: at a multiple of 64 values on any device.
    pub fn slice(&self, range: Range<usize>) -> Self {
        let (shape, len) = (self.value.meta.shape(), self.value.meta.shape().num_elements());
        let row = len / shape[0];
        let cut = |handle: &Handle, size: usize| {
            let (before, after) = (range.start * row * size, len - range.end * row);
            handle.clone().offset_start(before as u64).offset_end((after * size) as u64)
        };
        let part = |tensor: &CubeTensor<R>| {
            let mut dims: Vec<usize> = tensor.meta.shape().iter().copied().collect();
            dims[0] = range.len();
            let handle = cut(&tensor.handle, tensor.dtype.size());
            let (client, device) = (tensor.client.clone(), tensor.device.clone());
            CubeTensor::new_contiguous(client, device, Shape::from(dims), handle, tensor.dtype)
        };
        Weight { value: part(&self.value), compute: part(&self.compute), gradient: cut(&self.gradient, 4) }
    }

    /// Adds the sum over the rows of `gradient` (`[rows, len]`) to the gradient.
    pub fn accumulate_columns(&self, ws: &Workspace<R>, gradient: &Matrix) {
        let Matrix { rows, columns, kind, .. } = *gradient;
        column_sum::column_sum(&ws.client, gradient.handle().clone(), kind, rows, columns, self.gradient.clone());
    }

    /// Adds `gradient`, f32, as many elements as the parameter or its first rows, to the gradient.
    pub fn accumulate<const D: usize>(&self, gradient: T<R, D>) {
        let gradient = contiguous(gradient);
        let len = gradient.meta.shape().num_elements();
        debug_assert!(len <= self.value.meta.shape().num_elements());
        let Some(kind) = float_kind(gradient.dtype) else {
            unreachable!("gradients are f32, f16 or bf16, not {:?}", gradient.dtype)
        };
        flat::accumulate(&gradient.client, &gradient.handle, kind, &self.gradient, len);
    }
}

/// All parameters of a model on one device.
pub struct ParamStore<R: CubeRuntime> {
    pub client: ComputeClient<R>,
    pub device: R::Device,
    specs: Vec<ParamSpec>,
    /// Start of each parameter in the flat buffers, elements.
    offsets: Vec<usize>,
    len: usize,
    values: Handle,
    gradients: Handle,
    /// The weights in the compute type, when that is not f32.
    copy: Option<Handle>,
    compute_dtype: DType,
}

impl<R: CubeRuntime> ParamStore<R> {
    /// Uploads `values`, the parameters one after another as [`Layout`](Self::pack) packs them.
    pub fn new(device: &R::Device, specs: Vec<ParamSpec>, values: &[Vec<f32>], compute_dtype: DType) -> Self {
        let client = R::client(device);
        let (offsets, len) = layout(&specs);
        let flat_values = pack(&specs, &offsets, len, values);
        let store = ParamStore {
            values: exact(&client, |client| client.create_from_slice(bytemuck::cast_slice(&flat_values))),
            gradients: exact(&client, |client| client.empty(len * 4)),
            copy: (compute_dtype != DType::F32)
                .then(|| exact(&client, |client| client.empty(len * compute_dtype.size()))),
            client,
            device: device.clone(),
            specs,
            offsets,
            len,
            compute_dtype,
        };
        store.refresh_copy();
        store.clear_gradients();
        store
    }

    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// Elements of the flat buffers, padding included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the model has no parameters.
    pub fn is_empty(&self) -> bool {
        self.specs.is_empty()
    }

    /// The type activations are computed in.
    pub fn compute_dtype(&self) -> DType {
        self.compute_dtype
    }

    /// The flat f32 values, gradients, and the compute copy with its type.
    pub fn values(&self) -> Handle {
        self.values.clone()
    }

    pub fn gradients(&self) -> Handle {
        self.gradients.clone()
    }

    pub fn copy(&self) -> Option<Handle> {
        self.copy.clone()
    }

    /// The parameter called `name`.
    ///
    /// # Panics
    /// When the model has none of that name: layers and specs come from the same geometry.
    pub fn weight(&self, name: &str) -> Weight<R> {
        let index = self.specs.iter().position(|spec| spec.name == name);
        let index = index.unwrap_or_else(|| unreachable!("the model has no parameter `{name}`"));
        let view = |handle: &Handle, dtype: DType| {
            let start = self.offsets[index] * dtype.size();
            let end = (self.offsets[index] + self.specs[index].len()) * dtype.size();
            let handle = handle.clone().offset_start(start as u64).offset_end((self.len * dtype.size() - end) as u64);
            let shape = match self.specs[index].shape.as_slice() {
                [] => Shape::new([1]),
                dims => Shape::from(dims.to_vec()),
            };
            CubeTensor::new_contiguous(self.client.clone(), self.device.clone(), shape, handle, dtype)
        };
        let value = view(&self.values, DType::F32);
        let compute = match &self.copy {
            Some(copy) => view(copy, self.compute_dtype),
            None => value.clone(),
        };
        Weight { gradient: view(&self.gradients, DType::F32).handle, value, compute }
    }

    /// Sets every gradient to zero; the optimizer does this in its own pass.
    pub fn clear_gradients(&self) {
        flat::clear(&self.client, &self.gradients, self.len);
    }

    /// Rewrites the compute copy from the values; the optimizer does this in its own pass.
    pub fn refresh_copy(&self) {
        if let (Some(copy), Some(kind)) = (&self.copy, float_kind(self.compute_dtype)) {
            flat::cast(&self.client, &self.values, copy, kind, self.len);
        }
    }

    /// Reads a flat f32 buffer of this layout back, one vector per parameter in the order of [`specs`](Self::specs).
    ///
    /// # Errors
    /// What the device reports: most often that it was lost or ran out of memory.
    pub fn read(&self, buffer: Handle) -> Result<Vec<Vec<f32>>, crate::device::DeviceError> {
        let bytes = self.client.read_one(buffer).map_err(crate::device::DeviceError::from_server)?;
        let all: &[f32] = bytemuck::cast_slice(&bytes);
        let parts = self.specs.iter().zip(&self.offsets);
        Ok(parts.map(|(spec, &start)| all[start..start + spec.len()].to_vec()).collect())
    }

    /// Uploads one vector per parameter as a flat f32 buffer of this layout.
    pub fn upload(&self, values: &[Vec<f32>]) -> Handle {
        let packed = pack(&self.specs, &self.offsets, self.len, values);
        exact(&self.client, |client| client.create_from_slice(bytemuck::cast_slice(&packed)))
    }

    /// For each block of [`BLOCK`] elements, `f` of the parameter it belongs to.
    pub fn per_block<T: Copy + Default>(&self, f: impl Fn(&ParamSpec) -> T) -> Vec<T> {
        let mut table = vec![T::default(); self.len / BLOCK];
        for (spec, &start) in self.specs.iter().zip(&self.offsets) {
            table[start / BLOCK..(start + spec.len()).div_ceil(BLOCK)].fill(f(spec));
        }
        table
    }
}

/// Start of each parameter and total length, each rounded up to whole blocks.
fn layout(specs: &[ParamSpec]) -> (Vec<usize>, usize) {
    let mut len = 0;
    let offsets = specs
        .iter()
        .map(|spec| {
            let start = len;
            len += spec.len().next_multiple_of(BLOCK);
            start
        })
        .collect();
    (offsets, len)
}

fn pack(specs: &[ParamSpec], offsets: &[usize], len: usize, values: &[Vec<f32>]) -> Vec<f32> {
    let mut packed = vec![0.0; len];
    for ((spec, &start), value) in specs.iter().zip(offsets).zip(values) {
        assert_eq!(spec.len(), value.len(), "{}: values given", spec.name);
        packed[start..start + spec.len()].copy_from_slice(value);
    }
    packed
}
