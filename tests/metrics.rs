//! Retrieval scores against worked numbers, brute force, and the real EPIC-Kitchens-100 relevancy.

use avion::eval::metrics::{GroundTruth, MetricError, MirScores, chance_mir, chance_recall, mir, recall_at};
use std::collections::HashMap;
use std::path::PathBuf;

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6, "found {found:.10}, expected {expected:.10}");
}

/// Small deterministic numbers in [0, 1).
fn noise(seed: u64) -> impl Iterator<Item = f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::from_fn(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some((state >> 11) as f64 / (1u64 << 53) as f64)
    })
}

// Example A: 3 videos x 4 captions, measured on the reference implementation.
const SIM_A: [f64; 12] = [0.90, 0.20, 0.40, 0.35, 0.10, 0.80, 0.75, 0.30, 0.60, 0.55, 0.50, 0.20];
const REL_A: [f64; 12] = [1.0, 0.5, 0.0, 0.25, 0.5, 1.0, 0.5, 0.0, 0.0, 0.5, 1.0, 1.0];

#[test]
fn example_a_has_the_references_scores() {
    let scores = mir(&SIM_A, &REL_A, 3, 4).unwrap();
    close(scores.map_v2t, 0.8541666667);
    close(scores.map_t2v, 0.7916666667);
    close(scores.map_avg, 0.8229166667);
    close(scores.ndcg_v2t, 0.6849481341);
    close(scores.ndcg_t2v, 0.7089613979);
    close(scores.ndcg_avg, 0.6969547660);
    assert_eq!((scores.unmatched_videos, scores.unmatched_captions), (0, 0));

    // By hand: ranked relevancies are [1 0 .25 .5], [1 .5 0 .5], [0 .5 1 1].
    close(scores.textbook_map_v2t, (1.0 + 1.0 + (1.0 / 3.0 + 2.0 / 4.0) / 2.0) / 3.0);
    // Per caption: [1 0 .5], [1 .5 .5], [.5 1 0], [.25 0 1].
    close(scores.textbook_map_t2v, (1.0 + 1.0 + 1.0 / 2.0 + 1.0 / 3.0) / 4.0);

    // f32 similarities, as a model gives them, rank the same.
    let narrow: Vec<f32> = SIM_A.iter().map(|&s| s as f32).collect();
    assert_eq!(mir(&narrow, &REL_A, 3, 4).unwrap(), scores);
}

#[test]
fn each_query_of_example_a_has_the_references_scores() {
    // A matrix of one row: its mean over videos is that row's own score.
    let ap = [1.0, 1.0, 0.5625];
    let ndcg = [0.7809978696, 0.8403030284, 0.4335435043];
    for video in 0..3 {
        let row = video * 4..video * 4 + 4;
        let scores = mir(&SIM_A[row.clone()], &REL_A[row], 1, 4).unwrap();
        close(scores.map_v2t, ap[video]);
        close(scores.ndcg_v2t, ndcg[video]);
    }
    let ap = [1.0, 1.0, 0.75, 0.4166666667];
    let ndcg = [0.7601875334, 1.0, 0.8597186999, 0.2159393584];
    for caption in 0..4 {
        let column = |matrix: &[f64; 12]| -> Vec<f64> { (0..3).map(|video| matrix[video * 4 + caption]).collect() };
        let scores = mir(&column(&SIM_A), &column(&REL_A), 3, 1).unwrap();
        close(scores.map_t2v, ap[caption]);
        close(scores.ndcg_t2v, ndcg[caption]);
    }
}

#[test]
fn example_b_has_the_references_scores() {
    let sim = [0.9, 0.8, 0.7, 0.6, 0.1, 0.4, 0.3, 0.2];
    let rel = [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0];
    let scores = mir(&sim, &rel, 2, 4).unwrap();
    close(scores.map_v2t, 0.7083333333);
    close(scores.ndcg_v2t, 0.5);
    assert_eq!(scores.map_v2t, scores.textbook_map_v2t); // no fractional relevancy, no quirk
    assert_eq!(scores.unmatched_captions, 1); // caption 1 belongs to nothing
}

