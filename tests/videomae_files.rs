//! VideoMAE's weights: every published form of names, fitting them to a model, and export to Hugging Face. The numbers
//! are those of `tests/fixtures/videomae`, whose names a real `VideoMAEForPreTraining` gave.

use avion::checkpoint::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

// ---- inputs ------------------------------------------------------------------------------------

const WIDTH: usize = 64;
const DECODER_WIDTH: usize = 32;
const COLUMNS: usize = 3 * 2 * 8 * 8;
const CLASSES: usize = 10;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/videomae")
}

/// Hugging Face's names: of both models.
fn fixture() -> Tensors {
    read_safetensors(&fixtures().join("weights.safetensors")).unwrap().0
}

fn is_head(name: &str) -> bool {
    name.starts_with("fc_norm.") || name.starts_with("classifier.")
}

/// `VideoMAEForPreTraining`.
fn pretraining() -> Tensors {
    fixture().into_iter().filter(|(name, _)| !is_head(name)).collect()
}

/// `VideoMAEForVideoClassification`.
fn classifier() -> Tensors {
    let encoder = |name: &str| name.starts_with("videomae.") && !name.contains(".layernorm.");
    fixture().into_iter().filter(|(name, _)| encoder(name) || is_head(name)).collect()
}

/// Our names and shapes, written out here independently of the code under test.
fn shapes(is_classifier: bool) -> Vec<(String, Vec<usize>)> {
    let mut all = Vec::new();
    let mut add = |name: String, shape: &[usize]| all.push((name, shape.to_vec()));
    let mut layer = |name: String, rows: usize, columns: usize| {
        add(format!("{name}.weight"), &[rows, columns]);
        add(format!("{name}.bias"), &[rows]);
    };
    let mut norms = vec![if is_classifier { ("fc_norm".to_owned(), WIDTH) } else { ("encoder.norm".into(), WIDTH) }];
    let mut towers = vec![("encoder", 2, WIDTH)];
    layer("encoder.patch_embed.proj".into(), WIDTH, COLUMNS);
    if is_classifier {
        layer("head".into(), CLASSES, WIDTH);
    } else {
        layer("decoder.head".into(), COLUMNS, DECODER_WIDTH);
        towers.push(("decoder", 1, DECODER_WIDTH));
        norms.push(("decoder.norm".into(), DECODER_WIDTH));
    }
    for (tower, layers, width) in towers {
        for index in 0..layers {
            let block = format!("{tower}.blocks.{index}");
            layer(format!("{block}.attn.qkv"), 3 * width, width);
            layer(format!("{block}.attn.proj"), width, width);
            layer(format!("{block}.mlp.fc1"), 4 * width, width);
            layer(format!("{block}.mlp.fc2"), width, 4 * width);
            norms.extend([(format!("{block}.norm1"), width), (format!("{block}.norm2"), width)]);
        }
    }
    for (norm, width) in norms {
        add(format!("{norm}.weight"), &[width]);
        add(format!("{norm}.bias"), &[width]);
    }
    if !is_classifier {
        add("encoder_to_decoder.weight".into(), &[DECODER_WIDTH, WIDTH]);
        add("mask_token".into(), &[1, 1, DECODER_WIDTH]);
    }
    all.sort();
    all
}

fn ours(theirs: Tensors) -> Tensors {
    let (tensors, naming) = to_our_names(theirs).unwrap();
    assert_eq!(naming, Naming::VideoMaeHuggingFace);
    tensors
}

fn weight_file(tensors: Tensors) -> WeightFile {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    write_file(&path, &tensors);
    read_weights(&path).unwrap()
}

fn write_file(path: &Path, tensors: &Tensors) {
    write_safetensors(&mut fs::File::create(path).unwrap(), tensors, &BTreeMap::new()).unwrap();
}

fn reshaped(tensor: &HostTensor, shape: &[usize]) -> HostTensor {
    HostTensor::new(tensor.dtype, shape, tensor.bytes.clone()).unwrap()
}

fn renamed(tensors: &Tensors, rename: impl Fn(&str) -> String) -> Tensors {
    tensors.iter().map(|(name, tensor)| (rename(name), tensor.clone())).collect()
}

