//! The loss against normalised pixels, and the pixels it stands for.

use crate::masking::{random_frames, random_order, upload_words};
use crate::support::{assert_close, client, read_f32, upload, values};
use crate::typed::{kinds, read_typed, rounded, typed};
use avion_kernels::{
    FloatKind,
    masking::{self, Counts, PixelLoss, TubeletGrid},
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

#[test]
fn loss_gradient_and_pixels_match_reference() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(71));
    for (frames, image_px, patch_px, tubelet, clips) in
        [(2, 32, 8, 2, 1), (4, 48, 16, 2, 3), (3, 32, 16, 1, 2), (2, 28, 14, 2, 1), (1, 10, 5, 1, 3), (2, 64, 32, 2, 1)]
    {
        let grid = TubeletGrid { frames, image_px, patch_px, tubelet };
        let bytes = random_frames(&mut rng, grid, clips);
        let counts = Counts { clips, visible: 1, decoded: (grid.tokens() - 1).min(7) };
        let order = random_order(&mut rng, grid.tokens(), counts);
        let len = counts.decoded_rows() * grid.columns();
        let (frames, order_device) = (client.create_from_slice(&bytes), upload_words(&client, &order));
        for normalize in [Some(1e-6), Some(255e-6), Some(20.0), None] {
            // A unit alone adds 512 squares one after another for the variance.
            for (kind, tolerance) in kinds(&client, 5e-6) {
                let prediction = rounded(kind, &values(&mut rng, len));
                let device = typed(&client, kind, &prediction);
                let args = PixelLoss { frames: &frames, tubelets: grid, order: &order_device, counts, normalize };
                let expected = masking::pixel_loss_reference(&bytes, grid, &order, counts, normalize, &prediction);
                let name = format!("{grid:?} {kind:?} {normalize:?}");

                let out = upload(&client, &vec![5.0; len]);
                masking::predicted_pixels(&client, kind, &args, &device, &out).unwrap();
                assert_close(&format!("pixels {name}"), &read_f32(&client, out), &expected.pixels, 5e-6);
                assert_eq!(read_typed(&client, kind, device.clone())[..len], prediction, "{name}");

                let (sums, result) = (client.empty(counts.decoded_rows() * 8), client.empty(8));
                masking::pixel_loss(&client, kind, &args, &device, &sums).unwrap();
                masking::pixel_loss_finish(&client, &sums, counts.decoded_rows(), grid.columns(), &result).unwrap();
                let result = read_f32(&client, result);
                assert_close(&format!("loss {name}"), &result[..1], &[expected.loss], 5e-6);
                assert!((f64::from(result[1]) - expected.explained).abs() < 1e-5 * expected.explained.abs().max(1.0));
                let got = read_typed(&client, kind, device);
                // Gradients of f16 may lie among its subnormal numbers, 6e-8 apart.
                let largest = expected.gradient.iter().fold(0.0f64, |top, g| top.max(g.abs()));
                let spacing = if kind == FloatKind::F32 { 0.0 } else { 3e-8 / largest };
                assert_close(&format!("gradient {name}"), &got[..len], &expected.gradient, tolerance + spacing);
            }
        }
    }
}

/// The mean of 255 and 254 has no short binary fraction with 75 pixels; a flat patch has no variance at all.
#[test]
fn a_flat_patch_has_targets_of_zero() {
    let client = client();
    let grid = TubeletGrid { frames: 3, image_px: 10, patch_px: 5, tubelet: 3 };
    let counts = Counts { clips: 1, visible: 1, decoded: 3 };
    let bytes: Vec<u8> = (0..grid.padded_bytes(1)).map(|i| [251, 37, 113][i % 3]).collect();
    let frames = client.create_from_slice(&bytes);
    let order = upload_words(&client, &[0, 1, 2, 3]);
    let args = PixelLoss { frames: &frames, tubelets: grid, order: &order, counts, normalize: Some(1e-6) };
    let len = counts.decoded_rows() * grid.columns();
    let (prediction, sums) = (upload(&client, &vec![0.0; len]), client.empty(24));
    masking::pixel_loss(&client, FloatKind::F32, &args, &prediction, &sums).unwrap();
    assert_eq!(read_f32(&client, prediction), vec![0.0; len]);
    assert_eq!(read_f32(&client, sums), vec![0.0; 6]);
}

