//! Token embedding and its gradient by token.

use crate::support::{assert_close, client, has_f16, read_f16, read_f32, rounded, upload, upload_f16, values};
use avion_kernels::{
    FloatKind,
    embedding::{self, Groups},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Captions with a start token, an end token and padding, as the text tower sees them, and their lengths.
fn captions(rng: &mut ChaCha8Rng, batch: usize, tokens: usize, vocabulary: u32) -> (Vec<u32>, Vec<usize>) {
    let mut ids = Vec::new();
    let mut lengths = Vec::new();
    for _ in 0..batch {
        let length = rng.random_range(1..=tokens);
        let row = (0..tokens).map(|at| match at {
            0 => vocabulary - 2,
            at if at + 1 == length => vocabulary - 1,
            at if at < length => rng.random_range(0..vocabulary - 2),
            _ => 0,
        });
        ids.extend(row);
        lengths.push(length);
    }
    (ids, lengths)
}

#[test]
fn groups_hold_every_kept_row_once() {
    let mut rng = ChaCha8Rng::seed_from_u64(41);
    let (ids, lengths) = captions(&mut rng, 70, 9, 40);
    let groups = Groups::of(&ids, |row| row % 9 >= lengths[row / 9]);
    let kept = &groups.words()[..groups.rows()];
    assert_eq!(groups.rows(), lengths.iter().sum::<usize>());
    assert!(kept.windows(2).all(|w| (ids[w[0] as usize], w[0]) < (ids[w[1] as usize], w[1])));
    assert!(groups.partials() >= 70usize.div_ceil(16), "start tokens occur in all 70 captions");
    let worst: Vec<u32> = (0..17 * 6 + 3).map(|row| row / 17).collect();
    let worst = Groups::of(&worst, |_| false);
    assert_eq!((worst.partials(), Groups::most_partials(worst.rows())), (12, 12));
    assert!(groups.partials() <= Groups::most_partials(groups.rows()));
    let none = Groups::of(&ids, |_| true);
    assert!(none.words().is_empty() && none.rows() == 0);
}

#[test]
fn embedding_matches_reference_both_ways() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(42));
    for (batch, tokens, width, vocabulary) in
        [(1, 1, 1, 3), (5, 16, 8, 30), (40, 11, 96, 64), (260, 3, 20, 9), (3, 77, 512, 500)]
    {
        let (ids, lengths) = captions(&mut rng, batch, tokens, vocabulary);
        let rows = batch * tokens;
        let skip = |row: usize| row % tokens >= lengths[row / tokens];
        let (table, position) = (values(&mut rng, vocabulary as usize * width), values(&mut rng, tokens * width));
        let d = rounded(&values(&mut rng, rows * width));
        let device_ids = client.create_from_slice(bytemuck::cast_slice(&ids));
        let expected = embedding::reference(&table, &ids, &position, tokens, width);
        let before = values(&mut rng, table.len());
        let mut gradient: Vec<f64> = before.iter().map(|v| f64::from(*v)).collect();
        embedding::backward_reference(&d, &ids, skip, &mut gradient, width);
        let groups = Groups::of(&ids, skip);
        let words = client.create_from_slice(bytemuck::cast_slice(groups.words()));
        for kind in [FloatKind::F32, FloatKind::F16] {
            let half = kind == FloatKind::F16;
            if half && !has_f16(&client) {
                continue;
            }
            let y = client.empty(rows * width * kind.size());
            let inputs = [&upload(&client, &table), &device_ids, &upload(&client, &position)];
            embedding::forward(&client, kind, inputs, &y, rows, tokens, width);
            let got = if half { read_f16(&client, y) } else { read_f32(&client, y) };
            assert_close("embedding", &got, &expected, if half { 1e-3 } else { 1e-6 });

            let d = if half { upload_f16(&client, &d) } else { upload(&client, &d) };
            let d_table = upload(&client, &before);
            let scratch = client.empty(groups.partials().max(1) * width * 4);
            let partials = half.then_some(&scratch);
            embedding::backward(&client, kind, &d, &groups, &words, partials, &d_table, width);
            assert_close("embedding backward", &read_f32(&client, d_table), &gradient, 1e-6);
        }
    }
}
