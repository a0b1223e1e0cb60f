//! Recipes from file, name and command line to a judged, printable whole.

use avion::config::*;
use proptest::prelude::*;
use std::fs;
use std::path::Path;

fn set(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

fn load(text: &str, overrides: &[&str]) -> Result<Resolved, ConfigError> {
    Recipe::from_toml(text, "run.toml", &set(overrides))
}

fn problems(result: Result<Resolved, ConfigError>) -> Vec<String> {
    match result {
        Err(ConfigError::Invalid { problems }) => problems.iter().map(Problem::to_string).collect(),
        other => panic!("expected problems, found {other:?}"),
    }
}

fn judged(recipe: &Recipe) -> Vec<String> {
    match validate_values(recipe) {
        Err(ConfigError::Invalid { problems }) => problems.iter().map(Problem::to_string).collect(),
        Ok(_) => Vec::new(),
        Err(other) => panic!("{other}"),
    }
}

/// The smallest recipe with nothing wrong.
fn sound() -> Recipe {
    let source = SourceConfig { annotations: "a.csv".into(), root: "videos".into(), ..SourceConfig::default() };
    let mut recipe = Recipe::default();
    recipe.data.train.push(source.clone());
    recipe.data.eval.push(source);
    recipe
}

#[test]
fn every_file_in_configs_resolves_and_is_built_in() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut seen = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let from_file = Recipe::load(&path, &[]).unwrap();
        validate_values(&from_file.recipe).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let by_name = Recipe::load(name, &[]).unwrap();
        assert_eq!(by_name.recipe, from_file.recipe);
        assert_eq!(by_name.recipe.name, name);
        seen += 1;
    }
    assert_eq!(seen, BUILT_IN.len());
}

#[test]
fn the_published_recipe_says_what_was_published() {
    let recipe = Recipe::load("ego4d-vitb16", &[]).unwrap().recipe;
    assert_eq!(recipe.model.size, ModelSize::VitB16);
    assert_eq!((recipe.model.frames, recipe.model.embed_dim), (4, 256));
    assert_eq!((recipe.model.activation, recipe.model.vision_norm_eps), (Activation::Gelu, 1e-6));
    assert_eq!((recipe.optim.lr, recipe.optim.schedule), (3e-5, Schedule::Fixed));
    assert_eq!((recipe.optim.betas, recipe.optim.weight_decay), ([0.9, 0.999], 0.01));
    assert_eq!((recipe.train.batch_size, recipe.train.micro_batch), (2048, 256));
    assert!(recipe.data.eval[0].sentences.is_some());
    assert!(validate_values(&recipe).unwrap().is_empty());
    // Its files are not here: all of them are named, at once.
    let Err(ConfigError::Invalid { problems }) = validate(&recipe) else {
        panic!("the data cannot be here");
    };
    let keys: Vec<&str> = problems.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "model.init",
            "data.train.0.annotations",
            "data.train.0.root",
            "data.eval.0.annotations",
            "data.eval.0.root",
            "data.eval.0.sentences"
        ]
    );
}

