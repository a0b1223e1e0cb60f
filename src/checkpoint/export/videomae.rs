//! VideoMAE as Hugging Face's `VideoMAEForPreTraining` and `VideoMAEForVideoClassification` load it.

use super::thirds;
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::names::of_tensor;
use crate::checkpoint::tensor::{HostTensor, Tensors};
use serde_json::{Map, Value, json};

const PATCHES: &str = "encoder.patch_embed.proj.weight";

/// What the weights do not tell of a VideoMAE model.
#[derive(Clone, Debug, PartialEq)]
pub struct VideoMaeSettings {
    /// Side of a frame in pixels.
    pub image_px: usize,
    /// Frames of a clip.
    pub frames: usize,
    /// Frames of a tubelet.
    pub tubelet: usize,
    /// Attention heads of the encoder.
    pub heads: usize,
    /// Attention heads of the decoder; a classifier has none.
    pub decoder_heads: usize,
    /// Epsilon of the layer norms.
    pub eps: f64,
    /// Whether targets are normalised in each patch.
    pub normalized_targets: bool,
    /// Names of a classifier's classes in their order; none leaves them numbered.
    pub classes: Vec<String>,
}

/// A folder for `from_pretrained`.
#[derive(Clone, Debug, PartialEq)]
pub struct HuggingFaceModel {
    /// For `model.safetensors`, written by [`write_safetensors`](crate::checkpoint::write_safetensors).
    pub tensors: Tensors,
    /// The text of `config.json`.
    pub config: String,
}

/// Our tensors as Hugging Face names and shapes them, and the configuration that goes with them: a classifier's where
/// there is a `head.weight`, else a pre-training model's.
///
/// Hugging Face has no key bias: ours is left out. It never changes what the model computes, as it adds the same number
/// to all scores of a query; what comes back by [`to_our_names`](crate::checkpoint::to_our_names) is equal to the bit
/// when it was 0. Hugging Face fixes the epsilon of `fc_norm` and of `decoder.norm` at 1e-5, whatever `eps` is.
///
/// # Errors
/// [`CheckpointError::Tensor`] for a tensor that VideoMAE does not have, one that is missing, or has sizes that do not
/// fit the settings.
pub fn to_hugging_face_videomae(
    tensors: &Tensors,
    settings: &VideoMaeSettings,
) -> Result<HuggingFaceModel, CheckpointError> {
    let config = config(tensors, settings)?;
    let mut out = Tensors::new();
    for (name, tensor) in tensors {
        renamed(name, tensor, settings.tubelet, &mut out).map_err(of_tensor(name))?;
    }
    Ok(HuggingFaceModel { tensors: out, config: format!("{config:#}\n") })
}

fn renamed(name: &str, tensor: &HostTensor, tubelet: usize, out: &mut Tensors) -> Result<(), String> {
    let mut put = |name: String, tensor: HostTensor| {
        out.insert(name, tensor);
    };
    for (ours, theirs) in
        [("encoder.blocks.", "videomae.encoder.layer."), ("decoder.blocks.", "decoder.decoder_layers.")]
    {
        let Some((index, inside)) = name.strip_prefix(ours).and_then(|rest| rest.split_once('.')) else {
            continue;
        };
        let block = format!("{theirs}{index}.");
        match inside {
            "attn.qkv.weight" => {
                for (part, tensor) in ["query", "key", "value"].iter().zip(thirds(tensor)?) {
                    put(format!("{block}attention.attention.{part}.weight"), tensor);
                }
            }
            "attn.qkv.bias" => {
                let [q, _, v] = thirds(tensor)?;
                put(format!("{block}attention.attention.q_bias"), q);
                put(format!("{block}attention.attention.v_bias"), v);
            }
            _ => put(format!("{block}{}", inside_block(inside)?), tensor.clone()),
        }
        return Ok(());
    }
    let theirs = match name {
        PATCHES => {
            put("videomae.embeddings.patch_embeddings.projection.weight".into(), unflattened(tensor, tubelet)?);
            return Ok(());
        }
        "encoder.patch_embed.proj.bias" => "videomae.embeddings.patch_embeddings.projection.bias",
        "encoder.norm.weight" => "videomae.layernorm.weight",
        "encoder.norm.bias" => "videomae.layernorm.bias",
        "head.weight" => "classifier.weight",
        "head.bias" => "classifier.bias",
        "encoder_to_decoder.weight"
        | "mask_token"
        | "decoder.norm.weight"
        | "decoder.norm.bias"
        | "decoder.head.weight"
        | "decoder.head.bias"
        | "fc_norm.weight"
        | "fc_norm.bias" => name,
        _ => return Err(unknown()),
    };
    put(theirs.into(), tensor.clone());
    Ok(())
}

