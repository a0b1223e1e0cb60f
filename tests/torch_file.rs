//! PyTorch files as PyTorch writes them: `tests/fixtures/make_torch_files.py` made the ones read here.

use avion::checkpoint::torch_file::{Dtype, TensorData, TorchFile, TorchFileError};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    tests.join("fixtures/torch").join(name)
}

fn open(name: &str) -> TorchFile {
    TorchFile::open(fixture(name)).unwrap()
}

fn values(tensor: &TensorData<'_>) -> Vec<f32> {
    assert_eq!(tensor.data.len(), tensor.shape.iter().product::<usize>() * tensor.dtype.bytes());
    fn each<const N: usize>(data: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        data.as_chunks::<N>().0.iter().map(|&b| number(b)).collect()
    }
    let data = &tensor.data[..];
    match tensor.dtype {
        Dtype::F64 => each(data, |b| f64::from_le_bytes(b) as f32),
        Dtype::F32 => each(data, f32::from_le_bytes),
        Dtype::F16 => each(data, |b| half::f16::from_le_bytes(b).to_f32()),
        Dtype::Bf16 => each(data, |b| half::bf16::from_le_bytes(b).to_f32()),
        Dtype::I64 => each(data, |b| i64::from_le_bytes(b) as f32),
        Dtype::I32 => each(data, |b| i32::from_le_bytes(b) as f32),
        Dtype::I16 => each(data, |b| i16::from_le_bytes(b) as f32),
        Dtype::I8 => each(data, |b: [u8; 1]| b[0] as i8 as f32),
        Dtype::U8 | Dtype::Bool => each(data, |b: [u8; 1]| b[0] as f32),
    }
}

/// 0, 1, 2, ...
fn count(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32).collect()
}

#[test]
fn a_checkpoint_gives_its_weights_by_plain_names() {
    let file = open("checkpoint.pt");
    file.verify().unwrap();
    assert_eq!(file.names().next(), Some("state_dict.module.visual.proj"));
    let weights = file.state_dict().unwrap();
    assert_eq!(weights.len(), 17);
    assert_eq!(weights.shape("visual.proj"), Some((Dtype::F32, [3, 4].as_slice())));
    assert_eq!(values(&weights.tensor("visual.proj").unwrap()), count(12));
    assert_eq!(values(&weights.tensor("parameter").unwrap()), count(4));
    let same = file.tensor("state_dict.module.visual.proj").unwrap();
    assert_eq!(values(&same), count(12));

    let scalar = weights.tensor("scalar").unwrap();
    assert_eq!((scalar.shape.len(), values(&scalar)), (0, vec![0.5]));
    let empty = weights.tensor("empty").unwrap();
    assert_eq!((empty.shape.as_slice(), empty.data.len()), ([0, 3].as_slice(), 0));
}

#[test]
fn views_are_unfolded() {
    let file = open("checkpoint.pt");
    let weights = file.state_dict().unwrap();
    let transposed = weights.tensor("visual.transposed").unwrap();
    assert_eq!(transposed.shape, [3, 4]);
    assert_eq!(values(&transposed), [0., 3., 6., 9., 1., 4., 7., 10., 2., 5., 8., 11.]);
    let expanded = weights.tensor("expanded").unwrap();
    assert_eq!(expanded.shape, [3, 4]);
    assert_eq!(values(&expanded), [0., 0., 0., 0., 1., 1., 1., 1., 2., 2., 2., 2.]);
    let sliced = weights.tensor("sliced").unwrap();
    assert_eq!(sliced.shape, [3, 2]);
    assert_eq!(values(&sliced), [8., 9., 18., 19., 28., 29.]);
}