#[test]
fn the_videomae_recipes_say_what_was_published() {
    let recipe = |name| {
        let recipe = Recipe::load(name, &[]).unwrap().recipe;
        let warnings = validate_values(&recipe).unwrap();
        assert!(warnings.is_empty(), "{name}: {warnings:?}");
        recipe
    };
    let avion = recipe("videomae-vitb16-k400");
    assert_eq!((avion.task, avion.model.frames, avion.model.tubelet), (TaskKind::Masked, 16, 2));
    assert_eq!(avion.masking, MaskingConfig::default());
    assert_eq!((avion.data.sampling, avion.data.stride, avion.data.stride_jitter), (Sampling::Dense, 4, true));
    assert_eq!((avion.data.crop, avion.data.flip), (CropKind::MultiScale, 0.5));
    assert_eq!((avion.optim.optimizer, avion.optim.lr), (OptimizerKind::Lion, 1.5e-4));
    assert_eq!((avion.optim.betas, avion.train.epochs, avion.train.batch_size), ([0.9, 0.95], 800, 256));
    // The original differs in these alone.
    let original = recipe("videomae-vitb16-k400-original");
    let changed = differences(&avion, &original).unwrap();
    let keys: Vec<&str> = changed.iter().map(|(key, ..)| key.as_str()).collect();
    let expected = [
        "name",
        "data.stride_jitter",
        "data.flip",
        "optim.optimizer",
        "optim.lr",
        "optim.warmup_lr",
        "optim.end_lr",
        "train.epochs",
        "train.batch_size",
        "train.log_every",
        "train.checkpoint_every",
        "masking.target_eps",
    ];
    assert_eq!(keys, expected);
    assert_eq!((original.optim.lr, original.train.batch_size), (1.5e-4 * 2048.0 / 256.0, 2048));
    let fine = recipe("videomae-vitb16-k400-finetune");
    assert_eq!((fine.classify.classes, fine.classify.layer_decay), (400, 0.75));
    assert_eq!((fine.augment.mixup, fine.augment.cutmix, fine.augment.label_smoothing), (0.8, 1.0, 0.1));
    assert_eq!((fine.augment.randaugment, fine.augment.erasing), (4, 0.25));
    assert_eq!((fine.model.drop_path, fine.model.drop_path_schedule), (0.1, DropPathSchedule::Linear));
    assert_eq!((fine.eval.views, fine.eval.crops, fine.optim.lr), (5, 3, 1.5e-3));
}

#[test]
fn unknown_keys_and_wrong_types_are_all_named_with_their_lines() {
    let text = "name = 3\n[optim]\nlearn_rate = 1\nlr = \"fast\"\n[train]\nbach_size = 8\nlr = 1\n\
                [[data.train]]\nformat = \"ego4\"\nfps = true\n[models]\nx = 1\n";
    let found = problems(load(text, &["train.epochs=-1", "seed"]));
    let expected = [
        "run.toml:1: name: expected text, found 3",
        "run.toml:3: optim.learn_rate: unknown key; valid here: optimizer, lr, betas, eps, momentum, nesterov, weight_decay, schedule, warmup_epochs, warmup_lr, end_lr, clip_grad_norm",
        "run.toml:4: optim.lr: expected a number, found \"fast\"",
        "run.toml:6: train.bach_size: unknown key; did you mean train.batch_size?",
        "run.toml:7: train.lr: unknown key; did you mean optim.lr?",
        "run.toml:9: data.train.0.format: expected one of ego4d, ek100, table, kinetics, found \"ego4\"; did you mean ego4d?",
        "run.toml:10: data.train.0.fps: expected a number, found true",
        "run.toml:11: models: unknown key; did you mean model?",
        "--set: train.epochs: expected a whole number, 0 or more, found -1",
        "--set: seed: expected key=value, such as optim.lr=3e-5",
    ];
    assert_eq!(found, expected);
}

#[test]
fn broken_toml_names_line_and_column() {
    let error = load("name = \"a\"\n[optim\nlr = 1", &[]).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("run.toml:2:"), "{text}");
    let twice = load("seed = 1\nseed = 2", &[]).unwrap_err().to_string();
    assert!(twice.starts_with("run.toml:2:1:"), "{twice}");
}

#[test]
fn a_missing_recipe_lists_the_built_in_ones() {
    let text = Recipe::load("ego4d-vit16", &[]).unwrap_err().to_string();
    assert!(text.contains("demo, demo-videomae, demo-videomae-finetune, ego4d-vitb16"), "{text}");
    assert!(text.ends_with("did you mean ego4d-vitb16?"), "{text}");
}

