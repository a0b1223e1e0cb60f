//! The model, its loss and its gradients against PyTorch in f64 (fixtures by `tests/fixtures/clip/make_clip_fixture.py`).
#![cfg(feature = "wgpu")]

mod common;

use avion::config::recipe::{Activation, Recompute};
use avion::data::rng::{Purpose, keyed};
use avion::loss::contrastive::contrastive;
use avion::model::tower::Pass;
use avion::model::{Clip, ClipShape, TowerShape, init, shape::pixel_norm};
use avion::ops::tensor::{Ad, T};
use burn::tensor::{DType, Tensor};
use common::{Fixture, assert_close};
use cubecl::wgpu::{WgpuDevice, WgpuRuntime as R};
use rand::Rng;

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
    }
}

fn model(shape: ClipShape, weights: &Fixture) -> Clip<R> {
    let values: Vec<Vec<f32>> = init::specs(&shape).iter().map(|spec| weights.f32(&spec.name)).collect();
    Clip::new(shape, &values, DType::F32, &WgpuDevice::default())
}

fn read<const D: usize>(t: T<R, D>) -> Vec<f32> {
    t.into_data().to_vec().unwrap()
}

/// Features, loss and every gradient of one variant, with and without recomputation, must equal PyTorch's.
fn check(file: &str, frames: usize, activation: Activation, recompute: Recompute) {
    let (weights, inputs, expected) = (Fixture::open("weights"), Fixture::open("inputs"), Fixture::open(file));
    let clip = model(shape(frames, activation), &weights);
    let pass = Pass { recompute, drop_path: None };

    let all_frames = inputs.u8("frames");
    let frame_bytes = 32 * 32 * 3;
    let pixels: Vec<u8> =
        all_frames.chunks(3 * frame_bytes).flat_map(|clip| clip[..frames * frame_bytes].to_vec()).collect();
    let (tokens, lengths) = (inputs.i32("tokens"), inputs.i32("lengths"));
    let longest = inputs.i32("longest")[0] as usize;
    let ids: Vec<i32> = tokens.chunks(16).flat_map(|row| row[..longest].to_vec()).collect();
    let ends: Vec<usize> = lengths.iter().map(|l| *l as usize - 1).collect();

    let video = clip.encode_video(clip.anchor(true), clip.upload_frames(&pixels, 5), pass);
    let text = clip.encode_text(clip.anchor(true), clip.upload_captions(&ids, longest, &ends), pass);
    assert_close("features.image", &read(video.clone().inner()), &expected.f32("features.image"), 1e-5);
    assert_close("features.text", &read(text.clone().inner()), &expected.f32("features.text"), 1e-5);

    let out = contrastive::<R>(video.clone().inner(), text.clone().inner(), clip.logit_scale.value());
    assert_close("loss", &read(out.loss), &expected.f32("loss"), 1e-5);
    assert_close("accuracy", &read(out.accuracy.clone() * 100.0), &expected.f32("clip_accuracy"), 1e-5);
    if file == "gelu" {
        assert_close("d_video", &read(out.d_video.clone()), &expected.f32("grad_features.image"), 2e-5);
        assert_close("d_text", &read(out.d_text.clone()), &expected.f32("grad_features.text"), 2e-5);
    }
    clip.logit_scale.accumulate(out.d_logit_scale);

    let surrogate = (video * Tensor::<Ad<R>, 2>::from_inner(out.d_video)).sum()
        + (text * Tensor::<Ad<R>, 2>::from_inner(out.d_text)).sum();
    surrogate.backward();
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
    check("gelu", 3, Activation::Gelu, Recompute::None);
}

#[test]
fn recomputed_blocks_equal_pytorch() {
    check("gelu", 3, Activation::Gelu, Recompute::Blocks);
}

#[test]
fn quick_gelu_equals_pytorch() {
    check("quick_gelu", 3, Activation::QuickGelu, Recompute::None);
}

#[test]
fn one_frame_without_temporal_embedding_equals_pytorch() {
    check("one_frame", 1, Activation::Gelu, Recompute::Blocks);
}

/// The worked example of SEEDS: `v = [1 0 | 0 1 | 1 1]`, `t = [1 1 | 0 1 | 1 0]`, temperature 0.07.
#[test]
fn contrastive_loss_equals_the_worked_example() {
    let device = WgpuDevice::default();
    let h = 0.5f32.sqrt();
    let video = Tensor::from_floats([[1.0, 0.0], [0.0, 1.0], [h, h]], &device);
    let text = Tensor::from_floats([[h, h], [0.0, 1.0], [1.0, 0.0]], &device);
    let scale = Tensor::from_floats([(1.0f32 / 0.07).ln()], &device);
    let out = contrastive::<R>(video, text, scale);
    assert_close("loss", &read(out.loss), &[2.809_544], 1e-6);
    assert_close("accuracy", &read(out.accuracy), &[1.0 / 3.0], 1e-6);
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
        let drop_path = Some(avion::model::tower::DropKey { seed: 3, step: 7, first: first as u64 });
        let frames = clip.upload_frames(&pixels[first * bytes..(first + count) * bytes], count);
        read(clip.encode_video(clip.anchor(false), frames, Pass { recompute: Recompute::None, drop_path }).inner())
    };
    let whole = run(0, 6);
    let parts = [run(0, 4), run(4, 2)].concat();
    assert_close("chunks", &parts, &whole, 1e-6);
    let frames = clip.upload_frames(&pixels, 6);
    let plain = read(clip.encode_video(clip.anchor(false), frames, Pass::INFERENCE).inner());
    assert!(plain.iter().zip(&whole).any(|(a, b)| (a - b).abs() > 1e-3), "half of all branches are dropped");
}
