//! The zip archive around a PyTorch file: `NAME/data.pkl`, `NAME/data/0`, `NAME/data/1`, ...

use super::error::TorchFileError;
use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zip::read::ZipArchive;

#[derive(Clone)]
struct SharedMap(Arc<memmap2::Mmap>);

impl AsRef<[u8]> for SharedMap {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// An opened archive.
pub(super) struct Archive {
    path: PathBuf,
    map: SharedMap,
    zip: ZipArchive<Cursor<SharedMap>>,
    /// What stands before `data.pkl`.
    root: String,
    entries: HashMap<String, Entry>,
}

struct Entry {
    index: usize,
    /// Uncompressed.
    bytes: u64,
    /// Where the bytes lie in the file when they are not compressed, as PyTorch writes them.
    stored: Option<Range<usize>>,
}

impl Archive {
    pub fn open(path: &Path, map: memmap2::Mmap) -> Result<Self, TorchFileError> {
        let damaged = |source| TorchFileError::Zip { path: path.to_owned(), source };
        let map = SharedMap(Arc::new(map));
        let mut zip = ZipArchive::new(Cursor::new(map.clone())).map_err(damaged)?;
        let mut entries = HashMap::new();
        let mut root = None;
        for index in 0..zip.len() {
            let file = zip.by_index_raw(index).map_err(damaged)?;
            let start = usize::try_from(file.data_start()).ok();
            let length = usize::try_from(file.compressed_size()).ok();
            let range = match (start, length) {
                (Some(start), Some(length)) => start.checked_add(length).map(|end| start..end),
                _ => None,
            };
            let plain = file.compression() == zip::CompressionMethod::Stored && !file.encrypted();
            let stored = range.filter(|range| plain && range.end <= map.0.len());
            if let Some((before, "data.pkl")) = file.name().split_once('/') {
                root.get_or_insert(format!("{before}/"));
            }
            let entry = Entry { index, bytes: file.size(), stored };
            entries.insert(file.name().to_owned(), entry);
        }
        let archive = Archive { path: path.to_owned(), map, zip, root: root.unwrap_or_default(), entries };
        match archive.read("byteorder", 64) {
            Ok(order) if order.as_ref() == b"big" => Err(TorchFileError::BigEndian { path: path.to_owned() }),
            _ => Ok(archive),
        }
    }

    /// Uncompressed bytes of an entry below the archive's root.
    pub fn size(&self, name: &str) -> Result<u64, TorchFileError> {
        Ok(self.entry(name)?.bytes)
    }

    fn entry(&self, name: &str) -> Result<&Entry, TorchFileError> {
        let entry = self.entries.get(&format!("{}{name}", self.root));
        entry.ok_or_else(|| TorchFileError::MissingEntry { path: self.path.clone(), entry: name.into() })
    }

    /// An entry's bytes; of a compressed one at most `limit`.
    pub fn read(&self, name: &str, limit: u64) -> Result<Cow<'_, [u8]>, TorchFileError> {
        let entry = self.entry(name)?;
        if let Some(range) = &entry.stored {
            return Ok(Cow::Borrowed(&self.map.as_ref()[range.clone()]));
        }
        let mut zip = self.zip.clone();
        let file =
            zip.by_index(entry.index).map_err(|source| TorchFileError::Zip { path: self.path.clone(), source })?;
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).map_err(|source| self.damaged(name, source))?;
        Ok(Cow::Owned(bytes))
    }

    /// Compares an entry with its checksum.
    pub fn verify(&self, name: &str) -> Result<(), TorchFileError> {
        let index = self.entry(name)?.index;
        let mut zip = self.zip.clone();
        let mut file = zip.by_index(index).map_err(|source| TorchFileError::Zip { path: self.path.clone(), source })?;
        match std::io::copy(&mut file, &mut std::io::sink()) {
            Ok(_) => Ok(()),
            Err(source) => Err(self.damaged(name, source)),
        }
    }

    fn damaged(&self, name: &str, source: std::io::Error) -> TorchFileError {
        TorchFileError::DamagedEntry { path: self.path.clone(), entry: name.into(), source }
    }
}
