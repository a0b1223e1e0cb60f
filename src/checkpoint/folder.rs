//! One checkpoint folder: its files, writing and checking them.
//!
//! ```text
//! step-00001200/
//!   model.safetensors      weights, named as PyTorch's AVION names them
//!   optimizer.safetensors  moments, and where one is kept the moving average of the weights
//!   recipe.toml            the fully resolved recipe
//!   state.json             step, counters, and sizes and checksums of the files above
//! ```

use super::error::CheckpointError;
use super::safetensors_file::{read_safetensors, read_some, size_of, write_safetensors};
use super::state::{FORMAT, FileSum, Manifest, TrainState, recipe_hash};
use super::tensor::Tensors;
use crate::fs::{WriteError, sync_folder, write_synced};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

pub(super) const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const RECIPE: &str = "recipe.toml";
const STATE: &str = "state.json";

/// Begins the names of the moving average of the weights, beside the optimizer's state.
pub const AVERAGE: &str = "ema.";

/// What is saved. Nothing of it is copied.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    pub weights: &'a Tensors,
    pub optimizer: &'a Tensors,
    pub state: &'a TrainState,
    /// The fully resolved recipe as TOML.
    pub recipe: &'a str,
    /// Text stored with the weights, such as `activation = gelu`: what another program must know
    /// to use them.
    pub metadata: &'a BTreeMap<String, String>,
}

/// A checkpoint read back.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub path: PathBuf,
    pub weights: Tensors,
    pub optimizer: Tensors,
    pub manifest: Manifest,
    pub recipe: String,
}

/// Writes all files into the existing folder `at` and flushes them.
pub(super) fn write(at: &Path, snapshot: &Snapshot, sequence: u64) -> Result<(), WriteError> {
    let needed = size_of(snapshot.weights) + size_of(snapshot.optimizer);
    let mut files = BTreeMap::new();
    let mut put = |name: &str, fill: &dyn Fn(&mut dyn Write) -> io::Result<()>| {
        let path = at.join(name);
        let sum = write_summed(&path, fill).map_err(|source| WriteError::new("write", &path, needed, source))?;
        files.insert(name.to_owned(), sum);
        Ok(())
    };
    put(MODEL, &|out| write_safetensors(out, snapshot.weights, snapshot.metadata))?;
    put(OPTIMIZER, &|out| write_safetensors(out, snapshot.optimizer, &BTreeMap::new()))?;
    put(RECIPE, &|out| out.write_all(snapshot.recipe.as_bytes()))?;
    let mut state = snapshot.state.clone();
    // JSON has no NaN; a score that is none cannot be the best either.
    state.best = state.best.filter(|best| best.value.is_finite());
    let manifest = Manifest {
        format: FORMAT,
        crate_version: env!("CARGO_PKG_VERSION").into(),
        sequence,
        recipe_hash: recipe_hash(snapshot.recipe),
        state,
        files,
    };
    let path = at.join(STATE);
    let mut asked = 0;
    write_synced(&path, &mut asked, |out| serde_json::to_writer_pretty(out, &manifest).map_err(io::Error::from))
        .and_then(|()| sync_folder(at))
        .map_err(|source| WriteError::new("write", &path, needed, source))
}

/// Whether the folder is laid out as a checkpoint, whatever its condition.
pub(super) fn is_checkpoint(path: &Path) -> bool {
    path.join(STATE).is_file()
}

/// Reads `state.json`.
pub(super) fn read_manifest(folder: &Path) -> Result<Manifest, CheckpointError> {
    let damaged = |reason: String| CheckpointError::Damaged { path: folder.to_path_buf(), reason };
    let text = fs::read(folder.join(STATE)).map_err(|error| damaged(format!("{STATE}: {error}")))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| damaged(format!("{STATE}: {error}")))?;
    if manifest.format != FORMAT {
        return Err(damaged(format!(
            "{STATE}: expected format {FORMAT}, found {} (written by avion {})",
            manifest.format, manifest.crate_version
        )));
    }
    Ok(manifest)
}

/// Reads `state.json` and compares every file with the size and checksum it gives.
///
/// # Errors
/// [`CheckpointError::Damaged`] with the first difference.
pub fn verify(folder: &Path) -> Result<Manifest, CheckpointError> {
    let manifest = read_manifest(folder)?;
    for name in [MODEL, OPTIMIZER, RECIPE] {
        check_file(folder, name, &manifest).map_err(|reason| CheckpointError::Damaged {
            path: folder.to_path_buf(),
            reason: format!("{name}: {reason}"),
        })?;
    }
    Ok(manifest)
}

/// Verifies and reads a checkpoint folder. Nothing is written.
///
/// # Errors
/// [`CheckpointError::Damaged`] when a file is not what was written, [`CheckpointError::Read`]
/// and [`CheckpointError::Format`] when reading fails after that.
pub fn read(folder: &Path) -> Result<Checkpoint, CheckpointError> {
    let manifest = verify(folder)?;
    let (weights, _) = read_safetensors(&folder.join(MODEL))?;
    let (optimizer, _) = read_safetensors(&folder.join(OPTIMIZER))?;
    let recipe = folder.join(RECIPE);
    Ok(Checkpoint {
        path: folder.to_path_buf(),
        weights,
        optimizer,
        manifest,
        recipe: fs::read_to_string(&recipe).map_err(CheckpointError::read(&recipe))?,
    })
}

/// Puts the moving average that a checkpoint holds, if it does, in the place of its weights: what the run evaluates.
/// Returns whether there is one.
///
/// # Errors
/// [`CheckpointError::Read`] and [`CheckpointError::Format`].
pub fn overlay_average(folder: &Path, weights: &mut Tensors) -> Result<bool, CheckpointError> {
    let path = folder.join(OPTIMIZER);
    if !path.is_file() {
        // Whoever passes a model on may leave it out.
        return Ok(false);
    }
    let (averages, _) = read_some(&path, |name| name.starts_with(AVERAGE))?;
    let found = !averages.is_empty();
    for (name, tensor) in averages {
        weights.insert(name[AVERAGE.len()..].to_owned(), tensor);
    }
    Ok(found)
}

fn check_file(folder: &Path, name: &str, manifest: &Manifest) -> Result<(), String> {
    let Some(expected) = manifest.files.get(name) else {
        return Err(format!("{STATE} does not list it"));
    };
    let open = File::open(folder.join(name)).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (bytes, mut file) = open.map_err(|error| error.to_string())?;
    if bytes != expected.bytes {
        return Err(format!("expected {} bytes, found {bytes}", expected.bytes));
    }
    let mut sum = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => sum.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    match sum.finalize() == expected.crc32 {
        true => Ok(()),
        false => Err("its checksum is wrong: the contents changed after writing".into()),
    }
}

fn write_summed(path: &Path, fill: &dyn Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<FileSum> {
    let mut hasher = crc32fast::Hasher::new();
    let mut bytes = 0;
    write_synced(path, &mut bytes, |out| fill(&mut Summing { out, hasher: &mut hasher }))?;
    Ok(FileSum { bytes, crc32: hasher.finalize() })
}

struct Summing<'a> {
    out: &'a mut dyn Write,
    hasher: &'a mut crc32fast::Hasher,
}

impl Write for Summing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
