use super::*;
use rand::Rng;
use rand_distr::StandardNormal;

/// Clips around the centre of their class; `spread` of 0.1 keeps classes apart. Features lie far from 0 and differ
/// a thousandfold in scale; one never changes.
fn clouds(clips: usize, width: usize, classes: usize, spread: f64, draw: u64) -> Set {
    let mut centres = keyed(1, 0, 0, Purpose::Synthetic);
    let centres: Vec<f64> = (0..classes * width).map(|_| centres.sample(StandardNormal)).collect();
    let mut rng = keyed(2, draw, 0, Purpose::Synthetic);
    let labels: Vec<usize> = (0..clips).map(|clip| clip % classes).collect();
    let mut features = Vec::new();
    for &label in &labels {
        for column in 0..width {
            let noise: f64 = rng.sample(StandardNormal);
            let value = centres[label * width + column] + spread * noise;
            features.push(match column {
                0 => 7.0,
                column => (value * 10f64.powi(column as i32 % 4) + 5.0) as f32,
            });
        }
    }
    (features, labels)
}

type Set = (Vec<f32>, Vec<usize>);

fn probe(train: &Set, test: &Set, width: usize, classes: usize, options: &ProbeOptions) -> ProbeScores {
    let train = Labelled { set: "train", features: &train.0, width, labels: &train.1 };
    let test = Labelled { set: "test", features: &test.0, width, labels: &test.1 };
    linear_probe(train, test, classes, options).unwrap()
}

#[test]
fn separable_classes_are_separated() {
    let (train, test) = (clouds(210, 12, 7, 0.1, 0), clouds(70, 12, 7, 0.1, 1));
    let scores = probe(&train, &test, 12, 7, &ProbeOptions::default());
    assert_eq!((scores.top1, scores.top5, scores.train_top1), (1.0, 1.0, 1.0), "{scores:?}");
    assert_eq!(scores.l2, 1.0, "of equals the strongest penalty: {scores:?}");
    assert!(scores.converged && scores.held_out.len() == 7, "{scores:?}");
    assert_eq!(probe(&train, &test, 12, 7, &ProbeOptions::default()), scores); // to the bit
}

/// More features than clips of noise tell apart: without a penalty the probe learns the training clips by heart.
#[test]
fn noisy_classes_need_a_penalty() {
    let (train, test) = (clouds(300, 80, 6, 5.0, 0), clouds(600, 80, 6, 5.0, 1));
    let chosen = probe(&train, &test, 80, 6, &ProbeOptions::default());
    let options = ProbeOptions { l2: vec![0.0], ..ProbeOptions::default() };
    let free = probe(&train, &test, 80, 6, &options);
    assert!(free.train_top1 > 0.95 && free.top1 < 0.85, "{free:?}");
    assert!(chosen.top1 > free.top1 && chosen.l2 >= 1e-2, "{chosen:?} {free:?}");
    assert!(chosen.top1 > 0.4 && chosen.top1 < 1.0 && chosen.top5 > chosen.top1, "{chosen:?}");
}

/// One feature, two classes: the least value of the objective is where its derivative is 0, found by bisection.
#[test]
fn the_classifier_is_trained_to_the_end() {
    // Symmetric, standardised, and not separable: by symmetry w1 = -w0 and the biases are equal.
    let features = [1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0, 1.0f32];
    let labels = [1, 1, 1, 1, 0, 0, 0, 0];
    let mut classifier = Classifier::new(2, 1);
    let l2 = 0.05;
    let set = Labelled { set: "train", features: &features, width: 1, labels: &labels };
    assert!(classifier.train(&set, l2, 100).converged);
    // value(w) = 0.75 ln(1 + e^(-2w)) + 0.25 ln(1 + e^(2w)) + l2 w^2
    let slope = |w: f64| -1.5 / (1.0 + (2.0 * w).exp()) + 0.5 / (1.0 + (-2.0 * w).exp()) + 2.0 * l2 * w;
    let (mut low, mut high) = (0.0, 5.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if slope(middle) < 0.0 { low = middle } else { high = middle }
    }
    let [w0, w1, b0, b1] = classifier.parameters[..] else { panic!() };
    assert!((w1 - low).abs() < 1e-4 && (w0 + low).abs() < 1e-4 && (b1 - b0).abs() < 1e-4, "{w0} {w1} {low}");
}

#[test]
fn a_fifth_is_held_out_of_each_class() {
    let labels: Vec<usize> = (0..100).map(|clip| clip % 2).collect();
    let features = vec![0.0; 100];
    let set = Labelled { set: "train", features: &features, width: 1, labels: &labels };
    let (kept, held) = split(&set, 9).unwrap();
    let mut all = [&kept[..], &held[..]].concat();
    all.sort_unstable();
    assert_eq!(all, (0..100).collect::<Vec<_>>());
    for class in 0..2 {
        let of = |clips: &[usize]| clips.iter().filter(|&&clip| labels[clip] == class).count();
        assert_eq!((of(&kept), of(&held)), (40, 10));
    }
    assert_eq!(split(&set, 9).unwrap().1, held);
    assert_ne!(split(&set, 8).unwrap().1, held);
}

#[test]
fn bad_input_is_named() {
    let set = Labelled { set: "train", features: &[0.0, 1.0], width: 1, labels: &[0, 1] };
    let options = ProbeOptions::default();
    let error = linear_probe(set, set, 2, &options).unwrap_err();
    assert_eq!(error, FeatureError::TooFew { set: "train", clips: 2 });
    for bad in [
        ProbeOptions { l2: vec![], ..options.clone() },
        ProbeOptions { l2: vec![0.1, f64::NAN], ..options.clone() },
        ProbeOptions { max_iterations: 0, ..options },
    ] {
        assert!(matches!(linear_probe(set, set, 2, &bad), Err(FeatureError::BadOption { .. })), "{bad:?}");
    }
}
