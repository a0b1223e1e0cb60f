//! `avion export`: weights under the names of other programs.

use super::weights::Weights;
use super::{check_values, print};
use crate::checkpoint::{
    HostTensor, HuggingFaceModel, LoadOptions, Temporal, Tensors, VideoMaeSettings, to_hugging_face_names,
    to_hugging_face_videomae, to_openai_names, write_safetensors,
};
use crate::cli::{ExportArgs, ExportFormat};
use crate::config::recipe::{Activation, Recipe, TaskKind};
use crate::config::{Geometry, VOCABULARY};
use crate::data::annotations::read_names;
use crate::model::specs;
use crate::train::TrainError;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;

pub(super) fn run(args: ExportArgs) -> Result<u8> {
    let weights = Weights::find(&args.weights)?;
    let recipe = weights.recipe();
    if recipe.task != TaskKind::Contrastive {
        if args.format == ExportFormat::Openai {
            bail!(
                "--format openai is for CLIP (task contrastive); this recipe's task is {}: use hugging-face",
                super::task_name(recipe.task)
            );
        }
        if recipe.model.activation != Activation::Gelu {
            bail!(
                "Hugging Face's VideoMAE is exported with model.activation = \"gelu\" only; this recipe has quick-gelu"
            );
        }
    }
    check_values(&weights.resolved)?;
    let names = match &recipe.data.labels {
        Some(path) if recipe.task == TaskKind::Classify => read_names(path, recipe.classify.classes)?,
        _ => Vec::new(),
    };
    let tensors = tensors(recipe, weights.values(LoadOptions { projections: true })?)?;
    let (tensors, config) = match (recipe.task, args.format) {
        (TaskKind::Contrastive, ExportFormat::HuggingFace) => {
            (to_hugging_face_names(&tensors, Temporal::Keep)?, Some(clip_config(recipe)))
        }
        (TaskKind::Contrastive, ExportFormat::Openai) => (to_openai_names(&tensors, Temporal::Keep)?, None),
        (TaskKind::Masked | TaskKind::Classify, _) => {
            let HuggingFaceModel { tensors, config } = to_hugging_face_videomae(&tensors, &settings(recipe, names))?;
            (tensors, Some(config))
        }
    };
    let path = args.output.join("model.safetensors");
    let activation = match recipe.model.activation {
        Activation::Gelu => "gelu",
        Activation::QuickGelu => "quick-gelu",
    };
    let metadata = BTreeMap::from([("activation".to_owned(), activation.to_owned())]);
    crate::fs::write_atomic(&path, |out| write_safetensors(out, &tensors, &metadata))?;
    let mut text = format!("{}: {} tensors\n", path.display(), tensors.len());
    if let Some(config) = config {
        let path = args.output.join("config.json");
        crate::fs::write_atomic(&path, |out| out.write_all(config.as_bytes()))?;
        text.push_str(&format!("{}\n", path.display()));
    }
    print(&text)?;
    Ok(0)
}

/// The fields of `CLIPConfig`. `CLIPModel` is an image model: it computes what ours does of a clip of one frame, and
/// passes over the temporal embedding.
fn clip_config(recipe: &Recipe) -> String {
    let (model, geometry) = (&recipe.model, Geometry::of(recipe.model.size));
    let activation = match model.activation {
        Activation::Gelu => "gelu",
        Activation::QuickGelu => "quick_gelu",
    };
    let tower = |width: usize, layers: usize, heads: usize, eps: f64| {
        serde_json::json!({
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "hidden_act": activation,
            "layer_norm_eps": eps,
            "projection_dim": model.embed_dim,
        })
    };
    let mut vision = tower(geometry.width, geometry.layers, geometry.heads, model.vision_norm_eps);
    vision["image_size"] = geometry.image_px.into();
    vision["patch_size"] = geometry.patch_px.into();
    let mut text = tower(geometry.text_width, geometry.text_layers, geometry.text_heads, model.text_norm_eps);
    text["vocab_size"] = VOCABULARY.into();
    text["max_position_embeddings"] = model.context.into();
    // Start and end of text are the last two tokens; features are taken at the end.
    text["bos_token_id"] = (VOCABULARY - 2).into();
    text["eos_token_id"] = (VOCABULARY - 1).into();
    let config = serde_json::json!({
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": model.embed_dim,
        "vision_config": vision,
        "text_config": text,
    });
    format!("{config:#}\n")
}

/// The values under our names.
fn tensors(recipe: &Recipe, values: Vec<Vec<f32>>) -> Result<Tensors> {
    let specs = specs(recipe).map_err(TrainError::from)?;
    let named = specs.into_iter().zip(values).map(|(spec, values)| {
        let tensor = HostTensor::from_f32(&spec.shape, &values).map_err(anyhow::Error::msg);
        Ok((spec.name.clone(), tensor.with_context(|| spec.name)?))
    });
    named.collect()
}

fn settings(recipe: &Recipe, classes: Vec<String>) -> VideoMaeSettings {
    let geometry = Geometry::of(recipe.model.size);
    VideoMaeSettings {
        image_px: geometry.image_px,
        frames: recipe.model.frames,
        tubelet: recipe.model.tubelet,
        heads: geometry.heads,
        decoder_heads: recipe.masking.decoder_heads,
        eps: recipe.model.vision_norm_eps,
        normalized_targets: recipe.masking.normalize_targets,
        classes,
    }
}
