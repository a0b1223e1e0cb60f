//! Training end to end on generated clips: updates equal PyTorch's, chunks equal the whole, a resumed run equals one that
//! was never stopped, numbers that are not finite stop the run, foreign checkpoints are refused.
#![cfg(all(feature = "wgpu", feature = "video"))]

use crate::common::{Fixture, assert_close};
use avion::checkpoint::{self, Pick};
use avion::config::recipe::{Activation, Normalization, OptimConfig};
use avion::config::{Recipe, Resolved};
use avion::data::loader::{ClipBatch, Loader};
use avion::data::sampler::Position;
use avion::data::synthetic::{SyntheticConfig, SyntheticSet, generate};
use avion::device::{self, BackendChoice, Chosen, Target};
use avion::loss::contrastive::contrastive;
use avion::model::plan::StepPlan;
use avion::model::{Clip, ClipShape, TowerShape, init, shape::pixel_norm};
use avion::model::{DeviceMemory, MemoryPlan, Pass};
use avion::ops::block::Keep;
use avion::ops::tensor::{Ad, T};
use avion::optim::Optimizer;
use avion::report::{Record, read_metrics};
use avion::task::{ContrastiveTask, Task};
use avion::train::{self, Outcome, RunOptions, TrainError};
use burn::tensor::{DType, Tensor};
use cubecl::wgpu::{WgpuDevice, WgpuRuntime as R};
use std::path::Path;

/// AdamW over the whole model, five steps, against PyTorch in f64; `clipped` also learns and clamps the temperature.
fn adamw_case(variant: &str, clip_norm: f64, learn_temperature: bool, steps: &[usize]) {
    let (weights, inputs, expected) = (Fixture::open("weights"), Fixture::open("inputs"), Fixture::open("adamw"));
    let tower = |width, heads, eps| TowerShape { width, layers: 2, heads, eps };
    let shape = ClipShape {
        image_px: 32,
        patch_px: 8,
        frames: 3,
        vision: tower(64, 2, 1e-6),
        text: tower(32, 1, 1e-5),
        vocabulary: 300,
        context: 16,
        embed: 24,
        activation: Activation::Gelu,
        pixels: pixel_norm(Normalization::Avion),
        temperature: 0.07,
        learn_temperature,
        drop_path: vec![0.0; 2],
        patch_dropout: 0.0,
    };
    let values: Vec<Vec<f32>> = init::specs(&shape).iter().map(|spec| weights.f32(&spec.name)).collect();
    let clip = Clip::<R>::new(shape, &values, DType::F32, &WgpuDevice::default());
    let config = OptimConfig { lr: 3e-3, weight_decay: 0.01, clip_grad_norm: clip_norm, ..OptimConfig::default() };
    let mut optimizer = Optimizer::new(&config, &clip.params, None, 0);
    let (pixels, tokens, lengths) = (inputs.u8("frames"), inputs.i32("tokens"), inputs.i32("lengths"));
    let ends: Vec<usize> = lengths.iter().map(|l| *l as usize - 1).collect();
    let (losses, norms) = (expected.f32(&format!("{variant}.losses")), expected.f32(&format!("{variant}.grad_norms")));
    for step in 1..=5 {
        clip.params.clear_gradients();
        let [vision_sizes, text_sizes] = clip.sizes(5, 16);
        let plan = StepPlan::uniform(&[vision_sizes, text_sizes], Keep::ALL);
        let pass = Pass { plan: Some(std::sync::Arc::new(plan)), drop_path: None };
        let video = clip.encode_video(clip.upload_frames(&pixels, 5), &pass);
        let text = clip.encode_text(clip.upload_captions(&tokens, 16, &ends), &pass);
        let features = (video.clone().inner(), text.clone().inner());
        let out = contrastive(&clip.ws, features.0, features.1, &clip.logit_scale, learn_temperature);
        let lift = |g: T<R, 2>| Tensor::<Ad<R>, 2>::from_inner(g);
        ((video * lift(out.d_video)).sum() + (text * lift(out.d_text)).sum()).backward();
        optimizer.step(&clip.params, 3e-3, 1.0).unwrap();
        let stats = optimizer.stats(&clip.params).unwrap();
        let result: Vec<f32> = bytemuck::pod_collect_to_vec(&clip.params.client.read_one(out.result).unwrap());
        assert_close("loss", &result[..1], &losses[step - 1..step], 1e-4);
        // Adam blows up what is rounding alone (the key bias's true gradient is 0) to steps of full size, which the next
        // gradients feel.
        assert_close("norm", &[stats.grad_norm], &norms[step - 1..step], 3e-4);
        assert_eq!((stats.applied, stats.updates), (true, step as u64));
        if steps.contains(&step) {
            let values = clip.params.read(clip.params.values()).unwrap();
            for (spec, value) in clip.params.specs().iter().zip(&values) {
                if spec.name == "logit_scale" && !learn_temperature {
                    assert_eq!(*value, weights.f32("logit_scale"), "a frozen temperature stays as it is");
                    continue;
                }
                let reference = expected.f32(&format!("{variant}.step.{step}.{}", spec.name));
                let sampled: Vec<f32> = match reference.len() == value.len() {
                    true => value.clone(),
                    false => value.iter().step_by(61).copied().collect(),
                };
                let third = sampled.len() / 3;
                let key_bias = third..2 * third;
                for (i, (got, want)) in sampled.iter().zip(&reference).enumerate() {
                    // The key bias has gradient 0, so AdamW divides rounding noise by its own size.
                    let noise = spec.name.ends_with("in_proj_bias") && key_bias.contains(&i);
                    let error = (got - want).abs();
                    assert!(noise || error < 0.02 * 3e-3, "{variant} step {step} {} [{i}]: {got} {want}", spec.name);
                }
            }
        }
    }
}

