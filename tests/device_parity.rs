//! Gradients of a full-size model on a real device, for `tests/fixtures/parity_torch.py --compare`.
//!
//! ```text
//! python3 tests/fixtures/parity_torch.py --size b16 --batch 16 --output DIR
//! AVION_PARITY_DIR=DIR AVION_PARITY_DTYPE=bf16 cargo test --release --test device_parity -- --nocapture
//! python3 tests/fixtures/parity_torch.py --output DIR --compare DIR/ours_bf16.safetensors --residual bf16
//! ```
#![cfg(feature = "video")]

use avion::config::Recipe;
use avion::device::{self, BackendChoice, Target};
use avion::loss::contrastive::contrastive;
use avion::model::Pass;
use avion::model::plan::StepPlan;
use avion::model::{Clip, ClipShape, init};
use avion::ops::block::Keep;
use avion::ops::tensor::{Ad, T};
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeRuntime;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};

#[test]
fn dump_features_loss_and_gradients() {
    let Some(folder) = std::env::var_os("AVION_PARITY_DIR").map(PathBuf::from) else {
        println!("SKIPPED: needs AVION_PARITY_DIR, made by tests/fixtures/parity_torch.py");
        return;
    };
    let dtype = match std::env::var("AVION_PARITY_DTYPE").as_deref() {
        Ok("bf16") => DType::BF16,
        _ => DType::F32,
    };
    let chosen = device::choose(BackendChoice::Auto, None).unwrap();
    println!("{}", chosen.why);
    match &chosen.target {
        #[cfg(feature = "cuda")]
        Target::Cuda(device) => dump::<cubecl::cuda::CudaRuntime>(device, dtype, &folder),
        #[cfg(feature = "wgpu")]
        Target::Wgpu(device) => dump::<cubecl::wgpu::WgpuRuntime>(device, dtype, &folder),
    }
}

fn dump<R: CubeRuntime>(device: &R::Device, dtype: DType, folder: &Path) {
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let (weights, inputs) = (read("weights.safetensors"), read("inputs.safetensors"));
    let (weights, inputs) = (SafeTensors::deserialize(&weights).unwrap(), SafeTensors::deserialize(&inputs).unwrap());
    let mut recipe = Recipe::default();
    recipe.model.learn_temperature = true;
    let shape = ClipShape::of(&recipe);
    let values: Vec<Vec<f32>> = init::specs(&shape)
        .iter()
        .map(|spec| bytemuck::pod_collect_to_vec(weights.tensor(&spec.name).unwrap().data()))
        .collect();
    let clip = Clip::<R>::new(shape, &values, dtype, device);

    let pixels = inputs.tensor("frames").unwrap().data().to_vec();
    let tokens: Vec<i32> = bytemuck::pod_collect_to_vec(inputs.tensor("tokens").unwrap().data());
    let batch = inputs.tensor("tokens").unwrap().shape()[0];
    let context = tokens.len() / batch;
    // The end-of-text token has the largest id.
    let end = |row: &[i32]| (0..context).rev().max_by_key(|&i| row[i]).unwrap();
    let ends: Vec<usize> = tokens.chunks(context).map(end).collect();
    let longest = ends.iter().max().unwrap() + 1;
    let ids: Vec<i32> = tokens.chunks(context).flat_map(|row| row[..longest].to_vec()).collect();

    let [vision, text] = clip.sizes(batch, longest);
    // Some kept, some computed again: both ways are used.
    let plan = StepPlan::uniform(&vision, &text, Keep { qkv: true, attended: true, ..Keep::NOTHING });
    let pass = Pass { plan: Some(std::sync::Arc::new(plan)), drop_path: None };
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
    let name = if dtype == DType::BF16 { "ours_bf16.safetensors" } else { "ours_f32.safetensors" };
    safetensors::serialize_to_file(views, None, &folder.join(name)).unwrap();
}
