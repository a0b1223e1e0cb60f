//! Self-checks of the fused kernels, and of what only some devices have.

use super::DeviceError;
use super::self_check::{Check, allowed, compare, name, read, refused, rounded, upload, values};
use avion_kernels::FloatKind;
use avion_kernels::activation::{self, Activation};
use avion_kernels::attention::{self, AttentionShape};
#[cfg(feature = "cuda")]
use avion_kernels::gemm::{self, Operand, Problem};
use avion_kernels::layer_norm::{self, NormShape};
use cubecl::prelude::*;

/// Tokens: one, a ragged tile, whole tiles and a ragged one.
const TOKENS: [(usize, bool); 4] = [(1, false), (77, true), (197, false), (200, true)];
const HEADS: usize = 2;
const HEAD_DIM: usize = 64;

/// Attention forward and backward in `kind`, by the kernels that training takes here.
pub(super) fn check_attention<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
) -> Result<Vec<Check>, DeviceError> {
    let mut checks = Vec::new();
    for (tokens, causal) in TOKENS {
        let shape = AttentionShape { batch: 1, tokens, heads: HEADS, head_dim: HEAD_DIM, causal, kind };
        let path = attention::path(client, &shape).map_err(refused)?;
        let (qkv, d_output) = (rounded(values(shape.qkv_len(), 1), kind), rounded(values(shape.output_len(), 2), kind));
        let (h_qkv, h_d_output) = (upload(client, &qkv, kind), upload(client, &d_output, kind));
        let [output, d_qkv] = [shape.output_len(), shape.qkv_len()].map(|len| client.empty(len * kind.size()));
        let [lse, delta] = [(); 2].map(|()| client.empty(shape.lse_len() * 4));
        attention::forward(client, &shape, &h_qkv, &output, &lse).map_err(refused)?;
        let sums = client.empty(shape.sums_len() * 4);
        let d_bias = upload(client, &vec![1.0; 3 * HEADS * HEAD_DIM], FloatKind::F32);
        attention::backward(client, &shape, &h_qkv, &output, &lse, &h_d_output, &d_qkv, &delta, &sums, &d_bias)
            .map_err(refused)?;
        let expected = attention::reference(&shape, &qkv, &d_output);
        let mut columns = vec![1.0; 3 * HEADS * HEAD_DIM];
        let each = columns.len();
        expected.d_qkv.chunks(each).for_each(|row| columns.iter_mut().zip(row).for_each(|(sum, d)| *sum += d));
        let (mut got, mut wanted) = (read(client, d_qkv, kind)?, expected.d_qkv);
        if tokens == 1 {
            // The probability is 1 whatever q and k are, and their gradients are pure rounding.
            let values = 2 * HEADS * HEAD_DIM;
            (got, wanted) = (got.split_off(values), wanted.split_off(values));
        }
        let label =
            |part| format!("attention {path:?} {part} {tokens}{} {}", if causal { " causal" } else { "" }, name(kind));
        // Probabilities and their gradients are rounded to `kind` between the two products.
        let limit = 2.0 * allowed(kind);
        checks.push(compare(label("output"), &read(client, output, kind)?, &expected.output, limit)?);
        checks.push(compare(label("gradient"), &got, &wanted, limit)?);
        checks.push(compare(label("bias"), &read(client, d_bias, FloatKind::F32)?, &columns, limit)?);
    }
    Ok(checks)
}