/// The original's form: q and v biases apart, a `Conv3d` patch embedding.
fn original(ours: &Tensors) -> Tensors {
    let mut theirs = Tensors::new();
    for (name, tensor) in ours {
        if let Some(block) = name.strip_suffix("qkv.bias") {
            let third = tensor.bytes.len() / 3;
            let width = tensor.shape[0] / 3;
            for (part, bytes) in [("q_bias", &tensor.bytes[..third]), ("v_bias", &tensor.bytes[2 * third..])] {
                theirs
                    .insert(format!("{block}{part}"), HostTensor::new(tensor.dtype, &[width], bytes.to_vec()).unwrap());
            }
        } else if name == "encoder.patch_embed.proj.weight" {
            theirs.insert(name.clone(), reshaped(tensor, &[WIDTH, 3, 2, 8, 8]));
        } else {
            theirs.insert(name.clone(), tensor.clone());
        }
    }
    theirs
}

fn settings(classes: &[&str]) -> VideoMaeSettings {
    VideoMaeSettings {
        image_px: 32,
        frames: 4,
        tubelet: 2,
        heads: 2,
        decoder_heads: 1,
        eps: 1e-6,
        normalized_targets: true,
        classes: classes.iter().map(|class| (*class).to_owned()).collect(),
    }
}

// ---- names -------------------------------------------------------------------------------------

#[test]
fn hugging_face_names_become_ours() {
    for (theirs, is_classifier) in [(pretraining(), false), (classifier(), true)] {
        let file = weight_file(theirs.clone());
        assert_eq!(file.naming, Naming::VideoMaeHuggingFace);
        let found: Vec<_> = file.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect();
        assert_eq!(found, shapes(is_classifier));

        let inner = "videomae.encoder.layer.1.attention.attention";
        let part = |name: &str| theirs[&format!("{inner}.{name}")].bytes.clone();
        let weight = [part("query.weight"), part("key.weight"), part("value.weight")].concat();
        assert_eq!(file.tensors["encoder.blocks.1.attn.qkv.weight"].bytes, weight);
        let bias = [part("q_bias"), vec![0; part("q_bias").len()], part("v_bias")].concat();
        assert_eq!(file.tensors["encoder.blocks.1.attn.qkv.bias"].bytes, bias);
        for (ours, name) in [
            ("encoder.patch_embed.proj.weight", "videomae.embeddings.patch_embeddings.projection.weight"),
            ("encoder.blocks.0.norm1.bias", "videomae.encoder.layer.0.layernorm_before.bias"),
            ("encoder.blocks.0.norm2.bias", "videomae.encoder.layer.0.layernorm_after.bias"),
            ("encoder.blocks.1.attn.proj.bias", "videomae.encoder.layer.1.attention.output.dense.bias"),
            ("encoder.blocks.1.mlp.fc1.weight", "videomae.encoder.layer.1.intermediate.dense.weight"),
            ("encoder.blocks.1.mlp.fc2.bias", "videomae.encoder.layer.1.output.dense.bias"),
        ] {
            assert_eq!(file.tensors[ours].bytes, theirs[name].bytes, "{ours}");
        }
    }
}

/// `VideoMAEModel` alone, with the buffer that some versions stored.
#[test]
fn the_bare_hugging_face_model_is_read() {
    let encoder: Tensors = pretraining().into_iter().filter(|(name, _)| name.starts_with("videomae.")).collect();
    let mut bare = renamed(&encoder, |name| name.trim_start_matches("videomae.").to_owned());
    bare.insert("embeddings.position_embeddings".into(), HostTensor::from_f32(&[1], &[0.0]).unwrap());
    assert_eq!(ours(bare), ours(encoder));
}

