//! Names of CLIP's parameters.

use super::{Naming, Renamed, split_block};

/// Whose names of CLIP's these are; ours where nothing tells.
pub(super) fn naming_of<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Naming {
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
pub(super) fn block_name(name: &str) -> String {
    let Some((block, inside)) = split_block(name, ".resblocks.") else {
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

/// OpenAI's and open_clip's.
pub(super) fn openai_name(name: &str) -> String {
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

/// Hugging Face's `CLIPModel`.
pub(super) fn hugging_face_name(name: &str) -> Renamed {
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
        return Renamed::Ours(fixed.into());
    }
    for (theirs, ours) in [
        ("vision_model.pre_layrnorm.", "visual.ln_pre."), // the missing "e" is theirs
        ("vision_model.post_layernorm.", "visual.ln_post."),
        ("text_model.final_layer_norm.", "textual.ln_final."),
    ] {
        if let Some(rest) = name.strip_prefix(theirs) {
            return Renamed::Ours(format!("{ours}{rest}"));
        }
    }
    for (theirs, ours) in [
        ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
        ("text_model.encoder.layers.", "textual.transformer.resblocks."),
    ] {
        let inside = name.strip_prefix(theirs).and_then(|r| r.split_once('.'));
        if let Some((index, inside)) = inside {
            return hugging_face_block(&format!("{ours}{index}."), inside)
                .unwrap_or_else(|| Renamed::Ours(name.to_owned()));
        }
    }
    Renamed::Ours(name.to_owned())
}

fn hugging_face_block(block: &str, inside: &str) -> Option<Renamed> {
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
            return Some(Renamed::Part { target: format!("{block}attn.in_proj_{kind}"), part });
        }
    };
    Some(Renamed::Ours(format!("{block}{ours}.{kind}")))
}
