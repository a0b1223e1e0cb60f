//! From the parameter names of other programs to ours.
//!
//! Ours are AVION's without flash attention, which are open_clip's below `visual.` and `textual.`:
//! `visual.transformer.resblocks.0.attn.in_proj_weight`, `textual.token_embedding.weight`,
//! `visual.image_projection`, `logit_scale`. Read besides: AVION with flash attention, OpenAI CLIP
//! and open_clip (also its `text.` form), Hugging Face's `CLIPModel`. VideoMAE's are in
//! [`videomae`]. Prefixes that wrappers add (`module.`, `_orig_mod.`) are dropped.

mod clip;
mod videomae;

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
    /// The original VideoMAE's, pre-trained or fine-tuned, and ours.
    VideoMae,
    /// AVION's VideoMAE with flash attention: `attn.Wqkv`, `attn.out_proj`.
    VideoMaeFlash,
    /// Hugging Face's `VideoMAEForPreTraining` and `VideoMAEForVideoClassification`.
    VideoMaeHuggingFace,
}

impl fmt::Display for Naming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Naming::Avion => "AVION",
            Naming::AvionFlash => "AVION (flash attention)",
            Naming::OpenAi => "OpenAI CLIP / open_clip",
            Naming::HuggingFace => "Hugging Face CLIP",
            Naming::VideoMae => "VideoMAE",
            Naming::VideoMaeFlash => "AVION VideoMAE (flash attention)",
            Naming::VideoMaeHuggingFace => "Hugging Face VideoMAE",
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
    "videomae.embeddings.position_embeddings",
    "embeddings.position_embeddings",
    "position_embeddings",
];

/// What a tensor is called here.
enum Renamed {
    Ours(String),
    /// `q`, `k` or `v` (0, 1, 2) of one packed tensor.
    Part {
        target: String,
        part: usize,
    },
}

/// Renames every tensor; what is not known keeps its name. Patch embeddings become
/// `[width, 3 * patch_px^2]` (of VideoMAE `[width, 3 * tubelet * patch_px^2]`) and projections
/// `[width, embed]`, as we hold them.
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
    let names = stripped.iter().map(|(name, _)| name.as_str());
    let naming = videomae::naming_of(names.clone()).unwrap_or_else(|| clip::naming_of(names));
    let mut ours = Tensors::new();
    let mut attention = Attention::default();
    for (name, tensor) in stripped {
        let renamed = match naming {
            Naming::Avion | Naming::AvionFlash => Renamed::Ours(clip::block_name(&name)),
            Naming::OpenAi => Renamed::Ours(clip::openai_name(&name)),
            Naming::HuggingFace => clip::hugging_face_name(&name),
            Naming::VideoMae | Naming::VideoMaeFlash => videomae::name_of(&name),
            Naming::VideoMaeHuggingFace => videomae::hugging_face_name(&name),
        };
        match renamed {
            Renamed::Part { target, part } => attention.add(target, part, name, tensor)?,
            Renamed::Ours(name) => {
                let (name, tensor) = arranged(name, tensor)?;
                insert(&mut ours, name, tensor)?;
            }
        }
    }
    for (name, tensor) in attention.joined()? {
        insert(&mut ours, name, tensor)?;
    }
    Ok((ours, naming))
}

fn insert(all: &mut Tensors, name: String, tensor: HostTensor) -> Result<(), CheckpointError> {
    match all.insert(name.clone(), tensor) {
        None => Ok(()),
        Some(_) => Err(twice(name)),
    }
}

fn twice(tensor: String) -> CheckpointError {
    CheckpointError::Tensor { tensor, reason: "two tensors of the file mean this one".into() }
}

/// `visual.transformer.resblocks.3.` and what follows, of a name with `blocks` in it.
fn split_block<'a>(name: &'a str, blocks: &str) -> Option<(&'a str, &'a str)> {
    let start = name.find(blocks)? + blocks.len();
    let end = start + name[start..].find('.')? + 1;
    Some(name.split_at(end))
}

fn without_wrappers(mut name: &str) -> &str {
    while let Some(rest) = ["module.", "_orig_mod."].iter().find_map(|prefix| name.strip_prefix(prefix)) {
        name = rest;
    }
    name
}

/// Separate q, k and v on their way into packed tensors.
#[derive(Default)]
struct Attention {
    targets: BTreeMap<String, [Option<(String, HostTensor)>; 3]>,
}

impl Attention {
    fn add(&mut self, target: String, part: usize, name: String, tensor: HostTensor) -> Result<(), CheckpointError> {
        let parts = self.targets.entry(target).or_default();
        match &mut parts[part] {
            Some((other, _)) => Err(twice(format!("{other} and {name}"))),
            empty => {
                *empty = Some((name, tensor));
                Ok(())
            }
        }
    }

    /// Packed tensors, rows in the order q, k, v. VideoMAE's missing key bias becomes zeros. The
    /// parts of an incomplete tensor keep their names, and show as unexpected beside a missing one.
    fn joined(self) -> Result<Vec<(String, HostTensor)>, CheckpointError> {
        let mut out = Vec::new();
        for (target, mut parts) in self.targets {
            if let [Some((_, q)), key @ None, Some(_)] = &mut parts
                && target.ends_with(videomae::JOINT_BIAS)
            {
                *key = Some((target.clone(), HostTensor { bytes: vec![0; q.bytes.len()], ..q.clone() }));
            }
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
        // Conv3d; that of an image model too, to be refused later by its size.
        (videomae::PATCHES, &[width, ref window @ ..]) if window.len() > 1 => {
            let shape = [width, window.iter().product()];
            let flat = HostTensor::new(tensor.dtype, &shape, tensor.bytes);
            Ok((name.clone(), flat.map_err(of_tensor(&name))?))
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
