//! Pre-training and fine-tuning end to end on generated videos: the loss falls, a resumed run equals one that was never
//! stopped, chunks equal the whole, a frozen encoder stays as it is, several views are averaged.
#![cfg(all(feature = "wgpu", feature = "video"))]

use crate::common::assert_close;
use crate::training::{adapter, run};
use avion::checkpoint::{self, LoadOptions, Pick, Tensors};
use avion::config::recipe::OptimConfig;
use avion::config::{Recipe, Resolved};
use avion::data::loader::{ClipBatch, Loader};
use avion::data::sampler::Position;
use avion::data::synthetic::{MotionConfig, MotionSet, generate_motions};
use avion::eval::{Evaluation, SourceSet};
use avion::model::{DeviceMemory, MemoryPlan, specs};
use avion::optim::Optimizer;
use avion::report::{Record, read_metrics};
use avion::task::{ClassifyTask, MaskedTask, Task};
use avion::train::{self, Outcome, RunOptions};
use avion_kernels::FloatKind;
use burn::tensor::DType;
use cubecl::wgpu::{WgpuDevice, WgpuRuntime as R};
use std::path::Path;

const TEST_CLIPS: usize = 5;

fn motions(folder: &Path) -> MotionSet {
    let config =
        MotionConfig { train: 20, labelled: 12, test: TEST_CLIPS, size_px: 64, frames: 14, ..MotionConfig::default() };
    generate_motions(folder, &config).unwrap()
}

fn recipe(base: &str, list: &Path, set: &MotionSet, output: &Path, more: &[&str]) -> Resolved {
    let show = |path: &Path| format!("{:?}", path.display().to_string());
    let text = format!(
        "{base}
        [[data.train]]
        format = \"kinetics\"
        annotations = {}
        root = {root}
        [[data.eval]]
        format = \"kinetics\"
        annotations = {}
        root = {root}",
        show(list),
        show(&set.test_list),
        root = show(&set.root)
    );
    let mut overrides = vec![format!("train.output={}", show(output))];
    overrides.extend(more.iter().map(|s| s.to_string()));
    Recipe::from_toml(&text, "test.toml", &overrides).unwrap()
}

