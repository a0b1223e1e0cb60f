//! PatchDropout: a step that sees some patches of each clip, drawn by key.

use crate::common::assert_close;
use crate::device::{R, device};
use avion::config::recipe::{Activation, Normalization};
use avion::data::rng::{Purpose, keyed};
use avion::model::plan::StepPlan;
use avion::model::stack::DropKey;
use avion::model::{Clip, ClipShape, Pass, TowerShape, init, shape::pixel_norm};
use avion::ops::block::Keep;
use avion::ops::tensor::{Ad, T};
use burn::tensor::{DType, Tensor, TensorData};
use rand::Rng;
use std::sync::Arc;

const CLIPS: usize = 4;
const CLIP_BYTES: usize = 3 * 32 * 32 * 3;
const EMBED: usize = 24;

fn shape(patch_dropout: f64) -> ClipShape {
    ClipShape {
        image_px: 32,
        patch_px: 8,
        frames: 3,
        vision: TowerShape { width: 64, layers: 2, heads: 2, eps: 1e-6 },
        text: TowerShape { width: 32, layers: 1, heads: 1, eps: 1e-5 },
        vocabulary: 300,
        context: 16,
        embed: EMBED,
        activation: Activation::Gelu,
        pixels: pixel_norm(Normalization::Avion),
        temperature: 0.07,
        learn_temperature: false,
        drop_path: vec![0.0; 2],
        patch_dropout,
    }
}

/// Values at which nothing is zero.
fn values(shape: &ClipShape) -> Vec<Vec<f32>> {
    let mut rng = keyed(5, 0, 0, Purpose::Init);
    let mut values = init::values(&init::specs(shape), 1);
    values.iter_mut().flatten().for_each(|value| *value += rng.random_range(-0.1..0.1));
    values
}

fn pixels() -> Vec<u8> {
    let mut rng = keyed(1, 0, 0, Purpose::Synthetic);
    (0..CLIPS * CLIP_BYTES).map(|_| rng.random()).collect()
}

fn features(clip: &Clip<R>, clips: std::ops::Range<usize>) -> Vec<f32> {
    let drop_path = Some(DropKey { seed: 3, step: 7, first: clips.start as u64 });
    let frames = clip.upload_frames(&pixels()[clips.start * CLIP_BYTES..clips.end * CLIP_BYTES], clips.len());
    clip.encode_video(frames, &Pass { plan: None, drop_path }).inner().into_data().to_vec().unwrap()
}

#[test]
fn what_is_seen_does_not_depend_on_chunks_and_evaluation_sees_all() {
    let clip = Clip::<R>::new(shape(0.5), &values(&shape(0.5)), DType::F32, &device());
    assert_eq!(clip.shape.kept_patches(), 24);
    let whole = features(&clip, 0..CLIPS);
    assert_close("chunks", &[features(&clip, 0..3), features(&clip, 3..4)].concat(), &whole, 1e-6);
    let all = clip.encode_video(clip.upload_frames(&pixels(), CLIPS), &Pass::INFERENCE).inner();
    let all: Vec<f32> = all.into_data().to_vec().unwrap();
    assert!(all.iter().zip(&whole).any(|(a, b)| (a - b).abs() > 1e-3), "half of all patches are left out");
    let plain = Clip::<R>::new(shape(0.0), &values(&shape(0.0)), DType::F32, &device());
    assert_close("evaluation", &features(&plain, 0..CLIPS), &all, 1e-6);
}

/// The slope along each gradient of the embedding, by finite differences.
#[test]
fn gradients_of_the_embedding_are_the_slopes() {
    let (shape, mut rng) = (shape(0.5), keyed(2, 0, 0, Purpose::Synthetic));
    let weight: Vec<f32> = (0..CLIPS * EMBED).map(|_| rng.random_range(-1.0..1.0)).collect();
    let start = values(&shape);
    let clip = Clip::<R>::new(shape.clone(), &start, DType::F32, &device());
    let [vision, text] = clip.sizes(CLIPS, 8);
    let plan = Some(Arc::new(StepPlan::uniform(&[vision, text], Keep::ALL)));
    let pass = Pass { plan, drop_path: Some(DropKey { seed: 3, step: 7, first: 0 }) };
    let video = clip.encode_video(clip.upload_frames(&pixels(), CLIPS), &pass);
    let d = T::<R, 2>::from_data(TensorData::new(weight.clone(), [CLIPS, EMBED]), &device());
    (video * Tensor::<Ad<R>, 2>::from_inner(d)).sum().backward();
    let gradients = clip.params.read(clip.params.gradients()).unwrap();
    let value = |values: &[Vec<f32>]| -> f64 {
        let clip = Clip::<R>::new(shape.clone(), values, DType::F32, &device());
        features(&clip, 0..CLIPS).iter().zip(&weight).map(|(f, w)| f64::from(*f) * f64::from(*w)).sum()
    };
    let names =
        ["visual.class_embedding", "visual.positional_embedding", "visual.temporal_embedding", "visual.conv1.weight"];
    for name in names {
        let at = clip.params.specs().iter().position(|spec| spec.name == name).unwrap();
        let length = gradients[at].iter().map(|g| g * g).sum::<f32>().sqrt();
        assert!(length > 1e-4, "{name} has a gradient");
        let step = 2e-2 / length;
        let moved = |sign: f32| {
            let mut values = start.clone();
            values[at].iter_mut().zip(&gradients[at]).for_each(|(v, g)| *v += sign * step * g);
            value(&values)
        };
        let slope = (moved(1.0) - moved(-1.0)) / (2.0 * f64::from(step));
        let expected = f64::from(length * length);
        assert!((slope - expected).abs() < 0.02 * expected, "{name}: slope {slope}, gradient's {expected}");
    }
}