#[test]
fn overrides_set_words_numbers_lists_and_entries() {
    let text = "[[data.train]]\nroot = \"/a\"\n[model]\ninit = \"w.pt\"\n";
    let resolved = load(
        text,
        &[
            "optim.lr=1e-4",
            "model.size=tiny",
            "model.init=none",
            "name = 7",
            "data.crop_scale=[0.25, 1]",
            "data.decoder=nvdec",
            "data.train.0.root=/x y=z",
            "data.train.1={root = \"/b\", fps = 30}",
            "data.train.2.root='/c'",
            "model.learn_temperature=true",
        ],
    )
    .unwrap();
    let recipe = &resolved.recipe;
    assert_eq!(recipe.optim.lr, 1e-4);
    assert_eq!(recipe.model.size, ModelSize::Tiny);
    assert_eq!(recipe.model.init, None);
    assert_eq!(recipe.name, "7");
    assert_eq!(recipe.data.crop_scale, [0.25, 1.0]);
    assert_eq!(recipe.data.decoder, VideoDecoder::Nvdec);
    let roots: Vec<&Path> = recipe.data.train.iter().map(|s| s.root.as_path()).collect();
    assert_eq!(roots, [Path::new("/x y=z"), Path::new("/b"), Path::new("/c")]);
    assert_eq!(recipe.data.train[1].fps, 30.0);
    assert!(recipe.model.learn_temperature);
    let lr = resolved.overridden.iter().find(|(key, ..)| key == "optim.lr");
    assert_eq!(lr.unwrap().1, "3e-5");
    assert_eq!(lr.unwrap().2, "0.0001");
    let init = resolved.overridden.iter().find(|(key, ..)| key == "model.init");
    assert_eq!(init.unwrap().2, "unset");
}

#[test]
fn bad_overrides_say_what_is_possible() {
    for (text, expected) in [
        ("optim.lrr=1", "--set: optim.lrr: unknown key; did you mean optim.lr?"),
        (
            "model.size=huge",
            "--set: model.size: expected one of tiny, tiny-8, vit-s16, vit-b16, vit-l16, vit-l14, vit-l14-336, found \"huge\"",
        ),
        ("data.decoder=gpu", "--set: data.decoder: expected one of cpu, nvdec, found \"gpu\""),
        ("optim.lr=fast", "--set: optim.lr: expected a number, found \"fast\""),
        ("optim.lr=", "--set: optim.lr: expected a number, found nothing"),
        (
            "eval=1",
            "--set: eval: is a section; set one of its keys: before_training, every_epochs, batch_size, views, crops",
        ),
        (
            "data.train.3.root=/x",
            "--set: data.train.3.root: expected a number from 0 to 0 after data.train (0 appends), found \"3\"",
        ),
        ("data.train.0=5", "--set: data.train.0: expected a table in { }, found 5"),
        ("data.train.0={rot=\"/x\"}", "--set: data.train.0.rot: unknown key; did you mean data.train.0.root?"),
        ("seed.x=5", "--set: seed.x: seed holds a whole number, 0 or more, nothing below it"),
        ("data.flip=yes", "--set: data.flip: expected a number, found \"yes\""),
    ] {
        assert_eq!(problems(load("", &[text])), [expected], "{text}");
    }
}

#[test]
fn origins_tell_file_command_line_and_default_apart() {
    let text = "seed = 4\n[[data.train]]\nroot = \"/a\"\n[[data.train]]\nroot = \"/b\"\n";
    let resolved = load(text, &["optim.lr=1e-4", "data.train.1.fps=30"]).unwrap();
    assert_eq!(*resolved.origin("seed"), Origin::File { line: 1 });
    assert_eq!(*resolved.origin("data.train.1.root"), Origin::File { line: 5 });
    assert_eq!(*resolved.origin("data.train.1.fps"), Origin::Set);
    assert_eq!(*resolved.origin("optim.lr"), Origin::Set);
    assert_eq!(*resolved.origin("optim.eps"), Origin::Default);
    let shown = resolved.to_toml(true).unwrap();
    assert!(shown.contains("seed = 4  # run.toml:1\n"), "{shown}");
    assert!(shown.contains("# init is unset"), "{shown}");
    assert!(shown.contains("# --set\n"), "{shown}");
}

#[test]
fn a_printed_recipe_reads_back_the_same() {
    for (name, _) in BUILT_IN {
        let resolved = Recipe::load(name, &set(&["train.output=some where", "optim.eps=1e-300"]));
        let resolved = resolved.unwrap();
        for with_origins in [false, true] {
            let text = resolved.to_toml(with_origins).unwrap();
            let again = load(&text, &[]).unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert_eq!(again.recipe, resolved.recipe);
        }
        assert_eq!(resolved.to_toml(false).unwrap(), resolved.recipe.to_toml().unwrap());
    }
}

#[test]
fn differences_name_changed_keys_only() {
    let before = sound();
    let mut after = before.clone();
    after.train.batch_size = 128;
    after.data.eval.clear();
    let changed = differences(&before, &after).unwrap();
    assert!(changed.contains(&("train.batch_size".to_owned(), "256".to_owned(), "128".to_owned())));
    assert!(changed.iter().any(|(key, _, after)| key == "data.eval.0.root" && after == "unset"));
    assert!(differences(&before, &before).unwrap().is_empty());
}

