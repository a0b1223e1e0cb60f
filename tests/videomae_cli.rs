//! VideoMAE's commands as a user runs them, on a tiny model with random weights and generated videos: `train`, `eval`,
//! `probe`, `inspect`, `export`. Runs on any wgpu adapter.

#![cfg(feature = "video")]

use avion::checkpoint::{CheckpointStore, HostTensor, Snapshot, Tensors, TrainState, read_weights};
use avion::config::Recipe;
use avion::data::synthetic::{MotionConfig, MotionSet, generate_motions};
use avion::model::{init, specs};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const FRAMES: usize = 4;
/// Of the tiny model.
const PX: usize = 48;

struct Set {
    folder: tempfile::TempDir,
    motions: MotionSet,
}

impl Set {
    fn make() -> Set {
        let folder = tempfile::tempdir().unwrap();
        let config =
            MotionConfig { train: 16, labelled: 16, test: 8, size_px: 64, frames: 12, ..MotionConfig::default() };
        let motions = generate_motions(&folder.path().join("data"), &config).unwrap();
        Set { folder, motions }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A recipe of the tiny model on the generated videos.
    fn recipe(&self, task: &str, more: &str) -> String {
        let show = |path: &Path| toml::Value::from(path.display().to_string()).to_string();
        let source = |list: &str, path: &Path| {
            let (path, root) = (show(path), show(&self.motions.root));
            format!("[[data.{list}]]\nformat = \"kinetics\"\nannotations = {path}\nroot = {root}\n")
        };
        format!(
            "name = \"{task}\"\ntask = \"{task}\"\n[model]\nsize = \"tiny\"\nframes = {FRAMES}\ntubelet = 2\n\
             [masking]\nratio = 0.7\ndecoder_layers = 1\ndecoder_width = 32\ndecoder_heads = 2\n\
             [classify]\nclasses = 8\n[data]\nnormalization = \"imagenet\"\nsampling = \"dense\"\nstride = 2\nlabels = {}\n\
             [train]\nprecision = \"f32\"\nepochs = 1\nbatch_size = 8\noutput = {}\n\
             [eval]\nbatch_size = 8\n{more}\n{}{}",
            show(&self.motions.names),
            show(&self.path(task)),
            source("train", &self.motions.labelled_list),
            source("eval", &self.motions.test_list),
        )
    }

    /// A run's folder with one checkpoint of random weights.
    fn untrained(&self, recipe: &str) -> PathBuf {
        let resolved = Recipe::from_toml(recipe, "test", &[]).unwrap();
        let specs = specs(&resolved.recipe).unwrap();
        let named = specs.iter().zip(init::values(&specs, 7)).map(|(spec, values)| {
            // Every bias counts, where a new model's are 0; but no key bias, which Hugging Face does not have.
            let third = values.len() / 3;
            let key = |i: usize| spec.name.ends_with("attn.qkv.bias") && (third..2 * third).contains(&i);
            let is_bias = spec.name.ends_with("bias");
            let biased = |(i, v): (usize, f32)| if is_bias && !key(i) { v + 0.1 * (i as f32).sin() } else { v };
            let values: Vec<f32> = values.into_iter().enumerate().map(biased).collect();
            (spec.name.clone(), HostTensor::from_f32(&spec.shape, &values).unwrap())
        });
        let weights: Tensors = named.collect();
        let folder = self.path("untrained");
        let snapshot = Snapshot {
            weights: &weights,
            optimizer: &Tensors::new(),
            state: &TrainState::default(),
            recipe: &resolved.recipe.to_toml().unwrap(),
            metadata: &BTreeMap::new(),
        };
        CheckpointStore::new(&folder, 1).unwrap().save(&snapshot, true).unwrap();
        folder
    }

    fn video(&self, number: usize) -> PathBuf {
        let list = fs::read_to_string(&self.motions.test_list).unwrap();
        self.motions.root.join(list.lines().nth(number).unwrap().split(' ').next().unwrap())
    }
}

fn avion(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_avion")).args(args).args(["--backend", "wgpu"]).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

fn show(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A PNG file: sides and pixels.
fn png(path: &Path) -> (usize, usize, Vec<u8>) {
    let mut reader = png::Decoder::new(std::io::BufReader::new(fs::File::open(path).unwrap())).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut rgb).unwrap();
    (info.width as usize, info.height as usize, rgb)
}

#[test]
fn a_pre_trained_model_is_scored_probed_drawn_and_exported() {
    let set = Set::make();
    let run = set.untrained(&set.recipe("masked", ""));
    let run = show(&run);

    let scores = json(&avion(&["eval", "--checkpoint", run, "--json"]));
    assert_eq!((&scores["videos"], &scores["unreadable"]), (&8.into(), &0.into()));
    let loss = scores["scores"]["loss"].as_f64().unwrap();
    // Normalised targets have a variance of 1; random weights predict something small.
    assert!((0.5..20.0).contains(&loss), "{scores}");
    assert!(scores["scores"]["explained"].as_f64().unwrap() < 0.2 && scores["chance"]["explained"] == 0.0, "{scores}");
    assert!(stdout(&avion(&["eval", "--checkpoint", run])).contains("explained"));

    let probe = json(&avion(&["probe", "--checkpoint", run, "--json", "--neighbours", "3"]));
    assert_eq!((&probe["train_clips"], &probe["test_clips"]), (&16.into(), &8.into()));
    for kind in ["neighbours", "linear"] {
        assert!((0.0..=1.0).contains(&probe[kind]["top1"].as_f64().unwrap()), "{probe}");
        assert!(probe[kind]["top5"].as_f64() >= probe[kind]["top1"].as_f64());
    }

    reconstruction(&set, run);
    attention(&set, run);

    let out = set.path("exported");
    stdout(
        &Command::new(env!("CARGO_BIN_EXE_avion"))
            .args(["export", "--checkpoint", run, "--output", show(&out)])
            .output()
            .unwrap(),
    );
    let config: serde_json::Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"][0], "VideoMAEForPreTraining");
    assert_eq!((&config["image_size"], &config["num_frames"]), (&PX.into(), &FRAMES.into()));
    let (ours, theirs) = (read_weights(&set.path("untrained")).unwrap(), read_weights(&out).unwrap());
    assert_eq!(ours.tensors, theirs.tensors);
    // The folder is a weight file like any other.
    let recipe = set.path("masked.toml");
    fs::write(&recipe, set.recipe("masked", "")).unwrap();
    let again = json(&avion(&["eval", "--checkpoint", show(&out), "--config", show(&recipe), "--json"]));
    assert_eq!(again["scores"], scores["scores"]);
}

/// Two videos at once, one twice: rows of originals, masked, reconstructed frames.
fn reconstruction(set: &Set, run: &str) {
    let (one, two, out) = (set.video(0), set.video(1), set.path("pictures"));
    let args = ["inspect", "reconstruct", "--checkpoint", run, "--output", show(&out), "--video"];
    let text = stdout(&avion(&[&args[..], &[show(&one), show(&two), show(&one)]].concat()));
    // 9 patches x 2 tubelets, 6 of 9 hidden.
    assert_eq!(text.matches("12 of 18 tokens hidden").count(), 3, "{text}");
    let stem = |video: &Path| video.file_stem().unwrap().to_str().unwrap().to_owned();
    let file = |name: String, extension| out.join(format!("{name}-reconstruction.{extension}"));
    let (width, height, rgb) = png(&file(stem(&one), "png"));
    // Enlarged twice, a gap of 2.
    let (side, pitch) = (2 * PX, 2 * PX + 2);
    assert_eq!((width, height), (FRAMES * pitch - 2, 3 * pitch - 2));
    assert_eq!(png(&file(format!("{}-2", stem(&one)), "png")).2, rgb, "the same video under the same mask");
    assert!(file(stem(&two), "gif").is_file());
    let at = |row: usize, frame: usize, x: usize, y: usize| {
        let (x, y) = (frame * pitch + x, row * pitch + y);
        &rgb[(y * width + x) * 3..][..3]
    };
    let (mut hidden, mut changed) = (0, 0);
    for frame in 0..FRAMES {
        for (x, y) in (0..side).flat_map(|y| (0..side).map(move |x| (x, y))) {
            let is_hidden = at(1, frame, x, y) == [128; 3] && at(0, frame, x, y) != [128; 3];
            hidden += usize::from(is_hidden);
            match is_hidden {
                true => changed += usize::from(at(2, frame, x, y) != at(0, frame, x, y)),
                false => assert_eq!(at(2, frame, x, y), at(0, frame, x, y), "frame {frame}, {x}, {y}"),
            }
        }
    }
    assert_eq!(hidden, FRAMES * side * side * 6 / 9);
    assert!(changed > hidden / 10, "{changed} of {hidden}");
}

fn attention(set: &Set, run: &str) {
    let (one, out) = (set.video(0), set.path("pictures"));
    let args =
        ["inspect", "attention", "--checkpoint", run, "--layer", "1", "--heads", "--output", show(&out), "--video"];
    let text = stdout(&avion(&[&args[..], &[show(&one)]].concat()));
    assert!(text.contains("layer 1, mean of 2 heads"), "{text}");
    let stem = one.file_stem().unwrap().to_str().unwrap();
    let (width, height, rgb) = png(&out.join(format!("{stem}-attention.png")));
    let pitch = 2 * PX + 2;
    assert_eq!((width, height), (FRAMES * pitch - 2, 4 * pitch - 2), "frames, mean, two heads");
    let row = |row: usize| &rgb[row * pitch * width * 3..][..2 * PX * width * 3];
    assert!(row(0) != row(1) && row(1) != row(2) && row(2) != row(3));
    assert!(out.join(format!("{stem}-attention.gif")).is_file());
}

#[test]
fn a_classifier_is_trained_reported_and_scored_in_views() {
    let set = Set::make();
    let recipe = set.path("classify.toml");
    fs::write(&recipe, set.recipe("classify", "before_training = true\nviews = 2\ncrops = 3")).unwrap();
    stdout(&avion(&["train", "--config", show(&recipe)]));
    let run = set.path("classify");
    let report = fs::read_to_string(run.join("report.html")).unwrap();
    for part in
        ["<h2>Recognition</h2>", "<h2>Classes</h2>", ">top-1<", ">class mean<", "down left", "right classes within"]
    {
        assert!(report.contains(part), "{part}");
    }
    assert!(!report.contains("Retrieval") && !run.join("results.json").exists());

    let confusion = set.path("confusion.png");
    let checkpoint = ["--checkpoint", show(&run)];
    let args = ["eval", "--per-class", "--json", "--confusion", show(&confusion)];
    let scores = json(&avion(&[&args[..], &checkpoint].concat()));
    for name in ["top1", "top5", "top1_probabilities", "top5_probabilities", "mean_class"] {
        assert!((0.0..=1.0).contains(&scores["scores"][name].as_f64().unwrap()), "{name}: {scores}");
        assert!(scores["chance"][name].is_f64(), "{name}");
    }
    let classes = scores["classes"].as_array().unwrap();
    assert_eq!(classes.len(), 8);
    assert_eq!(classes.iter().map(|class| class["clips"].as_u64().unwrap()).sum::<u64>(), 8);
    assert_eq!(classes[3]["name"], "down left");
    assert!(png(&confusion).0 > 100);
    let table = stdout(&avion(&[&["eval", "--per-class"][..], &checkpoint].concat()));
    assert!(table.contains("most often taken for") && table.contains("top1_probabilities"), "{table}");

    // Exported and read again under a recipe, the same model.
    let out = set.path("exported");
    let args = ["export", "--output", show(&out)];
    stdout(&Command::new(env!("CARGO_BIN_EXE_avion")).args(args).args(checkpoint).output().unwrap());
    let again = json(&avion(&["eval", "--checkpoint", show(&out), "--config", show(&recipe), "--json"]));
    let config = fs::read_to_string(out.join("config.json")).unwrap();
    assert!(config.contains("VideoMAEForVideoClassification") && config.contains("\"down left\": 3"), "{config}");
    assert_eq!(again["scores"], scores["scores"]);
    assert!(json(&avion(&[&["probe", "--json"][..], &checkpoint].concat()))["linear"]["top1"].is_f64());
}

/// CLIP too is drawn and exported, in both forms.
#[test]
fn a_video_text_model_is_drawn_and_exported() {
    let set = Set::make();
    let recipe = "name = \"clip\"\n[model]\nsize = \"tiny\"\nframes = 4\nembed_dim = 32\ncontext = 16\n\
                  [train]\nprecision = \"f32\"\n[[data.train]]\nannotations = \"t.csv\"\nformat = \"table\"\nroot = \"v\"\n";
    let run = set.untrained(recipe);
    attention(&set, show(&run));
    let ours = read_weights(&run).unwrap().tensors;
    for format in ["hugging-face", "openai"] {
        let out = set.path(format);
        let args = ["export", "--checkpoint", show(&run), "--output", show(&out), "--format", format];
        stdout(&Command::new(env!("CARGO_BIN_EXE_avion")).args(args).output().unwrap());
        assert_eq!(read_weights(&out.join("model.safetensors")).unwrap().tensors.len(), ours.len());
    }
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(set.path("hugging-face/config.json")).unwrap()).unwrap();
    assert_eq!(
        (&config["vision_config"]["image_size"], &config["text_config"]["vocab_size"]),
        (&PX.into(), &49408.into())
    );
}

/// What cannot be done is said before a device is touched.
#[test]
fn wrong_requests_are_named() {
    let set = Set::make();
    let run = set.untrained(&set.recipe("masked", ""));
    let error = |args: &[&str]| {
        let all = [args, &["--checkpoint", show(&run)]].concat();
        let output = Command::new(env!("CARGO_BIN_EXE_avion")).args(all).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let video = set.video(0);
    let text = error(&["inspect", "attention", "--layer", "3", "--video", show(&video)]);
    assert!(text.contains("no layer 3") && text.contains("0 to 2"), "{text}");
    assert!(error(&["inspect", "attention", "--video", "none.mp4"]).contains("none.mp4"));
    let text = error(&["eval", "--per-class"]);
    assert!(text.contains("need classes") && text.contains("classify"), "{text}");
    let text = error(&["export", "--format", "openai", "--output", show(&set.path("out"))]);
    assert!(text.contains("masked") && text.contains("hugging-face") && !set.path("out").exists(), "{text}");
    let text = error(&["probe", "--set", "data.eval=[]"]);
    assert!(text.contains("data.eval"), "{text}");
}
