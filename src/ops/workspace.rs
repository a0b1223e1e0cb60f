//! Where activations live: matrices in memory of our own ([`Arena`]), so that what a step keeps and what it needs is known
//! to the byte.

use super::tensor::{T, from_handle};
use avion_kernels::arena::{Arena, Buffer};
use avion_kernels::{FloatKind, Handle};
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use cubecl::prelude::ComputeClient;

/// A device, its activations' memory and their element type. Cloning shares the memory.
pub struct Workspace<R: CubeRuntime> {
    pub client: ComputeClient<R>,
    pub device: R::Device,
    pub arena: Arena<R>,
    /// Type of activations.
    pub kind: FloatKind,
    /// Whether matrices have the same shapes in every step, so that tuning small products pays.
    pub steady: bool,
    /// Whether the gradients of residual streams keep what rounding takes from them ([`Stream`]).
    pub residues: bool,
}

impl<R: CubeRuntime> Clone for Workspace<R> {
    fn clone(&self) -> Self {
        Workspace {
            client: self.client.clone(),
            device: self.device.clone(),
            arena: self.arena.clone(),
            kind: self.kind,
            steady: self.steady,
            residues: self.residues,
        }
    }
}

impl<R: CubeRuntime> Workspace<R> {
    pub fn new(device: &R::Device, kind: FloatKind) -> Self {
        let client = R::client(device);
        Workspace {
            arena: Arena::new(client.clone()),
            client,
            device: device.clone(),
            kind,
            steady: true,
            residues: false,
        }
    }

    /// The same memory, for matrices whose shapes differ from step to step, such as those of captions.
    pub fn varying(&self) -> Self {
        Workspace { steady: false, ..self.clone() }
    }

    /// The same memory; in half precision, the gradients of residual streams keep their residues.
    pub fn with_residues(self) -> Self {
        Workspace { residues: self.kind != FloatKind::F32, ..self }
    }

    /// A matrix of activations with unset elements.
    pub fn matrix(&self, rows: usize, columns: usize) -> Matrix {
        self.matrix_of(self.kind, rows, columns)
    }

    pub fn matrix_of(&self, kind: FloatKind, rows: usize, columns: usize) -> Matrix {
        Matrix { buffer: self.arena.buffer(rows * columns * kind.size()), rows, columns, kind }
    }

    /// `len` unset f32 values.
    pub fn floats(&self, len: usize) -> Buffer {
        self.arena.buffer(len * 4)
    }

    /// `matrix` as a tensor of Burn's. The tensor does not keep the matrix's memory: hold the matrix while it is used.
    pub fn tensor(&self, matrix: &Matrix) -> T<R, 2> {
        let shape = [matrix.rows, matrix.columns];
        from_handle(&self.client, &self.device, matrix.handle().clone(), shape, dtype(matrix.kind))
    }

    /// Bytes on the device, padded to whole 4-byte words.
    pub fn upload_bytes(&self, bytes: &[u8]) -> Handle {
        if bytes.len().is_multiple_of(4) {
            return self.client.create_from_slice(bytes);
        }
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(4), 0);
        self.client.create_from_slice(&padded)
    }

    /// Host values on the device.
    pub fn upload<E: bytemuck::NoUninit>(&self, values: &[E]) -> Handle {
        self.client.create_from_slice(bytemuck::cast_slice(values))
    }
}

/// Burn's name of an element type.
pub fn dtype(kind: FloatKind) -> DType {
    match kind {
        FloatKind::F32 => DType::F32,
        FloatKind::F16 => DType::F16,
        FloatKind::Bf16 => DType::BF16,
    }
}

/// A row-major matrix without gaps, in an arena's memory; the memory is free again when the last clone is dropped.
#[derive(Clone)]
pub struct Matrix {
    buffer: Buffer,
    pub rows: usize,
    pub columns: usize,
    pub kind: FloatKind,
}

impl Matrix {
    pub fn handle(&self) -> &Handle {
        self.buffer.handle()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The gradient of a residual stream on its way down, `[rows, width]`. Each branch adds to it, and each sum is rounded to
/// the compute type: over a dozen blocks that is as much error as all else together, so it may be kept in two parts.
pub struct Stream {
    /// The gradient, rounded: what products read.
    pub value: Matrix,
    /// What rounding took from it.
    pub residue: Option<Matrix>,
}

impl From<Matrix> for Stream {
    /// A gradient whose residue is lost from here on.
    fn from(value: Matrix) -> Self {
        Stream { value, residue: None }
    }
}
