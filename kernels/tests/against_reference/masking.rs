//! Masks, and the kernels that move visible and masked tokens.

use crate::support::{Client, assert_close, client, read_f32, upload, values};
use crate::typed::{f64s, kinds, read_typed, rounded, typed};
use avion_kernels::{
    FloatKind, Handle, column_sum,
    masking::{self, Assemble, Counts, MaskKind, MaskShape, TubeletGrid, on_host},
    patch_ingest::PixelNorm,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub fn upload_words(client: &Client, words: &[u32]) -> Handle {
    client.create_from_slice(bytemuck::cast_slice(words))
}

/// Random frames of `clips`, padded to whole words.
pub fn random_frames(rng: &mut ChaCha8Rng, grid: TubeletGrid, clips: usize) -> Vec<u8> {
    (0..grid.padded_bytes(clips)).map(|_| rng.random()).collect()
}

/// A table of so many clips: of each `visible` tokens, then `decoded` others, both ascending.
pub fn random_order(rng: &mut ChaCha8Rng, tokens: usize, counts: Counts) -> Vec<u32> {
    let mut order = Vec::new();
    for _ in 0..counts.clips {
        let mut all: Vec<u32> = (0..tokens as u32).collect();
        for i in 0..tokens {
            all.swap(i, rng.random_range(i..tokens));
        }
        all.truncate(counts.tokens());
        all[..counts.visible].sort_unstable();
        all[counts.visible..].sort_unstable();
        order.extend(all);
    }
    order
}

/// (tokens, counts, width): single tokens, odd numbers of them, a width that fills no vector.
const CASES: [(usize, [usize; 3], usize); 5] =
    [(2, [1, 1, 1], 1), (9, [3, 2, 7], 96), (50, [3, 11, 20], 6), (196, [2, 20, 176], 384), (40, [1, 39, 1], 768)];

fn counts([clips, visible, decoded]: [usize; 3]) -> Counts {
    Counts { clips, visible, decoded }
}

#[test]
fn the_table_is_that_of_the_host() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(61));
    let sizes = [
        ([1, 1, 2], 0.5),
        ([2, 2, 2], 0.5),
        ([3, 4, 6], 0.75),
        ([8, 14, 14], 0.9),
        ([2, 3, 5], 0.9),
        ([16, 16, 16], 0.9),
    ];
    for (size, ratio) in sizes {
        for (kind, ratio) in [(MaskKind::Tube, ratio), (MaskKind::Random, ratio), (MaskKind::RunningCell, 0.75)] {
            if kind == MaskKind::RunningCell && (size[1] % 2 == 1 || size[2] % 2 == 1) {
                continue;
            }
            for decode in [1.0, 0.5, 0.3, 0.0] {
                let shape = MaskShape::of_ratio(kind, size, ratio).unwrap().decoding(decode).unwrap();
                let clips = 3;
                let keys: Vec<u32> = (0..2 * clips).map(|_| rng.random()).collect();
                let order = client.empty(shape.counts(clips).rows() * 4);
                masking::generate(&client, &shape, &upload_words(&client, &keys), &order, clips).unwrap();
                let expected: Vec<u32> =
                    keys.chunks(2).flat_map(|key| on_host(&shape, [key[0], key[1]]).unwrap()).collect();
                let got: Vec<u32> = bytemuck::pod_collect_to_vec(&client.read_one(order).unwrap());
                assert_eq!(got, expected, "{shape:?}");
            }
        }
    }
}

#[test]
fn a_key_gives_one_mask_and_another_key_another() {
    let client = client();
    let shape = MaskShape::of_ratio(MaskKind::Tube, [2, 14, 14], 0.9).unwrap();
    let keys: Vec<u32> = [[1, 0], [2, 0], [1, 0], [0, 1]].concat();
    let order = client.empty(shape.counts(4).rows() * 4);
    masking::generate(&client, &shape, &upload_words(&client, &keys), &order, 4).unwrap();
    let order: Vec<u32> = bytemuck::pod_collect_to_vec(&client.read_one(order).unwrap());
    let clip: Vec<&[u32]> = order.chunks(shape.tokens()).collect();
    assert_eq!(clip[0], clip[2]);
    assert!(clip[0] != clip[1] && clip[0] != clip[3] && clip[1] != clip[3]);
}

