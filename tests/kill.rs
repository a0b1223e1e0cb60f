//! A run killed at any moment goes on as if nothing had happened: five times `kill -9`, then the same weights to the bit.
#![cfg(all(feature = "wgpu", feature = "video", unix))]

use avion::checkpoint::{self, Pick};
use avion::data::rng::{Purpose, keyed};
use avion::data::synthetic::{SyntheticConfig, SyntheticSet, generate};
use rand::Rng;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const STEPS: u64 = 12;

fn start(set: &SyntheticSet, output: &Path) -> Child {
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let settings = [
        format!("train.output={}", quoted(output)),
        format!("data.train.0.annotations={}", quoted(&set.train_csv)),
        format!("data.train.0.root={}", quoted(&set.root)),
        "data.eval=[]".into(),
        "model.frames=2".into(),
        "model.drop_path=0.1".into(),
        "train.batch_size=2".into(),
        "train.epochs=2".into(),
        format!("train.max_steps={STEPS}"),
        "train.checkpoint_every=1".into(),
        "train.log_every=1".into(),
        "eval.before_training=false".into(),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_avion"));
    command.args(["train", "--config", "demo", "--backend", "wgpu"]);
    for setting in settings {
        command.args(["--set", &setting]);
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Steps of the newest sound checkpoint, 0 when there is none yet.
fn steps_done(output: &Path) -> u64 {
    let latest = checkpoint::latest_valid(output);
    latest.ok().and_then(|l| l.found).map_or(0, |(_, state)| state.step)
}

#[test]
fn five_kills_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = SyntheticConfig { clips: 16, heldout: 4, size_px: 48, seconds: 1.0, ..SyntheticConfig::default() };
    let set = generate(&folder.path().join("data"), &config).unwrap();

    let whole = folder.path().join("whole");
    assert!(start(&set, &whole).wait().unwrap().success());
    assert_eq!(steps_done(&whole), STEPS);

    let killed = folder.path().join("killed");
    let mut rng = keyed(std::process::id().into(), 0, 0, Purpose::Synthetic);
    for kill in 0..5 {
        let mut child = start(&set, &killed);
        // Any moment: from before the first step of this start to some steps later, in the middle of whatever it does.
        let before = steps_done(&killed);
        let wanted = (before + rng.random_range(0..=2)).min(STEPS - 1);
        let give_up = Instant::now() + Duration::from_secs(120);
        while steps_done(&killed) < wanted && child.try_wait().unwrap().is_none() && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(rng.random_range(0..400)));
        child.kill().unwrap();
        child.wait().unwrap();
        println!("kill {kill}: {} of {STEPS} steps in sound checkpoints", steps_done(&killed));
    }
    assert!(start(&set, &killed).wait().unwrap().success(), "the last start finishes the run");

    let read = |output: &Path| {
        let (path, skipped) = checkpoint::locate(output, Pick::Latest).unwrap();
        assert!(skipped.is_empty(), "{skipped:?}");
        checkpoint::read(&path).unwrap()
    };
    let (a, b) = (read(&whole), read(&killed));
    assert_eq!((a.manifest.state.step, b.manifest.state.step), (STEPS, STEPS));
    assert_eq!(a.weights, b.weights, "weights");
    assert_eq!(a.optimizer, b.optimizer, "moments");
}
