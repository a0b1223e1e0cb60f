//! Chosen algorithms on disk: one text file per library version, GPU model and driver, a line per key.
//!
//! The library documents an algorithm as 64 bytes that may be stored and used again with the same version of the
//! library. A file that cannot be read counts as empty; one that cannot be written costs the timing of the next run.

use super::key::Key;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

const HEADER: &str = "avion cublaslt algorithms 1";

type Algorithm = [u64; 8];

/// The algorithms of one device.
pub struct Cache {
    path: PathBuf,
    algorithms: BTreeMap<String, Algorithm>,
}

impl Cache {
    /// What `folder` holds for a device.
    pub fn read(folder: &Path, library: usize, gpu: &str, driver: i32) -> Self {
        let gpu: String = gpu.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let path = folder.join(format!("cublaslt-{library}-{gpu}-{driver}.txt"));
        let algorithms = load(&path).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                crate::cuda::say(|| format!("{} is ignored: {error}", path.display()));
            }
            BTreeMap::new()
        });
        Cache { path, algorithms }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn get(&self, key: &Key) -> Option<Algorithm> {
        self.algorithms.get(&key.to_string()).copied()
    }

    /// Adds a line to the file. Another process's lines stay, and no reader ever sees half a file.
    pub fn put(&mut self, key: &Key, algorithm: Algorithm) {
        self.algorithms.insert(key.to_string(), algorithm);
        for (name, theirs) in load(&self.path).unwrap_or_default() {
            self.algorithms.entry(name).or_insert(theirs);
        }
        if let Err(error) = self.write() {
            crate::cuda::say(|| format!("{} was not written: {error}", self.path.display()));
        }
    }

    fn write(&self) -> io::Result<()> {
        let mut text = format!("{HEADER}\n");
        for (name, algorithm) in &self.algorithms {
            let words: Vec<String> = algorithm.iter().map(|word| format!("{word:016x}")).collect();
            text += &format!("{name} {}\n", words.join(" "));
        }
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let new = self.path.with_extension(format!("{}.new", std::process::id()));
        fs::write(&new, text)?;
        fs::rename(&new, &self.path).inspect_err(|_| drop(fs::remove_file(&new)))
    }
}

fn load(path: &Path) -> io::Result<BTreeMap<String, Algorithm>> {
    let text = fs::read_to_string(path)?;
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not this program's, or of another version"));
    }
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "a line cannot be read");
    lines.map(|line| parse(line).ok_or_else(broken)).collect()
}

fn parse(line: &str) -> Option<(String, Algorithm)> {
    let (name, words) = line.split_once(' ')?;
    let words: Option<Vec<u64>> = words.split(' ').map(|word| u64::from_str_radix(word, 16).ok()).collect();
    Some((name.to_owned(), words?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::cublaslt::key::tests::key;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("avion-cache-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn algorithms_outlive_the_process() {
        let folder = folder("round-trip");
        let read = || Cache::read(&folder, 130_100, "NVIDIA H200 (141 GB)", 13_000);
        let (mut ours, mut theirs) = (read(), read());
        assert_eq!(ours.get(&key(1, 2, 3)), None);
        ours.put(&key(1, 2, 3), [u64::MAX, 2, 3, 4, 5, 6, 7, 0]);
        theirs.put(&key(4, 5, 6), [9; 8]);
        let later = read();
        assert_eq!(later.get(&key(1, 2, 3)), Some([u64::MAX, 2, 3, 4, 5, 6, 7, 0]));
        assert_eq!(later.get(&key(4, 5, 6)), Some([9; 8]));
        assert_eq!(Cache::read(&folder, 130_200, "NVIDIA H200 (141 GB)", 13_000).get(&key(1, 2, 3)), None);
        let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, ["cublaslt-130100-NVIDIA-H200--141-GB--13000.txt"]);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_damaged_file_counts_as_empty_and_is_replaced() {
        let folder = folder("damaged");
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("cublaslt-1-gpu-2.txt");
        for damage in
            ["", "something else\n", "avion cublaslt algorithms 1\nname 12 34\n", "avion cublaslt algorithms 1\nname\n"]
        {
            fs::write(&file, damage).unwrap();
            let mut cache = Cache::read(&folder, 1, "gpu", 2);
            assert_eq!(cache.get(&key(1, 2, 3)), None);
            cache.put(&key(1, 2, 3), [1; 8]);
            assert_eq!(Cache::read(&folder, 1, "gpu", 2).get(&key(1, 2, 3)), Some([1; 8]), "after {damage:?}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
