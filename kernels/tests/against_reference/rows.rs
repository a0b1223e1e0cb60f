//! Picking rows, adding to them, and scaling them to length 1.

use crate::support::{assert_close, client, has_f16, read_f16, read_f32, rounded, upload, upload_f16, values};
use avion_kernels::{FloatKind, reduce::Split, rows};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[test]
fn gather_and_add_take_whole_rows() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(31));
    for (picks, tokens, width) in [(1, 1, 1), (3, 77, 8), (5, 197, 96), (2, 785, 768), (4, 7, 13)] {
        let x = rounded(&values(&mut rng, picks * tokens * width));
        let d = rounded(&values(&mut rng, picks * width));
        let indices: Vec<u32> = (0..picks).map(|pick| (pick * tokens + rng.random_range(0..tokens)) as u32).collect();
        let at = client.create_from_slice(bytemuck::cast_slice(&indices));
        let row = |index: u32| &x[index as usize * width..(index as usize + 1) * width];
        let gathered: Vec<f32> = indices.iter().flat_map(|index| row(*index).to_vec()).collect();
        let mut sums = x.clone();
        for (pick, index) in indices.iter().enumerate() {
            let row = &mut sums[*index as usize * width..][..width];
            row.iter_mut().zip(&d[pick * width..]).for_each(|(sum, value)| *sum += value);
        }
        for kind in [FloatKind::F32, FloatKind::F16] {
            let half = kind == FloatKind::F16;
            if half && !has_f16(&client) {
                continue;
            }
            let put = |data: &[f32]| if half { upload_f16(&client, data) } else { upload(&client, data) };
            let get = |handle| if half { read_f16(&client, handle) } else { read_f32(&client, handle) };
            let y = client.empty(picks * width * kind.size());
            rows::gather(&client, kind, &put(&x), &at, &y, picks * tokens, picks, width);
            assert_eq!(get(y), gathered, "gather {kind:?} {picks} {tokens} {width}");
            let to = put(&x);
            rows::add(&client, kind, (&put(&d), None), &at, (&to, None), [picks, picks * tokens, width]);
            let expected = if half { rounded(&sums) } else { sums.clone() };
            assert_eq!(get(to), expected, "add {kind:?} {picks} {tokens} {width}");
            // Small parts beside both, which rounding must not lose.
            let [y_residue, d_residue] =
                [&x, &d].map(|data| data.iter().map(|value| value * 2f32.powi(-12)).collect::<Vec<_>>());
            let (to, rest) = (put(&x), put(&y_residue));
            let added = (&put(&d), Some(&put(&d_residue)));
            rows::add(&client, kind, added, &at, (&to, Some(&rest)), [picks, picks * tokens, width]);
            let whole = |value: f32| f64::from(value) * (1.0 + 2f64.powi(-12));
            let expected: Vec<f64> = sums.iter().map(|value| whole(*value)).collect();
            let got: Vec<f32> = get(to).iter().zip(get(rest)).map(|(value, rest)| value + rest).collect();
            assert_close("add with residues", &got, &expected, if half { 2e-6 } else { 2e-7 });
        }
    }
}

#[test]
fn normalize_and_its_gradient_match_reference() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(32));
    for (count, width) in [(1, 1), (7, 24), (33, 256), (3, 300), (5, 1024)] {
        let x = rounded(&values(&mut rng, count * width));
        let dy = values(&mut rng, count * width);
        let (y, lengths, dx) = rows::reference(&x, &dy, width);
        for split in [Split::Unit, Split::Cube] {
            for kind in [FloatKind::F32, FloatKind::F16] {
                let half = kind == FloatKind::F16;
                if half && !has_f16(&client) {
                    continue;
                }
                let input = if half { upload_f16(&client, &x) } else { upload(&client, &x) };
                let [out, length] = [count * width * 4, count * 4].map(|bytes| client.empty(bytes));
                rows::normalize(&client, split, kind, &input, &out, &length, count, width);
                assert_close("normalize", &read_f32(&client, out.clone()), &y, 1e-6);
                assert_close("length", &read_f32(&client, length.clone()), &lengths, 1e-6);
                let back = client.empty(count * width * kind.size());
                let saved = [&out, &length, &upload(&client, &dy)];
                rows::normalize_backward(&client, split, kind, saved, &back, count, width);
                let got = if half { read_f16(&client, back) } else { read_f32(&client, back) };
                // A row of width 1 has no direction to turn: its gradient is zero.
                if width > 1 {
                    assert_close("normalize_backward", &got, &dx, if half { 1e-3 } else { 1e-5 });
                } else {
                    assert!(got.iter().all(|v| v.abs() < 1e-3), "{got:?}");
                }
            }
        }
    }
}

#[test]
fn a_row_of_zeros_stays_zero() {
    let client = client();
    for split in [Split::Unit, Split::Cube] {
        let (x, y, length) = (upload(&client, &[0.0; 6]), client.empty(24), client.empty(8));
        rows::normalize(&client, split, FloatKind::F32, &x, &y, &length, 2, 3);
        assert_eq!(read_f32(&client, y), [0.0; 6]);
        assert_eq!(read_f32(&client, length), [rows::MIN_LENGTH; 2]);
    }
}
