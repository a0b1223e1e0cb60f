//! `avion demo videomae` from end to end, with an epoch a stage: what it prints and writes, and that a second call finds
//! everything done. Runs on any wgpu adapter. What the demo shows at full length stands in its recipes.

#![cfg(feature = "video")]

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn demo(output: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_avion"))
        .args(["demo", "videomae", "--backend", "wgpu", "--output"])
        .arg(output)
        .args(["--set", "train.epochs=1", "--set", "optim.warmup_epochs=0"])
        .output()
        .unwrap()
}

fn share(results: &Value, path: &str) -> f64 {
    results.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {results}"))
}

#[test]
fn three_runs_one_comparison_and_nothing_done_twice() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("demo");
    let first = demo(&output);
    let (text, log) = (String::from_utf8_lossy(&first.stdout), String::from_utf8_lossy(&first.stderr));
    assert!(first.status.success(), "{log}");
    for stage in ["1 of 3", "2 of 3", "3 of 3"] {
        assert!(log.contains(stage), "{stage}: {log}");
    }
    for line in ["chance", "from scratch", "pre-trained"] {
        assert!(text.contains(line), "{line}: {text}");
    }

    let read = || -> Value { serde_json::from_slice(&fs::read(output.join("results.json")).unwrap()).unwrap() };
    let results = read();
    assert_eq!(share(&results, "/top1/chance"), 0.125);
    let tested = share(&results, "/tested");
    for path in ["/top1/from_scratch", "/top1/pretrained"] {
        let top1 = share(&results, path);
        let right = top1 * tested;
        assert!((0.0..=1.0).contains(&top1) && (right - right.round()).abs() < 1e-6, "{path}: {top1} of {tested}");
    }
    let explained = share(&results, "/reconstruction_explained");
    assert!(explained < 1.0 && explained.is_finite(), "{explained}");
    for run in ["pretrain", "finetune", "scratch"] {
        assert!(output.join(run).join("report.html").is_file(), "{run}");
    }
    // The fine-tuned encoder began as the pre-trained one, the other did not.
    let recipe = |run: &str| fs::read_to_string(output.join(run).join("recipe.toml")).unwrap();
    assert!(recipe("finetune").contains("demo/pretrain") && !recipe("scratch").contains("demo/pretrain"));

    let list = fs::read_to_string(output.join("data/labelled.txt")).unwrap();
    let labels: Vec<&str> = list.lines().filter_map(|line| line.split(' ').next_back()).collect();
    assert_eq!(labels.len() as f64, share(&results, "/labelled"));
    assert!((0..8).all(|class| labels.iter().filter(|label| **label == class.to_string()).count() == labels.len() / 8));

    let again = demo(&output);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert!(String::from_utf8_lossy(&again.stderr).contains("found 1024 videos"));
    // The time counts what the second call took to find that all is done.
    for path in ["/top1", "/reconstruction_explained", "/videos", "/labelled", "/tested"] {
        assert_eq!(read().pointer(path), results.pointer(path), "{path}");
    }
}
