//! The model, its loss and its gradients against PyTorch in f64 (fixtures by `tests/fixtures/clip/make_clip_fixture.py`).

use crate::common::{Fixture, assert_close};
use crate::device::{R, device};
use avion::config::recipe::Activation;
use avion::data::rng::{Purpose, keyed};
use avion::loss::contrastive::contrastive;
use avion::model::plan::StepPlan;
use avion::model::{Clip, ClipShape, Pass, TowerShape, init, shape::pixel_norm};
use avion::ops::block::Keep;
use avion::ops::tensor::{Ad, T, primitive};
use avion_kernels::Handle;
use burn::tensor::{DType, Tensor};
use rand::Rng;
use std::sync::Arc;

fn shape(frames: usize, activation: Activation) -> ClipShape {
    ClipShape {
        image_px: 32,
        patch_px: 8,
        frames,
        vision: TowerShape { width: 64, layers: 2, heads: 2, eps: 1e-6 },
        text: TowerShape { width: 32, layers: 2, heads: 1, eps: 1e-5 },
        vocabulary: 300,
        context: 16,
        embed: 24,
        activation,
        pixels: pixel_norm(avion::config::recipe::Normalization::Avion),
        temperature: 0.07,
        learn_temperature: true,
        drop_path: vec![0.0; 2],
        patch_dropout: 0.0,
    }
}

fn model(shape: ClipShape, weights: &Fixture) -> Clip<R> {
    let values: Vec<Vec<f32>> = init::specs(&shape).iter().map(|spec| weights.f32(&spec.name)).collect();
    Clip::new(shape, &values, DType::F32, &device())
}

fn read<const D: usize>(t: T<R, D>) -> Vec<f32> {
    t.into_data().to_vec().unwrap()
}

fn read_handle(clip: &Clip<R>, handle: Handle) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(&clip.params.client.read_one(handle).unwrap())
}

/// A pass with gradients that keeps the same of every block.
fn tracked(clip: &Clip<R>, clips: usize, caption: usize, keep: Keep) -> Pass {
    let [vision, text] = clip.sizes(clips, caption);
    Pass { plan: Some(Arc::new(StepPlan::uniform(&[vision, text], keep))), drop_path: None }
}

/// Features, loss and every gradient of one variant, with and without recomputation, must equal PyTorch's.
fn check(file: &str, frames: usize, activation: Activation, keep: Keep) {
    let (weights, inputs, expected) = (Fixture::open("weights"), Fixture::open("inputs"), Fixture::open(file));
    let clip = model(shape(frames, activation), &weights);

    let all_frames = inputs.u8("frames");
    let frame_bytes = 32 * 32 * 3;
    let pixels: Vec<u8> =
        all_frames.chunks(3 * frame_bytes).flat_map(|clip| clip[..frames * frame_bytes].to_vec()).collect();
    let (tokens, lengths) = (inputs.i32("tokens"), inputs.i32("lengths"));
    let longest = inputs.i32("longest")[0] as usize;
    let ids: Vec<i32> = tokens.chunks(16).flat_map(|row| row[..longest].to_vec()).collect();
    let ends: Vec<usize> = lengths.iter().map(|l| *l as usize - 1).collect();

    let pass = tracked(&clip, 5, longest, keep);
    let video = clip.encode_video(clip.upload_frames(&pixels, 5), &pass);
    let text = clip.encode_text(clip.upload_captions(&ids, longest, &ends), &pass);
    assert_close("features.image", &read(video.clone().inner()), &expected.f32("features.image"), 1e-5);
    assert_close("features.text", &read(text.clone().inner()), &expected.f32("features.text"), 1e-5);

    let out = contrastive(&clip.ws, video.clone().inner(), text.clone().inner(), &clip.logit_scale, true);
    let result = read_handle(&clip, out.result);
    assert_close("loss", &result[..1], &expected.f32("loss"), 1e-5);
    assert_close("accuracy", &[result[1] * 100.0], &expected.f32("clip_accuracy"), 1e-5);
    if file == "gelu" {
        assert_close("d_video", &read(out.d_video.clone()), &expected.f32("grad_features.image"), 2e-5);
        assert_close("d_text", &read(out.d_text.clone()), &expected.f32("grad_features.text"), 2e-5);
    }
    for (feature, gradient) in [(text, out.d_text), (video, out.d_video)] {
        (feature * Tensor::<Ad<R>, 2>::from_inner(gradient)).sum().backward();
    }
    assert_eq!(clip.ws.arena.usage().in_use, 0, "a step gives back all of its activations' memory");
    let gradients = clip.params.read(clip.params.gradients()).unwrap();
    for (spec, gradient) in clip.params.specs().iter().zip(&gradients) {
        let name = format!("grad.{}", spec.name);
        let reference = expected.f32(&name);
        // Large gradients are stored as every 61st element, with their full norm beside them.
        let sampled: Vec<f32> = if reference.len() == gradient.len() {
            gradient.clone()
        } else {
            gradient.iter().step_by(61).copied().collect()
        };
        if spec.name.ends_with("in_proj_bias") {
            // The key bias has a true gradient of 0: compare the rest, and this by size.
            let third = sampled.len() / 3;
            let keep = |v: &[f32]| [&v[..third], &v[2 * third..]].concat();
            assert_close(&name, &keep(&sampled), &keep(&reference), 2e-5);
            assert!(sampled[third..2 * third].iter().all(|g| g.abs() < 1e-6), "{name}: key bias");
        } else {
            assert_close(&name, &sampled, &reference, 2e-5);
        }
        if sampled.len() == gradient.len() {
            continue;
        }
        let norm = gradient.iter().map(|g| (*g as f64).powi(2)).sum::<f64>().sqrt() as f32;
        assert_close(&format!("norm of {name}"), &[norm], &expected.f32(&format!("norm.{name}")), 2e-5);
    }
}

