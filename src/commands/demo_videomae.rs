//! `avion demo videomae`: generated videos whose class is their motion, pre-training without labels, and what it is worth
//! where labels are few.

use crate::checkpoint::latest_valid;
use crate::cli::DemoArgs;
use crate::commands::train::{finish, run_on, toml_string};
use crate::commands::{check, choose, load, print};
use crate::config::{Recipe, Resolved};
use crate::data::synthetic::{MOTION_CLASSES, MotionConfig, MotionSet, generate_motions};
use crate::device::Chosen;
use crate::fs::write_atomic;
use crate::report::{Record, read_metrics};
use crate::train::{Outcome, RunOptions};
use anyhow::{Context, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Where the demo lies by default; its recipes say the same.
const OUTPUT: &str = "runs/demo-videomae";

/// What is compared; the same lists at the same seed.
const VIDEOS: usize = 1024;
const LABELLED: usize = 64;
const TEST: usize = 512;

/// A training run of the demo, each in a folder of its own.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Pretrain,
    Finetune,
    Scratch,
}

/// `results.json`.
#[derive(Serialize)]
struct Results {
    /// Videos seen without labels, with labels, and tested on.
    videos: usize,
    labelled: usize,
    tested: usize,
    top1: Top1,
    /// Share of the variance of hidden patches that pre-training explains, on videos it has not seen.
    reconstruction_explained: f64,
    /// Seconds of the three runs, over all restarts.
    seconds: f64,
    /// What it ran on, in words.
    device: String,
}

/// Shares in `[0, 1]` of test videos whose motion was told.
#[derive(Serialize)]
struct Top1 {
    chance: f64,
    from_scratch: f64,
    pretrained: f64,
}

pub(super) fn run(args: DemoArgs) -> Result<u8> {
    let output = args.output.clone().unwrap_or_else(|| OUTPUT.into());
    // Other seeds get other videos, so that no result hangs on a lucky set.
    let seed = Recipe::load(Stage::Pretrain.recipe(), &args.overrides)?.recipe.seed;
    let config = MotionConfig { train: VIDEOS, labelled: LABELLED, test: TEST, seed, ..MotionConfig::default() };
    let data = output.join("data");
    let set = generate_motions(&data, &config)?;
    let made = if set.reused { "found" } else { "generated" };
    eprintln!(
        "{made} {VIDEOS} videos to train on and {TEST} to test on ({:.1} MB) in {}",
        set.bytes as f64 / 1e6,
        data.display()
    );

    let mut chosen: Option<Chosen> = None;
    for stage in [Stage::Pretrain, Stage::Finetune, Stage::Scratch] {
        eprintln!("\n{}", stage.title());
        let resolved = stage.resolve(&output, &set, &args.overrides)?;
        check(&resolved)?;
        let device = match chosen.take() {
            Some(device) => device,
            None => choose(&args.device)?,
        };
        let options = RunOptions { fresh: args.fresh, ..RunOptions::default() };
        let outcome = run_on(&device, &resolved, &options);
        let code = finish(&outcome)?;
        let Ok(Outcome::Finished { .. }) = outcome else { return Ok(code) };
        chosen = Some(device);
    }
    let device = chosen.map_or_else(String::new, |chosen| chosen.info.name);
    let results = Results::collect(&output, device)?;
    let json = serde_json::to_string_pretty(&results)? + "\n";
    write_atomic(&output.join("results.json"), |file| file.write_all(json.as_bytes()))?;
    print(&results.text())?;
    Ok(0)
}

impl Stage {
    fn recipe(self) -> &'static str {
        match self {
            Stage::Pretrain => "demo-videomae",
            Stage::Finetune | Stage::Scratch => "demo-videomae-finetune",
        }
    }

    fn folder(self, output: &Path) -> PathBuf {
        output.join(match self {
            Stage::Pretrain => "pretrain",
            Stage::Finetune => "finetune",
            Stage::Scratch => "scratch",
        })
    }

    fn title(self) -> String {
        match self {
            Stage::Pretrain => format!("1 of 3: pre-training on {VIDEOS} videos, without labels"),
            Stage::Finetune => format!("2 of 3: a classifier from these weights, with {LABELLED} labels"),
            Stage::Scratch => format!("3 of 3: the same from random weights, with the same {LABELLED} labels"),
        }
    }

    fn resolve(self, output: &Path, set: &MotionSet, more: &[String]) -> Result<Resolved> {
        let path = |path: &Path| toml_string(&path.display().to_string());
        let list = if self == Stage::Pretrain { &set.train_list } else { &set.labelled_list };
        let mut overrides = vec![
            format!("train.output={}", path(&self.folder(output))),
            format!("data.train.0.annotations={}", path(list)),
            format!("data.train.0.root={}", path(&set.root)),
            format!("data.eval.0.annotations={}", path(&set.test_list)),
            format!("data.eval.0.root={}", path(&set.root)),
            format!("data.labels={}", path(&set.names)),
        ];
        if self == Stage::Finetune {
            overrides.push(format!("model.init={}", path(&Stage::Pretrain.folder(output))));
        }
        overrides.extend_from_slice(more);
        load(self.recipe(), &overrides)
    }

    /// A score of the last evaluation.
    fn score(self, output: &Path, name: &str) -> Result<f64> {
        let path = self.folder(output).join("metrics.jsonl");
        let records = read_metrics(&path)?;
        let score = records.iter().rev().find_map(|record| match record {
            Record::Eval(eval) => eval.scores.get(name).copied(),
            Record::Step(_) => None,
        });
        score.with_context(|| format!("{}: expected an evaluation with {name}, found none", path.display()))
    }
}

impl Results {
    fn collect(output: &Path, device: String) -> Result<Self> {
        let mut seconds = 0.0;
        for stage in [Stage::Pretrain, Stage::Finetune, Stage::Scratch] {
            let latest = latest_valid(&stage.folder(output))?;
            seconds += latest.found.map_or(0.0, |(_, state)| state.trained_s);
        }
        Ok(Results {
            videos: VIDEOS,
            labelled: LABELLED,
            tested: TEST,
            top1: Top1 {
                // Each class is equally often in the test list.
                chance: 1.0 / MOTION_CLASSES.len() as f64,
                from_scratch: Stage::Scratch.score(output, "top1")?,
                pretrained: Stage::Finetune.score(output, "top1")?,
            },
            reconstruction_explained: Stage::Pretrain.score(output, "explained")?,
            seconds,
            device,
        })
    }

    fn text(&self) -> String {
        let Top1 { chance, from_scratch, pretrained } = self.top1;
        let [chance, scratch, pretrained] = [chance, from_scratch, pretrained].map(|share| share * 100.0);
        format!(
            "\ndirection of motion, {} labels, {} unseen videos, top-1 in per cent\n\
                 {:<24}{chance:>9.1}\n{:<24}{scratch:>9.1}\n{:<24}{pretrained:>9.1}\n{:.0} s on {}\n",
            self.labelled, self.tested, "chance", "from scratch", "pre-trained", self.seconds, self.device
        )
    }
}
