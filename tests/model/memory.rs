//! The plan of a step's memory against a real arena: what is in use at its most, and that the slab it asks for is enough.

use crate::device::{R, device};
use avion::config::Recipe;
use avion::data::rng::{Purpose, keyed};
use avion::loss::contrastive::contrastive;
use avion::model::plan::{StepPlan, TowerPlan, TowerSizes};
use avion::model::stack::DropKey;
use avion::model::videomae::{Classifier, ClassifierShape, MaeShape, VideoMae};
use avion::model::{Clip, ClipShape, Pass, check_device, init, specs};
use avion::ops::block::Keep;
use avion::ops::tensor::Ad;
use avion::ops::workspace::dtype;
use avion_kernels::FloatKind;
use avion_kernels::arena::Arena;
use burn::tensor::Tensor;
use rand::Rng;
use std::sync::Arc;

const CLIPS: usize = 6;
const FRAMES: usize = 4;
const KEY: DropKey = DropKey { seed: 0, step: 0, first: 0 };

fn recipe(task: &str, drop_path: f64) -> Recipe {
    let text = format!(
        "task = \"{task}\"
        model = {{ size = \"tiny\", frames = {FRAMES}, drop_path = {drop_path} }}
        masking = {{ ratio = 0.6, decoder_layers = 2, decoder_width = 64, decoder_heads = 2 }}
        train = {{ batch_size = {CLIPS} }}
        {}",
        if task == "classify" { "classify = { classes = 8 }" } else { "" },
    );
    Recipe::from_toml(&text, "test.toml", &[]).unwrap().recipe
}

/// Each drop path with each type of activations that the device computes in; residual streams differ between them.
fn variants(task: &str) -> Vec<(String, Recipe, FloatKind)> {
    let all = [0.0, 0.2].into_iter().flat_map(|drop_path| {
        let of = move |kind| (format!("{task}, drop path {drop_path}, {kind:?}"), recipe(task, drop_path), kind);
        [FloatKind::F32, FloatKind::F16, FloatKind::Bf16].map(of)
    });
    all.filter(|(_, recipe, kind)| check_device::<R>(recipe, *kind, &device()).is_ok()).collect()
}

fn values(recipe: &Recipe) -> Vec<Vec<f32>> {
    init::values(&specs(recipe).unwrap(), 0)
}

fn pixels() -> Vec<u8> {
    let mut rng = keyed(1, 0, 0, Purpose::Synthetic);
    (0..CLIPS * FRAMES * 48 * 48 * 3).map(|_| rng.random()).collect()
}

/// Nothing kept, everything, and each piece with some probability.
fn plans(towers: &[TowerSizes]) -> Vec<StepPlan> {
    let mut rng = keyed(2, 0, 0, Purpose::Synthetic);
    let mut mixed = |share| {
        let mut yes = || rng.random_bool(share);
        let mut plans: Vec<TowerPlan> =
            towers.iter().map(|sizes| TowerPlan::uniform(sizes, Keep { qkv: yes(), ..Keep::NOTHING })).collect();
        for keep in plans.iter_mut().flat_map(|plan| &mut plan.blocks) {
            let (qkv, attended, middle) = (yes(), yes(), yes());
            *keep = Keep { qkv, attended, middle, hidden: yes(), activated: yes(), normed: yes() };
        }
        StepPlan::of(towers, plans)
    };
    let mut all = vec![StepPlan::uniform(towers, Keep::NOTHING), StepPlan::uniform(towers, Keep::ALL)];
    all.extend([0.2, 0.4, 0.6, 0.8].map(&mut mixed));
    all
}

/// Two steps with each plan, of a fresh model each. Steps of less than the plan is made for need no more than its slab.
fn check<M>(
    name: &str,
    towers: &[TowerSizes],
    make: impl Fn() -> M,
    arena: impl Fn(&M) -> &Arena<R>,
    step: impl Fn(&M, &StepPlan),
    smaller: impl Fn(&M, &StepPlan),
) {
    for plan in plans(towers) {
        let model = make();
        let usage = || arena(&model).usage();
        arena(&model).reserve(plan.slab);
        assert_eq!(usage().reserved, plan.slab, "{name}");
        smaller(&model, &plan);
        assert!(usage().peak <= plan.peak, "{name}: {plan}");
        for _ in 0..2 {
            step(&model, &plan);
            assert_eq!(usage().in_use, 0, "{name}: a step gives back what it takes");
            assert_eq!(usage().peak, plan.peak, "{name}: {plan}");
            assert_eq!(usage().reserved, plan.slab, "{name} grew: {plan}");
        }
    }
}

#[test]
fn a_contrastive_step_takes_what_is_planned() {
    for (name, of, kind) in variants("contrastive") {
        let (shape, values) = (ClipShape::of(&of), values(&of));
        let towers = shape.tower_sizes(CLIPS, 12, kind.size());
        let run = |clip: &Clip<R>, plan: &StepPlan, tokens: usize| {
            let pass = Pass { plan: Some(Arc::new(plan.clone())), drop_path: Some(KEY) };
            let (ids, ends) = (vec![1; CLIPS * tokens], [tokens - 1; CLIPS]);
            let video = clip.encode_video(clip.upload_frames(&pixels(), CLIPS), &pass);
            let text = clip.encode_text(clip.upload_captions(&ids, tokens, &ends), &pass);
            let features = [&video, &text].map(|feature| feature.clone().inner());
            let [v, t] = features;
            let loss = contrastive(&clip.ws, v, t, &clip.logit_scale, false);
            for (feature, gradient) in [(text, loss.d_text), (video, loss.d_video)] {
                (feature * Tensor::<Ad<R>, 2>::from_inner(gradient)).sum().backward();
            }
        };
        check(
            &name,
            &towers,
            || Clip::<R>::new(shape.clone(), &values, dtype(kind), &device()),
            |clip| &clip.ws.arena,
            |clip, plan| run(clip, plan, 12),
            |clip, plan| {
                // The first round of a batch in chunks, and shorter captions.
                clip.encode_video(clip.upload_frames(&pixels(), CLIPS), &Pass { plan: None, drop_path: Some(KEY) });
                [11, 7, 2].into_iter().for_each(|tokens| run(clip, plan, tokens));
            },
        );
    }
}

#[test]
fn a_masked_step_takes_what_is_planned() {
    for (name, of, kind) in variants("masked") {
        let (shape, values) = (MaeShape::of(&of).unwrap(), values(&of));
        let keys: Vec<[u32; 2]> = (0..CLIPS as u32).map(|clip| [clip, 0]).collect();
        check(
            &name,
            &shape.tower_sizes(CLIPS, kind.size()),
            || VideoMae::<R>::new(shape.clone(), &values, dtype(kind), &device()),
            |model| &model.ws.arena,
            |model, plan| {
                let clips = model.mask(model.ws.upload_bytes(&pixels()), &keys);
                model.gradients(&clips, plan, Some(KEY));
            },
            |_, _| {},
        );
    }
}

#[test]
fn a_classifying_step_takes_what_is_planned() {
    for (name, of, kind) in variants("classify") {
        let (shape, values) = (ClassifierShape::of(&of), values(&of));
        let targets = vec![1.0 / 8.0; CLIPS * 8];
        check(
            &name,
            &[shape.tower_sizes(CLIPS, kind.size())],
            || Classifier::<R>::new(shape.clone(), &values, dtype(kind), &device()),
            |model| &model.ws.arena,
            |model, plan| {
                model.gradients(model.ws.upload_bytes(&pixels()), &targets, plan, KEY);
            },
            |_, _| {},
        );
    }
}