/// LayerNorm with its residual, and the activations, forward and backward.
pub(super) fn check_norm_and_activation<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
) -> Result<Vec<Check>, DeviceError> {
    let shape = NormShape { rows: 77, width: 768, kind, eps: 1e-6 };
    let (len, limit) = (shape.rows * shape.width, 2.0 * allowed(kind));
    let wide = |x: &[f32]| x.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
    let [x, dy, stream] = [1, 2, 3].map(|seed| rounded(values(len, seed), kind));
    let [gain, bias] = [4, 5].map(|seed| values(shape.width, seed));
    let f32s = |data: &[f32]| upload(client, data, FloatKind::F32);
    let [hx, hdy, hstream] = [&x, &dy, &stream].map(|x| upload(client, x, kind));
    let h_residue = upload(client, &vec![0.0; len], kind);
    let (h_gain, h_bias) = (f32s(&gain), f32s(&bias));
    let sums = [(); 3].map(|()| f32s(&vec![0.0; shape.width]));
    let (y, stats) = (client.empty(len * kind.size()), client.empty(shape.rows * 8));
    layer_norm::forward(client, &shape, &hx, &h_gain, &h_bias, &y, &stats);
    let backward = layer_norm::Backward {
        x: &hx,
        stats: &stats,
        gain: &h_gain,
        bias: &h_bias,
        dy: &hdy,
        gradient: &hstream,
        residue: Some(&h_residue),
        fresh: false,
        write_normed: true,
        d_gain: &sums[0],
        d_bias: &sums[1],
        d_sum: Some(&sums[2]),
    };
    layer_norm::backward(client, &shape, backward);
    let (expected_y, _) = layer_norm::reference::forward(&wide(&x), &wide(&gain), &wide(&bias), 1e-6);
    let [dx, d_gain, d_bias] = layer_norm::reference::backward(&wide(&x), &wide(&gain), &wide(&dy), 1e-6);
    let d_stream: Vec<f64> = dx.iter().zip(&stream).map(|(d, s)| d + f64::from(*s)).collect();
    let d_sum = column_sums(&d_stream, shape.width);
    let label = |part: &str| format!("LayerNorm {part} {}", name(kind));
    let mut checks = vec![
        compare(label("output"), &read(client, y, kind)?, &expected_y, limit)?,
        compare(label("output again"), &read(client, hdy, kind)?, &expected_y, limit)?,
        compare(label("gradient"), &read(client, hstream, kind)?, &d_stream, limit)?,
    ];
    for ((part, got), expected) in ["gain", "bias", "sum"].into_iter().zip(sums).zip([d_gain, d_bias, d_sum]) {
        checks.push(compare(label(part), &read(client, got, FloatKind::F32)?, &expected, limit)?);
    }

    for nonlinearity in [Activation::Gelu, Activation::QuickGelu] {
        let (columns, rows) = (shape.width, shape.rows);
        let [hidden, gradient] = [&x, &dy].map(|x| upload(client, x, kind));
        let (y, d_bias) = (client.empty(len * kind.size()), f32s(&vec![0.0; columns]));
        activation::forward(client, kind, nonlinearity, &hidden, &y, len);
        activation::backward(client, kind, nonlinearity, rows, columns, &hidden, &gradient, Some(&d_bias), true);
        let values = x.iter().map(|x| activation::reference(nonlinearity, f64::from(*x)));
        let (expected, slopes): (Vec<f64>, Vec<f64>) = values.unzip();
        let d_hidden: Vec<f64> = slopes.iter().zip(&dy).map(|(s, d)| s * f64::from(*d)).collect();
        let d_sum = column_sums(&d_hidden, columns);
        let label = |part: &str| format!("{nonlinearity:?} {part} {}", name(kind));
        checks.push(compare(label("output"), &read(client, y, kind)?, &expected, limit)?);
        checks.push(compare(label("output again"), &read(client, hidden, kind)?, &expected, limit)?);
        checks.push(compare(label("gradient"), &read(client, gradient, kind)?, &d_hidden, limit)?);
        checks.push(compare(label("bias"), &read(client, d_bias, FloatKind::F32)?, &d_sum, limit)?);
    }
    Ok(checks)
}

fn column_sums(values: &[f64], columns: usize) -> Vec<f64> {
    let mut sums = vec![0.0; columns];
    values.chunks(columns).for_each(|row| sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value));
    sums
}

/// Our products on Hopper GPUs; nothing elsewhere.
#[cfg(feature = "cuda")]
pub(super) fn check_hopper<R: Runtime>(client: &ComputeClient<R>, kind: FloatKind) -> Result<Vec<Check>, DeviceError> {
    use avion_kernels::gemm::hopper::{self, ProductShape};
    let (m, n, k, limit) = (77, 256, 128, 2.0 * allowed(kind));
    let shape = ProductShape { m, n, k, kind };
    let mut checks = Vec::new();
    if !hopper::supported(client, &shape) {
        return Ok(checks);
    }
    let random = |len, seed| rounded(values(len, seed), kind);
    let (x, weight, bias, other) = (random(m * k, 1), random(n * k, 2), random(n, 3), random(m * n, 4));
    let [hx, hw, hb, ho] = [&x, &weight, &bias, &other].map(|values| upload(client, values, kind));
    let product = |weight_lies: Operand| {
        let mut out = vec![0.0; m * n];
        let (a, b) = ((&x[..], Operand::matrix(k)), (&weight[..], weight_lies));
        gemm::reference(Problem::single(m, n, k), 1.0, a, b, (&mut out, Operand::matrix(n)));
        out
    };
    let (mut sums, gradient) = (product(Operand::matrix(k).transposed()), product(Operand::matrix(n)));
    sums.iter_mut().enumerate().for_each(|(i, sum)| *sum += f64::from(bias[i % n]));
    let with_residual: Vec<f64> = sums.iter().zip(&other).map(|(sum, other)| sum + f64::from(*other)).collect();

    let [y, dx] = [(); 2].map(|()| client.empty(m * n * kind.size()));
    hopper::product(client, &shape, &hx, (&hw, false), Some(&hb), Some(&ho), &y);
    hopper::product(client, &shape, &hx, (&hw, true), None, None, &dx);
    let label = |part: &str| format!("product on Hopper, {part} {}", name(kind));
    checks.push(compare(label("with bias and residual"), &read(client, y, kind)?, &with_residual, limit)?);
    checks.push(compare(label("plain"), &read(client, dx, kind)?, &gradient, limit)?);
    for activation in [Activation::Gelu, Activation::QuickGelu] {
        let [hidden, y, d_hidden] = [(); 3].map(|()| client.empty(m * n * kind.size()));
        let d_bias = upload(client, &vec![0.0; n], FloatKind::F32);
        let scratch = client.empty(activation::sums_len(m, n) * 4);
        hopper::activated(client, &shape, activation, [&hx, &hw, &hb], Some(&hidden), &y);
        hopper::activation_gradient(client, &shape, activation, [&hx, &hw, &ho], &d_hidden, (&d_bias, &scratch), false);
        let activated: Vec<f64> = sums.iter().map(|x| activation::reference(activation, *x).0).collect();
        let slopes = other.iter().map(|x| activation::reference(activation, f64::from(*x)).1);
        let gradient: Vec<f64> = gradient.iter().zip(slopes).map(|(d, slope)| d * slope).collect();
        let d_sum = column_sums(&gradient, n);
        let label = |part: &str| label(&format!("{activation:?}, {part}"));
        checks.push(compare(label("before"), &read(client, hidden, kind)?, &sums, limit)?);
        checks.push(compare(label("after"), &read(client, y, kind)?, &activated, limit)?);
        checks.push(compare(label("gradient"), &read(client, d_hidden, kind)?, &gradient, limit)?);
        checks.push(compare(label("bias"), &read(client, d_bias, FloatKind::F32)?, &d_sum, limit)?);
    }
    Ok(checks)
}

