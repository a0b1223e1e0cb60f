//! Files of weights, of any of the kinds that people have.

use super::error::CheckpointError;
use super::folder;
use super::names::{Naming, of_tensor, to_our_names};
use super::safetensors_file::{looks_like_safetensors, read_safetensors};
use super::store::{Pick, locate};
use super::tensor::{HostTensor, Tensors};
use super::torch_file::{TorchFile, TorchFileError};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The weights of a file, under our names.
#[derive(Clone, Debug)]
pub struct WeightFile {
    /// The file that was read, which may lie in the folder that was named.
    pub path: PathBuf,
    pub tensors: Tensors,
    /// Whose names the file used.
    pub naming: Naming,
    /// Text stored beside the tensors (safetensors only), such as `activation = gelu`.
    pub metadata: BTreeMap<String, String>,
}

/// Reads weights from a safetensors file, a PyTorch file (`.pt`, `.pth`, `.bin`), a checkpoint, a
/// run's folder (its best checkpoint) or a Hugging Face model's folder. The contents decide, not
/// the extension. Of a checkpoint that holds a moving average of the weights, that is what is read:
/// the run's scores are its.
///
/// # Errors
/// [`CheckpointError::Read`], [`CheckpointError::Format`] and [`CheckpointError::Torch`] for the file,
/// [`CheckpointError::NoCheckpoint`] for a folder with nothing in it, and as [`to_our_names`].
pub fn read_weights(path: &Path) -> Result<WeightFile, CheckpointError> {
    let is_folder = path.is_dir();
    let path = if is_folder { inside(path)? } else { path.to_path_buf() };
    let mut start = Vec::new();
    File::open(&path).and_then(|file| file.take(16).read_to_end(&mut start)).map_err(CheckpointError::read(&path))?;
    let (mut tensors, metadata) =
        if looks_like_safetensors(&start) { read_safetensors(&path)? } else { (read_torch(&path)?, BTreeMap::new()) };
    if tensors.is_empty() {
        return Err(CheckpointError::format(&path, "it holds no tensors"));
    }
    if let Some(folder) = path.parent().filter(|folder| is_folder && folder::is_checkpoint(folder))
        && folder::overlay_average(folder, &mut tensors)?
    {
        tracing::info!("{}: the moving average of the weights", folder.display());
    }
    let (tensors, naming) = to_our_names(tensors)?;
    Ok(WeightFile { path, tensors, naming, metadata })
}

/// The file of weights inside a folder.
fn inside(folder: &Path) -> Result<PathBuf, CheckpointError> {
    if !folder::is_checkpoint(folder) {
        // Hugging Face's two names.
        for name in [folder::MODEL, "pytorch_model.bin"] {
            let path = folder.join(name);
            if path.is_file() {
                return Ok(path);
            }
        }
    }
    let (checkpoint, _) = locate(folder, Pick::Best)?;
    Ok(checkpoint.join(folder::MODEL))
}

fn read_torch(path: &Path) -> Result<Tensors, CheckpointError> {
    let file = TorchFile::open(path).map_err(|error| match error {
        TorchFileError::NotTorch { found, .. } => {
            CheckpointError::format(path, format!("expected a safetensors file or a PyTorch archive, found {found}"))
        }
        other => other.into(),
    })?;
    let weights = file.state_dict()?;
    let mut tensors = Tensors::new();
    for name in weights.names() {
        let data = weights.tensor(name)?;
        let tensor = HostTensor::new(data.dtype, &data.shape, data.data.into_owned());
        tensors.insert(name.to_owned(), tensor.map_err(of_tensor(name))?);
    }
    Ok(tensors)
}
