//! Moving averages and exchanges of flat buffers.

use crate::support::{assert_close, client, read_f32, upload, values};
use avion_kernels::flat;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

#[test]
fn a_moving_average_takes_its_share_of_the_new() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(11));
    for len in [1, 7, 256, 1031, 70_000] {
        for decay in [0.0, 0.5, 0.9999] {
            let (src, start) = (values(&mut rng, len), values(&mut rng, len));
            let (from, average) = (upload(&client, &src), upload(&client, &start));
            let mut expected: Vec<f64> = start.iter().map(|v| f64::from(*v)).collect();
            for _ in 0..3 {
                flat::ema(&client, &from, &average, decay, len);
                expected.iter_mut().zip(&src).for_each(|(a, s)| *a = decay * *a + (1.0 - decay) * f64::from(*s));
            }
            assert_close("average", &read_f32(&client, average), &expected, 1e-6);
            assert_eq!(read_f32(&client, from), src);
        }
    }
}

/// A decay near 1 moves by the share asked for, not by what is left of it in f32.
#[test]
fn a_slow_average_moves_at_its_rate() {
    let client = client();
    let (from, average) = (upload(&client, &[1.0; 4]), upload(&client, &[0.0; 4]));
    flat::ema(&client, &from, &average, 0.9999, 4);
    assert_close("first move", &read_f32(&client, average), &[1e-4; 4], 1e-6);
}

#[test]
fn exchanged_buffers_have_changed_places() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(12));
    for len in [1, 6, 256, 1031] {
        let (a, b) = (values(&mut rng, len), values(&mut rng, len));
        let (first, second) = (upload(&client, &a), upload(&client, &b));
        flat::exchange(&client, &first, &second, len);
        assert_eq!((read_f32(&client, first), read_f32(&client, second)), (b, a));
    }
}
