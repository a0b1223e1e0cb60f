//! Checkpoint folders under kills, damage and retention; weights of other programs.

use avion::checkpoint::*;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

// ---- inputs ------------------------------------------------------------------------------------

const WIDTH: usize = 4;
const TEXT_WIDTH: usize = 6;
const PATCH: usize = 2;
const EMBED: usize = 5;

/// Our names and shapes of a model of two video layers and one text layer.
fn shapes(frames: usize) -> Vec<(String, Vec<usize>)> {
    let mut all: Vec<(String, Vec<usize>)> = Vec::new();
    let mut add = |name: &str, shape: &[usize]| all.push((name.to_owned(), shape.to_vec()));
    add("visual.class_embedding", &[WIDTH]);
    add("visual.positional_embedding", &[1 + 4, WIDTH]);
    add("visual.temporal_embedding", &[frames, WIDTH]);
    add("visual.conv1.weight", &[WIDTH, 3 * PATCH * PATCH]);
    add("visual.image_projection", &[WIDTH, EMBED]);
    add("textual.token_embedding.weight", &[9, TEXT_WIDTH]);
    add("textual.positional_embedding", &[7, TEXT_WIDTH]);
    add("textual.text_projection", &[TEXT_WIDTH, EMBED]);
    add("logit_scale", &[]);
    let mut norm = |name: &str, width: usize| {
        for kind in ["weight", "bias"] {
            add(&format!("{name}.{kind}"), &[width]);
        }
    };
    norm("visual.ln_pre", WIDTH);
    norm("visual.ln_post", WIDTH);
    norm("textual.ln_final", TEXT_WIDTH);
    for (tower, layers, width) in [("visual", 2, WIDTH), ("textual", 1, TEXT_WIDTH)] {
        for layer in 0..layers {
            let block = format!("{tower}.transformer.resblocks.{layer}");
            for (name, rows, columns) in [
                ("attn.in_proj_", 3 * width, width),
                ("attn.out_proj.", width, width),
                ("mlp.c_fc.", 4 * width, width),
                ("mlp.c_proj.", width, 4 * width),
            ] {
                add(&format!("{block}.{name}weight"), &[rows, columns]);
                add(&format!("{block}.{name}bias"), &[rows]);
            }
            for name in ["ln_1", "ln_2"] {
                add(&format!("{block}.{name}.weight"), &[width]);
                add(&format!("{block}.{name}.bias"), &[width]);
            }
        }
    }
    all
}

/// Every number different, so that no mix-up goes unseen.
fn model(frames: usize) -> Tensors {
    let mut next = 0.0;
    let mut tensors = Tensors::new();
    for (name, shape) in shapes(frames) {
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                next += 0.25;
                next
            })
            .collect();
        tensors.insert(name, HostTensor::from_f32(&shape, &values).unwrap());
    }
    tensors
}

fn state(step: u64, best: Option<(f64, u64)>) -> TrainState {
    TrainState {
        step,
        epoch: step / 10,
        batch: step % 10,
        seed: 7,
        schedule: ScheduleState { steps_per_epoch: 10, total_steps: 50 },
        counters: BTreeMap::from([("clips".to_owned(), step * 8)]),
        trained_s: 1.5,
        best: best.map(|(value, step)| BestMetric { name: "test/map".into(), value, step }),
    }
}

fn save(store: &mut CheckpointStore, state: &TrainState, is_best: bool) -> PathBuf {
    let weights = model(3);
    let moments =
        BTreeMap::from([("first".to_owned(), HostTensor::from_f32(&[2], &[state.step as f32, 2.0]).unwrap())]);
    let metadata = BTreeMap::from([("activation".to_owned(), "gelu".to_owned())]);
    let snapshot =
        Snapshot { weights: &weights, optimizer: &moments, state, recipe: "name = \"test\"\n", metadata: &metadata };
    store.save(&snapshot, is_best).unwrap()
}

