//! Parameters: one flat f32 buffer with named views, and gradients that mirror it.
//!
//! One buffer makes the optimizer one launch, the gradient norm one pass and a checkpoint one read. Every parameter
//! starts at a multiple of 256 elements, so views satisfy every runtime's alignment (512 bytes in bf16) and each block
//! of 256 elements belongs to one optimizer group.

use super::gradient::Gradient;
use crate::ops::gemm::View;
use crate::ops::tensor::{T, contiguous, float_kind, tensor};
use crate::ops::workspace::{Matrix, Workspace};
use avion_kernels::{Handle, arena::exact, column_sum, flat, optimizer::BLOCK};
use burn::tensor::{DType, Shape};
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::ComputeClient;
use std::ops::Range;
use std::sync::Arc;

/// Values from which a matrix's gradient is left by the optimizer for the next step to write over. Where something is added
/// to it instead, it takes a launch to clear it: below this, that costs more than writing saves.
const LEFT_FROM: usize = 1 << 16;

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

    /// Whether the optimizer leaves its gradient as it is, for the next step's first product to be written over: large
    /// matrices, as most of their gradients are products. A frozen parameter's gradient is zero, and stays so.
    pub fn leaves_gradient(&self) -> bool {
        self.trainable && self.shape.len() >= 2 && self.len() >= LEFT_FROM
    }
}

/// One parameter as a layer sees it: f32 value, value in the compute type, and its gradient.
#[derive(Clone)]
pub struct Weight<R: CubeRuntime> {
    value: CubeTensor<R>,
    compute: CubeTensor<R>,
    gradient: Handle,
    /// That of the whole parameter, of which this may be a slice.
    whole: Arc<Gradient>,
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

    /// The f32 master value and the value in the compute type, each without gaps.
    pub fn value_handle(&self) -> &Handle {
        &self.value.handle
    }

    pub fn compute_handle(&self) -> &Handle {
        &self.compute.handle
    }

    /// The f32 gradient without gaps, to be added to or read by what is queued next. What is left over is cleared first.
    pub fn gradient_to_add(&self) -> &Handle {
        self.whole.settle(&self.value.client);
        &self.gradient
    }

    /// The same for a product over all its elements, to be queued next, and whether it has to be added: else it has to be
    /// written over what lies there.
    pub fn gradient_to_write(&self) -> (&Handle, bool) {
        // A product over a slice would leave the rest of the parameter as it was.
        if self.whole.is_whole(self.value.meta.shape().num_elements()) {
            return (&self.gradient, !self.whole.take_stale());
        }
        (self.gradient_to_add(), true)
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
        let cut = |handle: &Handle, size: usize| part(handle, range.start * row..range.end * row, len, size);
        let tensor = |tensor: &CubeTensor<R>| {
            let mut dims: Vec<usize> = tensor.meta.shape().iter().copied().collect();
            dims[0] = range.len();
            let handle = cut(&tensor.handle, tensor.dtype.size());
            let (client, device) = (tensor.client.clone(), tensor.device.clone());
            CubeTensor::new_contiguous(client, device, Shape::from(dims), handle, tensor.dtype)
        };
        let (value, compute) = (tensor(&self.value), tensor(&self.compute));
        Weight { value, compute, gradient: cut(&self.gradient, 4), whole: self.whole.clone() }
    }

    /// Adds the sum over the rows of `gradient` (`[rows, len]`) to the gradient.
    pub fn accumulate_columns(&self, ws: &Workspace<R>, gradient: &Matrix) {
        let Matrix { rows, columns, kind, .. } = *gradient;
        let own = self.gradient_to_add().clone();
        column_sum::column_sum(&ws.client, gradient.handle().clone(), kind, rows, columns, own);
    }

    /// Adds `gradient`, f32, as many elements as the parameter or its first rows, to the gradient.
    pub fn accumulate<const D: usize>(&self, gradient: T<R, D>) {
        let gradient = contiguous(gradient);
        let len = gradient.meta.shape().num_elements();
        debug_assert!(len <= self.value.meta.shape().num_elements());
        let Some(kind) = float_kind(gradient.dtype) else {
            unreachable!("gradients are f32, f16 or bf16, not {:?}", gradient.dtype)
        };
        flat::accumulate(&gradient.client, &gradient.handle, kind, self.gradient_to_add(), len);
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
    /// Each parameter's part of `gradients`.
    gradient_of: Vec<Arc<Gradient>>,
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
        let gradients = exact(&client, |client| client.empty(len * 4));
        let gradient = |(spec, &start): (&ParamSpec, &usize)| {
            Arc::new(Gradient::new(part(&gradients, start..start + spec.len(), len, 4), spec.len()))
        };
        let store = ParamStore {
            values: exact(&client, |client| client.create_from_slice(bytemuck::cast_slice(&flat_values))),
            gradient_of: specs.iter().zip(&offsets).map(gradient).collect(),
            gradients,
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
        // As after an update, so that a first step, or one after a resumption, takes the same products as any other.
        store.clear_gradients();
        store.leave_gradients();
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

    /// The flat f32 values.
    pub fn values(&self) -> Handle {
        self.values.clone()
    }

    /// The flat f32 gradients, as they are once everything queued so far is done: what was added since the last update, and
    /// zero where nothing was.
    pub fn gradients(&self) -> Handle {
        self.gradient_of.iter().for_each(|gradient| gradient.settle(&self.client));
        self.gradients.clone()
    }

    /// The compute copy of the values.
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
        let (start, len) = (self.offsets[index], self.specs[index].len());
        let view = |handle: &Handle, dtype: DType| {
            let handle = part(handle, start..start + len, self.len, dtype.size());
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
        let whole = self.gradient_of[index].clone();
        Weight { value, compute, gradient: whole.handle.clone(), whole }
    }

    /// Sets every gradient to zero, by one pass over all of them.
    pub fn clear_gradients(&self) {
        for gradient in &self.gradient_of {
            gradient.take_stale();
        }
        flat::clear(&self.client, &self.gradients, self.len);
    }

    /// Where the gradients of all parameters are zero but, it may be, of those that [leave theirs](ParamSpec::leaves_gradient):
    /// these count as zero from here on.
    pub fn leave_gradients(&self) {
        let left = self.specs.iter().zip(&self.gradient_of).filter(|(spec, _)| spec.leaves_gradient());
        left.for_each(|(_, gradient)| gradient.leave());
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

/// Elements `range` of a buffer of `len` elements of `size` bytes.
fn part(buffer: &Handle, range: Range<usize>, len: usize, size: usize) -> Handle {
    let (before, after) = (range.start * size, (len - range.end) * size);
    buffer.clone().offset_start(before as u64).offset_end(after as u64)
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