#[test]
fn every_bad_value_is_reported() {
    let cases: &[(&str, fn(&mut Recipe))] = &[
        ("name", |r| r.name = "a/b".into()),
        ("seed", |r| r.seed = u64::MAX),
        ("model.frames", |r| r.model.frames = 0),
        ("model.embed_dim", |r| r.model.embed_dim = 0),
        ("model.context", |r| r.model.context = 2),
        ("model.vision_norm_eps", |r| r.model.vision_norm_eps = 0.0),
        ("model.text_norm_eps", |r| r.model.text_norm_eps = f64::NAN),
        ("model.temperature", |r| r.model.temperature = 0.0),
        ("model.drop_path", |r| r.model.drop_path = 1.0),
        ("model.init_projections", |r| r.model.init_projections = true),
        ("data.train", |r| r.data.train.clear()),
        ("data.crop_scale", |r| r.data.crop_scale = [0.9, 0.5]),
        ("data.crop_ratio", |r| r.data.crop_ratio = [0.0, 1.0]),
        ("data.flip", |r| r.data.flip = 1.5),
        ("data.max_bad_share", |r| r.data.max_bad_share = -0.1),
        ("data.prefetch", |r| r.data.prefetch = 0),
        ("data.group", |r| r.data.group = 0),
        ("data.fast_loop_filter", |r| {
            (r.data.fast_loop_filter, r.data.decoder) = (true, VideoDecoder::Nvdec);
        }),
        ("data.train.0.annotations", |r| {
            r.data.train[0].annotations = "".into();
        }),
        ("data.train.0.chunk_s", |r| r.data.train[0].chunk_s = -1.0),
        ("data.train.0.fps", |r| r.data.train[0].fps = f64::INFINITY),
        ("data.train.0.extension", |r| {
            r.data.train[0].chunk_s = 15.0;
            r.data.train[0].extension = "".into();
        }),
        ("data.train.0.sentences", |r| {
            r.data.train[0].sentences = Some("x.csv".into());
        }),
        ("data.train.1.name", |r| {
            let again = r.data.train[0].clone();
            r.data.train.push(again);
        }),
        ("optim.lr", |r| r.optim.lr = 0.0),
        ("optim.betas", |r| r.optim.betas[1] = 1.0),
        ("optim.eps", |r| r.optim.eps = 0.0),
        ("optim.momentum", |r| r.optim.momentum = 1.0),
        ("optim.nesterov", |r| r.optim.nesterov = true),
        ("optim.weight_decay", |r| r.optim.weight_decay = -1.0),
        ("optim.clip_grad_norm", |r| r.optim.clip_grad_norm = f64::NAN),
        ("optim.warmup_epochs", |r| {
            r.optim.schedule = Schedule::Cosine;
            r.optim.warmup_epochs = 5.0;
        }),
        ("optim.end_lr", |r| {
            r.optim.schedule = Schedule::Cosine;
            r.optim.end_lr = 1.0;
        }),
        ("train.epochs", |r| r.train.epochs = 0),
        ("train.batch_size", |r| r.train.batch_size = 1),
        ("train.micro_batch", |r| r.train.micro_batch = 100),
        ("train.micro_batch", |r| r.train.micro_batch = 512),
        ("train.log_every", |r| r.train.log_every = 0),
        ("train.keep_checkpoints", |r| r.train.keep_checkpoints = 0),
        ("train.max_bad_steps", |r| r.train.max_bad_steps = 0),
        ("eval.batch_size", |r| r.eval.batch_size = 0),
    ];
    assert_eq!(judged(&sound()), Vec::<String>::new());
    let mut everything = sound();
    for (key, spoil) in cases {
        let mut recipe = sound();
        spoil(&mut recipe);
        let found = judged(&recipe);
        assert_eq!(found.len(), 1, "{key}: {found:?}");
        assert!(found[0].starts_with(&format!("{key}: ")), "{key}: {found:?}");
        if !key.starts_with("data.train") {
            spoil(&mut everything);
        }
    }
    // All at once are all reported.
    let together = judged(&everything).len();
    assert!(together > 25, "{together}");
}

