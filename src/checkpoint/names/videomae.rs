//! Names of VideoMAE's parameters.
//!
//! Ours are the original's with one bias for q, k and v: `encoder.blocks.0.attn.qkv.{weight,bias}`. The original and
//! Hugging Face have no key bias, AVION with flash attention has one. It adds the same number to all scores of a query,
//! which the softmax does not see: zeros in its place are exact.

use super::{Naming, Renamed, split_block};

/// Our name of the patch embedding, a matrix `[width, 3 * tubelet * patch^2]`: the weight of the `Conv3d` of the
/// original and of Hugging Face, flattened, or of AVION's `Linear` as it is.
pub(super) const PATCHES: &str = "encoder.patch_embed.proj.weight";

/// Ends our names of biases of q, k and v, of which the key's part may be missing in files.
pub(super) const JOINT_BIAS: &str = "attn.qkv.bias";

/// What pre-trained files of the original have below `encoder.`, and fine-tuned ones at the top.
const ENCODER: [&str; 3] = ["patch_embed.", "blocks.", "norm."];

/// Which of VideoMAE's forms the names are, if any.
pub(super) fn naming_of<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<Naming> {
    let any = |test: &dyn Fn(&str) -> bool| names.clone().any(test);
    if any(&|name| without(name, "videomae.").starts_with("embeddings.patch_embeddings.projection.")) {
        Some(Naming::VideoMaeHuggingFace)
    } else if !any(&|name| without(name, "encoder.").starts_with("patch_embed.proj.")) {
        None
    } else if any(&|name| name.contains(".attn.Wqkv.")) {
        Some(Naming::VideoMaeFlash)
    } else {
        Some(Naming::VideoMae)
    }
}

/// Ours, the original's, and AVION's with flash attention; pre-trained (`encoder.blocks.0`) or fine-tuned (`blocks.0`).
pub(super) fn name_of(name: &str) -> Renamed {
    let mut full = name.to_owned();
    if ENCODER.iter().any(|prefix| name.starts_with(prefix)) {
        full.insert_str(0, "encoder.");
    }
    let Some((block, inside)) = split_block(&full, ".blocks.") else {
        return Renamed::Ours(full);
    };
    if let Some(part) = ["attn.q_bias", "attn.k_bias", "attn.v_bias"].iter().position(|bias| *bias == inside) {
        return Renamed::Part { target: format!("{block}{JOINT_BIAS}"), part };
    }
    for (theirs, ours) in [("attn.Wqkv.", "attn.qkv."), ("attn.out_proj.", "attn.proj.")] {
        if let Some(kind) = inside.strip_prefix(theirs) {
            return Renamed::Ours(format!("{block}{ours}{kind}"));
        }
    }
    Renamed::Ours(full)
}

/// Hugging Face's `VideoMAEForPreTraining` and `VideoMAEForVideoClassification`, and the bare `VideoMAEModel`, whose
/// names lack `videomae.`.
pub(super) fn hugging_face_name(name: &str) -> Renamed {
    let name = without(name, "videomae.");
    for (theirs, ours) in [("encoder.layer.", "encoder.blocks."), ("decoder.decoder_layers.", "decoder.blocks.")] {
        let inside = name.strip_prefix(theirs).and_then(|rest| rest.split_once('.'));
        if let Some((index, inside)) = inside {
            return hugging_face_block(&format!("{ours}{index}."), inside)
                .unwrap_or_else(|| Renamed::Ours(name.to_owned()));
        }
    }
    for (theirs, ours) in [
        ("embeddings.patch_embeddings.projection.", "encoder.patch_embed.proj."),
        ("layernorm.", "encoder.norm."),
        ("classifier.", "head."),
    ] {
        if let Some(kind) = name.strip_prefix(theirs) {
            return Renamed::Ours(format!("{ours}{kind}"));
        }
    }
    Renamed::Ours(name.to_owned())
}

fn hugging_face_block(block: &str, inside: &str) -> Option<Renamed> {
    if let Some(inside) = inside.strip_prefix("attention.attention.") {
        let (part, kind) = match inside {
            "query.weight" => (0, "weight"),
            "key.weight" => (1, "weight"),
            "value.weight" => (2, "weight"),
            "q_bias" => (0, "bias"),
            "v_bias" => (2, "bias"),
            _ => return None,
        };
        return Some(Renamed::Part { target: format!("{block}attn.qkv.{kind}"), part });
    }
    let (module, kind) = inside.rsplit_once('.')?;
    let ours = match module {
        "attention.output.dense" => "attn.proj",
        "layernorm_before" => "norm1",
        "layernorm_after" => "norm2",
        "intermediate.dense" => "mlp.fc1",
        "output.dense" => "mlp.fc2",
        _ => return None,
    };
    Some(Renamed::Ours(format!("{block}{ours}.{kind}")))
}

fn without<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.strip_prefix(prefix).unwrap_or(name)
}