#[test]
fn fractional_relevancy_inflates_the_official_score_only() {
    let scores = mir(&[0.9, 0.8, 0.7], &[0.5, 1.0, 1.0], 1, 3).unwrap();
    close(scores.map_v2t, 0.7916666667);
    close(scores.textbook_map_v2t, 0.5833333333);
}

#[test]
fn ties_rank_in_opposite_orders_as_in_the_reference() {
    let scores = mir(&[0.5, 0.5, 0.5], &[1.0, 0.0, 0.5], 1, 3).unwrap();
    close(scores.map_v2t, 1.0);
    close(scores.ndcg_v2t, 0.38009377);
}

#[test]
fn a_perfect_ranking_scores_one_and_unmatched_queries_are_left_out() {
    let rel = [1.0, 0.5, 0.0, 0.5, 0.0, 0.5, 0.0, 0.0, 1.0];
    let scores = mir(&rel, &rel, 3, 3).unwrap();
    assert_eq!((scores.unmatched_videos, scores.unmatched_captions), (1, 1));
    for score in [scores.map_avg, scores.ndcg_avg, scores.textbook_map_avg] {
        close(score, 1.0);
    }
}

#[test]
fn bad_input_is_named() {
    assert_eq!(
        mir(&[0.0; 5], &[0.0; 6], 2, 3).unwrap_err().to_string(),
        "similarity matrix has 5 entries, expected 2 videos x 3 captions = 6"
    );
    assert!(matches!(
        mir(&[0.0, 0.0, f64::NAN, 0.0], &[1.0; 4], 2, 2),
        Err(MetricError::NotFinite { video: 1, caption: 0, value }) if value.is_nan()
    ));
    assert!(matches!(
        mir(&[0.0; 4], &[1.0, 0.0, 0.0, 1.5], 2, 2),
        Err(MetricError::BadRelevancy { video: 1, caption: 1, value: 1.5 })
    ));
    assert!(matches!(mir(&[0.0; 4], &[0.5; 4], 2, 2), Err(MetricError::NoMatches { query: "video", .. })));
    assert!(matches!(mir(&[0.0; 0], &[0.0; 0], 0, 0), Err(MetricError::NoMatches { .. })));
    assert!(recall_at(&[0.0; 6], 2, 3, GroundTruth::Diagonal, &[1]).is_err());
    let truth = [vec![0], vec![3]];
    assert!(matches!(
        recall_at(&[0.0; 6], 2, 3, GroundTruth::Captions(&truth), &[1]),
        Err(MetricError::UnknownCaption { video: 1, caption: 3, captions: 3 })
    ));
}

#[test]
fn recall_counts_the_best_right_item() {
    // Ranks of the diagonal: videos 1, 2, 3; captions 1, 1, 3.
    let sim = [
        0.9, 0.1, 0.8, //
        0.7, 0.6, 0.5, //
        0.6, 0.5, 0.4,
    ];
    let scores = recall_at(&sim, 3, 3, GroundTruth::Diagonal, &[1, 2, 5]).unwrap();
    assert_eq!(scores.v2t, [1.0 / 3.0, 2.0 / 3.0, 1.0]);
    assert_eq!(scores.t2v, [2.0 / 3.0, 2.0 / 3.0, 1.0]);
    assert_eq!((scores.median_rank_v2t, scores.median_rank_t2v), (2.0, 1.0));

    // Video 2 may take caption 0 or 2, video 1 has none; caption 1 belongs to nothing.
    let truth = [vec![2], vec![], vec![0, 2, 2]];
    let scores = recall_at(&sim, 3, 3, GroundTruth::Captions(&truth), &[1]).unwrap();
    assert_eq!(scores.v2t, [0.5]); // ranks 2 and 1
    assert_eq!(scores.median_rank_v2t, 1.5);
    assert_eq!(scores.t2v, [0.5]); // caption 0: rank 3; caption 2: video 0, rank 1
}

