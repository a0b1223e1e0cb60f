//! The program as a user meets it: help, exit codes, and errors that say what to do.

use std::process::{Command, Output};

fn avion(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_avion")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let help = text(&avion(&["--help"]).stdout);
    for word in
        ["train", "eval", "probe", "inspect", "export", "demo", "devices", "config", "data", "Exit codes", "130"]
    {
        assert!(help.contains(word), "{word}:\n{help}");
    }
    for command in ["train", "eval", "probe", "inspect", "export", "demo", "devices", "config", "data"] {
        let output = avion(&[command, "--help"]);
        assert!(output.status.success() && !output.stdout.is_empty(), "{command}");
    }
}

/// Knobs belong in recipes; a new flag needs a reason and a change here.
#[test]
fn the_flags_of_train_are_frozen() {
    let help = text(&avion(&["train", "--help"]).stdout);
    let mut flags: Vec<&str> = help
        .split_whitespace()
        .filter(|word| word.starts_with("--"))
        .map(|word| word.trim_end_matches([',', '.', '`', ')']))
        .collect();
    flags.sort_unstable();
    flags.dedup();
    let expected =
        ["--backend", "--config", "--device", "--fresh", "--help", "--output", "--resume", "--set", "--verbose"];
    assert_eq!(flags, expected);
}

#[test]
fn wrong_usage_exits_with_2() {
    assert_eq!(avion(&["train"]).status.code(), Some(2));
    assert_eq!(avion(&["fly"]).status.code(), Some(2));
    assert_eq!(avion(&["demo", "pictures"]).status.code(), Some(2));
    assert_eq!(avion(&["inspect", "attention", "--checkpoint", "runs/x"]).status.code(), Some(2));
    assert_eq!(avion(&["export", "--checkpoint", "runs/x"]).status.code(), Some(2));
    assert_eq!(avion(&["devices", "--backend", "tpu"]).status.code(), Some(2));
}

#[test]
fn an_unknown_setting_names_the_nearest() {
    let output = avion(&["config", "demo", "--set", "optim.learnig_rate=1"]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("learnig_rate") && error.contains("optim."), "{error}");
    let output = avion(&["config", "demo", "--set", "train.batchsize=1"]);
    assert!(text(&output.stderr).contains("batch_size"), "{}", text(&output.stderr));
}

#[test]
fn config_prints_a_recipe_that_reads_back() {
    let output = avion(&["config", "ego4d-vitb16", "--set", "optim.lr=1e-4"]);
    assert!(output.status.success());
    let printed = text(&output.stdout);
    let again = avion::config::Recipe::from_toml(&printed, "printed", &[]).unwrap();
    assert_eq!(again.recipe.optim.lr, 1e-4);
    assert_eq!(again.recipe.train.batch_size, 2048);
    assert!(text(&output.stderr).contains("set optim.lr"));

    let list = text(&avion(&["config", "--list"]).stdout);
    for key in ["model.temperature", "data.max_bad_share", "train.micro_batch", "ego4d-vitb16"] {
        assert!(list.contains(key), "{key}");
    }
}

#[test]
fn everything_missing_is_said_at_once_and_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_avion"))
        .args(["train", "--config", "ego4d-vitb16", "--set", "optim.lr=-1"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    for word in ["optim.lr", "data.train.0", "model.init"] {
        assert!(error.contains(word), "{word}:\n{error}");
    }
    assert!(!folder.path().join("runs").exists(), "nothing may be made before the recipe is sound");
}

#[test]
fn eval_says_what_is_wrong_with_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none");
    let output = avion(&["eval", "--checkpoint", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("none"), "{}", text(&output.stderr));

    let weights = folder.path().join("w.safetensors");
    std::fs::write(&weights, b"not a safetensors file").unwrap();
    let output = avion(&["eval", "--checkpoint", weights.to_str().unwrap()]);
    assert!(text(&output.stderr).contains("--config"), "{}", text(&output.stderr));
}