/// The smallest recipe of a classifier with nothing wrong.
fn classifier() -> Recipe {
    let mut recipe = sound();
    (recipe.task, recipe.classify.classes, recipe.model.frames) = (TaskKind::Classify, 10, 16);
    for source in recipe.data.train.iter_mut().chain(&mut recipe.data.eval) {
        source.format = SourceFormat::Kinetics;
    }
    recipe
}

/// The smallest recipe of VideoMAE pre-training with nothing wrong.
fn pre_training() -> Recipe {
    Recipe { task: TaskKind::Masked, ..sound() }
}

#[test]
fn every_bad_value_of_a_task_is_reported() {
    let cases: &[(&str, fn() -> Recipe, fn(&mut Recipe))] = &[
        ("data.repeats", sound, |r| r.data.repeats = 2),
        ("data.repeats", classifier, |r| r.data.repeats = 3),
        ("data.repeats", pre_training, |r| r.data.repeats = 0),
        ("data.train.0.format", sound, |r| r.data.train[0].format = SourceFormat::Kinetics),
        ("data.eval.0.format", classifier, |r| r.data.eval[0].format = SourceFormat::Table),
        ("data.train.0.chunk_s", classifier, |r| r.data.train[0].chunk_s = 15.0),
        ("data.train.0.first_label", sound, |r| r.data.train[0].first_label = 1),
        ("data.stride", classifier, |r| r.data.stride = 0),
        ("data.stride_jitter", classifier, |r| r.data.stride_jitter = true),
        ("model.tubelet", pre_training, |r| r.model.tubelet = 0),
        ("model.frames", pre_training, |r| r.model.frames = 15),
        ("masking.ratio", pre_training, |r| r.masking.ratio = 1.0),
        ("masking.ratio", pre_training, |r| r.masking.ratio = f64::NAN),
        ("masking.ratio", pre_training, |r| r.masking.ratio = 0.005),
        ("masking.decoded", pre_training, |r| r.masking.decoded = 0.0),
        ("masking.decoder_layers", pre_training, |r| r.masking.decoder_layers = 0),
        ("masking.decoder_heads", pre_training, |r| r.masking.decoder_heads = 7),
        ("masking.decoder_heads", pre_training, |r| r.masking.decoder_heads = 0),
        ("masking.target_eps", pre_training, |r| r.masking.target_eps = 0.0),
        ("classify.classes", classifier, |r| r.classify.classes = 1),
        ("classify.init_scale", classifier, |r| r.classify.init_scale = 0.0),
        ("classify.layer_decay", classifier, |r| r.classify.layer_decay = 1.5),
        ("classify.ema", classifier, |r| r.classify.ema = 1.0),
        ("classify.dropout", classifier, |r| r.classify.dropout = -0.1),
        ("eval.crops", classifier, |r| r.eval.crops = 2),
        ("eval.views", classifier, |r| r.eval.views = 0),
        ("eval.views", classifier, |r| r.eval.views = 5),
        ("eval.views", pre_training, |r| r.eval.views = 5),
        ("augment.randaugment_magnitude", classifier, |r| r.augment.randaugment_magnitude = 11.0),
        ("augment.randaugment_probability", classifier, |r| r.augment.randaugment_probability = 1.1),
        ("data.scale_on_device", classifier, |r| {
            (r.data.scale_on_device, r.augment.mixup, r.augment.erasing) = (true, 0.0, 0.25);
        }),
        ("data.scale_on_device", classifier, |r| {
            (r.data.scale_on_device, r.augment.mixup, r.augment.randaugment) = (true, 0.8, 0);
        }),
        ("augment.randaugment_std", classifier, |r| r.augment.randaugment_std = f64::NAN),
        ("augment.erasing", classifier, |r| r.augment.erasing = -0.5),
        ("augment.mixup", classifier, |r| r.augment.mixup = -1.0),
        ("augment.cutmix", classifier, |r| r.augment.cutmix = f64::INFINITY),
        ("augment.mix_probability", classifier, |r| r.augment.mix_probability = 2.0),
        ("augment.switch_probability", classifier, |r| r.augment.switch_probability = 2.0),
        ("augment.label_smoothing", classifier, |r| r.augment.label_smoothing = 1.0),
        ("augment.mixup", sound, |r| r.augment.mixup = 0.8),
        ("augment.erasing", pre_training, |r| r.augment.erasing = 0.25),
        ("train.batch_size", classifier, |r| (r.augment.mixup, r.train.batch_size) = (0.8, 3)),
    ];
    for (name, recipe) in [("classify", classifier()), ("masked", pre_training())] {
        assert_eq!(judged(&recipe), Vec::<String>::new(), "{name}");
    }
    for (key, sound, spoil) in cases {
        let mut recipe = sound();
        spoil(&mut recipe);
        let found = judged(&recipe);
        assert_eq!(found.len(), 1, "{key}: {found:?}");
        assert!(found[0].starts_with(&format!("{key}: ")), "{key}: {found:?}");
    }
    // A batch of one is an odd batch only where clips are compared or mixed.
    let mut one = pre_training();
    one.train.batch_size = 1;
    assert_eq!(judged(&one), Vec::<String>::new());
}

