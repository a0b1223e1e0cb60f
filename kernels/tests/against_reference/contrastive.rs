//! The contrastive loss, whole and in chunks, by cubes and by units.

use crate::support::{Client, assert_close, client, has_f16, read_f16, read_f32, upload};
use avion_kernels::{
    FloatKind,
    contrastive::{self, Chunk, Gradient, Statistics},
    reduce::Split,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

struct Outcome {
    result: Vec<f32>,
    d_products: Vec<f32>,
    d_logit_scale: f32,
    column_lse: Vec<f32>,
}

/// Everything a step does, `rows` rows at a time. The temperature's gradient starts at 5.
fn run(
    client: &Client,
    split: Split,
    products: &[f32],
    logit_scale: f32,
    n: usize,
    rows: usize,
    half: bool,
) -> Outcome {
    let zeros = || upload(client, &vec![f32::NAN; n]);
    let statistics = Statistics {
        row_lse: zeros(),
        column_max: zeros(),
        column_sum: zeros(),
        column_lse: zeros(),
        own: zeros(),
        row_hit: zeros(),
    };
    let (scale, result, d_scale) = (upload(client, &[logit_scale]), client.empty(8), upload(client, &[5.0]));
    let part = |chunk: &Chunk| upload(client, &products[chunk.first_row * n..(chunk.first_row + chunk.rows) * n]);
    for chunk in Chunk::split(n, rows) {
        contrastive::statistics(client, split, chunk, &part(&chunk), &scale, &statistics).unwrap();
    }
    contrastive::finish(client, &statistics, n, &result);
    let mut d_products = Vec::new();
    for chunk in Chunk::split(n, rows) {
        let products = part(&chunk);
        let halves = client.empty(chunk.rows * n * 2);
        let out = if half { Gradient::Into(&halves, FloatKind::F16) } else { Gradient::InPlace };
        contrastive::gradient(client, split, chunk, &products, &scale, &statistics, out, Some(&d_scale)).unwrap();
        d_products.extend(if half { read_f16(client, halves) } else { read_f32(client, products) });
    }
    Outcome {
        result: read_f32(client, result),
        d_products,
        d_logit_scale: read_f32(client, d_scale)[0] - 5.0,
        column_lse: read_f32(client, statistics.column_lse),
    }
}

/// Cosines: a clear diagonal in most rows, anything in the others.
fn cosines(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    let mut products: Vec<f32> = (0..n * n).map(|_| rng.random_range(-1.0..1.0f32)).collect();
    for i in (0..n).filter(|i| i % 3 != 2) {
        products[i * n + i] = 0.99;
    }
    products
}

fn check(client: &Client, split: Split, products: &[f32], logit_scale: f32, n: usize, rows: usize) {
    let name = |what: &str| format!("{split:?} n {n} chunks of {rows}: {what}");
    let expected = contrastive::reference(products, logit_scale.into(), n);
    let got = run(client, split, products, logit_scale, n, rows, false);
    // Logits near 100 carry f32 errors of 4e-6, which their exponentials pass on.
    assert_close(&name("loss"), &got.result[..1], &[expected.loss], 2e-5 + 4e-6 / expected.loss.abs().max(1e-9));
    assert_close(&name("accuracy"), &got.result[1..], &[expected.accuracy], 1e-6);
    let factor = f64::from(logit_scale).exp();
    // On the diagonal 1 is subtracted from a probability that may round to it.
    let largest = expected.d_products.iter().fold(1e-30, |m: f64, d| m.max(d.abs()));
    let rounding = 4e-6 * factor / n as f64;
    assert_close(&name("d_products"), &got.d_products, &expected.d_products, 5e-5 + rounding / largest);
    let off = (f64::from(got.d_logit_scale) - expected.d_logit_scale).abs();
    let allowed = 1e-4 * expected.d_logit_scale.abs() + 2e-6 * factor;
    assert!(off < allowed, "{}: {} {}", name("d_logit_scale"), got.d_logit_scale, expected.d_logit_scale);
}

#[test]
fn contrastive_matches_reference() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(21));
    for n in [1, 2, 7, 32, 77, 256] {
        let products = cosines(&mut rng, n);
        for split in [Split::Unit, Split::Cube] {
            for logit_scale in [14.3f32.ln(), 100f32.ln()] {
                check(&client, split, &products, logit_scale, n, n);
            }
        }
    }
}

#[test]
fn contrastive_in_chunks_is_the_whole() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(22));
    for (n, rows) in [(7, 3), (77, 20), (128, 100), (100, 1)] {
        let products = cosines(&mut rng, n);
        for split in [Split::Unit, Split::Cube] {
            check(&client, split, &products, 3.0, n, rows);
            let whole = run(&client, split, &products, 3.0, n, n, false);
            let chunks = run(&client, split, &products, 3.0, n, rows, false);
            let wide = |values: &[f32]| values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
            assert_close("column_lse", &chunks.column_lse, &wide(&whole.column_lse), 1e-6);
            assert_close("d_products", &chunks.d_products, &wide(&whole.d_products), 1e-6);
            assert_close("result", &chunks.result, &wide(&whole.result), 1e-6);
        }
    }
}

/// A row and a column whose every logit lies 200 below the largest: relative to a bound instead of their own maximum
/// their exponentials would all be zero.
#[test]
fn contrastive_is_stable_far_from_the_largest_logit() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(23));
    let n = 36;
    let mut products = cosines(&mut rng, n);
    for i in 0..n {
        products[5 * n + i] = -1.0 + 0.001 * i as f32;
        products[i * n + 9] = -1.0 + 0.002 * i as f32;
    }
    for split in [Split::Unit, Split::Cube] {
        check(&client, split, &products, 100f32.ln(), n, 11);
    }
}

#[test]
fn contrastive_gradient_in_f16_leaves_the_products() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(24));
    if !has_f16(&client) {
        return;
    }
    for n in [7, 64] {
        let products = cosines(&mut rng, n);
        let expected = contrastive::reference(&products, 3.0, n);
        for split in [Split::Unit, Split::Cube] {
            let got = run(&client, split, &products, 3.0, n, 5, true);
            assert_close("d_products f16", &got.d_products, &expected.d_products, 1e-3);
        }
    }
}

#[test]
fn contrastive_refuses_a_chunk_outside() {
    let client = client();
    let h = client.empty(64);
    let statistics = Statistics {
        row_lse: h.clone(),
        column_max: h.clone(),
        column_sum: h.clone(),
        column_lse: h.clone(),
        own: h.clone(),
        row_hit: h.clone(),
    };
    let chunk = Chunk { first_row: 3, rows: 2, n: 4 };
    let error = contrastive::statistics(&client, Split::Unit, chunk, &h, &h, &statistics).unwrap_err().to_string();
    assert!(error.contains("some of 0..4") && error.contains("3..5"), "{error}");
}

/// Small numbers by hand: two pairs with equal logits give a loss of ln 2 and no hit above chance.
#[test]
fn contrastive_of_equal_logits_is_ln_n() {
    let client = client();
    for n in [2usize, 9] {
        let got = run(&client, Split::of(&client), &vec![0.5; n * n], 2.0, n, n, false);
        assert_close("loss", &got.result, &[(n as f64).ln(), 1.0], 1e-6);
    }
}
