//! A full-size model on a real device beside PyTorch's: gradients, for `tests/fixtures/parity_torch.py --compare`, and
//! loss curves, for `tests/fixtures/loss_curve_torch.py --plot`.
//!
//! ```text
//! python3 tests/fixtures/parity_torch.py --size b16 --batch 16 --output DIR
//! AVION_PARITY_DIR=DIR AVION_PARITY_DTYPE=bf16 cargo test --release --test model device_parity -- --nocapture
//! python3 tests/fixtures/parity_torch.py --output DIR --compare DIR/ours_bf16.safetensors --residual bf16
//!
//! python3 tests/fixtures/loss_curve_torch.py --make --size b16 --precision f32 bf16 --output DIR
//! AVION_CURVE_DIR=DIR AVION_PARITY_DTYPE=bf16 cargo test --release --test model curve -- --nocapture
//! python3 tests/fixtures/loss_curve_torch.py --plot --output DIR
//! ```
#![cfg(feature = "video")]

use avion::config::Recipe;
use avion::config::recipe::{Activation, Normalization, OptimConfig, OptimizerKind};
use avion::device::{self, BackendChoice, Target};
use avion::loss::contrastive::contrastive;
use avion::model::Pass;
use avion::model::plan::StepPlan;
use avion::model::{Clip, ClipShape, TowerShape, init, shape::pixel_norm};
use avion::ops::block::Keep;
use avion::ops::tensor::{Ad, T};
use avion::optim::Optimizer;
use avion::task::contrastive::clamp_temperature;
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeRuntime;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Calls a function of the runtime, with the device, that this machine offers.
macro_rules! on_device {
    ($function:ident, $($argument:expr),+) => {{
        let chosen = device::choose(BackendChoice::Auto, None).unwrap();
        println!("{}", chosen.why);
        match &chosen.target {
            #[cfg(feature = "cuda")]
            Target::Cuda(device) => $function::<cubecl::cuda::CudaRuntime>(device, $($argument),+),
            #[cfg(feature = "wgpu")]
            Target::Wgpu(device) => $function::<cubecl::wgpu::WgpuRuntime>(device, $($argument),+),
        }
    }};
}

/// What activations are computed in, and its name in files.
fn precision() -> (DType, &'static str) {
    match std::env::var("AVION_PARITY_DTYPE").as_deref() {
        Ok("bf16") => (DType::BF16, "bf16"),
        _ => (DType::F32, "f32"),
    }
}

#[test]
fn dump_features_loss_and_gradients() {
    let Some(folder) = std::env::var_os("AVION_PARITY_DIR").map(PathBuf::from) else {
        println!("SKIPPED: needs AVION_PARITY_DIR, made by tests/fixtures/parity_torch.py");
        return;
    };
    on_device!(dump, &folder);
}

#[test]
fn curve() {
    let Some(folder) = std::env::var_os("AVION_CURVE_DIR").map(PathBuf::from) else {
        println!("SKIPPED: needs AVION_CURVE_DIR, made by tests/fixtures/loss_curve_torch.py");
        return;
    };
    on_device!(train, &folder);
}

/// The model's parameters, in its order, from a file of f32 values.
fn parameters(shape: &ClipShape, weights: &SafeTensors) -> Vec<Vec<f32>> {
    let value = |name: &str| bytemuck::pod_collect_to_vec(weights.tensor(name).unwrap().data());
    init::specs(shape).iter().map(|spec| value(&spec.name)).collect()
}

/// Captions cut to the longest of them: ids, their number per caption, and where each caption ends.
fn cut(tokens: &[i32], context: usize) -> (Vec<i32>, usize, Vec<usize>) {
    // The end-of-text token has the largest id.
    let end = |row: &[i32]| (0..context).rev().max_by_key(|&i| row[i]).unwrap();
    let ends: Vec<usize> = tokens.chunks(context).map(end).collect();
    let longest = ends.iter().max().unwrap() + 1;
    (tokens.chunks(context).flat_map(|row| row[..longest].to_vec()).collect(), longest, ends)
}

