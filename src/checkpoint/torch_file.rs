//! Reads PyTorch files without Python: `.pt` and `.pth` of `torch.save` (zip format, PyTorch 1.6 and later), and
//! TorchScript archives such as OpenAI's CLIP weights.
//!
//! The file is mapped, not read: a tensor that lies in it contiguously costs no copy. No code in it is run, see
//! [`crate::data::pickle`].

mod archive;
mod error;
mod tensor;
mod tree;

pub use error::TorchFileError;
pub use tensor::{Dtype, TensorData};

use crate::data::pickle::{Kind, Pickle, Value, map_file};
use archive::Archive;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use tree::{Named, find_tensors};

/// The first pickle of files written before PyTorch 1.6: `0x1950a86a20f9469cfc6c` (`torch/serialization.py`).
const LEGACY_MAGIC: &[u8] = &[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Keys under which checkpoints keep their weights: AVION and LaViLa, timm and VideoMAE, DeepSpeed.
const WEIGHT_KEYS: [&str; 3] = ["state_dict", "model", "module"];

/// What `DistributedDataParallel` and `torch.compile` put before names.
const WRAPPER_PREFIXES: [&str; 2] = ["module.", "_orig_mod."];

/// Views that repeat elements may be larger than the file, up to this.
const MAX_EXPANDED_BYTES: u64 = 1 << 30;

/// An opened PyTorch file.
pub struct TorchFile {
    path: PathBuf,
    archive: Archive,
    pickle: Pickle<'static>,
    tensors: Vec<Named>,
    by_name: HashMap<String, usize>,
    file_bytes: u64,
}

impl TorchFile {
    /// Opens a file and finds its tensors; reads none yet.
    ///
    /// # Errors
    /// [`TorchFileError`] when it is not such a file, is damaged, or is in the legacy format (with the command
    /// that converts it). Tensors of unsupported types are no error until they are asked for.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, TorchFileError> {
        let path = path.as_ref();
        let map = map_file(path).map_err(|source| TorchFileError::Io { path: path.to_owned(), source })?;
        let file_bytes = map.len() as u64;
        if !map.starts_with(b"PK") {
            return Err(not_an_archive(path, &map));
        }
        let archive = Archive::open(path, map)?;
        let data = archive.read("data.pkl", u64::MAX)?;
        let pickle = Pickle::parse(&data).map_err(|source| TorchFileError::Pickle { path: path.to_owned(), source })?;
        let pickle = pickle.into_owned();
        drop(data);
        let tensors = find_tensors(&pickle).map_err(|name| TorchFileError::Tangled { path: path.to_owned(), name })?;
        let by_name = tensors.iter().enumerate();
        let by_name = by_name.map(|(i, named)| (named.name.clone(), i)).collect();
        Ok(TorchFile { path: path.to_owned(), archive, pickle, tensors, by_name, file_bytes })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything the file holds besides tensors: run arguments, epoch, scores.
    ///
    /// ```no_run
    /// # use avion::checkpoint::torch_file::TorchFile;
    /// # let file = TorchFile::open("checkpoint.pt").unwrap();
    /// let model = file.root().get("args").and_then(|args| args.attribute("model"));
    /// ```
    pub fn root(&self) -> Value<'_> {
        self.pickle.root()
    }

    /// Names of all tensors, optimizer state included, in the order of the file: paths of keys and attributes such
    /// as `state_dict.module.visual.proj`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|named| named.name.as_str())
    }

    /// Reads the tensor of that full name.
    ///
    /// # Errors
    /// [`TorchFileError`] when there is none, its type is not supported, or its storage is missing or too short.
    pub fn tensor(&self, name: &str) -> Result<TensorData<'_>, TorchFileError> {
        match self.by_name.get(name) {
            Some(&index) => self.read(index),
            None => Err(self.missing(name)),
        }
    }

    /// The weights: the dict under `state_dict`, `model` or `module` where there is one, else the whole file, with
    /// the prefixes of `DistributedDataParallel` and `torch.compile` taken off.
    ///
    /// # Errors
    /// [`TorchFileError::DuplicateName`] when that makes two names equal.
    pub fn state_dict(&self) -> Result<StateDict<'_>, TorchFileError> {
        let mut prefix = String::new();
        let mut root = self.root();
        while let Some((key, inner)) = WEIGHT_KEYS
            .iter()
            .find_map(|&key| Some((key, root.get(key).filter(|inner| is_dict(*inner))?)))
            .filter(|_| prefix.len() < 64)
        {
            prefix.push_str(key);
            prefix.push('.');
            root = inner;
        }
        let mut tensors = BTreeMap::new();
        for (index, named) in self.tensors.iter().enumerate() {
            let Some(mut name) = named.name.strip_prefix(&prefix) else {
                continue;
            };
            while let Some(inner) = WRAPPER_PREFIXES.iter().find_map(|p| name.strip_prefix(p)) {
                name = inner;
            }
            if tensors.insert(name.to_owned(), index).is_some() {
                return Err(TorchFileError::DuplicateName { path: self.path.clone(), name: name.into() });
            }
        }
        Ok(StateDict { file: self, tensors })
    }

    /// Compares all storages with the archive's checksums: one pass over the file.
    ///
    /// # Errors
    /// [`TorchFileError::DamagedEntry`] for the first that differs. Files saved after
    /// `torch.serialization.set_crc32_options(False)` carry no true checksums.
    pub fn verify(&self) -> Result<(), TorchFileError> {
        let specs = self.tensors.iter().filter_map(|named| named.spec.as_ref().ok());
        let storages: BTreeSet<&str> = specs.map(|spec| spec.storage.as_str()).collect();
        self.archive.verify("data.pkl")?;
        for storage in storages {
            self.archive.verify(&format!("data/{storage}"))?;
        }
        Ok(())
    }

    fn missing(&self, name: &str) -> TorchFileError {
        TorchFileError::MissingTensor { path: self.path.clone(), name: name.into() }
    }

    fn read(&self, index: usize) -> Result<TensorData<'_>, TorchFileError> {
        let Named { name, spec } = &self.tensors[index];
        let wrong =
            |expected, found| TorchFileError::Tensor { path: self.path.clone(), name: name.clone(), expected, found };
        let spec = spec.as_ref().map_err(|problem| wrong(problem.expected, problem.found.clone()))?;
        let largest = self.file_bytes.max(MAX_EXPANDED_BYTES);
        if spec.len_bytes().is_none_or(|bytes| bytes > largest) {
            let expected = "no more bytes than the file, or 1 GiB where elements repeat";
            return Err(wrong(expected, format!("shape {:?}", spec.shape)));
        }
        let entry = format!("data/{}", spec.storage);
        let needed = spec.storage_bytes();
        let needed =
            needed.ok_or_else(|| wrong("strides within the storage", format!("shape {:?}", spec.shape)))? as u64;
        let short = |found| TorchFileError::ShortEntry { path: self.path.clone(), entry: entry.clone(), needed, found };
        let size = self.archive.size(&entry)?;
        if size < needed {
            return Err(short(size));
        }
        let storage = self.archive.read(&entry, needed)?;
        if (storage.len() as u64) < needed {
            return Err(short(storage.len() as u64));
        }
        Ok(TensorData { dtype: spec.dtype, shape: spec.shape.clone(), data: spec.gather(storage) })
    }
}