#[test]
fn original_names_become_ours_pre_trained_and_fine_tuned() {
    let expected = ours(pretraining());
    let theirs = original(&expected);
    assert!(
        theirs.contains_key("decoder.blocks.0.attn.v_bias") && !theirs.contains_key("decoder.blocks.0.attn.qkv.bias")
    );
    for prefix in ["", "module."] {
        let file = weight_file(renamed(&theirs, |name| format!("{prefix}{name}")));
        assert_eq!(file.naming, Naming::VideoMae);
        assert_eq!(file.tensors, expected);
    }
    // Ours are the same with one bias.
    assert_eq!(to_our_names(expected.clone()).unwrap(), (expected, Naming::VideoMae));

    let expected = ours(classifier());
    let tuned = renamed(&original(&expected), |name| name.trim_start_matches("encoder.").to_owned());
    assert!(tuned.contains_key("blocks.0.attn.q_bias") && tuned.contains_key("patch_embed.proj.weight"));
    let file = weight_file(tuned);
    assert_eq!(file.naming, Naming::VideoMae);
    assert_eq!(file.tensors, expected);
}

/// AVION: a joint bias whose key part was trained, and a patch embedding that is a matrix.
#[test]
fn avion_flash_names_become_ours() {
    for (theirs, is_tuned) in [(pretraining(), false), (classifier(), true)] {
        let mut expected = ours(theirs);
        for (name, tensor) in &mut expected {
            if name.ends_with("qkv.bias") {
                tensor.bytes.fill(0x3c);
            }
        }
        let flash = renamed(&expected, |name| {
            let name = if is_tuned { name.trim_start_matches("encoder.") } else { name };
            format!("module.{}", name.replace("attn.qkv.", "attn.Wqkv.").replace("attn.proj.", "attn.out_proj."))
        });
        let file = weight_file(flash);
        assert_eq!(file.naming, Naming::VideoMaeFlash);
        assert_eq!(file.tensors, expected);
    }
}

#[test]
fn a_lost_part_of_the_attention_is_reported() {
    for (lost, missing) in [
        ("encoder.blocks.1.attn.q_bias", "encoder.blocks.1.attn.qkv.bias: expected [192], not in the file"),
        ("decoder.blocks.0.attn.qkv.weight", "decoder.blocks.0.attn.qkv.weight: expected [96, 32], not in the file"),
    ] {
        let mut theirs = original(&ours(pretraining()));
        theirs.remove(lost).unwrap();
        let error = load_into(&shapes(false), weight_file(theirs), LoadOptions::default()).unwrap_err();
        assert!(error.to_string().contains(missing), "{error}");
    }
    let mut theirs = pretraining();
    theirs.remove("videomae.encoder.layer.0.attention.attention.key.weight").unwrap();
    let error = load_into(&shapes(false), weight_file(theirs), LoadOptions::default()).unwrap_err();
    assert!(error.to_string().contains("encoder.blocks.0.attn.qkv.weight: expected [192, 64], not in"), "{error}");
}

#[test]
fn two_tensors_of_one_meaning_are_refused() {
    let mut theirs = original(&ours(pretraining()));
    for name in ["encoder.blocks.0.attn.q_bias", "encoder.norm.bias"] {
        let again = theirs[name].clone();
        let mut twice = theirs.clone();
        twice.insert(name.trim_start_matches("encoder.").to_owned(), again);
        let error = to_our_names(twice).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("two tensors"), "{error}");
    }
    let q = theirs.get_mut("encoder.blocks.0.attn.q_bias").unwrap();
    *q = HostTensor::from_f32(&[2], &[1.0, 2.0]).unwrap();
    let error = to_our_names(theirs).unwrap_err().to_string();
    assert!(error.starts_with("tensor encoder.blocks.0.attn.qkv.bias: q, k and v differ"), "{error}");
}

// ---- fitting to a model ------------------------------------------------------------------------