#[test]
fn adamw_equals_pytorch() {
    adamw_case("plain", 0.0, false, &[1, 2, 5]);
}

#[test]
fn clipped_adamw_with_learned_temperature_equals_pytorch() {
    adamw_case("clipped", 1.0, true, &[5]);
}

pub fn clips(folder: &Path) -> SyntheticSet {
    let config = SyntheticConfig { clips: 20, heldout: 8, size_px: 48, seconds: 1.0, ..SyntheticConfig::default() };
    generate(folder, &config).unwrap()
}

/// The demo's recipe on a few clips, made small enough for a software driver.
pub fn recipe(set: &SyntheticSet, output: &Path, more: &[&str]) -> Resolved {
    let mut overrides = vec![
        format!("train.output={:?}", output.display().to_string()),
        format!("data.train.0.annotations={:?}", set.train_csv.display().to_string()),
        format!("data.train.0.root={:?}", set.root.display().to_string()),
        format!("data.eval.0.annotations={:?}", set.heldout_csv.display().to_string()),
        format!("data.eval.0.root={:?}", set.root.display().to_string()),
    ];
    let small = [
        "train.batch_size=4",
        "train.epochs=2",
        "train.log_every=1",
        "model.frames=2",
        "data.crop_scale=[0.6, 1.0]",
        "model.drop_path=0.2",
        "eval.before_training=false",
        "eval.every_epochs=0",
        "eval.batch_size=4",
    ];
    overrides.extend(small.iter().chain(more).map(|s| s.to_string()));
    Recipe::load("demo", &overrides).unwrap()
}

pub fn adapter() -> (WgpuDevice, Chosen) {
    let chosen = device::choose(BackendChoice::Wgpu, None).unwrap();
    match &chosen.target {
        Target::Wgpu(device) => (device.clone(), chosen),
        #[allow(unreachable_patterns, reason = "one backend may be all there is")]
        other => panic!("asked for wgpu, got {other:?}"),
    }
}

pub fn run(resolved: &Resolved, options: RunOptions) -> Result<Outcome, TrainError> {
    let (device, chosen) = adapter();
    train::run::<R>(resolved, &device, &chosen.info, &options)
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let set = clips(&folder.path().join("data"));
    let whole = recipe(&set, &folder.path().join("whole"), &[]);
    assert!(matches!(run(&whole, RunOptions::default()).unwrap(), Outcome::Finished { .. }));

    // Stopped in the middle of the first epoch and of the second; log, checkpoint and chunk settings may differ.
    let parts = folder.path().join("parts");
    for (steps, more) in [(3, "train.checkpoint_every=2"), (7, "train.keep=recompute"), (10, "data.workers=1")] {
        let part = recipe(&set, &parts, &[&format!("train.max_steps={steps}"), more]);
        run(&part, RunOptions::default()).unwrap();
    }
    let read = |name: &str| {
        let (path, skipped) = checkpoint::locate(&folder.path().join(name), Pick::Latest).unwrap();
        assert!(skipped.is_empty());
        checkpoint::read(&path).unwrap()
    };
    let (a, b) = (read("whole"), read("parts"));
    assert_eq!(a.manifest.state.step, 10);
    assert_eq!(b.manifest.state.step, 10);
    assert_eq!(a.weights, b.weights, "weights");
    assert_eq!(a.optimizer, b.optimizer, "moments");

    let losses = |name: &str| -> Vec<(u64, f64)> {
        let records = read_metrics(&folder.path().join(name).join("metrics.jsonl")).unwrap();
        let step = |record| match record {
            Record::Step(step) => Some((step.step, step.loss)),
            Record::Eval(_) => None,
        };
        records.into_iter().filter_map(step).collect()
    };
    assert_eq!(losses("whole").len(), 10);
    assert_eq!(losses("whole"), losses("parts"));
    for file in ["recipe.toml", "report.html", "metrics.jsonl"] {
        assert!(folder.path().join("parts").join(file).is_file(), "{file}");
    }
}