#[test]
fn every_type_is_read() {
    let file = open("checkpoint.pt");
    let weights = file.state_dict().unwrap();
    let types = [
        ("float16", Dtype::F16),
        ("bfloat16", Dtype::Bf16),
        ("float64", Dtype::F64),
        ("int64", Dtype::I64),
        ("int32", Dtype::I32),
        ("int16", Dtype::I16),
        ("int8", Dtype::I8),
        ("uint8", Dtype::U8),
    ];
    for (name, dtype) in types {
        let tensor = weights.tensor(name).unwrap();
        assert_eq!(tensor.dtype, dtype);
        assert_eq!(values(&tensor), count(5), "{name}");
    }
    let flags = weights.tensor("bool").unwrap();
    assert_eq!((flags.dtype, values(&flags)), (Dtype::Bool, vec![1., 0., 1.]));
    let error = weights.tensor("complex").unwrap_err().to_string();
    assert!(error.contains("\"state_dict.module.complex\""), "{error}");
    assert!(error.contains("ComplexFloatStorage"), "{error}");
}

#[test]
fn arguments_and_scores_are_readable() {
    let file = open("checkpoint.pt");
    let args = file.root().get("args").unwrap();
    assert_eq!(args.class(), Some(("argparse", "Namespace")));
    assert_eq!(args.attribute("model").unwrap().as_str(), Some("CLIP_VITB16"));
    assert_eq!(args.attribute("lr").unwrap().as_f64(), Some(3e-5));
    assert_eq!(args.attribute("betas").unwrap().items().unwrap().len(), 2);
    assert_eq!(file.root().get("epoch").unwrap().as_int(), Some(3));
    assert_eq!(file.root().get("best_acc1").unwrap().as_f64(), Some(27.5));
}

#[test]
fn weights_are_found_under_every_usual_key() {
    for name in ["model_key.pth", "module_key.pth"] {
        let file = open(name);
        let weights = file.state_dict().unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>(), ["blocks.0.weight"]);
        assert_eq!(values(&weights.tensor("blocks.0.weight").unwrap()), [0., 1.]);
    }
    let file = open("bare.pth");
    let weights = file.state_dict().unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["bias", "weight"]);
    let error = weights.tensor("visual.proj").err().unwrap().to_string();
    assert!(error.contains("bare.pth: holds no tensor \"visual.proj\""), "{error}");
}

#[test]
fn torchscript_tensors_are_named_by_attribute() {
    let file = open("torchscript.pt");
    let weights = file.state_dict().unwrap();
    assert_eq!(
        weights.names().collect::<Vec<_>>(),
        ["half_weight", "logit_scale", "visual.0.steps", "visual.0.weight", "visual.1.bias", "visual.1.weight"]
    );
    let weight = weights.tensor("visual.0.weight").unwrap();
    assert_eq!((weight.shape.as_slice(), values(&weight)), ([2, 3].as_slice(), count(6)));
    let half = weights.tensor("half_weight").unwrap();
    assert_eq!((half.dtype, values(&half)), (Dtype::F16, count(4)));
    assert_eq!(values(&weights.tensor("logit_scale").unwrap()), [2.5]);
    let steps = weights.tensor("visual.0.steps").unwrap();
    assert_eq!((steps.dtype, values(&steps)), (Dtype::I64, vec![7.0]));
}

