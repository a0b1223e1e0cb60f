//! Gradients that the optimizer leaves for the next step to write over: they count as zero, whoever comes first. What a
//! step gives is what it gives when all gradients are cleared before it.

use crate::common::assert_close;
use crate::device::{R, SAME, device};
use avion::config::recipe::{Activation, Normalization, OptimConfig, OptimizerKind};
use avion::loss::contrastive::contrastive;
use avion::model::params::{Init, ParamSpec, ParamStore};
use avion::model::plan::StepPlan;
use avion::model::{Clip, ClipShape, Pass, TowerShape, init, shape::pixel_norm};
use avion::ops::block::Keep;
use avion::ops::linear;
use avion::ops::tensor::{Ad, T, from_handle};
use avion::ops::workspace::{Matrix, Workspace, dtype};
use avion::optim::{Optimizer, UpdateStats};
use avion_kernels::{FloatKind, flat};
use burn::tensor::{DType, Tensor};
use cubecl::prelude::CubePrimitive;
use std::sync::Arc;

/// Columns of every matrix.
const WIDTH: usize = 256;
/// Rows of the matrix whose gradient is left: more than one slice of it.
const TALL: usize = 3 * WIDTH;
/// Rows of the products' operands.
const ROWS: usize = 12;

/// Parameters of each kind: `large` is the one whose gradient is left.
fn store(kind: FloatKind) -> ParamStore<R> {
    let matrix = |name, rows| ParamSpec::new(name, &[rows, WIDTH], Init::Zeros);
    let frozen = ParamSpec { trainable: false, ..matrix("frozen", TALL) };
    let specs =
        vec![matrix("small", 16), matrix("large", TALL), frozen, ParamSpec::new("vector", &[1 << 17], Init::Zeros)];
    let leaves: Vec<bool> = specs.iter().map(ParamSpec::leaves_gradient).collect();
    assert_eq!(leaves, [false, true, false, false]);
    let values: Vec<Vec<f32>> = specs.iter().map(|spec| vec![1.0; spec.len()]).collect();
    ParamStore::new(&device(), specs, &values, dtype(kind))
}

/// A step of plain gradient descent; what it saw.
fn step(params: &ParamStore<R>) -> UpdateStats {
    let plain = OptimConfig {
        optimizer: OptimizerKind::Sgd,
        momentum: 0.0,
        weight_decay: 0.0,
        clip_grad_norm: 0.0,
        ..OptimConfig::default()
    };
    let mut optimizer = Optimizer::new(&plain, params, None, 0);
    optimizer.step(params, 0.5, 1.0).unwrap();
    optimizer.stats(params).unwrap()
}

/// Some values between -1 and 1, others for every `seed`.
fn pattern(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + i / 97 + seed * 29) % 101) as f32 / 50.0 - 1.0).collect()
}

fn upload(ws: &Workspace<R>, values: &[f32], columns: usize) -> Matrix {
    let matrix = ws.matrix(values.len() / columns, columns);
    flat::cast(&ws.client, &ws.upload(values), matrix.handle(), matrix.kind, values.len());
    matrix
}

fn matrix(ws: &Workspace<R>, rows: usize, columns: usize, seed: usize) -> Matrix {
    upload(ws, &pattern(rows * columns, seed), columns)
}

/// Adds some values to the gradient of a parameter.
fn add(params: &ParamStore<R>, name: &str, values: &[f32]) {
    let values_on_device = params.client.create_from_slice(bytemuck::cast_slice(values));
    let gradient = from_handle(&params.client, &params.device, values_on_device, [values.len()], DType::F32);
    params.weight(name).accumulate::<1>(gradient);
}

/// f32, and what halves the device has.
fn kinds() -> Vec<FloatKind> {
    let client = Workspace::<R>::new(&device(), FloatKind::F32).client;
    let has = |element| client.properties().supports_type(element);
    let halves = [
        (FloatKind::F16, has(half::f16::as_type_native_unchecked())),
        (FloatKind::Bf16, has(half::bf16::as_type_native_unchecked())),
    ];
    let halves = halves.into_iter().filter_map(|(kind, has)| has.then_some(kind));
    [FloatKind::F32].into_iter().chain(halves).collect()
}

