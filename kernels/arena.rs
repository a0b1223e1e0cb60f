//! Device memory for activations: a few large buffers that the host cuts up itself.
//!
//! CubeCL's pools round requests up, by as much as a quarter of the card. Here a request costs what it asks for, rounded
//! to [`ALIGNMENT`]; what is freed joins its free neighbours and serves the next request that fits, smallest gap first.
//! The cut is made when work is queued, not when it runs. That is sound because a device runs the work of one thread in
//! the order it was queued: whoever gets freed memory runs after whoever used it last.

use crate::Handle;
use cubecl::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Runs `make`, whose allocations take exactly what they ask for: for buffers that live as long as the run, which CubeCL's
/// pools would round up.
pub fn exact<R: Runtime, T: Send>(client: &ComputeClient<R>, make: impl Fn(&ComputeClient<R>) -> T + Send + Sync) -> T {
    let made = client.memory_persistent_allocation((), |()| make(client));
    made.unwrap_or_else(|_| make(client))
}

/// Start of every buffer, bytes: what every runtime's bindings may start at.
pub const ALIGNMENT: u64 = 512;

/// Smallest slab that is asked of the device when a request finds no gap.
const SMALLEST_SLAB: u64 = 32 << 20;

/// Cuts buffers from slabs; cloning shares them.
pub struct Arena<R: Runtime> {
    client: ComputeClient<R>,
    /// Longest slab the device gives.
    longest: u64,
    slabs: Arc<Mutex<Slabs>>,
}

impl<R: Runtime> Clone for Arena<R> {
    fn clone(&self) -> Self {
        Arena { client: self.client.clone(), longest: self.longest, slabs: self.slabs.clone() }
    }
}

/// Bytes, as of now and at their most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArenaUsage {
    /// In live buffers.
    pub in_use: u64,
    /// The most ever in live buffers at once.
    pub peak: u64,
    /// Held from the device.
    pub reserved: u64,
}

#[derive(Default)]
struct Slabs {
    slabs: Vec<Slab>,
    usage: ArenaUsage,
}

struct Slab {
    handle: Handle,
    space: Space,
}

/// A range of memory on the device, returned to its arena when the last clone is dropped.
#[derive(Clone)]
pub struct Buffer {
    handle: Handle,
    _lease: Arc<Lease>,
}

impl Buffer {
    /// The range as an argument of kernels. It keeps the slab alive but not the range: hold the buffer until the last
    /// kernel that uses it has been queued.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// One live range.
struct Lease {
    slabs: Arc<Mutex<Slabs>>,
    slab: usize,
    start: u64,
    len: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut slabs = lock(&self.slabs);
        slabs.usage.in_use -= self.len;
        slabs.slabs[self.slab].space.release(self.start, self.len);
    }
}

fn lock(slabs: &Mutex<Slabs>) -> MutexGuard<'_, Slabs> {
    slabs.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<R: Runtime> Arena<R> {
    /// An arena that holds nothing yet.
    pub fn new(client: ComputeClient<R>) -> Self {
        // On CUDA the page size is a setting of CubeCL's pools, which exact allocations go round.
        let longest = match R::name(&client) {
            "cuda" => u64::MAX,
            _ => client.properties().memory.max_page_size,
        };
        Arena { client, longest: longest / ALIGNMENT * ALIGNMENT, slabs: Arc::default() }
    }

    /// Takes `bytes` from the device at once, as far as they are not held yet: a step whose needs are known then finds
    /// one piece of memory instead of several that do not fit each other.
    pub fn reserve(&self, bytes: u64) {
        let mut slabs = lock(&self.slabs);
        while slabs.usage.reserved < bytes {
            let missing = (bytes - slabs.usage.reserved).next_multiple_of(ALIGNMENT).min(self.longest);
            self.grow(&mut slabs, missing);
        }
    }

    /// A buffer of `bytes`; its contents are whatever was there.
    pub fn buffer(&self, bytes: usize) -> Buffer {
        let len = aligned(bytes as u64);
        let mut slabs = lock(&self.slabs);
        let fitting = slabs.slabs.iter().enumerate().filter_map(|(i, slab)| Some((slab.space.best_fit(len)?, i)));
        let slab = match fitting.min() {
            Some((_, slab)) => slab,
            // A request beyond the limit is passed on: the device's own refusal says more than ours could.
            None => self.grow(&mut slabs, len.max(SMALLEST_SLAB).min(self.longest).max(len)),
        };
        // Found above, or in a new slab of at least this length.
        let start = slabs.slabs[slab].space.take(len).unwrap_or_default();
        slabs.usage.in_use += len;
        slabs.usage.peak = slabs.usage.peak.max(slabs.usage.in_use);
        let whole = slabs.slabs[slab].handle.clone();
        let after = slabs.slabs[slab].space.len - start - bytes as u64;
        let handle = whole.offset_start(start).offset_end(after);
        Buffer { handle, _lease: Arc::new(Lease { slabs: self.slabs.clone(), slab, start, len }) }
    }

    /// Adds a slab of `size` bytes; returns its index.
    fn grow(&self, slabs: &mut Slabs, size: u64) -> usize {
        let handle = exact(&self.client, |client| client.empty(size as usize));
        slabs.usage.reserved += size;
        slabs.slabs.push(Slab { handle, space: Space::new(size) });
        slabs.slabs.len() - 1
    }

    /// Bytes in use, at most so far, and held.
    pub fn usage(&self) -> ArenaUsage {
        lock(&self.slabs).usage
    }
}