/// The weights in a file by the names PyTorch's `load_state_dict` would see.
pub struct StateDict<'f> {
    file: &'f TorchFile,
    tensors: BTreeMap<String, usize>,
}

impl<'f> StateDict<'f> {
    /// Sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Type and shape of a tensor, without reading it; `None` when there is none of that name or type.
    pub fn shape(&self, name: &str) -> Option<(Dtype, &'f [usize])> {
        let named = &self.file.tensors[*self.tensors.get(name)?];
        let spec = named.spec.as_ref().ok()?;
        Some((spec.dtype, &spec.shape))
    }

    /// Reads one tensor.
    ///
    /// # Errors
    /// As [`TorchFile::tensor`].
    pub fn tensor(&self, name: &str) -> Result<TensorData<'f>, TorchFileError> {
        match self.tensors.get(name) {
            Some(&index) => self.file.read(index),
            None => Err(self.file.missing(name)),
        }
    }
}

fn is_dict(value: Value<'_>) -> bool {
    matches!(value.kind(), Kind::Dict) || value.pairs().is_some()
}

/// Says what a file is that is no zip archive.
fn not_an_archive(path: &Path, data: &[u8]) -> TorchFileError {
    if let Ok(pickle) = Pickle::parse(data)
        && let Kind::BigInt(LEGACY_MAGIC) = pickle.root().kind()
    {
        return TorchFileError::Legacy { path: path.to_owned() };
    }
    let found = match data {
        [] => "an empty file",
        [0x80, ..] => "a plain pickle",
        [_, _, _, _, _, _, _, _, b'{', ..] => "what looks like a safetensors file",
        [b'<' | b'{', ..] => "text: perhaps an error page that was downloaded instead",
        _ => "something else",
    };
    TorchFileError::NotTorch { path: path.to_owned(), found }
}
