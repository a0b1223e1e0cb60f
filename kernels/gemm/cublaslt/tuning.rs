//! Which algorithm: the library's own guess, or the fastest that a search on this device finds.
//!
//! Only large products are searched for, each key once per cache: a caption of a new length gives a new small key in
//! every layer, and a search for those would stop the device in every step. A search is made at first sight or never,
//! so that a resumed run, which finds the cache, takes the algorithms of the uninterrupted one.

use crate::cuda::gpu::lock;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};

/// Multiply-adds from which a product is searched for: about 50 us on an H200.
const TIMED_FROM: u128 = 20_000_000_000;
/// The same where the caller says that its shapes stay: VideoMAE's encoder has products of 20 us, hundreds a step.
const STEADY_FROM: u128 = 4_000_000_000;

/// Whether a product of so many multiply-adds is searched for.
pub(super) fn worthwhile(work: u128, steady: bool) -> bool {
    work >= if steady { STEADY_FROM } else { TIMED_FROM }
}

/// How algorithms are chosen. A change counts for shapes not seen before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tuning {
    /// The library's first guess: the same in every run with the same library and device.
    Heuristic,
    /// Large products take the fastest algorithm that a search of about a second finds, remembered in a folder
    /// (`None`: for this process only). Results repeat to the bit as long as the cache file is there.
    Timed { cache: Option<PathBuf> },
}

impl Default for Tuning {
    /// Timed, remembered in `$AVION_CACHE`, else `$XDG_CACHE_HOME/avion`, else `~/.cache/avion`.
    fn default() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let shared = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
        Tuning::Timed { cache: set("AVION_CACHE").or_else(|| Some(shared()?.join("avion"))) }
    }
}

static TUNING: LazyLock<Mutex<Tuning>> = LazyLock::new(Mutex::default);

/// Sets how algorithms are chosen from now on, on all devices.
pub fn set_tuning(tuning: Tuning) {
    *lock(&TUNING) = tuning;
}

pub(super) fn current() -> Tuning {
    lock(&TUNING).clone()
}