/// Pre-training with everything on that a recipe can ask for.
fn masked(set: &MotionSet, output: &Path, more: &[&str]) -> Resolved {
    let base = "
        task = \"masked\"
        model = { size = \"tiny\", frames = 4, drop_path = 0.1 }
        masking = { ratio = 0.6, decoder_layers = 1, decoder_width = 32, decoder_heads = 2 }
        optim = { lr = 3e-3, weight_decay = 0.05, betas = [0.9, 0.95] }
        train = { batch_size = 4, epochs = 2, log_every = 1 }
        eval = { before_training = false, every_epochs = 0, batch_size = 3 }
        [data]
        normalization = \"imagenet\"
        sampling = \"dense\"
        stride = 3
        stride_jitter = true
        crop = \"multi-scale\"
        flip = 0.5
        repeats = 2";
    recipe(base, &set.train_list, set, output, more)
}

/// Fine-tuning with everything on that a recipe can ask for.
fn classify(set: &MotionSet, output: &Path, more: &[&str]) -> Resolved {
    let base = "
        task = \"classify\"
        model = { size = \"tiny\", frames = 4, drop_path = 0.2, drop_path_schedule = \"linear\" }
        classify = { classes = 8, layer_decay = 0.75, dropout = 0.3, ema = 0.9 }
        optim = { lr = 2e-3, weight_decay = 0.05 }
        train = { batch_size = 4, epochs = 2, log_every = 1 }
        eval = { before_training = false, every_epochs = 0, batch_size = 4, views = 2, crops = 3 }
        [augment]
        randaugment = 2
        erasing = 0.5
        mixup = 0.8
        cutmix = 1.0
        label_smoothing = 0.1
        [data]
        normalization = \"imagenet\"
        sampling = \"window\"
        stride = 2";
    recipe(base, &set.labelled_list, set, output, more)
}

fn finished(resolved: &Resolved) {
    assert!(matches!(run(resolved, RunOptions::default()).unwrap(), Outcome::Finished { .. }));
}

fn newest(folder: &Path) -> checkpoint::Checkpoint {
    let (path, skipped) = checkpoint::locate(folder, Pick::Latest).unwrap();
    assert!(skipped.is_empty());
    checkpoint::read(&path).unwrap()
}

fn losses(folder: &Path) -> Vec<f64> {
    let records = read_metrics(&folder.join("metrics.jsonl")).unwrap();
    let loss = |record| match record {
        Record::Step(step) => Some(step.loss),
        Record::Eval(_) => None,
    };
    records.into_iter().filter_map(loss).collect()
}

/// One run without a pause, and one stopped twice that also keeps other pieces and uses other threads.
fn resumes_to_the_bit(make: impl Fn(&MotionSet, &Path, &[&str]) -> Resolved, steps: u64) {
    let folder = tempfile::tempdir().unwrap();
    let set = motions(&folder.path().join("data"));
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    finished(&make(&set, &whole, &[]));
    for (until, more) in [(2, "train.checkpoint_every=2"), (4, "train.keep=recompute"), (steps, "data.workers=1")] {
        finished(&make(&set, &parts, &[&format!("train.max_steps={until}"), more]));
    }
    let (a, b) = (newest(&whole), newest(&parts));
    assert_eq!((a.manifest.state.step, b.manifest.state.step), (steps, steps));
    assert_eq!(a.weights, b.weights, "weights");
    assert_eq!(a.optimizer, b.optimizer, "moments, average");
    assert_eq!(losses(&whole).len(), steps as usize);
    assert_eq!(losses(&whole), losses(&parts));
}

#[test]
fn pretraining_resumes_to_the_bit() {
    // 20 clips, each twice in a batch of 4.
    resumes_to_the_bit(masked, 20);
}

#[test]
fn fine_tuning_resumes_to_the_bit() {
    resumes_to_the_bit(classify, 6);
}

#[test]
fn the_loss_of_pretraining_falls_and_its_encoder_is_fine_tuned() {
    let folder = tempfile::tempdir().unwrap();
    let set = motions(&folder.path().join("data"));
    let output = folder.path().join("masked");
    // Plain pixels: patches of one colour, normalised, are noise of the encoding, which no one can predict.
    finished(&masked(&set, &output, &["train.epochs=4", "masking.normalize_targets=false", "model.drop_path=0.0"]));
    let losses = losses(&output);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, last) = (mean(&losses[..4]), mean(&losses[losses.len() - 4..]));
    assert!(losses.len() == 40 && last < 0.5 * first && last > 0.0, "{losses:?}");

    // What a classifier takes from it: the encoder and nothing else.
    let before = newest(&output).weights;
    let init = format!("model.init={:?}", output.display().to_string());
    let resolved = classify(&set, &folder.path().join("classify"), &[&init, "train.max_steps=2", "eval.views=1"]);
    let recipe = &resolved.recipe;
    let (values, report) = train::weight_file_values(recipe, &output, LoadOptions::default()).unwrap();
    let own = ["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"];
    for (spec, value) in specs(recipe).unwrap().iter().zip(&values) {
        match own.contains(&spec.name.as_str()) {
            true => assert!(!report.loaded.contains(&spec.name), "{}", spec.name),
            false => assert_eq!(*value, before[&spec.name].to_f32().unwrap(), "{}", spec.name),
        }
    }
    let unexpected = |start: &str| report.unexpected.iter().filter(|name| name.starts_with(start)).count();
    assert_eq!((unexpected("decoder."), unexpected("encoder.")), (12 + 4, 2), "{report}");
    assert!(report.to_string().contains("16 of decoder"), "{report}");
    finished(&resolved);

    // Another width is refused by name.
    let larger = classify(&set, &folder.path().join("larger"), &[&init, "model.size=vit-s16"]);
    let error = train::initial_values(&larger.recipe).unwrap_err().to_string();
    for part in ["encoder.patch_embed.proj.weight: expected [384, 1536], found [64, 1536]", "and 134 more"] {
        assert!(error.contains(part), "{error}");
    }
}

fn changed(before: &Tensors, after: &Tensors) -> Vec<String> {
    let differs = |name: &&String| before[*name] != after[*name];
    after.keys().filter(differs).cloned().collect()
}

#[test]
fn a_frozen_encoder_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let set = motions(&folder.path().join("data"));
    let output = folder.path().join("probe");
    let resolved = classify(&set, &output, &["classify.freeze=true", "train.max_steps=3"]);
    let values = train::initial_values(&resolved.recipe).unwrap();
    let named = specs(&resolved.recipe).unwrap().into_iter().zip(values);
    let tensor = |shape: &[usize], value: &[f32]| checkpoint::HostTensor::from_f32(shape, value).unwrap();
    let before: Tensors = named.map(|(spec, value)| (spec.name.clone(), tensor(&spec.shape, &value))).collect();
    finished(&resolved);
    let after = newest(&output);
    assert_eq!(changed(&before, &after.weights), ["fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight"]);
    let moved = |name: &str| after.optimizer[name].to_f32().unwrap().iter().any(|m| *m != 0.0);
    assert!(moved("moment1.head.weight") && !moved("moment1.encoder.blocks.0.attn.qkv.weight"));
}

