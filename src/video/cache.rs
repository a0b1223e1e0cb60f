//! What was learnt about files that were opened before, shared by all threads.
//!
//! An MP4 file's own table is read in a moment, but other containers are indexed by reading every packet, and a file
//! without a trusted index by decoding all of it. A manifest that knows a file's frames has its place here, too.

use std::collections::HashMap;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::SystemTime;

use super::index::Index;

/// What the cache may hold in all: the indices of about 3,000 chunks of 15 s.
const MAX_BYTES: usize = 32 << 20;

/// Says whether a file is still the one that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    pub fn new(metadata: &Metadata) -> Stamp {
        Stamp { len: metadata.len(), modified: metadata.modified().ok() }
    }
}

/// How a file's frames are found.
#[derive(Clone, Debug)]
pub enum Known {
    /// Through an index, with the headers in the first packet.
    Indexed { index: Arc<Index>, headers: Arc<[u8]> },
    /// By decoding from the start: the frames that this gives, and the errors on the way.
    Counted { num_frames: u64, num_errors: u64 },
}

impl Known {
    fn bytes(&self, path: &Path) -> usize {
        const OVERHEAD: usize = 200;
        let content = match self {
            Known::Indexed { index, headers } => index.bytes() + headers.len(),
            Known::Counted { .. } => 0,
        };
        OVERHEAD + path.as_os_str().len() + content
    }
}

struct Slot {
    stamp: Stamp,
    known: Known,
    bytes: usize,
    last_use: u64,
}

#[derive(Default)]
struct Cache {
    slots: HashMap<PathBuf, Slot>,
    bytes: usize,
    clock: u64,
}

static CACHE: LazyLock<Mutex<Cache>> = LazyLock::new(Mutex::default);

/// What is known of the file at `path`, if it is still the same.
pub fn get(path: &Path, stamp: Stamp) -> Option<Known> {
    locked(|cache| cache.get(path, stamp))
}

/// Remembers a file; those not used for longest make room.
pub fn put(path: &Path, stamp: Stamp, known: Known) {
    locked(|cache| cache.put(path, stamp, known, MAX_BYTES));
}

fn locked<T>(work: impl FnOnce(&mut Cache) -> T) -> T {
    // At worst a panic left a wrong count of bytes.
    work(&mut CACHE.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Cache {
    fn get(&mut self, path: &Path, stamp: Stamp) -> Option<Known> {
        self.clock += 1;
        let slot = self.slots.get_mut(path).filter(|slot| slot.stamp == stamp)?;
        slot.last_use = self.clock;
        Some(slot.known.clone())
    }

    fn put(&mut self, path: &Path, stamp: Stamp, known: Known, max_bytes: usize) {
        self.clock += 1;
        let bytes = known.bytes(path);
        if bytes > max_bytes / 4 {
            return;
        }
        let slot = Slot { stamp, known, bytes, last_use: self.clock };
        self.bytes += bytes;
        if let Some(old) = self.slots.insert(path.to_owned(), slot) {
            self.bytes -= old.bytes;
        }
        if self.bytes > max_bytes {
            // A quarter at once, so that this search is rare.
            let mut by_age: Vec<(u64, usize)> = self.slots.values().map(|slot| (slot.last_use, slot.bytes)).collect();
            by_age.sort_unstable();
            let mut rest = self.bytes;
            let young = by_age.into_iter().find(|(_, bytes)| {
                let enough = rest <= max_bytes / 4 * 3;
                rest -= bytes;
                enough
            });
            let oldest = young.map_or(u64::MAX, |(last_use, _)| last_use);
            self.slots.retain(|_, slot| slot.last_use >= oldest);
            self.bytes = self.slots.values().map(|slot| slot.bytes).sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(num_frames: u64) -> Known {
        Known::Counted { num_frames, num_errors: 0 }
    }

    fn frames(found: Option<Known>) -> Option<u64> {
        match found? {
            Known::Counted { num_frames, .. } => Some(num_frames),
            Known::Indexed { .. } => None,
        }
    }

    #[test]
    fn a_changed_file_is_unknown() {
        let mut cache = Cache::default();
        let path = Path::new("a");
        let stamp = Stamp { len: 1, modified: Some(SystemTime::UNIX_EPOCH) };
        cache.put(path, stamp, known(7), MAX_BYTES);
        assert_eq!(frames(cache.get(path, stamp)), Some(7));
        assert_eq!(frames(cache.get(path, Stamp { len: 2, ..stamp })), None);
        assert_eq!(frames(cache.get(path, Stamp { modified: None, ..stamp })), None);
        cache.put(path, Stamp { len: 2, ..stamp }, known(8), MAX_BYTES);
        assert_eq!(frames(cache.get(path, stamp)), None);
        assert_eq!(cache.bytes, known(8).bytes(path));
    }

    #[test]
    fn the_least_used_make_room() {
        let mut cache = Cache::default();
        let stamp = Stamp { len: 1, modified: None };
        let name = |i: u64| PathBuf::from(format!("{i:03}"));
        let one = known(0).bytes(&name(0));
        let max_bytes = 100 * one;
        for i in 0..100 {
            cache.put(&name(i), stamp, known(i), max_bytes);
        }
        assert_eq!(cache.slots.len(), 100);
        assert_eq!(frames(cache.get(&name(0), stamp)), Some(0));
        cache.put(&name(100), stamp, known(100), max_bytes);
        assert_eq!(cache.slots.len(), 75);
        assert_eq!(cache.bytes, 75 * one);
        assert_eq!(frames(cache.get(&name(0), stamp)), Some(0), "used since");
        assert_eq!(frames(cache.get(&name(1), stamp)), None);
        assert_eq!(frames(cache.get(&name(26), stamp)), None);
        assert_eq!(frames(cache.get(&name(27), stamp)), Some(27));
        assert_eq!(frames(cache.get(&name(100), stamp)), Some(100));
    }
}
