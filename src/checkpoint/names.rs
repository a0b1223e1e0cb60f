//! From the parameter names of other programs to ours.
//!
//! Ours are AVION's without flash attention, which are open_clip's below `visual.` and `textual.`:
//! `visual.transformer.resblocks.0.attn.in_proj_weight`, `textual.token_embedding.weight`,
//! `visual.image_projection`, `logit_scale`. Read besides: AVION with flash attention, OpenAI CLIP
//! and open_clip (also its `text.` form), Hugging Face's `CLIPModel`. Prefixes that wrappers add
//! (`module.`, `_orig_mod.`) are dropped.

use super::error::CheckpointError;
use super::tensor::{HostTensor, Tensors};
use std::collections::BTreeMap;
use std::fmt;

/// Whose parameter names a file uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// Ours, and AVION's without flash attention.
    Avion,
    /// AVION's with flash attention: `attn.Wqkv`, `mlp.fc1`.
    AvionFlash,
    /// OpenAI CLIP's and open_clip's.
    OpenAi,
    /// Hugging Face's `CLIPModel`.
    HuggingFace,
}

impl fmt::Display for Naming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Naming::Avion => "AVION",
            Naming::AvionFlash => "AVION (flash attention)",
            Naming::OpenAi => "OpenAI CLIP / open_clip",
            Naming::HuggingFace => "Hugging Face CLIP",
        })
    }
}

/// Not parameters: sizes that OpenAI's archives carry, and buffers that can be recomputed.
const NOT_WEIGHTS: &[&str] = &[
    "input_resolution",
    "context_length",
    "vocab_size",
    "attn_mask",
    "text.attn_mask",
    "textual.attn_mask",
    "vision_model.embeddings.position_ids",
    "text_model.embeddings.position_ids",
];

/// Renames every tensor; what is not known keeps its name. Patch embeddings become
/// `[width, 3 * patch_px^2]` and projections `[width, embed]`, as we hold them.
///
/// # Errors
/// [`CheckpointError::Tensor`] when a matrix that must be rearranged is none, or two tensors
/// become one name.
pub fn to_our_names(tensors: Tensors) -> Result<(Tensors, Naming), CheckpointError> {
    let stripped: Vec<(String, HostTensor)> = tensors
        .into_iter()
        .map(|(name, tensor)| (without_wrappers(&name).to_owned(), tensor))
        .filter(|(name, _)| !NOT_WEIGHTS.contains(&name.as_str()))
        .collect();
    let naming = naming_of(stripped.iter().map(|(name, _)| name.as_str()));
    let mut ours = Tensors::new();
    let mut attention = Attention::default();
    for (name, tensor) in stripped {
        let renamed = match naming {
            Naming::Avion | Naming::AvionFlash => block_name(&name),
            Naming::OpenAi => openai_name(&name),
            Naming::HuggingFace => match hugging_face_name(&name) {
                HuggingFace::Ours(name) => name,
                HuggingFace::Part { target, part } => {
                    attention.add(target, part, name, tensor);
                    continue;
                }
            },
        };
        let (renamed, tensor) = arranged(renamed, tensor)?;
        insert(&mut ours, renamed, tensor)?;
    }
    for (name, tensor) in attention.joined()? {
        insert(&mut ours, name, tensor)?;
    }
    Ok((ours, naming))
}

fn insert(all: &mut Tensors, name: String, tensor: HostTensor) -> Result<(), CheckpointError> {
    match all.insert(name.clone(), tensor) {
        None => Ok(()),
        Some(_) => {
            Err(CheckpointError::Tensor { tensor: name, reason: "two tensors of the file mean this one".into() })
        }
    }
}

fn without_wrappers(mut name: &str) -> &str {
    while let Some(rest) = ["module.", "_orig_mod."].iter().find_map(|prefix| name.strip_prefix(prefix)) {
        name = rest;
    }
    name
}

fn naming_of<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Naming {
    let any = |test: &dyn Fn(&str) -> bool| names.clone().any(test);
    if any(&|name| name.starts_with("vision_model.") || name.starts_with("text_model.")) {
        Naming::HuggingFace
    } else if any(&|name| name.contains(".attn.Wqkv.")) {
        Naming::AvionFlash
    } else if any(&|name| name.starts_with("textual.") || name == "visual.image_projection") {
        Naming::Avion
    } else if any(&|name| name.starts_with("visual.")) {
        Naming::OpenAi
    } else {
        Naming::Avion
    }
}

/// Flash attention's names inside a block, in either tower.
fn block_name(name: &str) -> String {
    let Some((block, inside)) = split_block(name) else {
        return name.to_owned();
    };
    for (theirs, ours) in [
        ("attn.Wqkv.weight", "attn.in_proj_weight"),
        ("attn.Wqkv.bias", "attn.in_proj_bias"),
        ("mlp.fc1.weight", "mlp.c_fc.weight"),
        ("mlp.fc1.bias", "mlp.c_fc.bias"),
        ("mlp.fc2.weight", "mlp.c_proj.weight"),
        ("mlp.fc2.bias", "mlp.c_proj.bias"),
    ] {
        if inside == theirs {
            return format!("{block}{ours}");
        }
    }
    name.to_owned()
}

/// `visual.transformer.resblocks.3.` and what follows.
fn split_block(name: &str) -> Option<(&str, &str)> {
    let start = name.find(".resblocks.")? + ".resblocks.".len();
    let end = start + name[start..].find('.')? + 1;
    Some(name.split_at(end))
}

