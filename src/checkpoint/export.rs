//! From our names to those that PyTorch users load: OpenAI CLIP / open_clip, Hugging Face.

mod videomae;

pub use videomae::{HuggingFaceModel, VideoMaeSettings, to_hugging_face_videomae};

use super::error::CheckpointError;
use super::names::of_tensor;
use super::tensor::{HostTensor, Tensors};

const TEMPORAL: &str = "visual.temporal_embedding";

/// What becomes of `visual.temporal_embedding`, which image models do not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temporal {
    /// It stays, under our name: nothing is lost, strict loaders must be told to accept it.
    Keep,
    /// It is left out: what remains is the image model of one frame without its time.
    Drop,
}

/// Our tensors as OpenAI's CLIP and open_clip name and shape them.
///
/// The loader must use the same activation (`quick_gelu` or not) and norm epsilons as training
/// did; files cannot say so to it.
///
/// # Errors
/// [`CheckpointError::Tensor`] when the patch embedding has no square patches of three channels.
pub fn to_openai_names(tensors: &Tensors, temporal: Temporal) -> Result<Tensors, CheckpointError> {
    let mut out = Tensors::new();
    for (name, tensor) in kept(tensors, temporal) {
        let theirs = match name {
            "visual.image_projection" => "visual.proj",
            _ => name.strip_prefix("textual.").unwrap_or(name),
        };
        let tensor = match name {
            "visual.conv1.weight" => unflattened(tensor).map_err(of_tensor(name))?,
            _ => tensor.clone(),
        };
        out.insert(theirs.to_owned(), tensor);
    }
    Ok(out)
}

/// Our tensors as Hugging Face's `CLIPModel` names and shapes them: q, k and v apart, projections
/// transposed. Write them with `format = pt` metadata, as
/// [`write_safetensors`](super::write_safetensors) does.
///
/// # Errors
/// [`CheckpointError::Tensor`] for packed attention that is no multiple of three rows, projections
/// that are no matrices, and as [`to_openai_names`].
pub fn to_hugging_face_names(tensors: &Tensors, temporal: Temporal) -> Result<Tensors, CheckpointError> {
    let mut out = Tensors::new();
    for (name, tensor) in kept(tensors, temporal) {
        let mut put = |theirs: String, tensor| {
            out.insert(theirs, tensor);
        };
        let failed = of_tensor(name);
        let block = ["visual", "textual"].iter().find_map(|tower| {
            let rest = name.strip_prefix(tower)?;
            let (index, inside) = rest.strip_prefix(".transformer.resblocks.")?.split_once('.')?;
            let model = if *tower == "visual" { "vision_model" } else { "text_model" };
            Some((format!("{model}.encoder.layers.{index}."), inside))
        });
        match block {
            Some((block, "attn.in_proj_weight" | "attn.in_proj_bias")) => {
                let kind = if name.ends_with("bias") { "bias" } else { "weight" };
                let parts = thirds(tensor).map_err(failed)?;
                for (letter, part) in ["q", "k", "v"].iter().zip(parts) {
                    put(format!("{block}self_attn.{letter}_proj.{kind}"), part);
                }
            }
            Some((block, inside)) => put(format!("{block}{}", block_name(inside)), tensor.clone()),
            None => {
                let (theirs, tensor) = outer(name, tensor).map_err(failed)?;
                put(theirs, tensor);
            }
        }
    }
    Ok(out)
}

fn kept(tensors: &Tensors, temporal: Temporal) -> impl Iterator<Item = (&str, &HostTensor)> {
    tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .filter(move |(name, _)| temporal == Temporal::Keep || *name != TEMPORAL)
}

fn block_name(inside: &str) -> String {
    for (ours, theirs) in [
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
        ("attn.out_proj.", "self_attn.out_proj."),
    ] {
        if let Some(rest) = inside.strip_prefix(ours) {
            return format!("{theirs}{rest}");
        }
    }
    inside.to_owned()
}

/// Everything outside the blocks.
fn outer(name: &str, tensor: &HostTensor) -> Result<(String, HostTensor), String> {
    let plain = |theirs: &str| Ok((theirs.to_owned(), tensor.clone()));
    match name {
        "visual.class_embedding" => plain("vision_model.embeddings.class_embedding"),
        "visual.positional_embedding" => plain("vision_model.embeddings.position_embedding.weight"),
        "visual.conv1.weight" => {
            Ok(("vision_model.embeddings.patch_embedding.weight".to_owned(), unflattened(tensor)?))
        }
        "textual.positional_embedding" => plain("text_model.embeddings.position_embedding.weight"),
        "textual.token_embedding.weight" => plain("text_model.embeddings.token_embedding.weight"),
        "visual.image_projection" => Ok(("visual_projection.weight".to_owned(), tensor.transposed()?)),
        "textual.text_projection" => Ok(("text_projection.weight".to_owned(), tensor.transposed()?)),
        _ => {
            for (ours, theirs) in [
                ("visual.ln_pre.", "vision_model.pre_layrnorm."),
                ("visual.ln_post.", "vision_model.post_layernorm."),
                ("textual.ln_final.", "text_model.final_layer_norm."),
            ] {
                if let Some(rest) = name.strip_prefix(ours) {
                    return plain(&format!("{theirs}{rest}"));
                }
            }
            plain(name)
        }
    }
}

/// `[width, 3 * patch^2]` to `[width, 3, patch, patch]`; a convolution's weight stays.
fn unflattened(tensor: &HostTensor) -> Result<HostTensor, String> {
    let &[width, columns] = tensor.shape.as_slice() else {
        return Ok(tensor.clone());
    };
    let patch = (columns / 3).isqrt();
    if 3 * patch * patch != columns {
        return Err(format!("expected 3 * patch^2 columns, found {columns}: not an RGB patch embedding"));
    }
    HostTensor::new(tensor.dtype, &[width, 3, patch, patch], tensor.bytes.clone())
}

/// The rows of q, k and v of a packed tensor.
fn thirds(tensor: &HostTensor) -> Result<[HostTensor; 3], String> {
    let mut shape = tensor.shape.clone();
    let rows = shape.first().copied().unwrap_or(0);
    if rows % 3 != 0 || rows == 0 {
        return Err(format!("expected rows of q, k and v, found {:?}", tensor.shape));
    }
    shape[0] = rows / 3;
    let size = tensor.bytes.len() / 3;
    let part = |index: usize| {
        let bytes = &tensor.bytes[index * size..(index + 1) * size];
        HostTensor::new(tensor.dtype, &shape, bytes.to_vec())
    };
    Ok([part(0)?, part(1)?, part(2)?])
}
