//! Where fixtures and real data lie, for tests of this package and for `tools/fuzz`.

use std::path::{Path, PathBuf};

/// Root of the repository.
pub fn repository() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().find(|folder| folder.join("tests/fixtures").is_dir()).unwrap_or(package)
}

/// Folder of the real clips and annotations; prints why and returns `None` where there is none.
pub fn shared_data() -> Option<PathBuf> {
    let beside = repository().join("../shared/data");
    let path = std::env::var_os("AVION_SHARED_DATA").map_or(beside, PathBuf::from);
    if path.is_dir() {
        return Some(path);
    }
    println!("SKIPPED: needs ../shared/data");
    None
}
