//! Reading and writing safetensors files, one tensor in memory at a time.
//!
//! Format: 8 bytes little-endian header length, a JSON header, the tensors one after another
//! (<https://github.com/huggingface/safetensors>). The crate's own reader wants the whole file in
//! memory; its header types do the checking here.

use super::error::CheckpointError;
use super::tensor::{Dtype, HostTensor, Tensors};
use safetensors::tensor::{Dtype as FileDtype, Metadata, TensorInfo};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

/// Longest header read: the limit of the safetensors library.
const LONGEST_HEADER: u64 = 100_000_000;

/// Writes tensors and text metadata to `out`. `format = pt`, which Hugging Face's loader wants,
/// is added.
///
/// # Errors
/// Those of `out`, and `InvalidData` for tensors whose bytes do not fit their shape.
pub fn write_safetensors(
    out: &mut dyn Write,
    tensors: &Tensors,
    metadata: &BTreeMap<String, String>,
) -> io::Result<()> {
    // Wide numbers first, as the format's own writer does, keeps every tensor aligned.
    let mut order: Vec<(&String, &HostTensor)> = tensors.iter().collect();
    order.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.dtype.bytes()));
    let mut offset = 0;
    let mut infos = Vec::with_capacity(order.len());
    for (name, tensor) in &order {
        let end = offset + tensor.bytes.len();
        infos.push((
            (*name).clone(),
            TensorInfo { dtype: to_file(tensor.dtype), shape: tensor.shape.clone(), data_offsets: (offset, end) },
        ));
        offset = end;
    }
    // Checks that every tensor's bytes fit its shape.
    Metadata::new(None, infos.clone()).map_err(io::Error::other)?;
    let mut texts = metadata.clone();
    texts.insert("format".into(), "pt".into());
    let mut header = serde_json::to_vec(&Header { metadata: texts, tensors: infos.into_iter().collect() })?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (_, tensor) in order {
        out.write_all(&tensor.bytes)?;
    }
    Ok(())
}

/// The JSON header in one fixed order, so that equal tensors make equal files (the library's own
/// type holds the texts in a hash map).
#[derive(Serialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    metadata: BTreeMap<String, String>,
    #[serde(flatten)]
    tensors: BTreeMap<String, TensorInfo>,
}

/// Bytes that [`write_safetensors`] will write, headers only roughly (for messages).
pub(super) fn size_of(tensors: &Tensors) -> u64 {
    let each = tensors.iter();
    each.map(|(name, tensor)| (tensor.bytes.len() + name.len() + 80) as u64).sum()
}

/// Reads every tensor, and the text metadata.
///
/// # Errors
/// [`CheckpointError::Read`], and [`CheckpointError::Format`] for files that are cut short, too
/// long, or hold types that we have no use for (8-bit floats, unsigned wide integers).
pub fn read_safetensors(path: &Path) -> Result<(Tensors, BTreeMap<String, String>), CheckpointError> {
    read_some(path, |_| true)
}

/// As [`read_safetensors`], of the tensors whose names are `wanted`.
pub(super) fn read_some(
    path: &Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<(Tensors, BTreeMap<String, String>), CheckpointError> {
    let mut file = File::open(path).map_err(CheckpointError::read(path))?;
    let length = file.metadata().map_err(CheckpointError::read(path))?.len();
    let header = read_header(&mut file, length, path)?;
    let infos = header.tensors();
    let mut tensors = Tensors::new();
    // In the order of the file: one pass. The header's types guarantee no gaps.
    for name in header.offset_keys() {
        let Some(info) = infos.get(&name) else {
            continue;
        };
        let dtype = from_file(info.dtype).ok_or_else(|| {
            let reason = format!("tensor {name} is of type {:?}, not supported", info.dtype);
            CheckpointError::format(path, reason)
        })?;
        let length = info.data_offsets.1 - info.data_offsets.0;
        if !wanted(&name) {
            file.seek_relative(length as i64).map_err(CheckpointError::read(path))?;
            continue;
        }
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes).map_err(CheckpointError::read(path))?;
        let tensor = HostTensor::new(dtype, &info.shape, bytes)
            .map_err(|reason| CheckpointError::format(path, format!("tensor {name}: {reason}")))?;
        tensors.insert(name, tensor);
    }
    let texts = header.metadata().clone().unwrap_or_default();
    Ok((tensors, texts.into_iter().collect()))
}

/// Whether the first bytes of a file can begin a safetensors file.
pub(super) fn looks_like_safetensors(start: &[u8]) -> bool {
    match start.split_first_chunk::<8>() {
        Some((length, rest)) => u64::from_le_bytes(*length) <= LONGEST_HEADER && rest.first() == Some(&b'{'),
        None => false,
    }
}

fn read_header(file: &mut File, length: u64, path: &Path) -> Result<Metadata, CheckpointError> {
    let bad = |reason: String| CheckpointError::format(path, reason);
    let mut size = [0; 8];
    if length < 8 {
        return Err(bad(format!("safetensors file of only {length} bytes")));
    }
    file.read_exact(&mut size).map_err(CheckpointError::read(path))?;
    let size = u64::from_le_bytes(size);
    if size > LONGEST_HEADER.min(length - 8) {
        return Err(bad(format!(
            "its header claims {size} bytes in a file of {length}: cut short, or not safetensors"
        )));
    }
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header).map_err(CheckpointError::read(path))?;
    let header: Metadata =
        serde_json::from_slice(&header).map_err(|error| bad(format!("bad safetensors header: {error}")))?;
    let expected = header.data_len() as u64;
    let found = length - 8 - size;
    if expected != found {
        return Err(bad(format!("its tensors take {expected} bytes, {found} are there: cut short or added to")));
    }
    Ok(header)
}

fn to_file(dtype: Dtype) -> FileDtype {
    match dtype {
        Dtype::F64 => FileDtype::F64,
        Dtype::F32 => FileDtype::F32,
        Dtype::F16 => FileDtype::F16,
        Dtype::Bf16 => FileDtype::BF16,
        Dtype::I64 => FileDtype::I64,
        Dtype::I32 => FileDtype::I32,
        Dtype::I16 => FileDtype::I16,
        Dtype::I8 => FileDtype::I8,
        Dtype::U8 => FileDtype::U8,
        Dtype::Bool => FileDtype::BOOL,
    }
}

fn from_file(dtype: FileDtype) -> Option<Dtype> {
    Some(match dtype {
        FileDtype::F64 => Dtype::F64,
        FileDtype::F32 => Dtype::F32,
        FileDtype::F16 => Dtype::F16,
        FileDtype::BF16 => Dtype::Bf16,
        FileDtype::I64 => Dtype::I64,
        FileDtype::I32 => Dtype::I32,
        FileDtype::I16 => Dtype::I16,
        FileDtype::I8 => Dtype::I8,
        FileDtype::U8 => Dtype::U8,
        FileDtype::BOOL => Dtype::Bool,
        _ => return None,
    })
}
