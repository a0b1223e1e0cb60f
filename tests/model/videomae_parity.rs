//! VideoMAE, its loss and its gradients against Hugging Face in f64 (`tests/fixtures/videomae`), and against slopes.

use crate::common::assert_close;
use crate::device::{R, device};
use avion::checkpoint::{LoadOptions, Tensors, load_into, read_safetensors, read_weights};
use avion::config::recipe::{Activation, Normalization};
use avion::model::params::{ParamSpec, ParamStore};
use avion::model::plan::StepPlan;
use avion::model::stack::DropKey;
use avion::model::videomae::{Classifier, ClassifierShape, MaeShape, Masked, VideoMae, classifier_specs, specs};
use avion::model::{TowerShape, shape::pixel_norm};
use avion::ops::block::Keep;
use avion::ops::tubelet_embed::{MaskKind, MaskShape, TubeletGrid};
use avion::ops::workspace::{Matrix, Workspace};
use avion_kernels::Handle;
use burn::tensor::DType;
use std::path::{Path, PathBuf};

const CLIPS: usize = 3;
const CLASSES: usize = 10;
const GRID: TubeletGrid = TubeletGrid { frames: 4, image_px: 32, patch_px: 8, tubelet: 2 };
const ENCODER: TowerShape = TowerShape { width: 64, layers: 2, heads: 2, eps: 1e-6 };
const KEY: DropKey = DropKey { seed: 3, step: 7, first: 0 };

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/videomae/{name}.safetensors"))
}

struct Numbers(Tensors);

impl Numbers {
    fn open(name: &str) -> Self {
        Numbers(read_safetensors(&path(name)).unwrap().0)
    }

    fn f32(&self, key: &str) -> Vec<f32> {
        self.0.get(key).unwrap_or_else(|| panic!("{key}")).to_f32().unwrap()
    }

    fn u8(&self, key: &str) -> &[u8] {
        &self.0[key].bytes
    }
}

fn mae_shape() -> MaeShape {
    MaeShape {
        grid: GRID,
        encoder: ENCODER,
        decoder: TowerShape { width: 32, layers: 1, heads: 1, eps: 1e-6 },
        mask: MaskShape::of_ratio(MaskKind::Tube, [2, 4, 4], 0.75).unwrap(),
        activation: Activation::Gelu,
        pixels: pixel_norm(Normalization::Imagenet),
        normalize: Some(255e-6),
        drop_path: vec![0.0; 2],
    }
}

fn classifier_shape() -> ClassifierShape {
    ClassifierShape {
        grid: GRID,
        encoder: ENCODER,
        classes: CLASSES,
        activation: Activation::Gelu,
        pixels: pixel_norm(Normalization::Imagenet),
        drop_path: vec![0.0; 2],
        init_scale: 1.0,
        layer_decay: 1.0,
        freeze: false,
        dropout: 0.0,
    }
}

/// The fixture's weights, through the names and fitting of published files.
fn weights(specs: &[ParamSpec]) -> Vec<Vec<f32>> {
    let expected: Vec<_> = specs.iter().map(|spec| (spec.name.clone(), spec.shape.clone())).collect();
    let file = read_weights(&path("weights")).unwrap();
    let (tensors, _) = load_into(&expected, file, LoadOptions { projections: true }).unwrap();
    specs.iter().map(|spec| tensors[&spec.name].to_f32().unwrap()).collect()
}

fn mae(values: &[Vec<f32>]) -> VideoMae<R> {
    VideoMae::new(mae_shape(), values, DType::F32, &device())
}

fn classifier(shape: ClassifierShape, values: &[Vec<f32>]) -> Classifier<R> {
    Classifier::new(shape, values, DType::F32, &device())
}

/// The fixture's clips under its masks.
fn masked(model: &VideoMae<R>, numbers: &Numbers) -> Masked {
    let order: Vec<u32> = numbers
        .u8("mask")
        .chunks(GRID.tokens())
        .flat_map(|mask| {
            let of = move |wanted: u8| (0..mask.len() as u32).filter(move |i| mask[*i as usize] == wanted);
            of(0).chain(of(1))
        })
        .collect();
    let counts = model.shape.counts(CLIPS);
    assert_eq!(order.len(), counts.rows());
    model.with_order(model.ws.upload_bytes(numbers.u8("frames")), model.ws.upload(&order), counts)
}

fn read(ws: &Workspace<R>, matrix: &Matrix) -> Vec<f32> {
    ws.tensor(matrix).into_data().to_vec().unwrap()
}

fn scalars(ws: &Workspace<R>, handle: Handle) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(&ws.client.read_one(handle).unwrap())
}