#[test]
fn ties_count_against_us() {
    let scores = recall_at(&[0.5f32; 16], 4, 4, GroundTruth::Diagonal, &[1, 3, 4]).unwrap();
    assert_eq!(scores.v2t, [0.0, 0.0, 1.0]);
    assert_eq!(scores.median_rank_t2v, 4.0);
}

#[test]
fn chance_of_pairs_is_k_over_n() {
    let chance = chance_recall(64, 64, GroundTruth::Diagonal, &[1, 5, 10, 100]).unwrap();
    for (found, expected) in chance.v2t.iter().zip([1.0 / 64.0, 5.0 / 64.0, 10.0 / 64.0, 1.0]) {
        close(*found, expected);
    }
    assert_eq!(chance.v2t, chance.t2v);
    assert_eq!(chance.median_rank_v2t, 32.0);
}

#[test]
fn chance_is_the_mean_over_random_rankings() {
    const DRAWS: usize = 20_000;
    let truth = [vec![0], vec![1, 3], vec![2], vec![0, 1, 2, 4]];
    let rel: Vec<f64> = truth
        .iter()
        .flat_map(|right| (0..5).map(move |c| if right.contains(&c) { 1.0 } else { 0.25 * f64::from(c as u8 % 3) }))
        .collect();
    let chance = chance_mir(&rel, 4, 5).unwrap();
    let expected_recall = chance_recall(4, 5, GroundTruth::Captions(&truth), &[1, 2]).unwrap();
    let (mut sum, mut recall) = (MirScores::default(), [0.0; 4]);
    let mut numbers = noise(7);
    for _ in 0..DRAWS {
        let sim: Vec<f64> = numbers.by_ref().take(20).collect();
        let scores = mir(&sim, &rel, 4, 5).unwrap();
        sum.map_v2t += scores.map_v2t;
        sum.map_t2v += scores.map_t2v;
        sum.ndcg_v2t += scores.ndcg_v2t;
        sum.ndcg_t2v += scores.ndcg_t2v;
        sum.textbook_map_v2t += scores.textbook_map_v2t;
        let found = recall_at(&sim, 4, 5, GroundTruth::Captions(&truth), &[1, 2]).unwrap();
        for (total, share) in recall.iter_mut().zip(found.v2t.iter().chain(&found.t2v)) {
            *total += share;
        }
    }
    let near = |sum: f64, expected: f64| {
        let found = sum / DRAWS as f64;
        assert!((found - expected).abs() < 0.005, "{found} vs {expected}");
    };
    near(sum.map_v2t, chance.map_v2t);
    near(sum.map_t2v, chance.map_t2v);
    near(sum.ndcg_v2t, chance.ndcg_v2t);
    near(sum.ndcg_t2v, chance.ndcg_t2v);
    near(sum.textbook_map_v2t, chance.textbook_map_v2t);
    for (total, expected) in recall.iter().zip(expected_recall.v2t.iter().chain(&expected_recall.t2v)) {
        near(*total, *expected);
    }
}

#[test]
fn scores_do_not_depend_on_the_order_of_videos() {
    let (videos, captions) = (37, 23);
    let sim: Vec<f64> = noise(1).take(videos * captions).collect();
    let rel: Vec<f64> = noise(2).take(videos * captions).map(|x| [0.0, 0.0, 0.5, 1.0][(x * 4.0) as usize]).collect();
    let flip = |matrix: &[f64]| -> Vec<f64> { matrix.chunks(captions).rev().flatten().copied().collect() };
    let scores = mir(&sim, &rel, videos, captions).unwrap();
    let flipped = mir(&flip(&sim), &flip(&rel), videos, captions).unwrap();
    close(scores.map_v2t, flipped.map_v2t);
    close(scores.map_t2v, flipped.map_t2v);
    close(scores.ndcg_t2v, flipped.ndcg_t2v);
}

