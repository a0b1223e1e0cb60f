//! Frames of planes.

use crate::support::client;
use avion_kernels::scale_planes::{
    Axes, HEADER, Matrix, Plane, Table, finished, record_bytes, reference, scale_planes, used_bytes, write_planes,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ops::Range;

const BT601: Matrix = Matrix { black: 16 << 7, y: 9539, rv: 13075, gu: -3209, gv: -6660, bu: 16525 };

/// Random weights that add up to one, of up to `taps` samples among `size`.
fn axis(rng: &mut ChaCha8Rng, size: usize, outputs: usize, taps: usize) -> (Table, Range<usize>) {
    // Long rows as they are, to fill the shared memory.
    let most = if size > 700 { 0 } else { size / 4 };
    let first = rng.random_range(0..=most);
    let used = first..size - rng.random_range(0..=most);
    let entries: Vec<(usize, u16, Vec<i16>)> = (0..outputs)
        .map(|_| {
            let count = rng.random_range(1..=taps.min(used.len()));
            let mut weights: Vec<i16> = (0..count).map(|_| rng.random_range(0..=(1 << 14) / count as i16)).collect();
            weights[0] += (1 << 14) - weights.iter().sum::<i16>();
            // As the host's scaler has it: each product is cut off, half a unit too low on average.
            let half = weights.iter().filter(|weight| **weight > 0).count() as u16 / 2;
            (rng.random_range(0..=used.len() - count), half, weights)
        })
        .collect();
    let table = Table::new(entries.into_iter().map(|(start, half, weights)| (start, half, weights.into_iter())));
    (table.unwrap(), used)
}

fn axes(rng: &mut ChaCha8Rng, [height, width]: [usize; 2], px: usize, taps: usize) -> Axes {
    let ((rows, used_rows), (columns, used_columns)) = (axis(rng, height, px, taps), axis(rng, width, px, taps));
    Axes { rows, columns, used_rows, used_columns }
}

#[test]
fn scale_planes_weighs_and_mixes() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(12));
    // Size of a frame, of its first plane and of the others, weights of an output.
    for (px, first, others, taps) in [
        (8, [9, 7], [5, 4], 2),
        (16, [16, 16], [16, 16], 1),
        (28, [30, 41], [15, 21], 2),
        (224, [240, 320], [120, 160], 4),
        (32, [60, 34], [30, 17], 7),
        (36, [41, 67], [41, 34], 2),
        // All the shared memory that there is for a row.
        (224, [16, 1532], [8, 766], 4),
    ] {
        let mut records = Vec::new();
        // Finished, Y Cb Cr and GBR beside each other in one launch.
        for number in 0..4 {
            let mut record = vec![0x5A; record_bytes(px)];
            if number == 1 {
                finished(&mut record, px).unwrap().iter_mut().for_each(|byte| *byte = rng.random());
            } else {
                let bytes = |[height, width]: [usize; 2], rng: &mut ChaCha8Rng| -> Vec<u8> {
                    (0..height * width).map(|_| rng.random()).collect()
                };
                let planes = [bytes(first, &mut rng), bytes(others, &mut rng), bytes(others, &mut rng)];
                let widths = [first[1], others[1], others[1]];
                let planes = [0, 1, 2].map(|i| Plane { samples: &planes[i], stride: widths[i] });
                let weights = [axes(&mut rng, first, px, taps), axes(&mut rng, others, px, taps)];
                let matrix = (number != 2).then_some(BT601);
                assert!(write_planes(&mut record, px, matrix, planes, [&weights[0], &weights[1]]), "{px}");
            }
            records.push(record);
        }
        let frames = records.len();
        let out = client.create_from_slice(&vec![7; frames * px * px * 3]);
        scale_planes(&client, client.create_from_slice(&records.concat()), frames, px, out.clone()).unwrap();
        let got = client.read_one(out).unwrap();
        let mut distinct = std::collections::HashSet::new();
        for (number, (record, got)) in records.iter().zip(got.chunks(px * px * 3)).enumerate() {
            for (at, (got, expected)) in got.iter().zip(reference(record, px)).enumerate() {
                let error = (f64::from(*got) - expected).abs();
                // Half for the rounding to a byte; the rest is what two passes cut off, times the largest coefficient.
                let allowed = if number == 1 { 0.0 } else { 0.75 + 2.1 * taps as f64 / 2.0 / 128.0 };
                assert!(error <= allowed, "{px} px, record {number}, byte {at}: {got}, expected {expected}");
                distinct.insert(*got);
            }
        }
        assert!(distinct.len() > 20, "{px} px: {} levels", distinct.len());
    }
}

#[test]
fn what_does_not_fit_a_record_is_refused() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let whole = |size: [usize; 2], rng: &mut ChaCha8Rng| Axes {
        used_rows: 0..size[0],
        used_columns: 0..size[1],
        ..axes(rng, size, 8, 2)
    };
    let mut record = vec![0; record_bytes(8)];
    let mut fits = |size: [usize; 2], record: &mut [u8]| {
        let (axes, samples) = (whole(size, &mut rng), vec![0; size[0] * size[1]]);
        let plane = Plane { samples: &samples, stride: size[1] };
        write_planes(record, 8, None, [plane; 3], [&axes, &axes])
    };
    assert!(fits([4, 4], &mut record));
    assert!(!fits([20, 20], &mut record), "too many bytes");
    assert!(!fits([4, 4], &mut [0; 64]), "a record of another size");
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut wide = |width: usize| {
        let [first, others] = [[16, width], [8, width / 2]].map(|size| Axes {
            used_rows: 0..size[0],
            used_columns: 0..size[1],
            ..axes(&mut rng, size, 224, 4)
        });
        let samples = vec![0; 16 * width];
        let planes = [width, width / 2, width / 2].map(|stride| Plane { samples: &samples, stride });
        write_planes(&mut vec![0; record_bytes(224)], 224, Some(BT601), planes, [&first, &others])
    };
    assert_eq!([1532, 1536, 2000].map(&mut wide), [true, false, false], "a row longer than shared memory");
    assert!(finished(&mut [0; 64], 8).is_none());
    assert_eq!(finished(&mut record, 8).unwrap().len(), 192);
    assert_eq!(used_bytes(&record), 4 * HEADER + 192);
    assert!(Table::new([(1 << 16, 0, [1i16].into_iter())].into_iter()).is_none());
    assert!(Table::new([(0, 0, [-1i16].into_iter())].into_iter()).is_none());

    let client = client();
    for px in [0, 6, 2048] {
        let error = scale_planes(&client, client.empty(4), 1, px, client.empty(4)).unwrap_err().to_string();
        assert!(error.contains("multiple of 4") && error.contains(&format!("{px} px")), "{error}");
    }
}
