//! What can be wrong with a PyTorch file.

use crate::data::pickle::PickleError;
use std::path::PathBuf;

/// Why a PyTorch file, or a tensor in it, could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TorchFileError {
    #[error("cannot read {}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error(
        "{0} is in the format PyTorch wrote before 1.6; convert it with: \
         python -c \"import torch; torch.save(torch.load('{0}', map_location='cpu'), '{0}.new')\"",
        path.display()
    )]
    Legacy { path: PathBuf },
    #[error("{}: expected a PyTorch file (a zip archive), found {found}", path.display())]
    NotTorch { path: PathBuf, found: &'static str },
    #[error("{}: damaged zip archive: is the file complete?", path.display())]
    Zip { path: PathBuf, source: zip::result::ZipError },
    #[error("{}: the archive lacks {entry}", path.display())]
    MissingEntry { path: PathBuf, entry: String },
    #[error("{}: {entry} ends before the {needed} bytes it should have, at {found}", path.display())]
    ShortEntry { path: PathBuf, entry: String, needed: u64, found: u64 },
    #[error("{}: {entry} is damaged", path.display())]
    DamagedEntry { path: PathBuf, entry: String, source: std::io::Error },
    #[error("{}: data.pkl is not a readable pickle", path.display())]
    Pickle { path: PathBuf, source: PickleError },
    #[error("{}: written on a big-endian machine, expected little-endian numbers", path.display())]
    BigEndian { path: PathBuf },
    #[error("{}: its objects nest too deep, too often or under too long names (at {name:?})", path.display())]
    Tangled { path: PathBuf, name: String },
    #[error("{}: holds no tensor {name:?}", path.display())]
    MissingTensor { path: PathBuf, name: String },
    #[error("{}: two tensors become {name:?} once prefixes such as 'module.' are gone", path.display())]
    DuplicateName { path: PathBuf, name: String },
    #[error("{}: tensor {name:?}: expected {expected}, found {found}", path.display())]
    Tensor { path: PathBuf, name: String, expected: &'static str, found: String },
}