/// cuBLASLt in the layouts training uses; nothing where it cannot be used.
#[cfg(feature = "cuda")]
pub(super) fn check_cublaslt<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
) -> Result<Vec<Check>, DeviceError> {
    use avion_kernels::gemm::cublaslt::{Declined, Epilogue, cublaslt};
    use avion_kernels::gemm::tiled::Matrix;
    let mut checks = Vec::new();
    let (m, n, k) = (40, 24, 56);
    let (bias, residual) = (rounded(values(n, 4), kind), rounded(values(m * n, 5), kind));
    let linear = || Epilogue {
        bias: Some(upload(client, &bias, kind)),
        residual: Some(upload(client, &residual, kind)),
        ..Epilogue::default()
    };
    let accumulate = Epilogue::accumulate;
    let plain = Epilogue::default;
    // Forward (weights [n, k]) with bias and residual, weight gradients (f32), a step's first and others, and a batch of heads.
    let cases: [(&str, Problem, bool, bool, FloatKind, Epilogue); 4] = [
        ("forward", Problem::single(m, n, k), false, true, kind, linear()),
        ("first weight gradient", Problem::single(n, k, m), true, false, FloatKind::F32, plain()),
        ("weight gradient", Problem::single(n, k, m), true, false, FloatKind::F32, accumulate()),
        ("batch", Problem { outer: 3, inner: 2, ..Problem::single(m, n, k) }, false, true, FloatKind::F32, plain()),
    ];
    for (case, problem, transpose_a, transpose_b, out_kind, epilogue) in cases {
        let Problem { m, n, k, outer, inner } = problem;
        let batch = outer * inner;
        let operand = |rows: usize, columns: usize, transposed: bool| {
            let o = if transposed { Operand::matrix(rows).transposed() } else { Operand::matrix(columns) };
            Operand { outer: inner * rows * columns, inner: rows * columns, ..o }
        };
        let (a, b) = (rounded(values(batch * m * k, 1), kind), rounded(values(batch * k * n, 2), kind));
        let (lie_a, lie_b, lie_out) = (operand(m, k, transpose_a), operand(k, n, transpose_b), operand(m, n, false));
        let before = rounded(values(batch * m * n, 3), out_kind);
        let out = upload(client, &before, out_kind);
        let matrix = |handle, len, operand| Matrix { handle, len, operand };
        let operands =
            (matrix(upload(client, &a, kind), a.len(), lie_a), matrix(upload(client, &b, kind), b.len(), lie_b), kind);
        match cublaslt(client, problem, operands, (matrix(out.clone(), before.len(), lie_out), out_kind), &epilogue) {
            Ok(()) => {}
            Err(Declined::NotApplicable) => return Ok(checks),
            Err(Declined::Failed(detail)) => return Err(DeviceError::Failed { detail }),
            Err(Declined::Unavailable(why)) => {
                tracing::warn!("cuBLASLt cannot be used ({why}); training takes CubeCL's slower products");
                return Ok(checks);
            }
        }
        let mut expected = vec![0.0; before.len()];
        gemm::reference(problem, 1.0, (&a, lie_a), (&b, lie_b), (&mut expected, lie_out));
        for (i, e) in expected.iter_mut().enumerate() {
            if epilogue.accumulate {
                *e += f64::from(before[i]);
            }
            if epilogue.bias.is_some() {
                *e += f64::from(bias[i % n]) + f64::from(residual[i]);
            }
        }
        let label = format!("cublaslt {case} {}", name(kind));
        checks.push(compare(label, &read(client, out, out_kind)?, &expected, 2.0 * allowed(out_kind))?);
    }
    Ok(checks)
}
