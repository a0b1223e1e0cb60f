//! The portable matrix products, over layouts, epilogues and sizes that miss every tile.

use crate::support::{Client, assert_close, client, read_f32, upload, values};
use avion_kernels::{
    FloatKind,
    gemm::{
        self, Operand, Problem,
        tiled::{Epilogue, Matrix, tiled},
    },
};
use cubecl::prelude::*;
use half::f16;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

fn matrix(client: &Client, data: &[f32], operand: Operand) -> Matrix {
    Matrix { handle: upload(client, data), len: data.len(), operand }
}

#[test]
fn strided_products_match_reference_over_layouts() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(6));
    // Plain, transposed and batched operands, and heads interleaved with tokens as attention packs them.
    for (m, n, k) in [(1, 1, 1), (7, 5, 3), (16, 8, 77), (17, 9, 197), (65, 33, 64), (785, 12, 19)] {
        for (transpose_a, transpose_b) in [(false, false), (true, false), (false, true), (true, true)] {
            for (outer, inner) in [(1, 1), (2, 3)] {
                let problem = Problem { m, n, k, outer, inner };
                let operand = |rows: usize, columns: usize, transposed: bool| {
                    // [outer, rows, inner, columns]: the inner batch lies between a row's elements.
                    let o = if transposed {
                        Operand { offset: 0, outer: 0, inner: 0, rows: 1, columns: inner * rows }
                    } else {
                        Operand { offset: 0, outer: 0, inner: 0, rows: inner * columns, columns: 1 }
                    };
                    let step = if transposed { rows } else { columns };
                    Operand { offset: 5, outer: rows * columns * inner, inner: step, ..o }
                };
                let (oa, ob, oc) = (operand(m, k, transpose_a), operand(k, n, transpose_b), operand(m, n, false));
                let size = |rows: usize, columns: usize| 5 + outer * inner * rows * columns;
                let (a, b, c) =
                    (values(&mut rng, size(m, k)), values(&mut rng, size(k, n)), values(&mut rng, size(m, n)));
                let mut expected: Vec<f64> = c.iter().map(|v| *v as f64).collect();
                gemm::reference(problem, 0.5, (&a, oa), (&b, ob), (&mut expected, oc));
                let out = upload(&client, &c);
                tiled(
                    &client,
                    problem,
                    0.5,
                    (matrix(&client, &a, oa), matrix(&client, &b, ob), FloatKind::F32),
                    (Matrix { handle: out.clone(), len: c.len(), operand: oc }, FloatKind::F32),
                    Epilogue::default(),
                )
                .unwrap();
                assert_close("gemm", &read_f32(&client, out), &expected, 2e-6);
            }
        }
    }
}

/// One product of plain or transposed row-major matrices with what is added to it, against the reference.
fn check_epilogue(
    client: &Client,
    rng: &mut ChaCha8Rng,
    (m, n, k): (usize, usize, usize),
    (transpose_a, transpose_b): (bool, bool),
    (with_bias, with_residual, accumulate): (bool, bool, bool),
) {
    let problem = Problem::single(m, n, k);
    let operand = |rows: usize, columns: usize, transposed: bool| {
        if transposed { Operand::matrix(rows).transposed() } else { Operand::matrix(columns) }
    };
    let (oa, ob) = (operand(m, k, transpose_a), operand(k, n, transpose_b));
    let (a, b, before) = (values(rng, m * k), values(rng, k * n), values(rng, m * n));
    let (bias, residual) = (values(rng, n), values(rng, m * n));
    let mut expected = vec![0.0; m * n];
    gemm::reference(problem, 1.0, (&a, oa), (&b, ob), (&mut expected, Operand::matrix(n)));
    for (i, value) in expected.iter_mut().enumerate() {
        *value += if with_bias { bias[i % n] as f64 } else { 0.0 };
        *value += if with_residual { residual[i] as f64 } else { 0.0 };
        *value += if accumulate { before[i] as f64 } else { 0.0 };
    }
    // Half of the rows more than the product has: none of them may change.
    let mut held = before.clone();
    if !accumulate {
        held.fill(f32::NAN);
    }
    held.extend_from_slice(&before[..m.div_ceil(2) * n]);
    let out = upload(client, &held);
    let epilogue = Epilogue {
        bias: with_bias.then(|| upload(client, &bias)),
        residual: with_residual.then(|| upload(client, &residual)),
        accumulate,
    };
    tiled(
        client,
        problem,
        1.0,
        (matrix(client, &a, oa), matrix(client, &b, ob), FloatKind::F32),
        (Matrix { handle: out.clone(), len: held.len(), operand: Operand::matrix(n) }, FloatKind::F32),
        epilogue,
    )
    .unwrap();
    let got = read_f32(client, out);
    let name = format!("{m} x {n} x {k}, transposed {transpose_a} {transpose_b}");
    assert_close(&name, &got[..m * n], &expected, 2e-6);
    assert_eq!(got[m * n..], held[m * n..], "{name}: wrote past the last row");
}