/// SEEDS' worked example: 10, 20, 30, 60 become -0.926, -0.463, 0, 1.389.
#[test]
fn a_worked_example_has_its_loss() {
    let client = client();
    let grid = TubeletGrid { frames: 1, image_px: 2, patch_px: 2, tubelet: 1 };
    let wide = TubeletGrid { image_px: 4, ..grid };
    let values = [10u8, 20, 30, 60];
    // The second patch of the upper row holds the values, all else is 0.
    let mut bytes = vec![0u8; wide.padded_bytes(1)];
    for (pixel, value) in values.into_iter().enumerate() {
        let at = ((pixel / 2) * 4 + 2 + pixel % 2) * 3;
        bytes[at..at + 3].fill(value);
    }
    let (frames, order) = (client.create_from_slice(&bytes), upload_words(&client, &[0, 1]));
    let counts = Counts { clips: 1, visible: 1, decoded: 1 };
    let args = PixelLoss { frames: &frames, tubelets: wide, order: &order, counts, normalize: Some(1e-6) };
    let targets = [-0.92582006, -0.46291003, 0.0, 1.38873009f64];
    let (prediction, sums) = (upload(&client, &[0.0; 12]), client.empty(8));
    masking::pixel_loss(&client, FloatKind::F32, &args, &prediction, &sums).unwrap();
    let expected: Vec<f64> = targets.iter().flat_map(|target| [-2.0 * target / 12.0; 3]).collect();
    assert_close("gradient", &read_f32(&client, prediction), &expected, 1e-6);
}

#[test]
fn many_rows_are_summed_alike_every_time() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(72));
    for rows in [1, 255, 2048, 5001] {
        let sums: Vec<f32> = values(&mut rng, 2 * rows).iter().map(|value| value.abs() + 0.1).collect();
        let device = upload(&client, &sums);
        let results = [(); 2].map(|()| {
            let result = client.empty(8);
            masking::pixel_loss_finish(&client, &device, rows, 24, &result).unwrap();
            read_f32(&client, result)
        });
        let total = |from| sums[from..].iter().step_by(2).map(|value| f64::from(*value)).sum::<f64>();
        let (error, energy) = (total(0), total(1));
        assert_close("loss", &results[0][..1], &[error / (rows as f64 * 24.0)], 1e-6);
        assert!((f64::from(results[0][1]) - (1.0 - error / energy)).abs() < 1e-6, "{:?}", results[0]);
        assert_eq!(results[0], results[1]);
    }
}

#[test]
fn wrong_arguments_are_refused() {
    let client = client();
    let buffer = client.empty(64);
    let grid = TubeletGrid { frames: 1, image_px: 8, patch_px: 4, tubelet: 1 };
    let counts = Counts { clips: 1, visible: 1, decoded: 3 };
    let args = PixelLoss { frames: &buffer, tubelets: grid, order: &buffer, counts, normalize: Some(0.0) };
    let loss = |args: &PixelLoss| {
        masking::pixel_loss(&client, FloatKind::F32, args, &buffer, &buffer).unwrap_err().to_string()
    };
    assert!(loss(&args).contains("epsilon: expected above 0"));
    assert!(loss(&PixelLoss { normalize: Some(f32::NAN), ..args }).contains("epsilon"));
    let tubelets = TubeletGrid { image_px: 2, patch_px: 1, ..grid };
    assert!(loss(&PixelLoss { tubelets, normalize: Some(1e-6), ..args }).contains("pixels of a tubelet"));
    let counts = Counts { decoded: 0, ..counts };
    assert!(loss(&PixelLoss { counts, normalize: None, ..args }).contains("decoded tokens"));
    let counts = Counts { decoded: 4, ..counts };
    assert!(loss(&PixelLoss { counts, normalize: None, ..args }).contains("at most 4, got 5"));
    let none = masking::pixel_loss_finish(&client, &buffer, 0, 3, &buffer).unwrap_err().to_string();
    assert!(none.contains("rows: expected at least 1"), "{none}");
}