/// What may come first to the gradient of `large`, and second.
const FIRST: [&str; 7] = ["nothing", "product", "projection", "slice", "column sum", "sum", "read"];
const SECOND: [&str; 3] = ["nothing", "product", "slice"];

fn make_use(name: &str, params: &ParamStore<R>, ws: &Workspace<R>) {
    let (large, seed) = (params.weight("large"), name.len());
    match name {
        "nothing" => (),
        "product" => {
            linear::weight_gradient(ws, &matrix(ws, ROWS, WIDTH, seed), &matrix(ws, ROWS, TALL, seed + 1), &large);
        }
        "projection" => {
            let (x, dy) = (matrix(ws, ROWS, TALL, seed), matrix(ws, ROWS, WIDTH, seed + 1));
            linear::project_backward(ws, &x, &dy, &large);
        }
        "slice" => {
            let (x, dy) = (matrix(ws, ROWS, WIDTH, seed), matrix(ws, ROWS, WIDTH, seed + 1));
            linear::weight_gradient(ws, &x, &dy, &large.slice(WIDTH..2 * WIDTH));
        }
        "column sum" => large.slice(0..4).accumulate_columns(ws, &matrix(ws, ROWS, 4 * WIDTH, seed)),
        "sum" => add(params, "large", &pattern(5 * WIDTH, seed)),
        "read" => drop(params.gradients()),
        other => unreachable!("{other}"),
    }
}

#[test]
fn a_gradient_that_was_left_counts_as_zero_for_whoever_comes() {
    for kind in kinds() {
        let ws = Workspace::<R>::new(&device(), kind);
        // The second gradient is one that forbids its update.
        for left in [2.0, f32::NAN] {
            for uses in FIRST.iter().flat_map(|first| SECOND.map(|second| [*first, second])) {
                let params = store(kind);
                let raw = params.gradients();
                params.specs().iter().for_each(|spec| add(&params, &spec.name, &vec![left; spec.len()]));
                assert_eq!(step(&params).applied, left.is_finite());
                if uses == ["nothing"; 2] {
                    // The test's premise: of the trainable, the optimizer cleared all but one.
                    for (spec, gradient) in params.specs().iter().zip(params.read(raw).unwrap()) {
                        let cleared = gradient.iter().all(|g| *g == 0.0);
                        assert!(cleared || spec.name == "large", "{}", spec.name);
                        assert!(!cleared || spec.name != "large", "{}", spec.name);
                    }
                }
                uses.iter().for_each(|name| make_use(name, &params, &ws));
                let got = params.read(params.gradients()).unwrap();

                let clean = store(kind);
                uses.iter().for_each(|name| make_use(name, &clean, &ws));
                let expected = clean.read(clean.gradients()).unwrap();
                let none = uses.iter().all(|name| ["nothing", "read"].contains(name));
                assert_eq!(expected.concat().iter().all(|g| *g == 0.0), none);
                for (got, expected) in got.iter().zip(&expected) {
                    assert_close(&format!("{kind:?}, {left}: {uses:?}"), got, expected, SAME);
                }
            }
        }
    }
}

/// Also the first in a process: after a resumption a product is the same as in a run that went on.
#[test]
fn a_steps_first_product_is_written_and_the_second_is_added() {
    let params = store(FloatKind::F32);
    let adds = |name: &str| params.weight(name).gradient_to_write().1;
    for _ in 0..2 {
        assert_eq!(["large", "large", "small", "frozen", "vector"].map(adds), [false, true, true, true, true]);
        step(&params);
    }
    params.clear_gradients();
    assert!(adds("large"));
}

#[test]
fn a_parameter_without_a_gradient_does_not_move() {
    let params = store(FloatKind::F32);
    let ws = Workspace::<R>::new(&device(), FloatKind::F32);
    make_use("product", &params, &ws);
    let before = step(&params);
    let moved = params.read(params.values()).unwrap();
    assert!(before.grad_norm > 1.0 && moved[1].iter().any(|w| *w != 1.0));
    add(&params, "vector", &[3.0, 4.0]);
    assert!((step(&params).grad_norm - 5.0).abs() < 1e-5);
    let after = params.read(params.values()).unwrap();
    assert_eq!(after[..3], moved[..3]);
    assert_eq!(after[3][..3], [-0.5, -1.0, 1.0]);
    assert_eq!(step(&params).grad_norm, 0.0);
}