#[test]
fn patches_of_visible_tokens_match_reference() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(62));
    let norm = PixelNorm { mean: [123.675, 116.28, 103.53], std: [58.395, 57.12, 57.375] };
    for (frames, image_px, patch_px, tubelet, clips) in
        [(2, 32, 8, 2, 1), (4, 48, 16, 2, 3), (3, 32, 16, 1, 2), (2, 28, 14, 2, 1), (1, 5, 5, 1, 3)]
    {
        let grid = TubeletGrid { frames, image_px, patch_px, tubelet };
        let bytes = random_frames(&mut rng, grid, clips);
        let device = client.create_from_slice(&bytes);
        let visible = grid.tokens().div_ceil(3);
        let some = Counts { clips, visible, decoded: grid.tokens() - visible };
        let table = random_order(&mut rng, grid.tokens(), some);
        let all = Counts::all(clips, grid.tokens());
        let every: Vec<u32> = (0..all.rows()).map(|row| (row % grid.tokens()) as u32).collect();
        for (kind, tolerance) in kinds(&client, 1e-6) {
            for (order, counts) in [(Some(&table), some), (None, all)] {
                let handle = order.map(|order| upload_words(&client, order));
                let columns = grid.columns();
                for class_row in [false, true] {
                    let rows = counts.visible_rows() + if class_row { clips } else { 0 };
                    let out = typed(&client, kind, &vec![3.0; rows * columns]);
                    let (frames, order) = (&device, handle.as_ref());
                    masking::ingest(&client, kind, frames, grid, norm, order, counts, class_row, &out).unwrap();
                    let got = read_typed(&client, kind, out);
                    let (class, patches): (Vec<_>, Vec<_>) = got[..rows * columns]
                        .chunks(columns)
                        .enumerate()
                        .partition(|(row, _)| class_row && row % (1 + counts.visible) == 0);
                    assert!(class.iter().all(|(_, row)| row.iter().all(|value| *value == 0.0)), "{grid:?}");
                    let got: Vec<f32> = patches.into_iter().flat_map(|(_, row)| row.to_vec()).collect();
                    let expected =
                        masking::ingest_reference(&bytes, grid, norm, order.map_or(&every, |_| &table), counts);
                    assert_close(&format!("{grid:?} {kind:?} {class_row}"), &got, &expected, tolerance);
                }
            }
        }
    }
}

/// Rows of `table` that visible tokens get, a class row first or not.
fn entries(order: &[u32], counts: Counts, class_row: bool) -> Vec<usize> {
    let clip = |tokens: &[u32]| -> Vec<usize> {
        let extra = usize::from(class_row);
        let tokens = tokens[..counts.visible].iter().map(|token| *token as usize + extra);
        (0..extra).chain(tokens).collect()
    };
    order.chunks(counts.tokens()).flat_map(clip).collect()
}

#[test]
fn positions_and_their_gradient_match_reference() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(63));
    for (tokens, sizes, width) in CASES {
        let counts = counts(sizes);
        let order = random_order(&mut rng, tokens, counts);
        let device = upload_words(&client, &order);
        for class_row in [false, true] {
            let entries = entries(&order, counts, class_row);
            let table = values(&mut rng, (tokens + usize::from(class_row)) * width);
            for (kind, tolerance) in kinds(&client, 1e-7) {
                let x = rounded(kind, &values(&mut rng, entries.len() * width));
                let (y, size) = (typed(&client, kind, &x), [tokens, width]);
                let table_device = upload(&client, &table);
                masking::positions(&client, kind, &y, &table_device, &device, counts, class_row, size).unwrap();
                let at = |i: usize| f64::from(x[i]) + f64::from(table[entries[i / width] * width + i % width]);
                let expected: Vec<f64> = (0..x.len()).map(at).collect();
                let got = read_typed(&client, kind, y);
                assert_close("positions", &got[..x.len()], &expected, tolerance);

                let d = typed(&client, kind, &x);
                masking::positions_backward(&client, kind, &d, &table_device, &device, counts, class_row, size)
                    .unwrap();
                let mut expected = f64s(&table);
                for (i, value) in x.iter().enumerate() {
                    expected[entries[i / width] * width + i % width] += f64::from(*value);
                }
                assert_close("positions_backward", &read_f32(&client, table_device), &expected, 1e-6);
            }
        }
    }
}

