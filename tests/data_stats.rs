//! `avion data stats` on sets that are made here.
#![cfg(feature = "video")]

use avion::data::synthetic::{MotionConfig, SyntheticConfig, generate, generate_motions};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn stats(folder: &Path, config: &str, more: &[String]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_avion"));
    command.args(["data", "stats", "--config", config, "--measure-s", "0.3"]).args(more);
    command.current_dir(folder).output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn set(pairs: &[(&str, String)]) -> Vec<String> {
    pairs.iter().flat_map(|(key, value)| ["--set".to_owned(), format!("{key}={value}")]).collect()
}

#[test]
fn narrated_clips_are_counted_and_bad_ones_named() {
    let folder = tempfile::tempdir().unwrap();
    let made = SyntheticConfig { clips: 24, heldout: 6, seconds: 1.0, ..SyntheticConfig::default() };
    let made = generate(&folder.path().join("data"), &made).unwrap();
    std::fs::remove_file(made.root.join("train_00003.mp4")).unwrap();
    std::fs::write(made.root.join("train_00005.mp4"), "not a video").unwrap();
    let mut table = std::fs::read_to_string(&made.train_csv).unwrap();
    table.push_str("train_00000.mp4,0.25,0.75,\ntrain_00000.mp4,5,6,too late\n");
    std::fs::write(&made.train_csv, table).unwrap();
    let path = |path: &Path| format!("{:?}", path.display().to_string());
    let mut args = set(&[
        ("data.train.0.annotations", path(&made.train_csv)),
        ("data.train.0.root", path(&made.root)),
        ("data.eval.0.annotations", path(&made.heldout_csv)),
        ("data.eval.0.root", path(&made.root)),
        ("train.output", path(&folder.path().join("run"))),
    ]);
    args.extend(["--json", "--step-ms", "500"].map(str::to_owned));
    let found = json(&stats(folder.path(), "demo", &args));
    let train = &found["sources"][0];
    assert_eq!((&train["set"], &train["clips"], &train["videos"]), (&"train".into(), &26.into(), &24.into()));
    assert!((train["hours"].as_f64().unwrap() * 3600.0 - 25.5).abs() < 1e-6, "{train}");
    assert_eq!((&train["durations_s"]["min"], &train["durations_s"]["max"]), (&0.5.into(), &1.0.into()));
    assert_eq!((&train["captions"]["count"], &train["captions"]["empty"]), (&26.into(), &1.into()));
    let files = &train["files"];
    assert_eq!((&files["named"], &files["opened"], &files["checked"]), (&24.into(), &24.into(), &25.into()));
    assert_eq!(files["missing"]["missing"]["clips"], 1);
    assert!(files["missing"]["missing"]["example"].as_str().unwrap().contains("train_00003.mp4"));
    assert_eq!(files["unreadable"]["unreadable"]["clips"], 1);
    assert_eq!(files["unreadable"]["out-of-range"]["clips"], 1);
    assert_eq!((&files["found"]["files"], &files["found"]["sizes"]["96x96"]), (&22.into(), &22.into()));
    assert_eq!(files["found"]["fps"]["12"], 22);
    assert_eq!(found["sources"][1]["clips"], 6);
    let feed = &found["feed"];
    assert!(feed["all_threads"]["clips_per_s"].as_f64().unwrap() > 1.0, "{feed}");
    assert!(feed["one_thread"]["decoding"].as_f64().unwrap() > 0.1, "{feed}");
    // Only what can be read is measured.
    assert_eq!(feed["all_threads"]["bad"], 0);
    let need = &feed["need"];
    let clips = need["clips"].as_f64().unwrap();
    assert_eq!(need["clips_per_s"].as_f64().unwrap(), clips * 2.0);

    let out = folder.path().join("run/data-stats");
    let page = std::fs::read_to_string(out.join("stats.html")).unwrap();
    assert!(page.contains("length of a clip") && page.contains("<rect") && page.contains("24 named, all opened"));
    let picture = std::io::BufReader::new(std::fs::File::open(out.join("clips.png")).unwrap());
    let picture = png::Decoder::new(picture).read_info().unwrap();
    assert!(picture.info().width > 1000);

    // The sheet shows finished frames, whatever training reads.
    std::fs::remove_file(out.join("clips.png")).unwrap();
    let on_device = [&args[..], &set(&[("data.scale_on_device", "true".into())])].concat();
    let found = json(&stats(folder.path(), "demo", &on_device));
    assert!(found["feed"]["all_threads"]["clips_per_s"].as_f64().unwrap() > 1.0 && out.join("clips.png").is_file());

    // A smaller sample is said to be one, and so is a step time that nobody knows.
    args.truncate(args.len() - 3);
    args.extend(["--sample", "4"].map(str::to_owned));
    let text = String::from_utf8(stats(folder.path(), "demo", &args).stdout).unwrap();
    assert!(text.contains("24 named, 4 drawn to be opened") && text.contains("--step-ms"), "{text}");
    assert!(text.contains("1 of 26 clips\n") && text.contains("no such file"), "{text}");
}

#[test]
fn labelled_clips_are_counted_by_class() {
    let folder = tempfile::tempdir().unwrap();
    let made = MotionConfig { train: 20, labelled: 16, test: 8, ..MotionConfig::default() };
    let made = generate_motions(&folder.path().join("data"), &made).unwrap();
    let text = |path: &Path| format!("{:?}", path.display().to_string());
    let args = [
        set(&[
            ("data.train.0.annotations", text(&made.labelled_list)),
            ("data.train.0.root", text(&made.root)),
            ("data.eval", "[]".into()),
            ("train.output", text(&folder.path().join("run"))),
        ]),
        vec!["--json".into()],
    ]
    .concat();
    let found = json(&stats(folder.path(), "demo-videomae-finetune", &args));
    let train = &found["sources"][0];
    assert_eq!((&train["captions"], &train["clips"]), (&Value::Null, &16.into()));
    let counts: u64 = train["labels"]["clips"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!((counts, &train["labels"]["beyond"]), (16, &0.into()));
    // Whole videos are as long as their files.
    assert_eq!(train["durations_s"], train["files"]["durations_s"]);
}