#[test]
fn two_parts_of_a_batch_give_the_gradient_of_the_whole() {
    let ws = Workspace::<R>::new(&device(), FloatKind::F32);
    let (x, dy) = (pattern(2 * ROWS * WIDTH, 1), pattern(2 * ROWS * TALL, 2));
    let gradients = |params: &ParamStore<R>, parts: usize| {
        for (x, dy) in x.chunks(x.len() / parts).zip(dy.chunks(dy.len() / parts)) {
            linear::weight_gradient(&ws, &upload(&ws, x, WIDTH), &upload(&ws, dy, TALL), &params.weight("large"));
        }
        params.read(params.gradients()).unwrap().concat()
    };
    let params = store(FloatKind::F32);
    let whole = gradients(&params, 1);
    step(&params);
    assert_close("in parts, after a step", &gradients(&params, 2), &whole, 1e-6);
}

/// Wide enough that a block's matrices are left.
fn wide_clip() -> Clip<R> {
    let tower = |eps| TowerShape { width: WIDTH, layers: 2, heads: 4, eps };
    let shape = ClipShape {
        image_px: 16,
        patch_px: 8,
        frames: 2,
        vision: tower(1e-6),
        text: tower(1e-5),
        vocabulary: 300,
        context: 16,
        embed: WIDTH,
        activation: Activation::Gelu,
        pixels: pixel_norm(Normalization::Avion),
        temperature: 0.07,
        learn_temperature: true,
        drop_path: vec![0.0; 2],
        patch_dropout: 0.0,
    };
    let values = init::values(&init::specs(&shape), 7);
    Clip::new(shape, &values, DType::F32, &device())
}

/// Norms of the gradients, and the weights after three steps, of which the second is the text's alone.
fn trained(clear: bool) -> (Vec<f32>, Vec<Vec<f32>>) {
    const CLIPS: usize = 3;
    const LENGTH: usize = 5;
    let clip = wide_clip();
    let pixels: Vec<u8> = (0..CLIPS * 2 * 16 * 16 * 3).map(|i| (i * 31 % 251) as u8).collect();
    let tokens: Vec<i32> = (0..CLIPS * LENGTH).map(|i| (i * 53 % 299) as i32).collect();
    let mut norms = Vec::new();
    for with_video in [true, false, true] {
        if clear {
            clip.params.clear_gradients();
        }
        let [vision, text] = clip.sizes(CLIPS, LENGTH);
        let plan = StepPlan::uniform(&[vision, text], Keep::ALL);
        let pass = Pass { plan: Some(Arc::new(plan)), drop_path: None };
        let video = clip.encode_video(clip.upload_frames(&pixels, CLIPS), &pass);
        let text = clip.encode_text(clip.upload_captions(&tokens, LENGTH, &[LENGTH - 1; CLIPS]), &pass);
        let (d_video, d_text) = (video.clone().inner(), text.clone().inner());
        let out = contrastive(&clip.ws, d_video, d_text, &clip.logit_scale, true);
        let back =
            |feature: Tensor<Ad<R>, 2>, gradient: T<R, 2>| (feature * Tensor::from_inner(gradient)).sum().backward();
        back(text, out.d_text);
        if with_video {
            back(video, out.d_video);
        }
        norms.push(step(&clip.params).grad_norm);
    }
    (norms, clip.params.read(clip.params.values()).unwrap())
}

#[test]
fn training_is_the_same_when_all_gradients_are_cleared_before_each_step() {
    let clip = wide_clip();
    let left = clip.params.specs().iter().filter(|spec| spec.leaves_gradient()).count();
    // Four matrices of each of four blocks, both projections, the tokens' table.
    assert_eq!(left, 4 * 4 + 2 + 1);
    let ((norms, weights), (expected_norms, expected)) = (trained(false), trained(true));
    assert!(expected_norms[1] > 0.0 && expected_norms[1] < expected_norms[0]);
    // Three steps carry further what rounding made of one.
    assert_close("norms", &norms, &expected_norms, 10.0 * SAME);
    for ((spec, got), expected) in clip.params.specs().iter().zip(&weights).zip(&expected) {
        assert_close(&spec.name, got, expected, 10.0 * SAME);
    }
}