#[test]
fn unusual_choices_are_warned_of() {
    let mut recipe = Recipe::load("ego4d-vitb16", &[]).unwrap().recipe;
    recipe.train.batch_size = 512;
    recipe.data.normalization = Normalization::Openai;
    recipe.data.eval[0].sentences = None;
    recipe.model.drop_path = 0.1;
    let warnings = validate_values(&recipe).unwrap();
    let keys: Vec<&str> = warnings.iter().map(|warning| warning.key).collect();
    assert_eq!(keys, ["model.drop_path_schedule", "data.eval.N.sentences", "train.batch_size", "data.normalization"]);
    assert!(warnings[2].to_string().contains("2048"));
}

#[test]
fn existing_paths_satisfy_validation() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.csv");
    fs::write(&file, "video,start,end,caption\n").unwrap();
    let mut recipe = sound();
    for source in recipe.data.train.iter_mut().chain(&mut recipe.data.eval) {
        source.annotations = file.clone();
        source.root = folder.path().into();
    }
    recipe.model.init = Some(file.clone());
    assert!(validate(&recipe).is_ok());
    recipe.train.output = Some(file.clone());
    recipe.data.train[0].root = file;
    let Err(ConfigError::Invalid { problems }) = validate(&recipe) else {
        panic!("a file is no folder");
    };
    assert_eq!(problems.len(), 2, "{problems:?}");
}

#[test]
fn describe_gives_keys_types_defaults_and_docs() {
    let fields = describe().unwrap();
    let field = |key: &str| fields.iter().find(|field| field.key == key).unwrap();
    let temperature = field("model.temperature");
    assert_eq!((temperature.kind.as_str(), temperature.default.as_str()), ("a number", "0.07"));
    assert!(temperature.doc.contains("exp(logit_scale)"));
    assert_eq!(field("model.init").default, "unset");
    assert_eq!(field("data.train").default, "[]");
    assert_eq!(field("data.train.N.extension").default, "\"mp4\"");
    assert_eq!(field("train.keep").kind, "store | recompute | fit");
    assert!(field("model.activation").doc.contains("quick-gelu: `x * sigmoid"));
}

proptest! {
    /// Whatever is typed, the answer is a recipe or an error.
    #[test]
    fn overrides_never_panic(text in any::<String>(), key in 0usize..60, value in any::<String>()) {
        let _ = load("", &[&text]);
        let fields = describe().unwrap();
        let key = fields[key % fields.len()].key.replace(".N.", ".0.");
        let _ = load("[[data.train]]\nroot = 'a'", &[&format!("{key}={value}")]);
        let _ = load("[[data.train]]\nroot = 'a'", &[&format!("{key}.{text}={value}")]);
        let _ = load(&text, &[]);
    }

    /// A number set on the command line arrives unchanged.
    #[test]
    fn numbers_survive_override_and_printing(lr in 1e-12f64..1e3) {
        let resolved = load("", &[&format!("optim.lr={lr:e}")]).unwrap();
        prop_assert_eq!(resolved.recipe.optim.lr, lr);
        let again = load(&resolved.to_toml(false).unwrap(), &[]).unwrap();
        prop_assert_eq!(again.recipe, resolved.recipe);
    }
}
