//! Whether a source is still the file that its video was made from.

use super::error::fault;
use crate::data::manifest::{Failed, SourceFile};
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::UNIX_EPOCH;

/// Samples of a large file, evenly from its first byte to its last, and the size of each.
const SAMPLES: u64 = 24;
const SAMPLE_BYTES: u64 = 64 << 10;

/// Looks at a source: size, time of last change, XXH3 (128 bits) of its content. Of files above 1.5 MiB 24 samples of 64
/// KiB are hashed, the first and the last bytes among them: to read all would take as long as to decode.
pub fn describe(path: &Path) -> Result<SourceFile, Failed> {
    let failed = |error: io::Error| fault("unreadable", error.to_string());
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(fault("unreadable", "not a regular file"));
    }
    let hash = hash(file, metadata.len()).map_err(failed)?;
    Ok(SourceFile { hash, ..undescribed(path, Some(&metadata)) })
}

/// The same without the hash, for what cannot be read.
pub fn undescribed(path: &Path, metadata: Option<&Metadata>) -> SourceFile {
    let modified = metadata.and_then(|metadata| metadata.modified().ok());
    let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    SourceFile {
        path: path.to_string_lossy().into_owned(),
        bytes: metadata.map_or(0, Metadata::len),
        modified_ns: modified.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
        hash: String::new(),
    }
}

/// The source as it is now, and whether it is what `known` describes: the same size and time, or the same content.
pub fn compare(path: &Path, known: &SourceFile) -> Result<(SourceFile, bool), Failed> {
    let metadata = std::fs::metadata(path).ok();
    let now = undescribed(path, metadata.as_ref());
    if (now.bytes, now.modified_ns) == (known.bytes, known.modified_ns) && !known.hash.is_empty() {
        return Ok((SourceFile { hash: known.hash.clone(), ..now }, true));
    }
    let now = describe(path)?;
    let same = (now.bytes, &now.hash) == (known.bytes, &known.hash);
    Ok((now, same))
}

fn hash(mut file: File, bytes: u64) -> io::Result<String> {
    let mut content = Vec::new();
    if bytes <= SAMPLES * SAMPLE_BYTES {
        file.read_to_end(&mut content)?;
    } else {
        let room = bytes - SAMPLE_BYTES;
        for sample in 0..SAMPLES {
            let at = u128::from(room) * u128::from(sample) / u128::from(SAMPLES - 1);
            file.seek(SeekFrom::Start(at as u64))?;
            (&mut file).take(SAMPLE_BYTES).read_to_end(&mut content)?;
        }
    }
    content.extend(bytes.to_le_bytes());
    Ok(format!("xxh3-sampled:{:032x}", xxhash_rust::const_xxh3::xxh3_128(&content)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_anywhere_in_a_small_file_and_at_the_ends_of_a_large_one_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.mp4");
        let check = |content: &mut Vec<u8>, at: usize| {
            std::fs::write(&path, &*content).unwrap();
            let before = describe(&path).unwrap();
            assert!(compare(&path, &before).unwrap().1);
            content[at] ^= 1;
            std::fs::write(&path, &*content).unwrap();
            let changed = SourceFile { modified_ns: 0, ..before.clone() };
            assert!(!compare(&path, &changed).unwrap().1, "{at}");
            content[at] ^= 1;
            std::fs::write(&path, &*content).unwrap();
            // Touched only.
            let (now, same) = compare(&path, &changed).unwrap();
            assert!(same && now.modified_ns > 0);
        };
        for at in [0, 500, 999] {
            check(&mut vec![7; 1000], at);
        }
        let large = 3 << 20;
        for at in [0, large - 1] {
            check(&mut (0..large).map(|i| (i / 1000) as u8).collect(), at);
        }
    }
}