/// The relevancy of EPIC-Kitchens-100's test set, from its annotations: half for the same verb, half for the share of
/// common nouns.
fn epic_relevancy(data: &std::path::Path) -> (Vec<f64>, usize, usize) {
    let folder = data.join("ek100/retrieval_annotations");
    let open = |name| csv::Reader::from_path(folder.join(name)).unwrap();
    // The set of nouns as bits: 300 classes.
    let classes: Vec<(String, (usize, [u64; 5]))> = open("EPIC_100_retrieval_test.csv")
        .records()
        .map(|row| {
            let row = row.unwrap();
            let mut nouns = [0; 5];
            for noun in row[14].trim_matches(['[', ']']).split(',') {
                let noun: usize = noun.trim().parse().unwrap();
                nouns[noun / 64] |= 1 << (noun % 64);
            }
            (row[0].to_owned(), (row[10].parse().unwrap(), nouns))
        })
        .collect();
    let by_id: HashMap<_, _> = classes.iter().map(|(id, class)| (id.as_str(), class)).collect();
    let sentences: Vec<_> =
        open("EPIC_100_retrieval_test_sentence.csv").records().map(|row| by_id[&row.unwrap()[0]]).collect();
    let mut rel = Vec::with_capacity(classes.len() * sentences.len());
    for (_, (verb, nouns)) in &classes {
        rel.extend(sentences.iter().map(|(other_verb, other_nouns)| {
            let (mut common, mut all) = (0, 0);
            for (a, b) in nouns.iter().zip(other_nouns) {
                common += (a & b).count_ones();
                all += (a | b).count_ones();
            }
            0.5 * f64::from(verb == other_verb) + 0.5 * f64::from(common) / f64::from(all)
        }));
    }
    (rel, classes.len(), sentences.len())
}

#[test]
fn the_full_epic_kitchens_test_set_has_the_references_scores() {
    let folder = std::env::var_os("AVION_SHARED_DATA")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    if !folder.is_dir() {
        println!("SKIPPED: needs ../shared/data");
        return;
    }
    let (rel, videos, captions) = epic_relevancy(&folder);
    assert_eq!((videos, captions), (9668, 3842));
    close(rel.iter().sum::<f64>() / 1e6, 2.0403092333);

    let sim: Vec<f64> =
        (0..videos).flat_map(|i| (0..captions).map(move |j| (12.9898 * i as f64 + 78.233 * j as f64).sin())).collect();
    let start = std::time::Instant::now();
    let scores = mir(&sim, &rel, videos, captions).unwrap();
    println!("{videos} x {captions}: {:.2} s", start.elapsed().as_secs_f64());
    close(scores.map_v2t, 0.0566785505);
    close(scores.map_t2v, 0.0557026002);
    close(scores.map_avg, 0.0561905754);
    close(scores.ndcg_v2t, 0.1079219175);
    close(scores.ndcg_t2v, 0.1093973053);
    close(scores.ndcg_avg, 0.1086596114);

    // That similarity is as good as none, so it must score near chance.
    let chance = chance_mir(&rel, videos, captions).unwrap();
    println!("chance: {chance:?}");
    assert!((chance.map_avg - scores.map_avg).abs() < 0.005);
    assert!((chance.ndcg_avg - scores.ndcg_avg).abs() < 0.005);

    let oracle = mir(&rel, &rel, videos, captions).unwrap();
    for score in [oracle.map_v2t, oracle.map_t2v, oracle.ndcg_v2t, oracle.ndcg_t2v] {
        close(score, 1.0);
    }
    assert_eq!((oracle.unmatched_videos, oracle.unmatched_captions), (0, 0));
}