#[test]
fn other_files_are_named() {
    let error = TorchFile::open(fixture("legacy.pth")).err().unwrap();
    assert!(matches!(error, TorchFileError::Legacy { .. }));
    assert!(error.to_string().contains("python -c"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pt");
    let cases: [(&[u8], &str); 4] = [
        (b"", "an empty file"),
        (b"\x80\x02N.", "a plain pickle"),
        (b"\x08\0\0\0\0\0\0\0{}      ", "safetensors"),
        (b"<html>", "error page"),
    ];
    for (content, expected) in cases {
        std::fs::write(&path, content).unwrap();
        let error = TorchFile::open(&path).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = TorchFile::open(folder.path().join("none.pt")).err().unwrap();
    assert!(matches!(error, TorchFileError::Io { .. }), "{error}");
}

/// Copies an archive entry by entry, changing them.
fn rewrite(name: &str, to: &Path, change: impl Fn(&str, Vec<u8>) -> Option<Vec<u8>>, compress: bool) {
    let mut from = zip::ZipArchive::new(std::fs::File::open(fixture(name)).unwrap()).unwrap();
    let mut into = zip::ZipWriter::new(std::fs::File::create(to).unwrap());
    let method = if compress { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    for i in 0..from.len() {
        let mut entry = from.by_index(i).unwrap();
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        let name = entry.name().to_owned();
        if let Some(data) = change(&name, data) {
            into.start_file(name, options).unwrap();
            into.write_all(&data).unwrap();
        }
    }
    into.finish().unwrap();
}

#[test]
fn compressed_archives_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pt");
    rewrite("checkpoint.pt", &path, |_, data| Some(data), true);
    let file = TorchFile::open(&path).unwrap();
    file.verify().unwrap();
    let weights = file.state_dict().unwrap();
    assert_eq!(values(&weights.tensor("visual.proj").unwrap()), count(12));
    assert_eq!(weights.tensor("sliced").unwrap().shape, [3, 2]);
}

#[test]
fn damage_is_reported_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pt");

    let whole = std::fs::read(fixture("checkpoint.pt")).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 200]).unwrap();
    let error = TorchFile::open(&path).err().unwrap();
    assert!(matches!(error, TorchFileError::Zip { .. }), "{error}");

    let without = |lost: &'static str| move |name: &str, data| (!name.ends_with(lost)).then_some(data);
    rewrite("checkpoint.pt", &path, without("/data.pkl"), false);
    let error = TorchFile::open(&path).err().unwrap().to_string();
    assert!(error.contains("lacks data.pkl"), "{error}");

    rewrite("bare.pth", &path, without("/data/0"), false);
    let file = TorchFile::open(&path).unwrap();
    let error = file.state_dict().unwrap().tensor("weight").unwrap_err();
    assert!(error.to_string().contains("lacks data/0"), "{error}");

    let shortened = |name: &str, data: Vec<u8>| Some(if name.ends_with("/data/0") { data[..4].to_vec() } else { data });
    rewrite("bare.pth", &path, shortened, false);
    let file = TorchFile::open(&path).unwrap();
    let error = file.state_dict().unwrap().tensor("weight").unwrap_err();
    assert!(matches!(error, TorchFileError::ShortEntry { needed: 8, found: 4, .. }), "{error}");

    let mut foreign = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    for (name, data) in [("a/data.pkl", b"N.".as_slice()), ("a/byteorder", b"big")] {
        foreign.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        foreign.write_all(data).unwrap();
    }
    foreign.finish().unwrap();
    let error = TorchFile::open(&path).err().unwrap();
    assert!(matches!(error, TorchFileError::BigEndian { .. }), "{error}");

    // one flipped bit in a storage: only `verify` looks
    let mut flipped = whole.clone();
    let twelve = count(12).iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
    let place = whole.windows(48).position(|bytes| bytes == twelve).unwrap();
    flipped[place + 20] ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    let error = TorchFile::open(&path).unwrap().verify().unwrap_err();
    assert!(matches!(error, TorchFileError::DamagedEntry { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever stands in `data.pkl`: an answer or an error.
    #[test]
    fn mutated_archives_are_harmless(
        script in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pt");
        let name = if script { "torchscript.pt" } else { "checkpoint.pt" };
        let mutate = |name: &str, mut data: Vec<u8>| {
            if name.ends_with("/data.pkl") {
                for (place, byte) in &changes {
                    let place = place.index(data.len());
                    data[place] = *byte;
                }
            }
            Some(data)
        };
        rewrite(name, &path, mutate, false);
        if let Ok(file) = TorchFile::open(&path) {
            for name in file.names() {
                let _ = file.tensor(name).map(|tensor| values(&tensor));
            }
            let _ = file.state_dict().map(|weights| weights.len());
        }
    }
}