#[test]
fn a_pre_trained_encoder_starts_a_classifier() {
    let expected = ours(pretraining());
    let (tensors, report) = load_into(&shapes(true), weight_file(pretraining()), LoadOptions::default()).unwrap();
    assert_eq!(tensors.len(), 2 + 2 * 12);
    for (name, tensor) in &tensors {
        assert_eq!(tensor.to_f32().unwrap(), expected[name].to_f32().unwrap(), "{name}");
    }
    assert_eq!(report.missing, ["fc_norm.bias", "fc_norm.weight"]);
    assert_eq!(report.skipped, ["head.bias", "head.weight"]);
    for name in ["mask_token", "encoder_to_decoder.weight", "encoder.norm.weight", "decoder.blocks.0.norm1.bias"] {
        assert!(report.unexpected.contains(&name.to_owned()), "{name}: {report}");
    }
    assert_eq!(report.unexpected.len(), expected.len() - tensors.len());
    let text = report.to_string();
    assert!(text.contains("ignored: 16 of decoder, encoder.norm.bias, encoder.norm.weight, encoder_to"), "{text}");

    // To evaluate, the head must be there.
    let all = LoadOptions { projections: true };
    let text = load_into(&shapes(true), weight_file(pretraining()), all).unwrap_err().to_string();
    for name in ["fc_norm.weight: expected [64]", "head.weight: expected [10, 64]"] {
        assert!(text.contains(&format!("{name}, not in the file")), "{text}");
    }
    let (tensors, report) = load_into(&shapes(true), weight_file(classifier()), all).unwrap();
    assert_eq!(tensors.len(), shapes(true).len());
    assert!(report.missing.is_empty() && report.skipped.is_empty() && report.unexpected.is_empty(), "{report}");
}

#[test]
fn a_fine_tuned_file_starts_a_classifier_of_other_classes() {
    let mut expected = shapes(true);
    expected.iter_mut().filter(|(name, _)| name.starts_with("head.")).for_each(|(_, shape)| shape[0] = 7);
    let (tensors, report) = load_into(&expected, weight_file(classifier()), LoadOptions::default()).unwrap();
    assert_eq!(report.skipped, ["head.bias", "head.weight"]);
    assert!(tensors.contains_key("fc_norm.weight") && !tensors.contains_key("head.weight"));
    let all = LoadOptions { projections: true };
    let text = load_into(&expected, weight_file(classifier()), all).unwrap_err().to_string();
    assert!(text.contains("head.weight: expected [7, 64], found [10, 64]"), "{text}");
}

#[test]
fn other_sizes_are_refused_by_name_and_shape() {
    let fails = |tensors: Tensors, is_classifier: bool| {
        let file = weight_file(tensors);
        let error = load_into(&shapes(is_classifier), file, LoadOptions::default()).unwrap_err();
        let CheckpointError::Mismatch { problems, .. } = error else {
            panic!("{error}");
        };
        problems
    };
    let with = |name: &str, shape: &[usize]| {
        let mut tensors = original(&ours(pretraining()));
        let values = vec![0.5; shape.iter().product()];
        tensors.insert(name.to_owned(), HostTensor::from_f32(shape, &values).unwrap()).unwrap();
        tensors
    };
    // A tubelet of one frame, an image model, another width.
    let patches = "encoder.patch_embed.proj.weight";
    for shape in [&[WIDTH, 3, 1, 8, 8][..], &[WIDTH, 3, 8, 8], &[WIDTH, 192]] {
        assert_eq!(fails(with(patches, shape), false), [format!("{patches}: expected [64, 384], found [64, 192]")]);
    }
    let narrow = with("encoder.blocks.0.mlp.fc1.weight", &[128, WIDTH]);
    assert_eq!(fails(narrow, true), ["encoder.blocks.0.mlp.fc1.weight: expected [256, 64], found [128, 64]"]);
    // More layers than the model has: an error, but for a decoder where there is none.
    for (block, is_classifier) in [("encoder.blocks.2", false), ("encoder.blocks.2", true), ("decoder.blocks.1", false)]
    {
        let mut deeper = ours(pretraining());
        let norm = deeper["encoder.norm.bias"].clone();
        deeper.insert(format!("{block}.norm1.bias"), norm);
        let expected = [format!("{block}.norm1.bias: not in the model, which has fewer layers")];
        assert_eq!(fails(deeper, is_classifier), expected);
    }
}

// ---- export ------------------------------------------------------------------------------------

#[test]
fn exports_are_what_hugging_face_has_and_come_back_unchanged() {
    for theirs in [pretraining(), classifier()] {
        let mine = ours(theirs.clone());
        let exported = to_hugging_face_videomae(&mine, &settings(&[])).unwrap();
        assert_eq!(exported.tensors, theirs);
        assert_eq!(ours(exported.tensors), mine);
    }
}

