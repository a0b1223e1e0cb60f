//! Attention and matrix products alone, at the sizes of training.

use super::{Report, Row, time};
use crate::device::DeviceError;
use crate::ops::gemm::{Epilogue, View, multiply};
use crate::ops::workspace::{Matrix, Workspace};
use avion_kernels::FloatKind;
use avion_kernels::attention::{self, AttentionShape};
use burn_cubecl::CubeRuntime;

/// Matrix product of the shape that large machines are rated by; TFLOP/s.
///
/// # Errors
/// What the device reports.
pub fn peak_tflops<R: CubeRuntime>(ws: &Workspace<R>, small: bool) -> Result<f64, DeviceError> {
    let n = if small { 512 } else { 8192 };
    let row = product(ws, "peak", [n, n, n], Kind::Forward)?;
    Ok(row.figures.get("tflop_per_s").copied().unwrap_or(f64::NAN))
}

/// Which product of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `x W^T`.
    Forward,
    /// `dy W`.
    InputGradient,
    /// `dy^T x`, f32, written, as a step's first.
    WeightGradient,
}

/// A linear layer's product over `[rows, inputs, outputs]`.
///
/// # Errors
/// What the device reports.
pub fn product<R: CubeRuntime>(
    ws: &Workspace<R>,
    name: &str,
    [rows, inputs, outputs]: [usize; 3],
    kind: Kind,
) -> Result<Row, DeviceError> {
    let (x, y, w) = (filled(ws, rows, inputs), filled(ws, rows, outputs), filled(ws, outputs, inputs));
    let gradient = ws.matrix_of(FloatKind::F32, outputs, inputs);
    let (vx, vy, vw) = (View::of(&x), View::of(&y), View::of(&w));
    let samples = time(&ws.client, || match kind {
        Kind::Forward => multiply(ws, &vx, &vw.clone().transposed(), &vy, Epilogue::default()),
        Kind::InputGradient => multiply(ws, &vy, &vw, &vx, Epilogue::default()),
        Kind::WeightGradient => {
            multiply(ws, &vy.clone().transposed(), &vx, &View::of(&gradient), Epilogue::default());
        }
    })?;
    let words = match kind {
        Kind::Forward => "forward",
        Kind::InputGradient => "input gradient",
        Kind::WeightGradient => "weight gradient",
    };
    let operations = 2.0 * rows as f64 * inputs as f64 * outputs as f64;
    Ok(Row::new(format!("{name} {rows} x {inputs} -> {outputs}, {words}"), samples).operations(operations))
}

/// The products around GELU, which apply it, or its derivative, as they go; nothing where the device has no such kernel.
///
/// # Errors
/// What the device reports.
#[cfg(feature = "cuda")]
pub fn activated_rows<R: CubeRuntime>(
    ws: &Workspace<R>,
    name: &str,
    [rows, width]: [usize; 2],
    keep_hidden: bool,
    write_activated: bool,
) -> Result<Option<[Row; 2]>, DeviceError> {
    use avion_kernels::activation::Activation::Gelu;
    use avion_kernels::gemm::hopper::{self, ProductShape};
    let shape = ProductShape { m: rows, n: 4 * width, k: width, kind: ws.kind };
    if !hopper::supported(&ws.client, &shape) {
        return Ok(None);
    }
    let (x, weight, bias) = (filled(ws, rows, width), filled(ws, 4 * width, width), filled(ws, 1, 4 * width));
    let [hidden, other] = [(); 2].map(|()| filled(ws, rows, 4 * width));
    let d_bias = ws.floats(4 * width);
    avion_kernels::flat::clear(&ws.client, d_bias.handle(), 4 * width);
    let sums = ws.floats(avion_kernels::activation::sums_len(rows, 4 * width));
    let [x, weight, bias, hidden, other] = [&x, &weight, &bias, &hidden, &other].map(Matrix::handle);
    let (operands, kept) = ([x, weight, bias], keep_hidden.then_some(hidden));
    let forward = time(&ws.client, || hopper::activated(&ws.client, &shape, Gelu, operands, kept, other))?;
    // As large as the forward pass's weight, which is its transpose.
    let (operands, sums) = ([x, weight, hidden], (d_bias.handle(), sums.handle()));
    let backward = time(&ws.client, || {
        hopper::activation_gradient(&ws.client, &shape, Gelu, operands, other, sums, write_activated);
    })?;
    let operations = 8.0 * rows as f64 * (width * width) as f64;
    let row = |pass, samples| {
        Row::new(format!("{name} {rows} x {width} -> {}, GELU, {pass}", 4 * width), samples).operations(operations)
    };
    Ok(Some([row("forward", forward), row("backward with bias", backward)]))
}

#[cfg(not(feature = "cuda"))]
pub fn activated_rows<R: CubeRuntime>(
    _: &Workspace<R>,
    _: &str,
    _: [usize; 2],
    _: bool,
    _: bool,
) -> Result<Option<[Row; 2]>, DeviceError> {
    Ok(None)
}

