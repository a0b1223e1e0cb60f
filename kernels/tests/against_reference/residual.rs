//! What follows a product: bias, factor, residual stream, positions.

use crate::support::{assert_close, client, read_f32, upload, values};
use crate::typed::{f64s, kinds, read_typed, rounded, typed};
use avion_kernels::{
    FloatKind, column_sum,
    residual::{self, Finish, reference},
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

#[test]
fn finish_takes_every_combination_of_terms() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(41));
    for (rows, columns, rows_per_factor) in [(1, 8, 1), (154, 96, 77), (6, 3, 2), (785, 64, 785), (9, 2304, 3)] {
        for (kind, tolerance) in kinds(&client, 5e-7) {
            for terms in if rows == 154 { 0..8 } else { 7..8 } {
                let mut make = |len| rounded(kind, &values(&mut rng, len));
                let (y, stream) = (make(rows * columns), make(rows * columns));
                let (bias, factor) = (make(columns), make(rows / rows_per_factor));
                let device = typed(&client, kind, &y);
                let (bias_device, factor_device) = (upload(&client, &bias), upload(&client, &factor));
                let stream_device = typed(&client, kind, &stream);
                let [with_bias, with_factor, with_stream] = [terms & 1, terms & 2, terms & 4].map(|bit| bit != 0);
                let args = Finish {
                    y: &device,
                    bias: with_bias.then_some(&bias_device),
                    factor: with_factor.then_some((&factor_device, rows_per_factor)),
                    residual: with_stream.then_some(&stream_device),
                    rows,
                    columns,
                };
                residual::finish(&client, kind, args);
                let (bias, factor, stream) = (f64s(&bias), f64s(&factor), f64s(&stream));
                let expected = reference(
                    &f64s(&y),
                    columns,
                    with_bias.then_some(&bias[..]),
                    with_factor.then_some((&factor[..], rows_per_factor)),
                    with_stream.then_some(&stream[..]),
                );
                let name = format!("finish [{rows}, {columns}] {kind:?}, terms {terms}");
                assert_close(&name, &read_typed(&client, kind, device), &expected, tolerance);
            }
        }
    }
}

#[test]
fn scale_rows_gives_each_sample_its_factor() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(42));
    for (rows, columns, rows_per_factor) in [(1, 8, 1), (154, 96, 77), (6, 3, 2), (785, 64, 1)] {
        for (kind, tolerance) in kinds(&client, 5e-7) {
            let x = rounded(kind, &values(&mut rng, rows * columns));
            let factor: Vec<f32> = (0..rows / rows_per_factor).map(|i| [1.25, 0.0, 2.0][i % 3]).collect();
            let (from, to) = (typed(&client, kind, &x), typed(&client, kind, &vec![3.0; x.len()]));
            let device = upload(&client, &factor);
            residual::scale_rows(&client, kind, &from, &to, &device, rows_per_factor, rows, columns);
            let expected = reference(&f64s(&x), columns, None, Some((&f64s(&factor), rows_per_factor)), None);
            assert_close("scale_rows", &read_typed(&client, kind, to), &expected, tolerance);
        }
    }
}

#[test]
fn a_table_is_added_to_every_clip_and_its_gradient_is_a_column_sum() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(43));
    for (clips, period, columns) in [(1, 1, 2), (3, 77, 96), (2, 785, 8), (5, 3, 770)] {
        for (kind, tolerance) in kinds(&client, 5e-7) {
            let rows = clips * period;
            let (y, table) = (rounded(kind, &values(&mut rng, rows * columns)), values(&mut rng, period * columns));
            let (y_device, table_device) = (typed(&client, kind, &y), upload(&client, &table));
            residual::add_table(&client, kind, &y_device, &table_device, rows, period, columns).unwrap();
            let expected = reference(&f64s(&y), period * columns, Some(&f64s(&table)), None, None);
            assert_close("add_table", &read_typed(&client, kind, y_device), &expected, tolerance);

            let dst = upload(&client, &table);
            column_sum::column_sum(&client, typed(&client, kind, &y), kind, clips, period * columns, dst.clone());
            let mut expected = f64s(&table);
            column_sum::reference(&y, period * columns, &mut expected);
            assert_close("gradient", &read_f32(&client, dst), &expected, 1e-6);
        }
    }
    let (y, table) = (client.empty(64), client.empty(64));
    let error = residual::add_table(&client, FloatKind::F32, &y, &table, 7, 3, 1).unwrap_err().to_string();
    assert!(error.contains("multiple of the table's 3") && error.contains("got 7"), "{error}");
}