fn inside_block(inside: &str) -> Result<String, String> {
    for (ours, theirs) in [
        ("norm1.", "layernorm_before."),
        ("norm2.", "layernorm_after."),
        ("attn.proj.", "attention.output.dense."),
        ("mlp.fc1.", "intermediate.dense."),
        ("mlp.fc2.", "output.dense."),
    ] {
        if let Some(kind) = inside.strip_prefix(ours) {
            return Ok(format!("{theirs}{kind}"));
        }
    }
    Err(unknown())
}

fn unknown() -> String {
    "not a parameter of VideoMAE: are these the weights of another model?".into()
}

/// `[width, 3 * tubelet * patch^2]` to the weight of a `Conv3d`, `[width, 3, tubelet, patch, patch]`.
fn unflattened(tensor: &HostTensor, tubelet: usize) -> Result<HostTensor, String> {
    let patch = patch_px(tensor, tubelet)?;
    HostTensor::new(tensor.dtype, &[tensor.shape[0], 3, tubelet, patch, patch], tensor.bytes.clone())
}

/// Side of a patch, from the columns of the patch embedding.
fn patch_px(tensor: &HostTensor, tubelet: usize) -> Result<usize, String> {
    if let &[_, columns] = tensor.shape.as_slice() {
        let patch = (columns / (3 * tubelet.max(1))).isqrt();
        if patch > 0 && 3 * tubelet * patch * patch == columns {
            return Ok(patch);
        }
    }
    Err(format!("expected [width, 3 * {tubelet} * patch^2], found {:?}: another tubelet?", tensor.shape))
}

/// The fields of `VideoMAEConfig`, sizes from the tensors.
fn config(tensors: &Tensors, settings: &VideoMaeSettings) -> Result<Value, CheckpointError> {
    let is_classifier = tensors.contains_key("head.weight");
    let patches = tensor(tensors, PATCHES)?;
    let patch = patch_px(patches, settings.tubelet).map_err(of_tensor(PATCHES))?;
    let mut fields = Map::new();
    let mut set = |key: &str, value: Value| {
        fields.insert(key.to_owned(), value);
    };
    set("model_type", json!("videomae"));
    set("image_size", json!(settings.image_px));
    set("patch_size", json!(patch));
    set("num_channels", json!(3));
    set("num_frames", json!(settings.frames));
    set("tubelet_size", json!(settings.tubelet));
    set("hidden_size", json!(patches.shape[0]));
    set("num_hidden_layers", json!(blocks(tensors, "encoder.blocks.")));
    set("num_attention_heads", json!(settings.heads));
    set("intermediate_size", json!(rows(tensors, "encoder.blocks.0.mlp.fc1.weight")?));
    set("hidden_act", json!("gelu"));
    set("layer_norm_eps", json!(settings.eps));
    set("qkv_bias", json!(true));
    set("use_mean_pooling", json!(is_classifier));
    set("norm_pix_loss", json!(settings.normalized_targets));
    if is_classifier {
        set("architectures", json!(["VideoMAEForVideoClassification"]));
        let classes = rows(tensors, "head.weight")?;
        if settings.classes.is_empty() {
            set("num_labels", json!(classes));
        } else if settings.classes.len() == classes {
            let numbered = || settings.classes.iter().enumerate();
            set("id2label", numbered().map(|(id, name)| (id.to_string(), json!(name))).collect());
            set("label2id", numbered().map(|(id, name)| (name.clone(), json!(id))).collect());
        } else {
            let reason = format!("expected a row for each of {} classes, found {classes}", settings.classes.len());
            return Err(of_tensor("head.weight")(reason));
        }
    } else {
        set("architectures", json!(["VideoMAEForPreTraining"]));
        set("decoder_hidden_size", json!(rows(tensors, "encoder_to_decoder.weight")?));
        set("decoder_num_hidden_layers", json!(blocks(tensors, "decoder.blocks.")));
        set("decoder_num_attention_heads", json!(settings.decoder_heads));
        set("decoder_intermediate_size", json!(rows(tensors, "decoder.blocks.0.mlp.fc1.weight")?));
    }
    Ok(Value::Object(fields))
}

fn tensor<'t>(tensors: &'t Tensors, name: &str) -> Result<&'t HostTensor, CheckpointError> {
    tensors.get(name).ok_or_else(|| of_tensor(name)("not among the weights: is this a VideoMAE model?".into()))
}

fn rows(tensors: &Tensors, name: &str) -> Result<usize, CheckpointError> {
    match tensor(tensors, name)?.shape.as_slice() {
        &[rows, _] => Ok(rows),
        shape => Err(of_tensor(name)(format!("expected a matrix, found {shape:?}"))),
    }
}

/// How many blocks there are below a prefix.
fn blocks(tensors: &Tensors, prefix: &str) -> usize {
    tensors.keys().filter(|name| name.starts_with(prefix) && name.ends_with(".norm1.weight")).count()
}