fn folder_names(run: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".lock")
        .collect();
    names.sort();
    names
}

fn weight_file(tensors: Tensors) -> WeightFile {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    write_file(&path, &tensors);
    read_weights(&path).unwrap()
}

fn write_file(path: &Path, tensors: &Tensors) {
    let mut file = fs::File::create(path).unwrap();
    write_safetensors(&mut file, tensors, &BTreeMap::new()).unwrap();
}

fn renamed(tensors: &Tensors, rename: impl Fn(&str) -> String) -> Tensors {
    tensors.iter().map(|(name, tensor)| (rename(name), tensor.clone())).collect()
}

// ---- checkpoints -------------------------------------------------------------------------------

#[test]
fn what_was_saved_is_read_back() {
    let run = tempfile::tempdir().unwrap();
    let mut store = CheckpointStore::new(run.path(), 2).unwrap();
    let saved_state = state(1200, Some((0.1 + 0.2, 1200)));
    let path = save(&mut store, &saved_state, true);
    assert!(path.ends_with("checkpoints/step-00001200"));
    // A run's folder, its checkpoints folder and the checkpoint itself all mean it.
    for named in [run.path(), path.parent().unwrap(), &path] {
        for pick in [Pick::Latest, Pick::Best] {
            let (found, skipped) = locate(named, pick).unwrap();
            assert_eq!((found, skipped.len()), (path.clone(), 0));
        }
        let file = read_weights(named).unwrap();
        assert_eq!(file.tensors, model(3));
        assert_eq!(file.metadata["activation"], "gelu");
        assert_eq!(file.metadata["format"], "pt");
    }
    let back = read(&path).unwrap();
    assert_eq!(back.weights, model(3));
    assert_eq!(back.optimizer["first"].to_f32().unwrap(), [1200.0, 2.0]);
    assert_eq!(back.recipe, "name = \"test\"\n");
    assert_eq!(back.manifest.recipe_hash, recipe_hash(&back.recipe));
    assert_eq!(back.manifest.state.counters, saved_state.counters);
    assert_eq!((back.manifest.state.epoch, back.manifest.state.batch), (120, 0));
}

#[test]
fn equal_states_make_equal_files() {
    let bytes = |_| {
        let run = tempfile::tempdir().unwrap();
        let mut store = CheckpointStore::new(run.path(), 1).unwrap();
        let path = save(&mut store, &state(3, None), false);
        ["model.safetensors", "optimizer.safetensors", "state.json"].map(|name| fs::read(path.join(name)).unwrap())
    };
    assert_eq!(bytes(0), bytes(1));
}