/// What a buffer of `bytes` takes from a slab.
pub fn aligned(bytes: u64) -> u64 {
    bytes.max(1).next_multiple_of(ALIGNMENT)
}

/// Which parts of a slab are free. It knows no device: whoever knows a slab's requests beforehand can see where each will
/// lie.
#[derive(Debug, Clone)]
pub struct Space {
    len: u64,
    /// Start and length of each gap; no two touch.
    gaps: BTreeMap<u64, u64>,
}

impl Space {
    /// All of `len` bytes.
    pub fn new(len: u64) -> Self {
        Space { len, gaps: BTreeMap::from([(0, len)]) }
    }

    /// Length of the smallest gap that holds `len`.
    fn best_fit(&self, len: u64) -> Option<u64> {
        self.gaps.values().copied().filter(|gap| *gap >= len).min()
    }

    /// Cuts `len` from the smallest gap that holds it, of several the first; returns where it starts.
    pub fn take(&mut self, len: u64) -> Option<u64> {
        let fitting = self.gaps.iter().filter(|(_, gap)| **gap >= len);
        let (&start, &gap) = fitting.min_by_key(|(_, gap)| **gap)?;
        self.gaps.remove(&start);
        if gap > len {
            self.gaps.insert(start + len, gap - len);
        }
        Some(start)
    }

    /// Frees what was taken.
    pub fn release(&mut self, mut start: u64, mut len: u64) {
        if let Some(after) = self.gaps.remove(&(start + len)) {
            len += after;
        }
        if let Some((&before, &length)) = self.gaps.range(..start).next_back()
            && before + length == start
        {
            self.gaps.remove(&before);
            start = before;
            len += length;
        }
        self.gaps.insert(start, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    #[test]
    fn freed_neighbours_join() {
        let mut space = Space::new(100);
        let parts: Vec<u64> = (0..4).map(|_| space.take(25).unwrap()).collect();
        assert_eq!(parts, [0, 25, 50, 75]);
        assert_eq!(space.take(1), None);
        for start in [25, 75, 50] {
            space.release(start, 25);
        }
        assert_eq!(space.gaps, BTreeMap::from([(25, 75)]));
        space.release(0, 25);
        assert_eq!(space.gaps, BTreeMap::from([(0, 100)]));
    }

    #[test]
    fn the_smallest_gap_serves() {
        let mut space = Space::new(100);
        let (a, _b, c) = (space.take(40).unwrap(), space.take(10).unwrap(), space.take(20).unwrap());
        space.release(a, 40);
        space.release(c, 20);
        // Gaps: 0..40 and 50..100.
        assert_eq!(space.take(30), Some(0));
    }

    /// Live ranges never overlap, and what is not live is free.
    #[test]
    fn random_use_loses_and_shares_nothing() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut space = Space::new(10_000);
        let mut live: Vec<(u64, u64)> = Vec::new();
        for _ in 0..20_000 {
            if rng.random_bool(0.5) && !live.is_empty() {
                let (start, len) = live.swap_remove(rng.random_range(0..live.len()));
                space.release(start, len);
            } else {
                let len = rng.random_range(1..600);
                if let Some(start) = space.take(len) {
                    assert!(live.iter().all(|(s, l)| start + len <= *s || s + l <= start));
                    live.push((start, len));
                }
            }
            let used: u64 = live.iter().map(|(_, len)| len).sum();
            assert_eq!(space.gaps.values().sum::<u64>(), 10_000 - used);
        }
    }
}