#[test]
fn products_add_bias_residual_and_what_was_there() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(8));
    let epilogues =
        [(false, false, false), (true, false, false), (true, true, false), (false, false, true), (true, true, true)];
    // Sizes of whole vectors, at and off the edges of tiles, blocks and panels; then sizes that fit nothing.
    let sizes = [(1, 64, 64), (37, 40, 68), (197, 192, 64), (785, 64, 4), (64, 96, 264), (24, 128, 1184), (19, 45, 33)];
    for (i, size) in sizes.into_iter().enumerate() {
        for transposed in [(false, false), (false, true), (true, false), (true, true)] {
            for with in [epilogues[i % 5], epilogues[(i + 1) % 5], epilogues[(i + 2) % 5]] {
                check_epilogue(&client, &mut rng, size, transposed, with);
            }
        }
    }
}

#[test]
fn f16_products_sum_in_f32() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(9));
    if !client.properties().supports_type(f16::as_type_native_unchecked()) {
        return;
    }
    let (m, n, k) = (77, 96, 768);
    let mut halves = |len: usize| -> (Vec<u8>, Vec<f32>) {
        let halves: Vec<f16> = values(&mut rng, len).into_iter().map(f16::from_f32).collect();
        (halves.iter().flat_map(|h| h.to_le_bytes()).collect(), halves.iter().map(|h| h.to_f32()).collect())
    };
    let ((a_bytes, a), (b_bytes, b)) = (halves(m * k), halves(k * n));
    let (oa, ob) = (Operand::matrix(k), Operand::matrix(n));
    let mut expected = vec![0.0; m * n];
    gemm::reference(Problem::single(m, n, k), 1.0, (&a, oa), (&b, ob), (&mut expected, Operand::matrix(n)));
    let out = client.empty(m * n * 4);
    let operand =
        |bytes: &[u8], operand| Matrix { handle: client.create_from_slice(bytes), len: bytes.len() / 2, operand };
    tiled(
        &client,
        Problem::single(m, n, k),
        1.0,
        (operand(&a_bytes, oa), operand(&b_bytes, ob), FloatKind::F16),
        (Matrix { handle: out.clone(), len: m * n, operand: Operand::matrix(n) }, FloatKind::F32),
        Epilogue::default(),
    )
    .unwrap();
    assert_close("f16 gemm", &read_f32(&client, out), &expected, 2e-6);
}

#[test]
fn short_operands_are_refused() {
    let client = client();
    let short = |len| Matrix { handle: client.empty(4 * 64), len, operand: Operand::matrix(8) };
    let error = tiled(
        &client,
        Problem::single(8, 8, 8),
        1.0,
        (short(64), short(63), FloatKind::F32),
        (short(64), FloatKind::F32),
        Epilogue::default(),
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("b: expected at least 64") && error.contains("63"), "{error}");
}
