use super::*;
use std::time::Instant;

fn config(mixup: f64, cutmix: f64) -> AugmentConfig {
    AugmentConfig { mixup, cutmix, label_smoothing: 0.1, ..AugmentConfig::default() }
}

fn plans(config: &AugmentConfig) -> Vec<MixPlan> {
    (0..2_000).map(|batch| MixPlan::draw(config, 5, Position { epoch: 1, batch }, 224)).collect()
}

fn mixup(own: f64) -> MixPlan {
    MixPlan { cut: None, own, smoothing: 0.0 }
}

#[test]
fn plans_follow_the_recipe() {
    let both = plans(&config(0.8, 1.0));
    let cuts = both.iter().filter(|plan| plan.cut.is_some()).count();
    assert!((900..1100).contains(&cuts), "{cuts}");
    assert!(plans(&config(0.8, 0.0)).iter().all(|plan| plan.cut.is_none()));
    assert!(plans(&config(0.0, 1.0)).iter().all(|plan| plan.cut.is_some()));
    assert!(plans(&config(0.0, 0.0)).iter().all(|plan| *plan == MixPlan { smoothing: 0.1, ..mixup(1.0) }));
    let rarely = AugmentConfig { mix_probability: 0.25, ..config(0.8, 1.0) };
    let mixed = plans(&rarely).iter().filter(|plan| plan.own < 1.0).count();
    assert!((400..600).contains(&mixed), "{mixed}");
    // Beta(1, 1) is uniform: variance 1/12. Beta(0.8, 0.8) has 1/(4 * 2.6).
    let uniform: Vec<f64> = plans(&config(1.0, 0.0)).iter().map(|plan| plan.own).collect();
    let mean = uniform.iter().sum::<f64>() / 2e3;
    let variance = uniform.iter().map(|own| (own - mean).powi(2)).sum::<f64>() / 2e3;
    assert!((mean - 0.5).abs() < 0.02 && (variance - 1.0 / 12.0).abs() < 0.005, "{mean} {variance}");
    assert!(uniform.iter().all(|own| (own * 256.0).fract() == 0.0));
    // Another batch, epoch or seed draws anew; the same one does not.
    let at = |seed, epoch, batch| MixPlan::draw(&config(0.8, 1.0), seed, Position { epoch, batch }, 224);
    assert_eq!(at(5, 1, 7), both[7]);
    assert!(at(6, 1, 7) != both[7] && at(5, 2, 7) != both[7]);
}

#[test]
fn a_cut_counts_what_it_covers() {
    for plan in plans(&config(0.0, 1.0)) {
        let cut = plan.cut.unwrap();
        assert!(cut.rows.end <= 224 && cut.columns.end <= 224);
        let area = cut.rows.len() * cut.columns.len();
        assert_eq!(plan.own, 1.0 - area as f64 / (224.0 * 224.0));
    }
}

#[test]
fn targets_are_timms() {
    // timm mixup_target of labels [0, 2, 1, 1], 4 classes, lambda 0.7, smoothing 0.1: on 0.925, off 0.025.
    let plan = MixPlan { own: 0.7, smoothing: 0.1, cut: None };
    let expected = [
        [0.655, 0.295, 0.025, 0.025],
        [0.025, 0.295, 0.655, 0.025],
        [0.025, 0.655, 0.295, 0.025],
        [0.295, 0.655, 0.025, 0.025],
    ];
    let targets = plan.targets(&[0, 2, 1, 1], 4);
    for (found, expected) in targets.iter().zip(expected.as_flattened()) {
        assert!((f64::from(*found) - expected).abs() < 1e-6, "{targets:?}");
    }
    // The same class twice is whole.
    assert_eq!(mixup(0.3).targets(&[1, 1], 3), [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
    assert_eq!(mixup(1.0).targets(&[2], 3), [0.0, 0.0, 1.0]);
}

#[test]
fn mixup_blends_reversed_pairs_and_rounds() {
    let mut batch = vec![0, 1, 2, 255, 9, 9, 9, 9, 255, 2, 1, 255];
    // Three clips of four bytes (only their number matters here); a quarter of the partner.
    mixup(0.75).apply(&mut batch, 3, 1);
    // 63.75; 1.25; 1.75; 255 and 191.25; 1.75; 1.25; 255.
    assert_eq!(batch, [64, 1, 2, 255, 9, 9, 9, 9, 191, 2, 1, 255]);
    let mut halves = vec![0, 255, 3, 4];
    mixup(0.5).apply(&mut halves, 2, 1);
    assert_eq!(halves, [2, 130, 2, 130]);
    for weight in 0..=256 {
        let (mut one, mut other): (Vec<u8>, Vec<u8>) = ((0..=255).collect(), (0..=255).rev().collect());
        blend(&mut one, &mut other, weight);
        for (value, byte) in one.iter().enumerate() {
            let exact = (value as f64 * f64::from(weight) + (255 - value) as f64 * f64::from(256 - weight)) / 256.0;
            assert_eq!(f64::from(*byte), (exact + 0.5).floor());
        }
    }
}

#[test]
fn cutmix_exchanges_the_box_in_every_frame() {
    let (clips, frames, px) = (4, 3, 5);
    let clip_bytes = frames * px * px * 3;
    let original: Vec<u8> = (0..clips * clip_bytes).map(|i| (i / clip_bytes * 50 + i % 47) as u8).collect();
    let mut mixed = original.clone();
    let cut = CutBox { rows: 1..3, columns: 2..5 };
    MixPlan { own: 1.0 - 6.0 / 25.0, cut: Some(cut.clone()), smoothing: 0.0 }.apply(&mut mixed, clips, px);
    for (i, found) in mixed.iter().enumerate() {
        let (clip, pixel) = (i / clip_bytes, i % clip_bytes / 3);
        let (row, column) = (pixel / px % px, pixel % px);
        let inside = cut.rows.contains(&row) && cut.columns.contains(&column);
        let from = if inside { clips - 1 - clip } else { clip };
        assert_eq!(*found, original[from * clip_bytes + i % clip_bytes], "byte {i}");
    }
}

/// 32 clips of 16 frames of 224 px: what fine-tuning mixes a step. A loop that is not vectorised takes several times as
/// long.
#[test]
fn mixing_a_batch_is_fast() {
    let mut batch = vec![100; 32 * 16 * 224 * 224 * 3];
    batch[..7].fill(3);
    let best = (0..5).map(|_| {
        let begin = Instant::now();
        mixup(0.625).apply(&mut batch, 32, 224);
        begin.elapsed()
    });
    let best = best.min().unwrap();
    println!("mixup of 77 MB: {best:?}");
    assert!(best.as_millis() < 250, "{best:?}");
}