/// Every gradient against the fixture's: large ones are stored as every 61st element, with the norm of the whole.
fn check_gradients(params: &ParamStore<R>, expected: &Numbers) {
    for (spec, gradient) in params.specs().iter().zip(params.read(params.gradients()).unwrap()) {
        let name = format!("grad.{}", spec.name);
        let reference = expected.f32(&name);
        let is_sampled = reference.len() != gradient.len();
        let got: Vec<f32> = gradient.iter().copied().step_by(if is_sampled { 61 } else { 1 }).collect();
        if spec.name.ends_with("qkv.bias") {
            // The key bias has a true gradient of 0: compare the rest, and this by size.
            let third = got.len() / 3;
            let rest = |v: &[f32]| [&v[..third], &v[2 * third..]].concat();
            assert_close(&name, &rest(&got), &rest(&reference), 2e-5);
            assert!(got[third..2 * third].iter().all(|g| g.abs() < 1e-6), "{name}: key bias");
        } else {
            assert_close(&name, &got, &reference, 2e-5);
        }
        if is_sampled {
            let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt() as f32;
            assert_close(&format!("norm of {name}"), &[norm], &expected.f32(&format!("norm.{name}")), 2e-5);
        }
    }
}

/// Everything kept, nothing, and something else of each block.
fn plans(sizes: &[avion::model::plan::TowerSizes]) -> [StepPlan; 3] {
    let mut mixed = StepPlan::uniform(sizes, Keep::ALL);
    let pieces = [
        Keep { middle: false, hidden: false, normed: false, ..Keep::ALL },
        Keep { middle: true, activated: true, ..Keep::NOTHING },
    ];
    for tower in &mut mixed.towers {
        tower.blocks.iter_mut().zip(pieces).for_each(|(keep, pieces)| *keep = pieces);
    }
    [StepPlan::uniform(sizes, Keep::ALL), StepPlan::uniform(sizes, Keep::NOTHING), mixed]
}

#[test]
fn pretraining_equals_hugging_face() {
    let expected = Numbers::open("pretraining");
    let model = mae(&weights(&specs(&mae_shape())));
    let clips = masked(&model, &expected);
    assert_close("prediction", &read(&model.ws, &model.prediction(&clips)), &expected.f32("logits"), 1e-5);
    assert_close("loss alone", &scalars(&model.ws, model.evaluate(&clips))[..1], &expected.f32("loss"), 1e-5);
    for plan in plans(&model.shape.tower_sizes(CLIPS, 4)) {
        model.params.clear_gradients();
        let result = scalars(&model.ws, model.gradients(&clips, &plan, None));
        assert_close("loss", &result[..1], &expected.f32("loss"), 1e-5);
        check_gradients(&model.params, &expected);
        assert_eq!(model.ws.arena.usage().in_use, 0, "a step gives back all of its activations' memory");
    }
}

/// The share of the targets' variance that is explained, from the fixture's predictions and targets of clip 0.
#[test]
fn the_explained_share_is_that_of_the_fixture() {
    let numbers = Numbers::open("pretraining");
    let model = mae(&weights(&specs(&mae_shape())));
    let (targets, predicted) = (numbers.f32("targets"), numbers.f32("logits"));
    let squares = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        targets.iter().zip(&predicted).map(|(t, p)| f(f64::from(*t), f64::from(*p)).powi(2)).sum()
    };
    let explained = 1.0 - squares(&|t, p| t - p) / squares(&|t, _| t);
    let order: Vec<u32> = {
        let mask = &numbers.u8("mask")[..GRID.tokens()];
        let of = |wanted: u8| (0..mask.len() as u32).filter(move |i| mask[*i as usize] == wanted);
        of(0).chain(of(1)).collect()
    };
    let pixels = model.ws.upload_bytes(&numbers.u8("frames")[..GRID.padded_bytes(1)]);
    let clip = model.with_order(pixels, model.ws.upload(&order), model.shape.counts(1));
    let result = scalars(&model.ws, model.evaluate(&clip));
    assert_close("explained", &result[1..], &[explained as f32], 1e-5);
    let mean = squares(&|t, p| t - p) / targets.len() as f64;
    assert_close("loss of one clip", &result[..1], &[mean as f32], 1e-5);
}

#[test]
fn classification_equals_hugging_face() {
    let (expected, frames) = (Numbers::open("classification"), Numbers::open("pretraining"));
    let model = classifier(classifier_shape(), &weights(&classifier_specs(&classifier_shape())));
    let pixels = model.ws.upload_bytes(frames.u8("frames"));
    let logits: Vec<f32> = model.logits(pixels.clone(), CLIPS).into_data().to_vec().unwrap();
    assert_close("logits", &logits, &expected.f32("logits"), 1e-5);
    let targets = expected.f32("targets");
    for plan in plans(&[model.shape.tower_sizes(CLIPS, 4)]) {
        model.params.clear_gradients();
        let result = scalars(&model.ws, model.gradients(pixels.clone(), &targets, &plan, KEY));
        assert_close("loss", &result[..1], &expected.f32("loss"), 1e-5);
        check_gradients(&model.params, &expected);
        assert_eq!(model.ws.arena.usage().in_use, 0, "a step gives back all of its activations' memory");
    }
}

