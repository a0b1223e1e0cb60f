//! Matrix products: which implementation takes them.
//!
//! Large products on Hopper GPUs, other than weight gradients, are by our kernel; the rest on CUDA devices by cuBLASLt; both
//! add bias and residual as they store. Devices without subgroups (Mesa's software Vulkan) get our register-tiled kernel,
//! which does the same; the rest CubeCL's product and a pass of our own. Sums are f32 everywhere.

use super::tensor::primitive;
use super::workspace::{Matrix, Workspace, dtype};
use crate::model::params::Weight;
use avion_kernels::gemm::tiled::{self, tiled};
use avion_kernels::gemm::{Operand, Problem};
use avion_kernels::residual::{self, Finish};
use avion_kernels::{FloatKind, Handle, flat};
use burn::tensor::Shape;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::features::Plane;

/// One matrix of a product, read as it lies or transposed.
#[derive(Clone)]
pub struct View {
    handle: Handle,
    rows: usize,
    columns: usize,
    kind: FloatKind,
    transposed: bool,
}

impl View {
    pub fn of(matrix: &Matrix) -> Self {
        View::new(matrix.handle(), matrix.rows, matrix.columns, matrix.kind)
    }

    /// `[rows, columns]` of `kind`, row-major, without gaps.
    pub fn new(handle: &Handle, rows: usize, columns: usize, kind: FloatKind) -> Self {
        View { handle: handle.clone(), rows, columns, kind, transposed: false }
    }

    /// The same buffer as its transpose.
    pub fn transposed(self) -> Self {
        View { rows: self.columns, columns: self.rows, transposed: !self.transposed, ..self }
    }

    fn operand(&self) -> Operand {
        if self.transposed { Operand::matrix(self.rows).transposed() } else { Operand::matrix(self.columns) }
    }

    fn argument(&self) -> tiled::Matrix {
        tiled::Matrix { handle: self.handle.clone(), len: self.rows * self.columns, operand: self.operand() }
    }

    fn tensor<R: CubeRuntime>(&self, ws: &Workspace<R>) -> CubeTensor<R> {
        let shape = if self.transposed { [self.columns, self.rows] } else { [self.rows, self.columns] };
        let tensor = CubeTensor::new_contiguous(
            ws.client.clone(),
            ws.device.clone(),
            Shape::new(shape),
            self.handle.clone(),
            dtype(self.kind),
        );
        if self.transposed { primitive::<R, 2>(super::tensor::tensor::<R, 2>(tensor).transpose()) } else { tensor }
    }
}

/// What is added to a product before it is stored.
pub struct Epilogue<'a, R: CubeRuntime> {
    /// `[n]`, to every row.
    pub bias: Option<&'a Weight<R>>,
    /// `[m, n]`, of the output's type.
    pub residual: Option<&'a Matrix>,
    /// Whether the product is added to what the output holds.
    pub accumulate: bool,
}

impl<R: CubeRuntime> Default for Epilogue<'_, R> {
    fn default() -> Self {
        Epilogue { bias: None, residual: None, accumulate: false }
    }
}

/// `out = a b`, with the epilogue.
///
/// # Shapes
/// - `a`: `[m, k]`, `b`: `[k, n]`, of one type; `out`: `[m, n]`, not transposed
pub fn multiply<R: CubeRuntime>(ws: &Workspace<R>, a: &View, b: &View, out: &View, epilogue: Epilogue<R>) {
    debug_assert!(a.columns == b.rows && a.rows == out.rows && b.columns == out.columns && a.kind == b.kind);
    let problem = Problem::single(a.rows, b.columns, a.columns);
    #[cfg(feature = "cuda")]
    if by_hopper(ws, a, b, out, &epilogue) || by_cublaslt(ws, problem, a, b, out, &epilogue) {
        return;
    }
    if !ws.client.features().plane.contains(Plane::Ops) {
        return by_tiles(ws, problem, a, b, out, &epilogue);
    }
    by_cubecl(ws, a, b, out, &epilogue);
}