fn openai_name(name: &str) -> String {
    if name == "visual.proj" {
        return "visual.image_projection".into();
    }
    // open_clip's models with a text tower of their own put it below `text.`.
    let bare = name.strip_prefix("text.").unwrap_or(name);
    let is_text = ["token_embedding.", "transformer.", "ln_final."].iter().any(|prefix| bare.starts_with(prefix))
        || ["positional_embedding", "text_projection", "text_projection.weight"].contains(&bare);
    match is_text {
        true => block_name(&format!("textual.{bare}")),
        false => block_name(name),
    }
}

enum HuggingFace {
    Ours(String),
    /// `q`, `k` or `v` (0, 1, 2) of one packed tensor.
    Part {
        target: String,
        part: usize,
    },
}

fn hugging_face_name(name: &str) -> HuggingFace {
    let fixed = match name {
        "vision_model.embeddings.class_embedding" => "visual.class_embedding",
        "vision_model.embeddings.position_embedding.weight" => "visual.positional_embedding",
        "vision_model.embeddings.patch_embedding.weight" => "visual.conv1.weight",
        "text_model.embeddings.position_embedding.weight" => "textual.positional_embedding",
        "text_model.embeddings.token_embedding.weight" => "textual.token_embedding.weight",
        "visual_projection.weight" => "visual.image_projection.weight",
        "text_projection.weight" => "textual.text_projection.weight",
        _ => "",
    };
    if !fixed.is_empty() {
        return HuggingFace::Ours(fixed.into());
    }
    for (theirs, ours) in [
        ("vision_model.pre_layrnorm.", "visual.ln_pre."), // the missing "e" is theirs
        ("vision_model.post_layernorm.", "visual.ln_post."),
        ("text_model.final_layer_norm.", "textual.ln_final."),
    ] {
        if let Some(rest) = name.strip_prefix(theirs) {
            return HuggingFace::Ours(format!("{ours}{rest}"));
        }
    }
    for (theirs, ours) in [
        ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
        ("text_model.encoder.layers.", "textual.transformer.resblocks."),
    ] {
        let inside = name.strip_prefix(theirs).and_then(|r| r.split_once('.'));
        if let Some((index, inside)) = inside {
            return hugging_face_block(&format!("{ours}{index}."), inside)
                .unwrap_or_else(|| HuggingFace::Ours(name.to_owned()));
        }
    }
    HuggingFace::Ours(name.to_owned())
}

fn hugging_face_block(block: &str, inside: &str) -> Option<HuggingFace> {
    let (module, kind) = inside.rsplit_once('.')?;
    let ours = match module {
        "layer_norm1" => "ln_1",
        "layer_norm2" => "ln_2",
        "mlp.fc1" => "mlp.c_fc",
        "mlp.fc2" => "mlp.c_proj",
        "self_attn.out_proj" => "attn.out_proj",
        _ => {
            let part = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
                .iter()
                .position(|projection| *projection == module)?;
            return Some(HuggingFace::Part { target: format!("{block}attn.in_proj_{kind}"), part });
        }
    };
    Some(HuggingFace::Ours(format!("{block}{ours}.{kind}")))
}

/// Separate q, k and v on their way into packed tensors.
#[derive(Default)]
struct Attention {
    targets: BTreeMap<String, [Option<(String, HostTensor)>; 3]>,
}

impl Attention {
    fn add(&mut self, target: String, part: usize, name: String, tensor: HostTensor) {
        let parts = self.targets.entry(target).or_default();
        parts[part] = Some((name, tensor));
    }

    /// Packed tensors, rows in the order q, k, v. The parts of an incomplete one keep their names,
    /// and show as unexpected beside a missing tensor.
    fn joined(self) -> Result<Vec<(String, HostTensor)>, CheckpointError> {
        let mut out = Vec::new();
        for (target, parts) in self.targets {
            let [Some((_, q)), Some((_, k)), Some((_, v))] = parts else {
                out.extend(parts.into_iter().flatten());
                continue;
            };
            if [&k, &v].iter().any(|t| t.shape != q.shape || t.dtype != q.dtype) {
                return Err(CheckpointError::Tensor {
                    tensor: target,
                    reason: format!("q, k and v differ: {q:?}, {k:?}, {v:?}"),
                });
            }
            let mut shape = q.shape.clone();
            if let Some(rows) = shape.first_mut() {
                *rows *= 3;
            }
            let bytes = [q.bytes, k.bytes, v.bytes].concat();
            let packed = HostTensor::new(q.dtype, &shape, bytes);
            out.push((target.clone(), packed.map_err(of_tensor(&target))?));
        }
        Ok(out)
    }
}

/// Brings patch embeddings and projections into the shape in which we hold them.
fn arranged(name: String, tensor: HostTensor) -> Result<(String, HostTensor), CheckpointError> {
    match (name.as_str(), tensor.shape.as_slice()) {
        ("visual.conv1.weight", &[width, channels, height, side]) => {
            let shape = [width, channels * height * side];
            let flat = HostTensor::new(tensor.dtype, &shape, tensor.bytes);
            let flat = flat.map_err(of_tensor(&name))?;
            Ok((name, flat))
        }
        // A Linear layer holds `[embed, width]`.
        ("visual.image_projection.weight" | "textual.text_projection.weight", _) => {
            let ours = name.trim_end_matches(".weight").to_owned();
            let turned = tensor.transposed().map_err(of_tensor(&name))?;
            Ok((ours, turned))
        }
        _ => Ok((name, tensor)),
    }
}

pub(super) fn of_tensor(name: &str) -> impl FnOnce(String) -> CheckpointError {
    let tensor = name.to_owned();
    move |reason| CheckpointError::Tensor { tensor, reason }
}
