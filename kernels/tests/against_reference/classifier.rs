//! What a classifier has at its end: the mean over tokens, and cross entropy against soft targets.

use crate::support::{assert_close, client, read_f32, upload, values};
use crate::typed::{f64s, kinds, read_typed, rounded, typed};
use avion_kernels::{
    FloatKind, pool,
    soft_cross_entropy::{self, soft_cross_entropy},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[test]
fn the_mean_over_tokens_and_its_gradient_match_reference() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(81));
    for size in [[1, 1, 1], [3, 7, 96], [2, 65, 384], [1, 157, 770], [5, 8, 13], [32_769, 1, 3]] {
        let [batch, tokens, width] = size;
        for (kind, tolerance) in kinds(&client, 1e-6) {
            let x = rounded(kind, &values(&mut rng, batch * tokens * width));
            let y = typed(&client, kind, &vec![5.0; batch * width]);
            pool::forward(&client, kind, &typed(&client, kind, &x), &y, size).unwrap();
            let got = read_typed(&client, kind, y);
            assert_close(&format!("{size:?}"), &got[..batch * width], &pool::reference(&x, size), tolerance);

            let dy = rounded(kind, &values(&mut rng, batch * width));
            let dx = typed(&client, kind, &vec![5.0; x.len()]);
            pool::backward(&client, kind, &typed(&client, kind, &dy), &dx, size).unwrap();
            let expected: Vec<f64> =
                (0..x.len()).map(|i| f64::from(dy[i / width / tokens * width + i % width]) / tokens as f64).collect();
            assert_close("gradient", &read_typed(&client, kind, dx)[..x.len()], &expected, tolerance);
        }
    }
    let buffer = client.empty(4);
    let error = pool::forward(&client, FloatKind::F32, &buffer, &buffer, [1, 0, 1]).unwrap_err().to_string();
    assert!(error.contains("tokens: expected at least 1, got 0"), "{error}");
}

/// Targets as mixup makes them of two smoothed labels.
fn mixed(rng: &mut ChaCha8Rng, batch: usize, classes: usize) -> Vec<f32> {
    let mut targets = vec![0.1 / classes as f32; batch * classes];
    for row in targets.chunks_mut(classes) {
        let share = rng.random_range(0.0..0.4f32);
        row[rng.random_range(0..classes)] += 0.9 * share;
        row[rng.random_range(0..classes)] += 0.9 * (1.0 - share);
    }
    targets
}

#[test]
fn soft_cross_entropy_matches_reference() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(82));
    for (batch, classes) in [(1, 2), (3, 174), (32, 400), (7, 257), (2, 3806), (700, 3)] {
        // Software Vulkan's exp is off by some 1e-5.
        for (kind, tolerance) in kinds(&client, 2e-5) {
            let mut logits = values(&mut rng, batch * classes);
            let targets = mixed(&mut rng, batch, classes);
            // Every other row is made to hit.
            for row in (0..batch).step_by(2) {
                let own = &targets[row * classes..(row + 1) * classes];
                let truth = (0..classes).fold(0, |best, class| if own[class] > own[best] { class } else { best });
                logits[row * classes + truth] = 40.0;
            }
            let logits = rounded(kind, &logits);
            let (device, result) = (typed(&client, kind, &logits), client.empty(8));
            soft_cross_entropy(&client, kind, &device, &upload(&client, &targets), &result, batch, classes).unwrap();
            let (loss, hits, gradient) = soft_cross_entropy::reference(&logits, &targets, classes);
            assert!(hits >= 0.5 && (batch < 7 || hits < 1.0), "{hits}");
            let name = format!("[{batch}, {classes}] {kind:?}");
            let result = read_f32(&client, result);
            assert_close(&format!("loss {name}"), &result[..1], &[loss], 2e-6);
            assert_close(&format!("hits {name}"), &result[1..], &[hits], 1e-6);
            let got = read_typed(&client, kind, device);
            assert_close(&format!("gradient {name}"), &got[..logits.len()], &gradient, tolerance);
        }
    }
}

#[test]
fn hard_targets_give_the_usual_loss_and_ties_go_to_the_first() {
    let client = client();
    // Two logits of each row are equal and largest; the truth is the first of them, then the second.
    let logits = upload(&client, &[1.0, 1.0, 0.0, 0.0, 2.0, 2.0]);
    let targets = upload(&client, &[1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    let result = client.empty(8);
    soft_cross_entropy(&client, FloatKind::F32, &logits, &targets, &result, 2, 3).unwrap();
    let loss = |own: f64, others: [f64; 3]| others.iter().map(|x| x.exp()).sum::<f64>().ln() - own;
    let expected = (loss(1.0, [1.0, 1.0, 0.0]) + loss(2.0, [0.0, 2.0, 2.0])) / 2.0;
    assert_close("result", &read_f32(&client, result), &[expected, 0.5], 1e-6);
    // A gradient that moves no mass sums to 0 in each row.
    let sums: Vec<f64> = read_f32(&client, logits).chunks(3).map(|row| f64s(row).iter().sum()).collect();
    assert!(sums.iter().all(|sum| sum.abs() < 1e-7), "{sums:?}");
    let error = soft_cross_entropy(&client, FloatKind::F32, &targets, &targets, &targets, 2, 0).unwrap_err();
    assert!(error.to_string().contains("classes: expected at least 1"), "{error}");
}