/// Queues the product on our kernel for Hopper; false when something else has to take it, or is faster.
#[cfg(feature = "cuda")]
fn by_hopper<R: CubeRuntime>(ws: &Workspace<R>, a: &View, b: &View, out: &View, epilogue: &Epilogue<R>) -> bool {
    use avion_kernels::gemm::hopper::{self, ProductShape};
    let shape = ProductShape { m: a.rows, n: b.columns, k: a.columns, kind: a.kind };
    let taken = !a.transposed && out.kind == a.kind && !epilogue.accumulate && hopper::worthwhile(&ws.client, &shape);
    if taken {
        let (bias, residual) = (epilogue.bias.map(Weight::compute_handle), epilogue.residual.map(Matrix::handle));
        hopper::product(&ws.client, &shape, &a.handle, (&b.handle, !b.transposed), bias, residual, &out.handle);
    }
    taken
}

/// Queues the product on cuBLASLt; false when something else has to take it.
#[cfg(feature = "cuda")]
fn by_cublaslt<R: CubeRuntime>(
    ws: &Workspace<R>,
    problem: Problem,
    a: &View,
    b: &View,
    out: &View,
    epilogue: &Epilogue<R>,
) -> bool {
    use avion_kernels::gemm::cublaslt::{self, Declined, cublaslt};
    use std::sync::Once;
    static WARNED: Once = Once::new();
    static FAILED: Once = Once::new();
    let added = cublaslt::Epilogue {
        bias: epilogue.bias.map(|bias| bias.compute_handle().clone()),
        residual: epilogue.residual.map(|m| m.handle().clone()),
        accumulate: epilogue.accumulate,
        steady: ws.steady,
    };
    let operands = (a.argument(), b.argument(), a.kind);
    match cublaslt(&ws.client, problem, operands, (out.argument(), out.kind), &added) {
        Ok(()) => true,
        Err(Declined::NotApplicable) => false,
        Err(Declined::Failed(why)) => {
            // The step's outcome is checked before anything is made of it (`train`); more products would not help.
            FAILED.call_once(|| tracing::error!("a product failed on the device: {why}"));
            true
        }
        Err(Declined::Unavailable(why)) => {
            WARNED
                .call_once(|| tracing::warn!("cuBLASLt is not used ({why}); CubeCL's slower products take its place"));
            false
        }
    }
}

fn by_tiles<R: CubeRuntime>(
    ws: &Workspace<R>,
    problem: Problem,
    a: &View,
    b: &View,
    out: &View,
    epilogue: &Epilogue<R>,
) {
    let added = tiled::Epilogue {
        bias: epilogue.bias.map(|bias| bias.value_handle().clone()),
        residual: epilogue.residual.map(|m| m.handle().clone()),
        accumulate: epilogue.accumulate,
    };
    let operands = (a.argument(), b.argument(), a.kind);
    if let Err(error) = tiled(&ws.client, problem, 1.0, operands, (out.argument(), out.kind), added) {
        unreachable!("operands are whole matrices: {error}");
    }
}

fn by_cubecl<R: CubeRuntime>(ws: &Workspace<R>, a: &View, b: &View, out: &View, epilogue: &Epilogue<R>) {
    let (rows, columns) = (out.rows, out.columns);
    // Of the runtime's memory: this is no activation, and no plan of them counts it.
    let sum = epilogue.accumulate.then(|| ws.client.empty(rows * columns * out.kind.size()));
    let target = sum.as_ref().map_or(out.clone(), |sum| View::new(sum, rows, columns, out.kind));
    let (lhs, rhs) = (a.tensor(ws), b.tensor(ws));
    if let Err(error) = matmul(lhs, rhs, Some(target.tensor(ws)), MatmulStrategy::default(), dtype(out.kind)) {
        // The chooser's last resort takes any problem in a type the device has; device selection checks the type.
        unreachable!("matrix product [{rows}, {}] x [{}, {columns}] was refused: {error:?}", a.columns, b.rows);
    }
    if let Some(sum) = sum {
        flat::accumulate(&ws.client, &sum, out.kind, &out.handle, rows * columns);
    }
    if epilogue.bias.is_some() || epilogue.residual.is_some() {
        let finish = Finish {
            y: &out.handle,
            bias: epilogue.bias.map(|bias| bias.value_handle()),
            factor: None,
            residual: epilogue.residual.map(Matrix::handle),
            rows,
            columns,
        };
        residual::finish(&ws.client, out.kind, finish);
    }
}