#[test]
fn the_key_bias_is_left_out() {
    let mut mine = ours(classifier());
    let bias = mine.get_mut("encoder.blocks.0.attn.qkv.bias").unwrap();
    let third = bias.bytes.len() / 3;
    bias.bytes[third..2 * third].fill(0x3c);
    assert_eq!(to_hugging_face_videomae(&mine, &settings(&[])).unwrap().tensors, classifier());
}

#[test]
fn the_configuration_has_the_sizes_of_the_model() {
    let config = |tensors: Tensors, settings: &VideoMaeSettings| -> serde_json::Value {
        serde_json::from_str(&to_hugging_face_videomae(&ours(tensors), settings).unwrap().config).unwrap()
    };
    let common = serde_json::json!({
        "model_type": "videomae", "image_size": 32, "patch_size": 8, "num_channels": 3, "num_frames": 4,
        "tubelet_size": 2, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 256, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "qkv_bias": true,
        "norm_pix_loss": true,
    });
    let check = |found: serde_json::Value, more: serde_json::Value| {
        let mut expected = common.clone();
        expected.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(found, expected);
    };
    check(
        config(pretraining(), &settings(&[])),
        serde_json::json!({
            "architectures": ["VideoMAEForPreTraining"], "use_mean_pooling": false, "decoder_hidden_size": 32,
            "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 1, "decoder_intermediate_size": 128,
        }),
    );
    check(
        config(classifier(), &settings(&[])),
        serde_json::json!({
            "architectures": ["VideoMAEForVideoClassification"], "use_mean_pooling": true, "num_labels": 10,
        }),
    );
    let named = config(classifier(), &settings(&["a", "b", "c", "d", "e", "f", "g", "h", "i", "abseiling"]));
    assert_eq!(named["id2label"]["9"], "abseiling");
    assert_eq!(named["label2id"]["b"], 1);
    assert_eq!(named["id2label"].as_object().unwrap().len(), 10);
}

#[test]
fn what_cannot_be_exported_is_named() {
    let fails = |tensors: &Tensors, settings: VideoMaeSettings| {
        to_hugging_face_videomae(tensors, &settings).unwrap_err().to_string()
    };
    let mine = ours(pretraining());
    let text = fails(&mine, VideoMaeSettings { tubelet: 3, ..settings(&[]) });
    assert!(text.starts_with("tensor encoder.patch_embed.proj.weight: expected [width, 3 * 3 * patch^2]"), "{text}");
    assert!(fails(&mine, VideoMaeSettings { tubelet: 0, ..settings(&[]) }).contains("found [64, 384]"));
    let text = fails(&ours(classifier()), settings(&["one"]));
    assert_eq!(text, "tensor head.weight: expected a row for each of 1 classes, found 10");
    for stranger in ["visual.class_embedding", "encoder.blocks.0.ls1.gamma"] {
        let mut other = mine.clone();
        other.insert(stranger.into(), mine["mask_token"].clone());
        let text = fails(&other, settings(&[]));
        assert!(text.starts_with(&format!("tensor {stranger}: not a parameter of VideoMAE")), "{text}");
    }
    for lost in ["encoder.patch_embed.proj.weight", "encoder_to_decoder.weight", "decoder.blocks.0.mlp.fc1.weight"] {
        let mut other = mine.clone();
        other.remove(lost).unwrap();
        let text = fails(&other, settings(&[]));
        assert!(text.starts_with(&format!("tensor {lost}: not among the weights")), "{text}");
    }
}

/// The exported folder in the real `from_pretrained`: no tensor missing or left over, outputs as in the fixture.
#[test]
fn transformers_loads_the_export() {
    let script = fixtures().join("check_export.py");
    let probe = Command::new("python3").args(["-c", "import torch, transformers"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: needs python3 with the packages torch and transformers");
        return;
    }
    for theirs in [pretraining(), classifier()] {
        let folder = tempfile::tempdir().unwrap();
        let exported = to_hugging_face_videomae(&ours(theirs), &settings(&[])).unwrap();
        write_file(&folder.path().join("model.safetensors"), &exported.tensors);
        fs::write(folder.path().join("config.json"), exported.config).unwrap();
        let output = Command::new("python3").arg(&script).arg(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