#[test]
fn exact_gelu_equals_pytorch() {
    check("gelu", 3, Activation::Gelu, Keep::ALL);
}

#[test]
fn recomputed_blocks_equal_pytorch() {
    check("gelu", 3, Activation::Gelu, Keep::NOTHING);
}

#[test]
fn quick_gelu_equals_pytorch() {
    check("quick_gelu", 3, Activation::QuickGelu, Keep { middle: false, hidden: false, ..Keep::ALL });
}

#[test]
fn one_frame_without_temporal_embedding_equals_pytorch() {
    check("one_frame", 1, Activation::Gelu, Keep { middle: true, ..Keep::NOTHING });
}

/// The worked example of SEEDS: `v = [1 0 | 0 1 | 1 1]`, `t = [1 1 | 0 1 | 1 0]`, temperature 0.07.
#[test]
fn contrastive_loss_equals_the_worked_example() {
    let device = device();
    let h = 0.5f32.sqrt();
    let video = Tensor::from_floats([[1.0, 0.0], [0.0, 1.0], [h, h]], &device);
    let text = Tensor::from_floats([[h, h], [0.0, 1.0], [1.0, 0.0]], &device);
    // Any model's memory and temperature (1 / 0.07) will do.
    let clip = model(shape(1, Activation::Gelu), &Fixture::open("weights"));
    let scale = Tensor::<avion::ops::tensor::Inner<R>, 1>::from_floats([(1.0f32 / 0.07).ln()], &device);
    let value = primitive(clip.logit_scale.value::<1>()).handle;
    let from = primitive(scale).handle;
    avion_kernels::flat::cast(&clip.params.client, &from, &value, avion_kernels::FloatKind::F32, 1);
    let out = contrastive(&clip.ws, video, text, &clip.logit_scale, false);
    assert_close("loss, accuracy", &read_handle(&clip, out.result), &[2.809_544, 1.0 / 3.0], 1e-6);
}

/// Drop path keyed by clip: a batch in one piece and in two gives the same features; rate 0 changes nothing.
#[test]
fn drop_path_does_not_depend_on_chunks() {
    let weights = Fixture::open("weights");
    let mut with_drop = shape(3, Activation::Gelu);
    with_drop.drop_path = vec![0.5; 2];
    let clip = model(with_drop, &weights);
    let mut rng = keyed(1, 0, 0, Purpose::Synthetic);
    let pixels: Vec<u8> = (0..6 * 3 * 32 * 32 * 3).map(|_| rng.random()).collect();
    let run = |first: usize, count: usize| {
        let bytes = 3 * 32 * 32 * 3;
        let drop_path = Some(avion::model::stack::DropKey { seed: 3, step: 7, first: first as u64 });
        let frames = clip.upload_frames(&pixels[first * bytes..(first + count) * bytes], count);
        read(clip.encode_video(frames, &Pass { plan: None, drop_path }).inner())
    };
    let whole = run(0, 6);
    let parts = [run(0, 4), run(4, 2)].concat();
    assert_close("chunks", &parts, &whole, 1e-6);
    let frames = clip.upload_frames(&pixels, 6);
    let plain = read(clip.encode_video(frames, &Pass::INFERENCE).inner());
    assert!(plain.iter().zip(&whole).any(|(a, b)| (a - b).abs() > 1e-3), "half of all branches are dropped");
}

/// Drop path at a rate too small to drop anything takes the other way through every branch, to the same gradients.
#[test]
fn a_drop_path_that_drops_nothing_changes_no_gradient() {
    let weights = Fixture::open("weights");
    let mut rng = keyed(2, 0, 0, Purpose::Synthetic);
    let pixels: Vec<u8> = (0..4 * 3 * 32 * 32 * 3).map(|_| rng.random()).collect();
    let d_feature: Vec<f32> = (0..4 * 24).map(|_| rng.random_range(-1.0..1.0)).collect();
    let run = |rate: f32, keep: Keep| {
        let mut shape = shape(3, Activation::Gelu);
        shape.drop_path = vec![rate; 2];
        let clip = model(shape, &weights);
        let drop_path = Some(avion::model::stack::DropKey { seed: 3, step: 7, first: 0 });
        let pass = Pass { drop_path, ..tracked(&clip, 4, 8, keep) };
        let video = clip.encode_video(clip.upload_frames(&pixels, 4), &pass);
        let data = burn::tensor::TensorData::new(d_feature.clone(), [4, 24]);
        let gradient = T::<R, 2>::from_data(data, &device());
        (video * Tensor::<Ad<R>, 2>::from_inner(gradient)).sum().backward();
        (clip.params.specs().to_vec(), clip.params.read(clip.params.gradients()).unwrap())
    };
    let (specs, expected) = run(0.0, Keep::ALL);
    let (_, got) = run(1e-9, Keep::NOTHING);
    for ((spec, got), expected) in specs.iter().zip(&got).zip(&expected) {
        let size = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        if size > 1e-6 {
            assert_close(&spec.name, got, expected, 2e-5);
        }
    }
    let bias = specs.iter().position(|spec| spec.name == "visual.transformer.resblocks.0.mlp.c_proj.bias").unwrap();
    assert!(expected[bias].iter().any(|g| g.abs() > 1e-6), "the bias that both ways add differently has a gradient");
}