#[test]
fn lion_and_sgd_resume_and_refuse_another_rules_state() {
    let folder = tempfile::tempdir().unwrap();
    let set = clips(&folder.path().join("data"));
    for (rule, other, states) in [("lion", "sgd", 1), ("sgd", "adamw", 1)] {
        let start = |name: &str, rule: &str, steps: usize| {
            let more = [format!("optim.optimizer={rule}"), format!("train.max_steps={steps}")];
            recipe(&set, &folder.path().join(format!("{rule}-{name}")), &more.each_ref().map(String::as_str))
        };
        run(&start("whole", rule, 3), RunOptions::default()).unwrap();
        run(&start("parts", rule, 2), RunOptions::default()).unwrap();
        run(&start("parts", rule, 3), RunOptions::default()).unwrap();
        let read = |name: &str| {
            let (path, _) = checkpoint::locate(&folder.path().join(format!("{rule}-{name}")), Pick::Latest).unwrap();
            checkpoint::read(&path).unwrap()
        };
        let (a, b) = (read("whole"), read("parts"));
        assert_eq!(a.weights, b.weights, "{rule}: weights");
        assert_eq!(a.optimizer, b.optimizer, "{rule}: state");
        assert_eq!(a.optimizer.len(), states * a.weights.len(), "{rule}: tensors of state");
        let resume = Some(folder.path().join(format!("{rule}-parts")));
        let error = run(&start("other", other, 4), RunOptions { resume, fresh: false }).unwrap_err().to_string();
        assert!(error.contains("optim.optimizer was"), "{error}");
    }
}

#[test]
fn another_recipe_in_the_same_folder_is_refused_and_fresh_starts_over() {
    let folder = tempfile::tempdir().unwrap();
    let set = clips(&folder.path().join("data"));
    let output = folder.path().join("run");
    run(&recipe(&set, &output, &["train.max_steps=1"]), RunOptions::default()).unwrap();
    let other = recipe(&set, &output, &["train.max_steps=1", "optim.lr=5e-4"]);
    let error = run(&other, RunOptions::default()).unwrap_err().to_string();
    assert!(error.contains("optim.lr was 0.002, is 0.0005") && error.contains("--fresh"), "{error}");
    run(&other, RunOptions { fresh: true, ..RunOptions::default() }).unwrap();
}

#[test]
fn steps_that_are_not_finite_are_skipped_then_stop_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let set = clips(&folder.path().join("data"));
    let output = folder.path().join("run");
    // The first update throws the weights so far off that every later loss is NaN.
    let more = ["optim.lr=1e30", "optim.schedule=fixed", "optim.clip_grad_norm=0.0", "train.max_bad_steps=3"];
    let error = run(&recipe(&set, &output, &more), RunOptions::default()).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    let text = error.to_string();
    // A step is read when the next has been queued, so that one counts too.
    assert!(text.contains("4 steps in a row") && text.contains("optim.lr"), "{text}");
    assert!(checkpoint::latest_valid(&output).unwrap().found.is_some());
}

#[test]
fn chunks_give_the_gradients_of_the_whole_batch() {
    let folder = tempfile::tempdir().unwrap();
    let set = clips(&folder.path().join("data"));
    let (device, _) = adapter();
    let gradients = |more: &[&str]| {
        let resolved = recipe(&set, &folder.path().join("unused"), more);
        let recipe = &resolved.recipe;
        let sources = train::load_sources(&recipe.data.train).unwrap();
        let mut loader = Loader::train(sources, train::loader_config(recipe), Position::default()).unwrap();
        let batch: ClipBatch = loader.next().unwrap().unwrap();
        let values = train::initial_values(recipe).unwrap();
        let unknown = DeviceMemory::default();
        let memory = MemoryPlan::of(recipe, avion_kernels::FloatKind::F32, unknown).unwrap();
        let plan = Some(memory.step);
        let mut task = ContrastiveTask::<R>::new(recipe, &values, DType::F32, &device, Vec::new(), plan);
        // What a step before leaves must not count.
        task.gradients(&batch, 1).unwrap();
        Optimizer::new(&recipe.optim, task.params(), None, 0).step(task.params(), 0.0, 1.0).unwrap();
        let result = task.gradients(&batch, 0).unwrap();
        let scalars: Vec<f32> = bytemuck::pod_collect_to_vec(&task.params().client.read_one(result).unwrap());
        (scalars, task.params().read(task.params().gradients()).unwrap())
    };
    let (whole, reference) = gradients(&["train.batch_size=6"]);
    for more in [["train.batch_size=6", "train.micro_batch=2"], ["train.batch_size=6", "train.micro_batch=3"]] {
        let (scalars, chunked) = gradients(&more);
        assert_close("loss and accuracy", &scalars, &whole, 1e-6);
        for (got, expected) in chunked.iter().zip(&reference) {
            let size = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            if size > 1e-6 {
                assert_close("gradient", got, expected, 1e-4);
            }
        }
    }
}