/// Drop path at a rate too small to drop anything takes the other way through every branch, to the same gradients.
#[test]
fn a_drop_path_that_drops_nothing_changes_no_gradient() {
    let (expected, frames) = (Numbers::open("classification"), Numbers::open("pretraining"));
    let mut shape = classifier_shape();
    shape.drop_path = vec![1e-9; 2];
    let model = classifier(shape, &weights(&classifier_specs(&classifier_shape())));
    let plan = StepPlan::uniform(&[model.shape.tower_sizes(CLIPS, 4)], Keep::NOTHING);
    model.gradients(model.ws.upload_bytes(frames.u8("frames")), &expected.f32("targets"), &plan, KEY);
    check_gradients(&model.params, &expected);
    let mut shape = mae_shape();
    shape.drop_path = vec![1e-9; 2];
    let model = VideoMae::<R>::new(shape, &weights(&specs(&mae_shape())), DType::F32, &device());
    let plan = StepPlan::uniform(&model.shape.tower_sizes(CLIPS, 4), Keep::ALL);
    model.gradients(&masked(&model, &frames), &plan, Some(KEY));
    check_gradients(&model.params, &frames);
}

/// Where a clip is one token, features are what a classifier with that norm and the unit matrix as head answers.
#[test]
fn features_of_one_token_are_its_norm() {
    let grid = TubeletGrid { frames: 2, image_px: 8, patch_px: 8, tubelet: 2 };
    let width = ENCODER.width;
    let mask = MaskShape::of_ratio(MaskKind::Random, [2, 1, 1], 0.5).unwrap();
    let mae = MaeShape { grid, mask, ..mae_shape() };
    let shape = ClassifierShape { grid, classes: width, ..classifier_shape() };
    let values = weights(&specs(&mae));
    let of = |name: &str| values[specs(&mae).iter().position(|spec| spec.name == name).unwrap()].clone();
    let head: Vec<Vec<f32>> = classifier_specs(&shape)
        .iter()
        .map(|spec| match spec.name.as_str() {
            "head.weight" => (0..width * width).map(|i| f32::from(u8::from(i % (width + 1) == 0))).collect(),
            "head.bias" => vec![0.0; width],
            name => of(&name.replace("fc_norm", "encoder.norm")),
        })
        .collect();
    let (model, reference) = (VideoMae::<R>::new(mae, &values, DType::F32, &device()), classifier(shape, &head));
    let frames = Numbers::open("pretraining");
    let clips = 5;
    let pixels = model.ws.upload_bytes(&frames.u8("frames")[..grid.padded_bytes(clips)]);
    let logits: Vec<f32> = reference.logits(pixels.clone(), clips).into_data().to_vec().unwrap();
    assert_close("features", &read(&model.ws, &model.features(pixels, clips)), &logits, 1e-6);
}

/// The slope of the whole loss along each gradient, by finite differences.
#[test]
fn gradients_of_the_masked_loss_are_its_slopes() {
    let numbers = Numbers::open("pretraining");
    let start = weights(&specs(&mae_shape()));
    let model = mae(&start);
    let plan = StepPlan::uniform(&model.shape.tower_sizes(CLIPS, 4), Keep::ALL);
    model.gradients(&masked(&model, &numbers), &plan, None);
    let gradients = model.params.read(model.params.gradients()).unwrap();
    for name in [
        "mask_token",
        "encoder_to_decoder.weight",
        "encoder.patch_embed.proj.bias",
        "encoder.norm.weight",
        "encoder.blocks.1.attn.qkv.weight",
        "decoder.blocks.0.mlp.fc2.bias",
    ] {
        let at = model.params.specs().iter().position(|spec| spec.name == name).unwrap();
        let length = gradients[at].iter().map(|g| g * g).sum::<f32>().sqrt();
        assert!(length > 1e-5, "{name} has a gradient");
        let step = 2e-2;
        let moved = |sign: f32| {
            let mut values = start.clone();
            values[at].iter_mut().zip(&gradients[at]).for_each(|(v, g)| *v += sign * step * g / length);
            let model = mae(&values);
            f64::from(scalars(&model.ws, model.evaluate(&masked(&model, &numbers)))[0])
        };
        let slope = (moved(1.0) - moved(-1.0)) / (2.0 * f64::from(step));
        assert!((slope / f64::from(length) - 1.0).abs() < 0.02, "{name}: slope {slope}, gradient's {length}");
    }
}