/// Loss, score and every gradient, times the task's factor, of the first batch.
fn first_step<K: Task<R>>(mut task: K, batch: &mut ClipBatch) -> Vec<Vec<f32>> {
    task.prepare(batch);
    // What a step before leaves must not count; at rate 0 it changes no weight.
    task.gradients(batch, 2).unwrap();
    Optimizer::new(&OptimConfig::default(), task.params(), None, 0).step(task.params(), 0.0, 1.0).unwrap();
    let result = task.gradients(batch, 3).unwrap();
    let factor = task.gradient_factor();
    let mut all = vec![bytemuck::pod_collect_to_vec(&task.params().client.read_one(result).unwrap())];
    let gradients = task.params().read(task.params().gradients()).unwrap();
    all.extend(gradients.into_iter().map(|g| g.iter().map(|g| g * factor).collect::<Vec<f32>>()));
    all
}

fn first_batch(recipe: &Recipe) -> ClipBatch {
    let sources = train::load_sources(&recipe.data.train).unwrap();
    Loader::train(sources, train::loader_config(recipe), Position::default()).unwrap().next().unwrap().unwrap()
}

fn check_chunks(step: impl Fn(&[&str]) -> Vec<Vec<f32>>) {
    let whole = step(&["train.batch_size=6"]);
    for micro in ["train.micro_batch=2", "train.micro_batch=3"] {
        let chunked = step(&["train.batch_size=6", micro]);
        for (at, (got, expected)) in chunked.iter().zip(&whole).enumerate() {
            // What is 0 but for rounding is compared by size: the key biases.
            if expected.iter().any(|v| v.abs() > 1e-6) {
                assert_close(&format!("{micro}: tensor {at}"), got, expected, 1e-4);
            }
        }
    }
}

#[test]
fn chunks_give_the_gradients_of_the_whole_batch() {
    let folder = tempfile::tempdir().unwrap();
    let set = motions(&folder.path().join("data"));
    let (device, _) = adapter();
    let plan = |recipe: &Recipe| Some(MemoryPlan::of(recipe, FloatKind::F32, DeviceMemory::default()).unwrap().step);
    check_chunks(|more| {
        let Resolved { recipe, .. } = masked(&set, folder.path(), more);
        let values = train::initial_values(&recipe).unwrap();
        let task = MaskedTask::<R>::new(&recipe, &values, DType::F32, &device, Vec::new(), plan(&recipe)).unwrap();
        first_step(task, &mut first_batch(&recipe))
    });
    check_chunks(|more| {
        let Resolved { recipe, .. } = classify(&set, folder.path(), &[more, &["classify.init_scale=1.0"]].concat());
        let values = train::initial_values(&recipe).unwrap();
        let task = ClassifyTask::<R>::new(&recipe, &values, DType::F32, &device, Vec::new(), plan(&recipe));
        first_step(task, &mut first_batch(&recipe))
    });
}

/// A classifier at random weights that tell the classes of few clips apart, and its evaluation.
fn scored(resolved: &Resolved, device: &WgpuDevice) -> (ClassifyTask<R>, Evaluation) {
    let recipe = &resolved.recipe;
    let sets = vec![SourceSet::labelled(&recipe.data.eval[0], recipe.classify.classes).unwrap()];
    let values = train::initial_values(recipe).unwrap();
    let task = ClassifyTask::<R>::new(recipe, &values, DType::F32, device, sets, None);
    let evaluation = task.evaluate(&|| false).unwrap().unwrap().remove(0);
    (task, evaluation)
}

/// 2 stretches x 3 crops of each clip become one answer, in whatever batches they come; what cannot be read is counted.
#[test]
fn views_of_a_clip_are_averaged() {
    let folder = tempfile::tempdir().unwrap();
    let set = motions(&folder.path().join("data"));
    let (device, _) = adapter();
    let recipe = |more: &[&str]| {
        let all = ["classify.init_scale=50.0", "data.max_bad_share=1.0"];
        classify(&set, folder.path(), &[&all, more].concat())
    };
    let resolved = recipe(&[]);
    let (task, evaluation) = scored(&resolved, &device);
    assert_eq!((evaluation.videos, evaluation.unreadable), (TEST_CLIPS, 0));
    assert_eq!(evaluation.scores.len(), evaluation.chance.len());

    // The same by hand: all views of all clips, their logits summed.
    let source = SourceSet::labelled(&resolved.recipe.data.eval[0], 8).unwrap();
    let labels = source.labels();
    let config = source.loader_config(&resolved.recipe, 48);
    let (mut sums, mut views) = (vec![vec![0.0f64; 8]; TEST_CLIPS], 0);
    for batch in Loader::eval(source.sources.clone(), config).unwrap() {
        let batch = batch.unwrap();
        let logits = task.model.logits(task.model.ws.upload_bytes(&batch.frames), batch.samples.len());
        let logits: Vec<f32> = logits.into_data().to_vec().unwrap();
        for (row, sample) in logits.chunks(8).zip(&batch.samples) {
            views += 1;
            sums[*sample as usize].iter_mut().zip(row).for_each(|(sum, logit)| *sum += f64::from(*logit));
        }
    }
    assert_eq!(views, 6 * TEST_CLIPS);
    let answer = |sums: &Vec<f64>| (0..8).max_by(|a, b| sums[*a].total_cmp(&sums[*b])).unwrap();
    let answers: Vec<usize> = sums.iter().map(answer).collect();
    let right = answers.iter().zip(&labels).filter(|(answer, label)| **answer == **label as usize).count();
    assert_eq!(evaluation.scores["top1"], right as f64 / TEST_CLIPS as f64);
    let confusion = evaluation.confusion.unwrap();
    for (answer, label) in answers.iter().zip(&labels) {
        assert!(confusion.counts[*label as usize * 8 + answer] > 0, "{label} taken for {answer}");
    }

    let (_, other) = scored(&recipe(&["eval.batch_size=7"]), &device);
    assert_eq!(other.scores, evaluation.scores);
    std::fs::write(set.root.join("test_00001.mp4"), b"no video").unwrap();
    let (_, partial) = scored(&recipe(&[]), &device);
    assert_eq!((partial.videos, partial.unreadable), (TEST_CLIPS - 1, 1));
}

