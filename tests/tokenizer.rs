//! Token ids against a reference written from the published algorithm: `fixtures/tokenizer/make_reference.py`.

use avion::text::{END_OF_TEXT, START_OF_TEXT, Tokenizer};
use std::path::PathBuf;
use std::process::Command;

/// Ids of `text` without its markers.
fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let ids = tokenizer.encode(text, usize::MAX);
    assert_eq!(ids.first(), Some(&START_OF_TEXT));
    assert_eq!(ids.last(), Some(&END_OF_TEXT));
    ids[1..ids.len() - 1].to_vec()
}

fn assert_same(cases: &[(String, Vec<u32>)]) {
    let tokenizer = Tokenizer::new();
    let mut wrong = Vec::new();
    for (text, expected) in cases {
        let found = ids(&tokenizer, text);
        if found != *expected {
            wrong.push(format!("{text:?}\n  expected {expected:?}\n  found    {found:?}"));
        }
    }
    let report = wrong.join("\n");
    assert!(wrong.is_empty(), "{} of {} texts differ:\n{report}", wrong.len(), cases.len());
}

fn reference(json: &str) -> Vec<(String, Vec<u32>)> {
    serde_json::from_str(json).unwrap()
}

#[test]
fn every_text_of_the_reference_gets_its_ids() {
    let cases = reference(include_str!("fixtures/tokenizer/reference.json"));
    assert!(cases.len() > 400, "only {} cases", cases.len());
    assert_same(&cases);
}

#[test]
fn narrations_get_the_ids_that_others_measured() {
    // Measured on AVION's own tokenizer.
    let cases: [(&str, &[u32]); 8] = [
        ("#C C picks a bag of clothes from the floor", &[258, 322, 322, 8551, 320, 3365, 539, 7080, 633, 518, 4125]),
        ("take plate", &[1172, 5135]),
        ("#O A man X looks at the camera", &[258, 334, 320, 786, 343, 1606, 536, 518, 3934]),
        ("C separates the yarn.", &[322, 45365, 518, 19702, 269]),
        ("turn-on tap:hot", &[2105, 268, 525, 7888, 281, 2069]),
        ("It's  a   TEST &amp; more", &[585, 568, 320, 1628, 261, 750]),
        ("#unsure", &[258, 26396]),
        ("", &[]),
    ];
    assert_same(&cases.map(|(text, ids)| (text.to_owned(), ids.to_vec())));
}

#[test]
fn truncation_keeps_what_fits_before_the_end_marker() {
    let tokenizer = Tokenizer::new();
    let long = include_str!("fixtures/tokenizer/reference.json");
    for (text, all) in reference(long) {
        let cut = tokenizer.encode(&text, 77);
        let kept = all.len().min(75);
        assert_eq!(cut.len(), kept + 2, "{text:?}");
        assert_eq!(cut[1..=kept], all[..kept], "{text:?}");
        assert_eq!(cut[kept + 1], END_OF_TEXT, "{text:?}");
    }
}

#[test]
fn epic_kitchens_narrations_agree_with_the_python_reference() {
    let Some(data) = shared_data() else {
        println!("SKIPPED: needs ../shared/data");
        return;
    };
    let annotations = data.join("ek100/retrieval_annotations/EPIC_100_retrieval_train_sentence.csv");
    let mut reader = csv::Reader::from_path(&annotations).unwrap();
    let narrations: Vec<String> =
        reader.records().step_by(7).take(2000).map(|row| row.unwrap()[1].to_owned()).collect();
    assert_eq!(narrations.len(), 2000);

    let folder = tempfile::tempdir().unwrap();
    let texts = folder.path().join("texts.txt");
    std::fs::write(&texts, narrations.join("\n") + "\n").unwrap();
    let script = folder.path().join("make_reference.py");
    std::fs::write(&script, include_str!("fixtures/tokenizer/make_reference.py")).unwrap();
    let run = Command::new("python3")
        .arg(&script)
        .arg(data.join("clip/bpe_simple_vocab_16e6.txt.gz"))
        .arg("--texts")
        .arg(&texts)
        .output();
    let run = match run {
        Ok(run) if run.status.success() => run,
        _ => {
            println!("SKIPPED: needs python3 with the packages regex and ftfy");
            return;
        }
    };
    let cases = reference(std::str::from_utf8(&run.stdout).unwrap());
    assert_eq!(cases.len(), narrations.len());
    assert_same(&cases);
}

fn shared_data() -> Option<PathBuf> {
    let folder = std::env::var_os("AVION_SHARED_DATA")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    folder.is_dir().then_some(folder)
}
