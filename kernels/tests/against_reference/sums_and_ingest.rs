//! Column sums and patch ingest.

use crate::support::{assert_close, client, read_f32, upload, values};
use crate::typed::{kinds, read_typed, rounded, typed};
use avion_kernels::{
    FloatKind, column_sum,
    patch_ingest::{self, PatchGrid, PixelNorm},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[test]
fn column_sum_adds_every_row_once() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(7));
    for (rows, columns) in [(1, 1), (77, 300), (785, 64), (1000, 257), (300_000, 3), (3, 2304), (785, 1026)] {
        for (kind, _) in kinds(&client, 0.0) {
            let (src, before) = (values(&mut rng, rows * columns), values(&mut rng, columns));
            let src = rounded(kind, &src);
            let dst = upload(&client, &before);
            column_sum::column_sum(&client, typed(&client, kind, &src), kind, rows, columns, dst.clone());
            let mut expected: Vec<f64> = before.iter().map(|v| *v as f64).collect();
            column_sum::reference(&src, columns, &mut expected);
            assert_close("column_sum", &read_f32(&client, dst), &expected, 1e-5);
        }
    }
}

#[test]
fn patch_ingest_unpacks_orders_and_normalises() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(4));
    let norm = PixelNorm { mean: [108.3, 116.7, 104.1], std: [68.5, 66.6, 70.3] };
    let sizes = [(1, 1, 1), (3, 6, 2), (2, 28, 14), (6, 33, 11), (2, 64, 16), (4, 24, 8), (6, 12, 4)];
    for (images, image_px, patch_px) in sizes {
        for (frames_per_clip, class_row) in [(1, false), (1, true), (images.min(2), images % 2 == 0)] {
            let grid = PatchGrid { images, image_px, patch_px, frames_per_clip, class_row };
            let mut bytes: Vec<u8> = (0..images * image_px * image_px * 3).map(|_| rng.random()).collect();
            let expected = patch_ingest::reference(&bytes, grid, norm);
            assert_eq!(expected.len(), grid.rows() * grid.columns());
            bytes.resize(grid.padded_bytes(), 0xAA);
            for (kind, tolerance) in kinds(&client, 1e-6) {
                let frames = client.create_from_slice(&bytes);
                let out = typed(&client, kind, &vec![7.0; expected.len()]);
                patch_ingest::patch_ingest(&client, frames, grid, norm, out.clone(), kind).unwrap();
                assert_close("patch_ingest", &read_typed(&client, kind, out)[..expected.len()], &expected, tolerance);
            }
        }
    }
    let refused = |grid| {
        let (frames, out) = (client.empty(4), client.empty(4));
        patch_ingest::patch_ingest(&client, frames, grid, norm, out, FloatKind::F32).unwrap_err().to_string()
    };
    let error = refused(PatchGrid::patches_of(1, 10, 3));
    assert!(error.contains("10 px") && error.contains("3 px"), "{error}");
    let error = refused(PatchGrid { frames_per_clip: 4, class_row: true, ..PatchGrid::patches_of(6, 8, 8) });
    assert!(error.contains("clips of 4 frames") && error.contains("got 6"), "{error}");
}