/// The average follows the weights, is what is evaluated and what is read from a run, and leaves the weights alone.
#[test]
fn a_moving_average_is_evaluated_in_place_of_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let set = motions(&folder.path().join("data"));
    let output = folder.path().join("run");
    let more = ["classify.ema=0.75", "classify.init_scale=50.0", "optim.lr=0.05", "train.max_steps=1"];
    let resolved = classify(&set, &output, &more);
    let recipe = &resolved.recipe;
    let start = train::initial_values(recipe).unwrap();
    finished(&resolved);
    let saved = newest(&output);
    let names: Vec<String> = specs(recipe).unwrap().into_iter().map(|spec| spec.name).collect();
    let tensor = |tensors: &Tensors, name: &str| tensors[name].to_f32().unwrap();
    for (name, start) in names.iter().zip(&start) {
        let now = tensor(&saved.weights, name);
        let expected: Vec<f32> = start.iter().zip(&now).map(|(a, b)| 0.75 * a + 0.25 * b).collect();
        assert_close(name, &tensor(&saved.optimizer, &format!("ema.{name}")), &expected, 1e-6);
    }
    assert_eq!(saved.optimizer.len(), 3 * names.len());

    // Read back as the run's weights; the weights themselves by the file's own name.
    let read = checkpoint::read_weights(&output).unwrap();
    let (path, _) = checkpoint::locate(&output, Pick::Latest).unwrap();
    let plain = checkpoint::read_weights(&path.join("model.safetensors")).unwrap();
    for name in &names {
        assert_eq!(read.tensors[name], saved.optimizer[&format!("ema.{name}")]);
        assert_eq!(plain.tensors[name], saved.weights[name]);
    }

    // A task that keeps the average scores as one whose weights it is.
    let (device, _) = adapter();
    let of = |tensors: &Tensors, prefix: &str| -> Vec<Vec<f32>> {
        names.iter().map(|name| tensor(tensors, &format!("{prefix}{name}"))).collect()
    };
    let (weights, average) = (of(&saved.weights, ""), of(&saved.optimizer, "ema."));
    let task = |values: &[Vec<f32>], steps_to_come: bool| {
        let sets = vec![SourceSet::labelled(&recipe.data.eval[0], 8).unwrap()];
        let plan = MemoryPlan::of(recipe, FloatKind::F32, DeviceMemory::default()).unwrap().step;
        ClassifyTask::<R>::new(recipe, values, DType::F32, &device, sets, steps_to_come.then_some(plan))
    };
    let pixels: Vec<u8> = (0..4 * 48 * 48 * 3).map(|i| (i * 7 % 251) as u8).collect();
    let logits = |task: &ClassifyTask<R>| -> Vec<f32> {
        task.model.logits(task.model.ws.upload_bytes(&pixels), 1).into_data().to_vec().unwrap()
    };
    let mut averaging = task(&weights, true);
    averaging.resume_average(&average);
    let (before, expected) = (logits(&averaging), logits(&task(&average, false)));
    assert_ne!(before, expected, "one step at this rate changes the answers");
    let inside = averaging.average().unwrap().instead(averaging.params(), || logits(&averaging));
    assert_eq!(inside, expected);
    let scores = |task: &ClassifyTask<R>| task.evaluate(&|| false).unwrap().unwrap().remove(0);
    let (got, reference) = (scores(&averaging), scores(&task(&average, false)));
    assert_eq!((got.scores, got.confusion), (reference.scores, reference.confusion));
    assert_eq!(logits(&averaging), before);
    assert_eq!(averaging.params().read(averaging.params().values()).unwrap(), weights);
}
