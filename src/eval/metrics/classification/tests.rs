use super::*;

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-7, "found {found:.10}, expected {expected:.10}");
}

/// Four clips of the reference implementation: probabilities as logits' logarithms, so both averages are known.
fn example_c() -> Tally {
    let probabilities = [
        [0.35, 0.05, 0.30, 0.20, 0.10],
        [0.10, 0.30, 0.25, 0.15, 0.20],
        [0.05, 0.10, 0.15, 0.60, 0.10],
        [0.22, 0.20, 0.23, 0.30, 0.05f32],
    ];
    let logits: Vec<f32> = probabilities.as_flattened().iter().map(|p| p.ln()).collect();
    classify(&logits, 1, 5, &[0, 2, 4, 3]).unwrap()
}

#[test]
fn example_c_has_the_references_scores() {
    let tally = example_c();
    let scores = tally.scores().unwrap();
    close(scores.top1, 0.5);
    close(scores.top1_probabilities, 0.5);
    close(scores.top5, 1.0);
    close(scores.mean_class, 0.4);
    let predicted = |label: usize| tally.confusion().counts[label * 5..][..5].iter().position(|&c| c == 1);
    assert_eq!([0, 2, 4, 3].map(predicted), [Some(0), Some(1), Some(3), Some(3)]);
    assert_eq!(scores.named().len(), 5);
    close(scores.named()["mean_class"], 0.4);
}

/// Top-2 of example C is 75%: the same ranks that top-5 is counted by.
#[test]
fn ranks_of_example_c() {
    let rows = [
        ([0.35, 0.05, 0.30, 0.20, 0.10], 0, 0),
        ([0.10, 0.30, 0.25, 0.15, 0.20], 2, 1),
        ([0.05, 0.10, 0.15, 0.60, 0.10], 4, 3), // ties with class 1, which ranks before it
        ([0.22, 0.20, 0.23, 0.30, 0.05], 3, 0),
    ];
    for (row, label, rank) in rows {
        assert_eq!(rank_of(&row, label), rank);
    }
}

#[test]
fn views_average_as_in_the_reference() {
    let views = [[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 2.0, 0.0f32]];
    let mean = average_views(0, views.iter().map(|view| &view[..]).enumerate()).unwrap();
    for (found, expected) in mean.logits.iter().zip([1.0, 1.3333333333, 0.0]) {
        close(*found, expected);
    }
    for (found, expected) in mean.probabilities.iter().zip([0.37415232, 0.5397502, 0.08609749]) {
        close(*found, expected);
    }
    assert_eq!(classify(views.as_flattened(), 3, 3, &[1]).unwrap().scores().unwrap().top1, 1.0);
}

/// One view that is very sure of class 0, two that lean to class 1: the averages disagree.
#[test]
fn both_averages_are_reported() {
    let scores = classify(&[20.0, 0.0, 0.0, 3.0, 0.0, 3.0], 3, 2, &[1]).unwrap().scores().unwrap();
    assert_eq!((scores.top1, scores.top1_probabilities), (0.0, 1.0));
}

#[test]
fn ties_go_to_the_lower_class_and_large_logits_do_not_overflow() {
    let tally = classify(&[1e30; 7], 1, 7, &[0]).unwrap();
    assert_eq!(tally.scores().unwrap().top1_probabilities, 1.0);
    let tally = classify(&[1e30; 7], 1, 7, &[5]).unwrap();
    let scores = tally.scores().unwrap();
    assert_eq!((scores.top1, scores.top5), (0.0, 0.0));
    assert_eq!(tally.confusion().counts[5 * 7], 1);
}

#[test]
fn the_table_of_classes() {
    let one_hot = |class: usize| (0..3).map(move |c| if c == class { 1.0f32 } else { 0.0 });
    let logits: Vec<f32> = [0, 1, 1, 2, 2].into_iter().flat_map(one_hot).collect();
    let tally = classify(&logits, 1, 3, &[0, 0, 0, 0, 2]).unwrap();
    let table = tally.confusion().per_class();
    assert_eq!(table[0], ClassCount { class: 0, clips: 4, right: 1, confused_with: Some((1, 2)) });
    assert_eq!(table[1], ClassCount { class: 1, clips: 0, right: 0, confused_with: None });
    assert_eq!(table[2], ClassCount { class: 2, clips: 1, right: 1, confused_with: None });
    close(tally.scores().unwrap().mean_class, (0.25 + 0.0 + 1.0) / 3.0);

    let majority = tally.chance_majority().unwrap();
    close(majority.top1, 0.8);
    close(majority.top5, 1.0);
    close(majority.mean_class, 0.5);
    let uniform = tally.chance_uniform().unwrap();
    close(uniform.top1, 1.0 / 3.0);
    close(uniform.top5, 1.0);
    // Class 1 is not in the truth; five guesses miss it with (2/3)^5.
    close(uniform.mean_class, (2.0 / 3.0) / (3.0 - (2.0f64 / 3.0).powi(5)));
}

#[test]
fn bad_input_is_named() {
    let error = classify(&[0.0, 1.0, 2.0, f32::NAN], 2, 1, &[0, 0]).unwrap_err().to_string();
    assert!(error.contains("clip 1, view 1") && error.contains("class 0") && error.contains("NaN"), "{error}");
    let error = classify(&[0.0; 4], 1, 2, &[0, 2]).unwrap_err().to_string();
    assert!(error.contains("clip 1") && error.contains("label 2") && error.contains("2 classes"), "{error}");
    let error = classify(&[0.0; 5], 1, 2, &[0, 1]).unwrap_err().to_string();
    assert!(error.contains("5 logits") && error.contains("2 clips x 1 views x 2 classes"), "{error}");
    assert_eq!(classify(&[], 1, 2, &[]).unwrap().scores(), Err(MetricError::NoClips));
    assert_eq!(average_views(3, []), Err(MetricError::NoViews { clip: 3 }));
}