#[test]
fn our_files_are_what_the_safetensors_library_reads_and_writes() {
    let mut tensors = model(3);
    tensors.insert("half".into(), HostTensor::new(Dtype::Bf16, &[3], vec![1, 2, 3, 4, 5, 6]).unwrap());
    tensors.insert("wide".into(), HostTensor::new(Dtype::F64, &[1], vec![0; 8]).unwrap());
    let mut bytes = Vec::new();
    write_safetensors(&mut bytes, &tensors, &BTreeMap::new()).unwrap();
    let library = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(library.len(), tensors.len());
    for (name, tensor) in &tensors {
        let view = library.tensor(name).unwrap();
        assert_eq!(view.shape(), tensor.shape);
        assert_eq!(view.data(), tensor.bytes);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    fs::write(&path, safetensors::serialize(library.iter(), None).unwrap()).unwrap();
    assert_eq!(read_safetensors(&path).unwrap().0, tensors);
}

#[test]
fn the_last_few_and_the_best_are_kept() {
    let run = tempfile::tempdir().unwrap();
    let mut store = CheckpointStore::new(run.path(), 2).unwrap();
    for step in 1..=6 {
        save(&mut store, &state(step, None), step == 2);
    }
    assert_eq!(folder_names(run.path()), ["best", "step-00000002", "step-00000005", "step-00000006"]);
    assert!(store.best().unwrap().ends_with("step-00000002"));
    let (best, _) = locate(run.path(), Pick::Best).unwrap();
    assert!(best.ends_with("step-00000002"));
    let (latest, _) = locate(run.path(), Pick::Latest).unwrap();
    assert!(latest.ends_with("step-00000006"));
}

#[test]
fn saving_a_step_again_replaces_it() {
    let run = tempfile::tempdir().unwrap();
    let mut store = CheckpointStore::new(run.path(), 3).unwrap();
    save(&mut store, &state(5, None), false);
    let path = save(&mut store, &state(5, Some((0.5, 5))), true);
    assert_eq!(folder_names(run.path()), ["best", "step-00000005"]);
    let manifest = verify(&path).unwrap();
    assert_eq!(manifest.sequence, 2);
    assert_eq!(manifest.state.best.unwrap().value, 0.5);
}

#[test]
fn after_going_back_the_newest_save_counts_not_the_highest_step() {
    let run = tempfile::tempdir().unwrap();
    let mut store = CheckpointStore::new(run.path(), 2).unwrap();
    for step in [800, 1200] {
        save(&mut store, &state(step, None), false);
    }
    // Resumed from 800 and killed after 1000.
    save(&mut store, &state(1000, None), false);
    let latest = store.latest_valid().unwrap();
    assert_eq!(latest.found.unwrap().1.step, 1000);
    assert_eq!(folder_names(run.path()), ["step-00001000", "step-00001200"]);
}

#[test]
fn a_damaged_newest_gives_way_to_an_older_one() {
    type Damage = fn(&Path);
    let cases: &[(&str, Damage)] = &[
        ("model.safetensors: expected", |path| {
            let file = fs::OpenOptions::new().write(true).open(path.join("model.safetensors"));
            file.unwrap().set_len(100).unwrap();
        }),
        ("optimizer.safetensors: its checksum is wrong", |path| {
            let file = path.join("optimizer.safetensors");
            let mut bytes = fs::read(&file).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(&file, bytes).unwrap();
        }),
        ("recipe.toml: ", |path| {
            fs::remove_file(path.join("recipe.toml")).unwrap();
        }),
        ("state.json: ", |path| {
            let file = path.join("state.json");
            let text = fs::read_to_string(&file).unwrap();
            fs::write(&file, &text[..text.len() / 2]).unwrap();
        }),
        ("state.json: ", |path| {
            fs::remove_file(path.join("state.json")).unwrap();
        }),
        ("state.json: expected format 1, found 2", |path| {
            let file = path.join("state.json");
            let text = fs::read_to_string(&file).unwrap();
            fs::write(&file, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
        }),
    ];
    for (reason, damage) in cases {
        let run = tempfile::tempdir().unwrap();
        let mut store = CheckpointStore::new(run.path(), 5).unwrap();
        save(&mut store, &state(1, None), false);
        save(&mut store, &state(2, None), false);
        let newest = save(&mut store, &state(3, None), true);
        damage(&newest);
        let latest = store.latest_valid().unwrap();
        let (path, found) = latest.found.unwrap();
        assert_eq!(found.step, 2);
        assert!(path.ends_with("step-00000002"));
        assert_eq!(latest.skipped.len(), 1);
        assert_eq!(latest.skipped[0].path, newest);
        assert!(latest.skipped[0].reason.starts_with(reason), "{:?}", latest.skipped);
        // The best is the damaged one: evaluation falls back too, and says so once.
        let (path, skipped) = locate(run.path(), Pick::Best).unwrap();
        assert!(path.ends_with("step-00000002"));
        assert_eq!(skipped.len(), 1, "{skipped:?}");
        // Named by itself it is refused.
        assert!(read(&newest).is_err());
    }
}

#[test]
fn nothing_sound_is_an_error_that_gives_the_reasons() {
    let run = tempfile::tempdir().unwrap();
    let text = locate(run.path(), Pick::Latest).unwrap_err().to_string();
    assert!(text.starts_with("no usable checkpoint in ") && text.contains("--fresh"), "{text}");
    let mut store = CheckpointStore::new(run.path(), 5).unwrap();
    let path = save(&mut store, &state(1, None), false);
    fs::write(path.join("model.safetensors"), "").unwrap();
    let latest = latest_valid(run.path()).unwrap();
    assert!(latest.found.is_none());
    let text = locate(run.path(), Pick::Latest).unwrap_err().to_string();
    assert!(text.contains("found 0"), "{text}");
    assert!(read_weights(run.path()).is_err());
}

#[test]
fn leftovers_of_a_killed_run_are_neither_used_nor_kept() {
    let run = tempfile::tempdir().unwrap();
    let mut store = CheckpointStore::new(run.path(), 2).unwrap();
    let path = save(&mut store, &state(4, None), false);
    drop(store);
    let folder = path.parent().unwrap();
    // Killed while writing step 5, while replacing step 6, while removing step 2.
    fs::create_dir(folder.join(".step-00000005.tmp-999-0")).unwrap();
    fs::copy(path.join("state.json"), folder.join(".step-00000005.tmp-999-0/state.json")).unwrap();
    fs::create_dir(folder.join(".step-00000006.old-999-1")).unwrap();
    for name in ["state.json", "model.safetensors", "optimizer.safetensors", "recipe.toml"] {
        let to = folder.join(".step-00000006.old-999-1").join(name);
        fs::copy(path.join(name), to).unwrap();
    }
    fs::create_dir(folder.join(".step-00000002.tmp-999-2")).unwrap();
    // Reading does not touch them.
    assert_eq!(latest_valid(run.path()).unwrap().found.unwrap().0, path);
    assert_eq!(folder_names(run.path()).len(), 4);

    let store = CheckpointStore::new(run.path(), 2).unwrap();
    assert_eq!(store.cleaned.len(), 3);
    assert_eq!(folder_names(run.path()), ["step-00000004", "step-00000006"]);
}

#[test]
fn a_kill_before_the_best_mark_is_repaired() {
    let run = tempfile::tempdir().unwrap();
    let mut store = CheckpointStore::new(run.path(), 2).unwrap();
    save(&mut store, &state(1, Some((0.1, 1))), true);
    // As if killed between the folder and the mark.
    let newest = save(&mut store, &state(2, Some((0.2, 2))), false);
    drop(store);
    let store = CheckpointStore::new(run.path(), 2).unwrap();
    assert_eq!(store.best(), Some(newest));
}

#[test]
fn two_writers_are_refused_and_readers_are_not() {
    let run = tempfile::tempdir().unwrap();
    let mut store = CheckpointStore::new(run.path(), 1).unwrap();
    save(&mut store, &state(1, None), false);
    let error = CheckpointStore::new(run.path(), 1).unwrap_err();
    assert!(matches!(error, CheckpointError::InUse { .. }), "{error}");
    assert!(read_weights(run.path()).is_ok());
    drop(store);
    assert!(CheckpointStore::new(run.path(), 1).is_ok());
}

#[test]
fn a_score_that_is_no_number_does_not_spoil_the_checkpoint() {
    let run = tempfile::tempdir().unwrap();
    let mut store = CheckpointStore::new(run.path(), 1).unwrap();
    let path = save(&mut store, &state(1, Some((f64::NAN, 1))), false);
    assert_eq!(verify(&path).unwrap().state.best, None);
}

const WRITER: &str = "AVION_TEST_CHECKPOINT_WRITER";

/// Not a test by itself: the process that the next one kills.
#[test]
fn writer_process() {
    let Some(run) = std::env::var_os(WRITER) else {
        return;
    };
    let run = PathBuf::from(run);
    let mut store = CheckpointStore::new(&run, 2).unwrap();
    let found = store.latest_valid().unwrap().found;
    let first = found.map_or(0, |(_, state)| state.step);
    for step in first + 1..first + 1000 {
        save(&mut store, &state(step, None), step.is_multiple_of(3));
        println!("saved {step}");
        std::io::stdout().flush().unwrap();
    }
}

/// kill -9 at arbitrary moments: what had been reported as saved is there and sound.
#[test]
fn kill_9_at_any_moment_leaves_a_sound_checkpoint() {
    let run = tempfile::tempdir().unwrap();
    let mut reached = 0;
    for round in 0u64..8 {
        let log = run.path().join(format!("log-{round}"));
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["writer_process", "--exact", "--nocapture"])
            .env(WRITER, run.path())
            .stdout(fs::File::create(&log).unwrap())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(60 + 37 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let reported = fs::read_to_string(&log).unwrap();
        let last = reported.lines().filter_map(|line| line.split("saved ").nth(1)?.parse::<u64>().ok()).next_back();
        reached = last.unwrap_or(reached);
        let latest = latest_valid(run.path()).unwrap();
        assert_eq!(latest.skipped, []);
        let step = latest.found.map_or(0, |(_, state)| state.step);
        assert!((reached..=reached + 1).contains(&step), "reported {reached}, found {step}");
        if step > 0 {
            let (path, _) = locate(run.path(), Pick::Latest).unwrap();
            assert_eq!(read(&path).unwrap().weights, model(3));
        }
        reached = step;
    }
    assert!(reached > 0, "the writer never saved");
    CheckpointStore::new(run.path(), 2).unwrap();
    assert!(folder_names(run.path()).iter().all(|name| !name.starts_with('.')));
}

// ---- weights of other programs -----------------------------------------------------------------

/// OpenAI's names, written out here independently of the code under test.
fn openai() -> Tensors {
    let mut theirs = Tensors::new();
    for (name, tensor) in model(3) {
        let (name, shape) = match name.as_str() {
            "visual.temporal_embedding" => continue,
            "visual.image_projection" => ("visual.proj".to_owned(), tensor.shape.clone()),
            "visual.conv1.weight" => (name.clone(), vec![WIDTH, 3, PATCH, PATCH]),
            _ => (name.trim_start_matches("textual.").to_owned(), tensor.shape.clone()),
        };
        let tensor = HostTensor::new(tensor.dtype, &shape, tensor.bytes).unwrap();
        theirs.insert(name, tensor);
    }
    theirs
}

fn without_time() -> Tensors {
    let mut tensors = model(3);
    tensors.remove("visual.temporal_embedding");
    tensors
}

#[test]
fn openai_and_open_clip_names_become_ours() {
    let mut plain = openai();
    for scalar in ["input_resolution", "context_length", "vocab_size"] {
        let value = HostTensor::new(Dtype::I64, &[], vec![1; 8]).unwrap();
        plain.insert(scalar.to_owned(), value);
    }
    let file = weight_file(plain);
    assert_eq!(file.naming, Naming::OpenAi);
    assert_eq!(file.tensors, without_time());
    // open_clip with a text tower of its own, trained under DistributedDataParallel and compiled.
    let custom = renamed(&openai(), |name| match name {
        "logit_scale" => format!("module._orig_mod.{name}"),
        _ if name.starts_with("visual.") => format!("module._orig_mod.{name}"),
        _ => format!("module._orig_mod.text.{name}"),
    });
    let file = weight_file(custom);
    assert_eq!(file.naming, Naming::OpenAi);
    assert_eq!(file.tensors, without_time());
}

#[test]
fn avion_names_become_ours() {
    let plain = weight_file(renamed(&model(3), |name| format!("module.{name}")));
    assert_eq!(plain.naming, Naming::Avion);
    assert_eq!(plain.tensors, model(3));
    let flash = renamed(&model(3), |name| {
        // Only the video tower is flash in AVION.
        let name = match name.starts_with("visual.") {
            true => name
                .replace("attn.in_proj_", "attn.Wqkv.")
                .replace("mlp.c_fc.", "mlp.fc1.")
                .replace("mlp.c_proj.", "mlp.fc2."),
            false => name.to_owned(),
        };
        format!("module.{name}")
    });
    let flash = weight_file(flash);
    assert_eq!(flash.naming, Naming::AvionFlash);
    assert_eq!(flash.tensors, model(3));
}

#[test]
fn hugging_face_names_become_ours() {
    let ours = model(3);
    let theirs = to_hugging_face_names(&ours, Temporal::Drop).unwrap();
    // Spot checks against CLIPModel's state_dict: names, splitting, transposing.
    let block = "vision_model.encoder.layers.1";
    let packed = ours["visual.transformer.resblocks.1.attn.in_proj_weight"].to_f32().unwrap();
    for (index, letter) in ["q", "k", "v"].iter().enumerate() {
        let part = &theirs[&format!("{block}.self_attn.{letter}_proj.weight")];
        assert_eq!(part.shape, [WIDTH, WIDTH]);
        let size = WIDTH * WIDTH;
        assert_eq!(part.to_f32().unwrap(), packed[index * size..(index + 1) * size]);
    }
    assert_eq!(theirs["visual_projection.weight"].shape, [EMBED, WIDTH]);
    assert_eq!(theirs["text_projection.weight"].shape, [EMBED, TEXT_WIDTH]);
    assert_eq!(theirs["vision_model.embeddings.patch_embedding.weight"].shape, [WIDTH, 3, PATCH, PATCH]);
    for name in [
        "logit_scale",
        "vision_model.embeddings.class_embedding",
        "vision_model.embeddings.position_embedding.weight",
        "vision_model.pre_layrnorm.weight",
        "vision_model.post_layernorm.bias",
        "vision_model.encoder.layers.0.layer_norm1.weight",
        "vision_model.encoder.layers.0.mlp.fc1.bias",
        "vision_model.encoder.layers.0.self_attn.out_proj.bias",
        "text_model.embeddings.token_embedding.weight",
        "text_model.embeddings.position_embedding.weight",
        "text_model.encoder.layers.0.self_attn.v_proj.bias",
        "text_model.encoder.layers.0.layer_norm2.bias",
        "text_model.encoder.layers.0.mlp.fc2.weight",
        "text_model.final_layer_norm.weight",
    ] {
        assert!(theirs.contains_key(name), "{name}");
    }
    // 13 outside the blocks but the temporal embedding, 16 in each of 3 blocks.
    assert_eq!(theirs.len(), 14 + 3 * 16);
    assert!(theirs.keys().all(|name| !name.contains("resblocks")));
    let mut stored = theirs;
    let ids = HostTensor::new(Dtype::I64, &[1], vec![0; 8]).unwrap();
    stored.insert("text_model.embeddings.position_ids".into(), ids);
    let file = weight_file(stored);
    assert_eq!(file.naming, Naming::HuggingFace);
    assert_eq!(file.tensors, without_time());
}

#[test]
fn exports_come_back_unchanged() {
    let ours = model(3);
    let theirs = to_openai_names(&ours, Temporal::Drop).unwrap();
    assert_eq!(theirs, openai());
    for (exported, naming) in [
        (to_openai_names(&ours, Temporal::Keep).unwrap(), Naming::OpenAi),
        (to_hugging_face_names(&ours, Temporal::Keep).unwrap(), Naming::HuggingFace),
    ] {
        let (back, found) = to_our_names(exported).unwrap();
        assert_eq!((back, found), (ours.clone(), naming));
    }
    let grey = BTreeMap::from([("visual.conv1.weight".to_owned(), HostTensor::from_f32(&[1, 5], &[0.0; 5]).unwrap())]);
    let error = to_openai_names(&grey, Temporal::Drop).unwrap_err();
    assert!(error.to_string().contains("visual.conv1.weight"), "{error}");
}

#[test]
fn half_an_attention_is_reported_missing() {
    let mut theirs = to_hugging_face_names(&model(3), Temporal::Drop).unwrap();
    let lost = "vision_model.encoder.layers.0.self_attn.k_proj.weight";
    theirs.remove(lost).unwrap();
    let error = load_into(&shapes(3), weight_file(theirs), LoadOptions::default()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("visual.transformer.resblocks.0.attn.in_proj_weight: expected [12, 4], not in the file"),
        "{text}"
    );
}

// ---- fitting to the model ----------------------------------------------------------------------

#[test]
fn a_clip_file_fills_the_towers_and_leaves_the_projections() {
    let (tensors, report) = load_into(&shapes(3), weight_file(openai()), LoadOptions::default()).unwrap();
    assert_eq!(report.missing, ["visual.temporal_embedding"]);
    assert_eq!(report.skipped, ["visual.image_projection", "textual.text_projection", "logit_scale"]);
    assert_eq!(tensors.len(), report.loaded.len());
    assert_eq!(tensors.len(), shapes(3).len() - 4);
    let name = "textual.transformer.resblocks.0.mlp.c_fc.weight";
    assert_eq!(tensors[name], model(3)[name]);
    assert!(report.to_string().contains("OpenAI"), "{report}");

    let all = LoadOptions { projections: true };
    let (tensors, report) = load_into(&shapes(3), weight_file(openai()), all).unwrap();
    assert!(report.skipped.is_empty());
    assert_eq!(tensors.len(), shapes(3).len() - 1);
}

#[test]
fn low_precision_files_become_f32() {
    let half: Tensors = model(3)
        .into_iter()
        .map(|(name, tensor)| {
            let values = tensor.to_f32().unwrap();
            let bytes = values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect();
            (name, HostTensor::new(Dtype::F16, &tensor.shape, bytes).unwrap())
        })
        .collect();
    let all = LoadOptions { projections: true };
    let (tensors, _) = load_into(&shapes(3), weight_file(half), all).unwrap();
    // Quarters below 512 are exact in f16; the model's largest number is smaller.
    assert_eq!(tensors, model(3));
}

#[test]
fn mismatches_name_tensor_expected_and_found() {
    let mut tensors = model(3);
    let wide = HostTensor::from_f32(&[WIDTH, 9], &[0.0; WIDTH * 9]).unwrap();
    tensors.insert("visual.image_projection".into(), wide);
    tensors.remove("textual.ln_final.bias");
    let extra = tensors["visual.transformer.resblocks.0.ln_1.bias"].clone();
    tensors.insert("visual.transformer.resblocks.2.ln_1.bias".into(), extra);
    let all = LoadOptions { projections: true };
    let error = load_into(&shapes(3), weight_file(tensors), all).unwrap_err();
    let CheckpointError::Mismatch { problems, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(
        problems,
        &[
            "visual.image_projection: expected [4, 5], found [4, 9]",
            "textual.ln_final.bias: expected [6], not in the file",
            "visual.transformer.resblocks.2.ln_1.bias: not in the model, which has fewer layers",
        ]
    );
    // A wholly different model does not flood the terminal.
    let mut other = shapes(3);
    for (_, shape) in &mut other {
        shape.push(2);
    }
    let text = load_into(&other, weight_file(model(3)), all).unwrap_err().to_string();
    assert!(text.contains("more"), "{text}");
    assert!(text.lines().count() < 20, "{text}");
}

#[test]
fn frames_and_context_are_adapted() {
    let all = LoadOptions { projections: true };
    let (tensors, report) = load_into(&shapes(6), weight_file(model(3)), all).unwrap();
    assert_eq!(report.adapted, ["visual.temporal_embedding adapted from [3, 4] to [6, 4]"]);
    let old = model(3)["visual.temporal_embedding"].to_f32().unwrap();
    let new = tensors["visual.temporal_embedding"].to_f32().unwrap();
    assert_eq!(new[..4], old[..4]);
    assert_eq!(new[4], 0.75 * old[0] + 0.25 * old[4]);
    assert_eq!(new[20..], old[8..]);

    for (context, kept) in [(5, 5), (8, 7)] {
        let mut expected = shapes(3);
        let positions = expected.iter_mut().find(|(name, _)| name == "textual.positional_embedding");
        positions.unwrap().1 = vec![context, TEXT_WIDTH];
        let (tensors, _) = load_into(&expected, weight_file(model(3)), all).unwrap();
        let old = model(3)["textual.positional_embedding"].to_f32().unwrap();
        let new = tensors["textual.positional_embedding"].to_f32().unwrap();
        assert_eq!(new.len(), context * TEXT_WIDTH);
        assert_eq!(new[..kept * TEXT_WIDTH], old[..kept * TEXT_WIDTH]);
        assert!(new[kept * TEXT_WIDTH..].iter().all(|&value| value == 0.0));
    }
    // A model of one frame has no temporal embedding.
    let mut single = shapes(3);
    single.retain(|(name, _)| name != "visual.temporal_embedding");
    let (_, report) = load_into(&single, weight_file(model(3)), all).unwrap();
    assert_eq!(report.unexpected, ["visual.temporal_embedding"]);
}

#[test]
fn integers_are_no_weights() {
    let mut tensors = model(3);
    let whole = HostTensor::new(Dtype::U8, &[WIDTH], vec![0; WIDTH]).unwrap();
    tensors.insert("visual.ln_pre.bias".into(), whole);
    let error = load_into(&shapes(3), weight_file(tensors), LoadOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "tensor visual.ln_pre.bias: expected floating point, found U8");
}

#[test]
fn foreign_and_cut_files_are_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let fails = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        read_weights(&path).unwrap_err().to_string()
    };
    let mut whole = Vec::new();
    write_safetensors(&mut whole, &model(3), &BTreeMap::new()).unwrap();
    assert!(fails(&whole[..whole.len() - 1]).contains("cut short"));
    assert!(fails(&whole[..40]).contains("cut short"));
    assert!(fails(&whole[..4]).contains("found something else"));
    assert!(fails(&[&whole[..], &[0]].concat()).contains("added to"));
    assert!(fails(b"").contains("found an empty file"));
    assert!(fails(b"<html>not found</html>").contains("error page"));
    assert!(fails(b"\x89PNG\r\n\x1a\n and so on").contains("expected a safetensors file"));
    assert!(fails(b"PK\x03\x04 and nothing more").contains("damaged zip"));
    assert!(fails(b"\x08\0\0\0\0\0\0\0{\"a\": 1}").contains("header"));
    let mut empty = Vec::new();
    write_safetensors(&mut empty, &Tensors::new(), &BTreeMap::new()).unwrap();
    assert!(fails(&empty).contains("no tensors"));
    let missing = read_weights(&folder.path().join("nowhere.pt")).unwrap_err();
    assert!(missing.to_string().starts_with("cannot read"), "{missing}");
}

#[test]
fn a_hugging_face_folder_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = to_hugging_face_names(&model(3), Temporal::Drop).unwrap();
    write_file(&folder.path().join("model.safetensors"), &theirs);
    let file = read_weights(folder.path()).unwrap();
    assert_eq!(file.tensors, without_time());
    assert!(file.path.ends_with("model.safetensors"));
}

/// Written by PyTorch itself: see `tests/fixtures/torch`.
#[test]
fn pytorch_files_are_read() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch");
    let script = read_weights(&fixtures.join("torchscript.pt")).unwrap();
    assert_eq!(script.naming, Naming::OpenAi);
    assert_eq!(script.tensors["logit_scale"].dtype, Dtype::F32);
    let legacy = read_weights(&fixtures.join("legacy.pth")).unwrap_err();
    assert!(legacy.to_string().contains("torch.save"), "{legacy}");
}