#[test]
fn the_decoder_s_input_and_its_gradient_match_reference() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(64));
    for (tokens, sizes, width) in CASES {
        let counts = counts(sizes);
        let order = random_order(&mut rng, tokens, counts);
        let (table, mask_token) = (values(&mut rng, tokens * width), values(&mut rng, width));
        for (kind, tolerance) in kinds(&client, 1e-7) {
            let projected = rounded(kind, &values(&mut rng, counts.visible_rows() * width));
            let len = counts.rows() * width;
            let y = typed(&client, kind, &vec![5.0; len]);
            let args = Assemble {
                projected: &typed(&client, kind, &projected),
                table: &upload(&client, &table),
                mask_token: &upload(&client, &mask_token),
                order: &upload_words(&client, &order),
                tokens,
                width,
            };
            masking::assemble(&client, kind, args, counts, &y).unwrap();
            let expected = masking::assemble_reference(&projected, &table, &mask_token, &order, counts, width);
            assert_close("assemble", &read_typed(&client, kind, y)[..len], &expected, tolerance);

            let d = rounded(kind, &values(&mut rng, len));
            let (mut visible, mut masked) = (Vec::new(), Vec::new());
            for (row, values) in d.chunks(width).enumerate() {
                let seen = row % counts.tokens() < counts.visible;
                if seen { &mut visible } else { &mut masked }.extend_from_slice(values);
            }
            let mut sum = f64s(&mask_token);
            column_sum::reference(&masked, width, &mut sum);
            let d_device = typed(&client, kind, &d);
            let first = [(); 2].map(|()| {
                let d_projected = typed(&client, kind, &vec![5.0; visible.len()]);
                let d_mask = upload(&client, &mask_token);
                masking::disassemble(&client, kind, &d_device, counts, width, &d_projected, &d_mask).unwrap();
                let got = read_typed(&client, kind, d_projected);
                assert_eq!(got[..visible.len()], visible, "disassemble {counts:?} {kind:?}");
                let d_mask = read_f32(&client, d_mask);
                assert_close("d_mask_token", &d_mask, &sum, 1e-5);
                d_mask
            });
            assert_eq!(first[0], first[1], "repeats to the bit");
        }
    }
}

#[test]
fn the_tail_is_cut_off_and_put_back() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(65));
    for (_, sizes, width) in CASES {
        let counts = counts(sizes);
        for (kind, _) in kinds(&client, 0.0) {
            let x = rounded(kind, &values(&mut rng, counts.rows() * width));
            let is_masked = |row: usize| row % counts.tokens() >= counts.visible;
            let tail: Vec<f32> = x
                .chunks(width)
                .enumerate()
                .filter(|(row, _)| is_masked(*row))
                .flat_map(|(_, row)| row.to_vec())
                .collect();
            let y = typed(&client, kind, &vec![5.0; tail.len()]);
            masking::tail(&client, kind, &typed(&client, kind, &x), counts, width, &y).unwrap();
            assert_eq!(read_typed(&client, kind, y)[..tail.len()], tail, "{counts:?} {kind:?}");

            let back: Vec<f32> =
                x.iter().enumerate().map(|(i, value)| if is_masked(i / width) { *value } else { 0.0 }).collect();
            let dx = typed(&client, kind, &vec![5.0; x.len()]);
            masking::tail_backward(&client, kind, &typed(&client, kind, &tail), counts, width, &dx).unwrap();
            assert_eq!(read_typed(&client, kind, dx)[..x.len()], back, "{counts:?} {kind:?}");
        }
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let client = client();
    let buffer = client.empty(64);
    let grid = TubeletGrid { frames: 3, image_px: 8, patch_px: 4, tubelet: 2 };
    let norm = PixelNorm { mean: [0.0; 3], std: [1.0; 3] };
    let ingest = |grid, order, counts| {
        masking::ingest(&client, FloatKind::F32, &buffer, grid, norm, order, counts, false, &buffer)
            .unwrap_err()
            .to_string()
    };
    let error = ingest(grid, None, Counts::all(1, 4));
    assert!(error.contains("multiple of the tubelet's 2 frames") && error.contains("got 3"), "{error}");
    let grid = TubeletGrid { frames: 2, ..grid };
    let error = ingest(grid, None, Counts::all(1, 3));
    assert!(error.contains("expected 4, got 3"), "{error}");
    let error = ingest(grid, Some(&buffer), Counts { clips: 1, visible: 3, decoded: 2 });
    assert!(error.contains("at most 4, got 5"), "{error}");
    let error = ingest(TubeletGrid { patch_px: 3, ..grid }, None, Counts::all(1, 4));
    assert!(error.contains("multiple of the patch, 3 px"), "{error}");

    let nothing = Counts { clips: 2, visible: 3, decoded: 0 };
    let error = masking::tail(&client, FloatKind::F32, &buffer, nothing, 4, &buffer).unwrap_err().to_string();
    assert!(error.contains("decoded tokens: expected at least 1"), "{error}");
    let many = Counts { clips: 1 << 20, visible: 1 << 10, decoded: 1 };
    let error = masking::tail(&client, FloatKind::F32, &buffer, many, 768, &buffer).unwrap_err().to_string();
    assert!(error.contains("fewer than 2^32"), "{error}");
    let one = Counts { clips: 1, visible: 4, decoded: 1 };
    let error = masking::positions(&client, FloatKind::F32, &buffer, &buffer, &buffer, one, false, [4, 1]);
    assert!(error.unwrap_err().to_string().contains("at most 4"));
}