/// Attention forward, and backward with the gradient of the bias before it.
///
/// # Errors
/// What the device reports, or that it has no kernel for the shape.
pub fn attention_rows<R: CubeRuntime>(ws: &Workspace<R>, shape: AttentionShape) -> Result<[Row; 2], DeviceError> {
    let AttentionShape { batch, tokens, heads, head_dim, causal, .. } = shape;
    let path = attention::path(&ws.client, &shape).map_err(|e| DeviceError::Failed { detail: e.to_string() })?;
    let (rows, width) = (batch * tokens, heads * head_dim);
    let (qkv, output, d_output) = (filled(ws, rows, 3 * width), ws.matrix(rows, width), filled(ws, rows, width));
    let (d_bias, sums) = (ws.floats(3 * width), ws.floats(shape.sums_len()));
    avion_kernels::flat::clear(&ws.client, d_bias.handle(), 3 * width);
    let (d_qkv, lse, delta) = (ws.matrix(rows, 3 * width), ws.floats(shape.lse_len()), ws.floats(shape.lse_len()));
    let failed = |error: avion_kernels::KernelError| DeviceError::Failed { detail: error.to_string() };
    let forward = || attention::forward(&ws.client, &shape, qkv.handle(), output.handle(), lse.handle());
    let backward = || {
        attention::backward(
            &ws.client,
            &shape,
            qkv.handle(),
            output.handle(),
            lse.handle(),
            d_output.handle(),
            d_qkv.handle(),
            delta.handle(),
            sums.handle(),
            d_bias.handle(),
        )
    };
    forward().map_err(failed)?;
    backward().map_err(failed)?;
    // The sizes are accepted: further calls differ in nothing.
    let ahead = time(&ws.client, || drop(forward()))?;
    let back = time(&ws.client, || drop(backward()))?;
    let name = format!("{batch}x{heads}x{tokens}x{head_dim}{} ({path:?})", if causal { " causal" } else { "" });
    let operations = 4.0 * (rows * tokens * width) as f64 * if causal { 0.5 } else { 1.0 };
    Ok([
        Row::new(format!("attention {name}, forward"), ahead).operations(operations),
        Row::new(format!("attention {name}, backward"), back).operations(2.5 * operations),
    ])
}

/// A matrix of varied values: products of zeros would run faster than real ones.
pub(super) fn filled<R: CubeRuntime>(ws: &Workspace<R>, rows: usize, columns: usize) -> Matrix {
    let matrix = ws.matrix(rows, columns);
    let values = burn::tensor::Tensor::<crate::ops::tensor::Inner<R>, 1>::random(
        [rows * columns],
        burn::tensor::Distribution::Normal(0.0, 1.0),
        &ws.device,
    );
    let values = crate::ops::tensor::contiguous(values);
    avion_kernels::flat::cast(&ws.client, &values.handle, matrix.handle(), matrix.kind, rows * columns);
    matrix
}

/// The shapes of video and text training, or small ones on a device without matrix units.
///
/// # Errors
/// What the device reports.
pub fn attention_report<R: CubeRuntime>(ws: &Workspace<R>, small: bool) -> Result<Report, DeviceError> {
    let shapes: &[(usize, usize, usize, bool)] = if small {
        &[(2, 2, 37, false), (2, 2, 32, true)]
    } else {
        &[(64, 12, 785, false), (64, 12, 1568, false), (256, 8, 77, true), (256, 12, 197, false)]
    };
    let mut rows = Vec::new();
    for &(batch, heads, tokens, causal) in shapes {
        let head_dim = if small { 32 } else { 64 };
        let shape = AttentionShape { batch, tokens, heads, head_dim, causal, kind: ws.kind };
        rows.extend(attention_rows(ws, shape)?);
    }
    Ok(Report { title: "attention".into(), rows, ..Report::default() })
}

/// Every product of a block of ViT-B/16 at batch 256 and of ViT-L/14 at 112, or of the demo's model.
///
/// # Errors
/// What the device reports.
pub fn gemm_report<R: CubeRuntime>(ws: &Workspace<R>, small: bool) -> Result<Report, DeviceError> {
    let towers: &[(&str, usize, usize)] =
        if small { &[("tiny", 32 * 37, 64)] } else { &[("B/16", 256 * 785, 768), ("L/14", 112 * 1025, 1024)] };
    let mut rows = Vec::new();
    for &(name, tokens, width) in towers {
        for (inputs, outputs) in [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)] {
            for kind in [Kind::Forward, Kind::InputGradient, Kind::WeightGradient] {
                rows.push(product(ws, name, [tokens, inputs, outputs], kind)?);
            }
        }
    }
    let peak = peak_tflops(ws, small)?;
    for row in &mut rows {
        let share = row.figures.get("tflop_per_s").copied().unwrap_or(f64::NAN) / peak;
        row.figures.insert("of_peak", share);
    }
    let side = if small { 512 } else { 8192 };
    let notes = vec![format!("peak: {peak:.3} TFLOP/s, a product of two {side} x {side} matrices of {:?}", ws.kind)];
    Ok(Report { title: "matrix products".into(), rows, notes, ..Report::default() })
}