/// How a step runs whose pieces are some kept, some computed again, so that both ways are used.
fn mixed_pass<R: CubeRuntime>(clip: &Clip<R>, batch: usize, longest: usize) -> Pass {
    let [vision, text] = clip.sizes(batch, longest);
    let plan = StepPlan::uniform(&[vision, text], Keep { qkv: true, attended: true, ..Keep::NOTHING });
    Pass { plan: Some(Arc::new(plan)), drop_path: None }
}

fn dump<R: CubeRuntime>(device: &R::Device, folder: &Path) {
    let (dtype, precision) = precision();
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let (weights, inputs) = (read("weights.safetensors"), read("inputs.safetensors"));
    let (weights, inputs) = (SafeTensors::deserialize(&weights).unwrap(), SafeTensors::deserialize(&inputs).unwrap());
    let mut recipe = Recipe::default();
    recipe.model.learn_temperature = true;
    let shape = ClipShape::of(&recipe);
    let values = parameters(&shape, &weights);
    let clip = Clip::<R>::new(shape, &values, dtype, device);

    let pixels = inputs.tensor("frames").unwrap().data().to_vec();
    let tokens: Vec<i32> = bytemuck::pod_collect_to_vec(inputs.tensor("tokens").unwrap().data());
    let batch = inputs.tensor("tokens").unwrap().shape()[0];
    let (ids, longest, ends) = cut(&tokens, tokens.len() / batch);

    let pass = mixed_pass(&clip, batch, longest);
    let video = clip.encode_video(clip.upload_frames(&pixels, batch), &pass);
    let text = clip.encode_text(clip.upload_captions(&ids, longest, &ends), &pass);
    let features = (video.clone().inner(), text.clone().inner());
    let out = contrastive(&clip.ws, features.0, features.1, &clip.logit_scale, true);
    let lift = |g: T<R, 2>| Tensor::<Ad<R>, 2>::from_inner(g);
    let host = |t: T<R, 2>| -> Vec<f32> { t.into_data().to_vec().unwrap() };
    let result: Vec<f32> = bytemuck::pod_collect_to_vec(&clip.params.client.read_one(out.result).unwrap());
    let mut tensors = vec![
        ("features.image".to_owned(), host(video.clone().inner())),
        ("features.text".to_owned(), host(text.clone().inner())),
        ("loss".to_owned(), result[..1].to_vec()),
    ];
    ((video * lift(out.d_video)).sum() + (text * lift(out.d_text)).sum()).backward();
    let gradients = clip.params.read(clip.params.gradients()).unwrap();
    tensors.extend(clip.params.specs().iter().zip(gradients).map(|(spec, g)| (format!("grad.{}", spec.name), g)));

    let views = tensors.iter().map(|(name, values)| {
        (name.clone(), TensorView::new(Dtype::F32, vec![values.len()], bytemuck::cast_slice(values)).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join(format!("ours_{precision}.safetensors"))).unwrap();
}

/// The model that `shape` of the script's settings describes.
fn shape_of(shape: &Value) -> ClipShape {
    let size = |name: &str| shape[name].as_u64().unwrap_or_else(|| panic!("{name} in settings.json")) as usize;
    assert_eq!(shape["activation"], "gelu");
    ClipShape {
        image_px: size("image"),
        patch_px: size("patch"),
        frames: size("frames"),
        vision: TowerShape { width: size("width"), layers: size("layers"), heads: size("heads"), eps: 1e-6 },
        text: TowerShape {
            width: size("text_width"),
            layers: size("text_layers"),
            heads: size("text_heads"),
            eps: 1e-5,
        },
        vocabulary: size("vocab"),
        context: size("context"),
        embed: size("embed"),
        activation: Activation::Gelu,
        pixels: pixel_norm(Normalization::Avion),
        temperature: 0.07,
        learn_temperature: true,
        drop_path: vec![0.0; size("layers")],
        patch_dropout: 0.0,
    }
}

/// Trains as the script's settings say and writes the loss of every step beside them.
fn train<R: CubeRuntime>(device: &R::Device, folder: &Path) {
    let (dtype, precision) = precision();
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let settings: Value = serde_json::from_slice(&read("settings.json")).unwrap();
    let number = |name: &str| settings[name].as_f64().unwrap_or_else(|| panic!("{name} in settings.json"));
    let shape = shape_of(&settings["shape"]);
    let clip = {
        let weights = read("weights.safetensors");
        let values = parameters(&shape, &SafeTensors::deserialize(&weights).unwrap());
        Clip::<R>::new(shape, &values, dtype, device)
    };
    let lr = number("lr");
    let config = OptimConfig {
        optimizer: OptimizerKind::Adamw,
        lr,
        betas: serde_json::from_value(settings["betas"].clone()).unwrap(),
        eps: number("eps"),
        weight_decay: number("weight_decay"),
        clip_grad_norm: number("clip_grad_norm"),
        ..OptimConfig::default()
    };
    let mut optimizer = Optimizer::new(&config, &clip.params, None, 0);

    // Uploaded once: a step then waits for nothing but its own work.
    let (batch, context) = (number("batch") as usize, clip.shape.context);
    let batches: Vec<_> = {
        let file = read("batches.safetensors");
        let file = SafeTensors::deserialize(&file).unwrap();
        let (frames, tokens) = (file.tensor("frames").unwrap(), file.tensor("tokens").unwrap());
        assert_eq!(tokens.shape(), [number("batches") as usize, batch, context]);
        let tokens: Vec<i32> = bytemuck::pod_collect_to_vec(tokens.data());
        let clips = frames.data().chunks(frames.data().len() / number("batches") as usize);
        let upload = |(pixels, tokens): (&[u8], &[i32])| {
            let (ids, longest, ends) = cut(tokens, context);
            let captions = clip.upload_captions(&ids, longest, &ends);
            (clip.upload_frames(pixels, batch), captions, mixed_pass(&clip, batch, longest))
        };
        clips.zip(tokens.chunks(batch * context)).map(upload).collect()
    };

    let (steps, begin) = (number("steps") as usize, Instant::now());
    let mut losses = Vec::with_capacity(steps);
    for (step, (frames, captions, pass)) in batches.iter().cycle().take(steps).enumerate() {
        let video = clip.encode_video(frames.clone(), pass);
        let text = clip.encode_text(captions.clone(), pass);
        let features = (video.clone().inner(), text.clone().inner());
        let out = contrastive(&clip.ws, features.0, features.1, &clip.logit_scale, true);
        for (feature, gradient) in [(text, out.d_text), (video, out.d_video)] {
            (feature * Tensor::<Ad<R>, 2>::from_inner(gradient)).sum().backward();
        }
        optimizer.step(&clip.params, lr, 1.0).unwrap();
        clamp_temperature(&clip);
        let result: Vec<f32> = bytemuck::pod_collect_to_vec(&clip.params.client.read_one(out.result).unwrap());
        assert!(result[0].is_finite(), "the loss of step {step} is {}", result[0]);
        losses.push(result[0]);
        if step % 50 == 0 {
            println!("step {step:4}: loss {:.6}", result[0]);
        }
    }
    let stats = optimizer.stats(&clip.params).unwrap();
    assert_eq!(stats.updates, steps as u64, "every update was applied");
    let seconds = begin.elapsed().as_secs_f64();
    println!("last: loss {:.6} ({seconds:.1} s)", losses[steps - 1]);
    let run = json!({ "settings": settings, "seconds": seconds, "losses": losses });
    std::fs::write(folder.join(format!("ours_{precision}.json")), run.to_string()).unwrap();
}
