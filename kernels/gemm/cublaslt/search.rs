//! The fastest algorithm for one product, found by running it.
//!
//! Rounds of variations on what was fastest so far, each timed briefly; then the best of all, and the library's first
//! proposal, take turns for longer, since a device that has just started to work hard is faster than it will be. The
//! winner's result is compared with the proposal's.
//!
//! A search changes nothing: products run on the real operands, and into scratch memory where they would read what they
//! write.

use super::plan::{Descriptors, Place, Pointers};
use super::variants;
use crate::FloatKind;
use crate::cuda::gpu::check;
use cudarc::cublaslt::sys::cublasLtMatmulAlgo_t as Algorithm;
use cudarc::driver::{result, sys as cu};
use half::{bf16, f16};
use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, Instant};

/// Proposals asked of the library.
pub const PROPOSALS: usize = 16;

/// How long variations are tried.
const TRYING: Duration = Duration::from_millis(1000);

/// How long the device works before the first measurement.
const WARMING: Duration = Duration::from_millis(30);

/// Runs of each variation.
const RUNS: usize = 2;

/// How many are compared at length, how often each takes its turn, and runs per turn.
const FINALISTS: usize = 8;
const TURNS: usize = 4;
const RUNS_PER_TURN: usize = 4;

/// Bytes at either end of the result that are compared.
const SAMPLE: usize = 32 << 10;

/// An algorithm that won.
pub struct Fastest {
    pub algorithm: Algorithm,
    tried: usize,
    milliseconds: f32,
    first_milliseconds: f32,
}

impl fmt::Display for Fastest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fastest { tried, milliseconds, first_milliseconds, .. } = self;
        write!(f, "{milliseconds:.4} ms, the best of {tried}; the library's choice {first_milliseconds:.4} ms")
    }
}

struct Search<'a> {
    descriptors: &'a Descriptors,
    place: Place,
    pointers: Pointers,
    clock: Clock,
    deadline: Instant,
    seen: HashSet<[u64; 8]>,
    /// What ran, with milliseconds per run, fastest first.
    timed: Vec<(Algorithm, f32)>,
}

/// Searches from the library's proposals on. Waits for the device.
pub fn fastest(
    descriptors: &Descriptors,
    place: Place,
    pointers: &Pointers,
    proposals: &[Algorithm],
) -> Result<Fastest, String> {
    let key = descriptors.key;
    let scratch = pointers.feeds_itself(&key).then(|| Scratch::new(key.out_bytes())).transpose()?;
    let out = scratch.as_ref().map_or(pointers.out, |scratch| scratch.0);
    let mut search = Search {
        descriptors,
        place,
        pointers: Pointers { out, ..*pointers },
        clock: Clock::new()?,
        deadline: Instant::now() + WARMING + TRYING,
        seen: HashSet::new(),
        timed: Vec::new(),
    };
    let first = proposals.first().ok_or("the library proposes nothing")?;
    search.warm_up(first)?;
    search.try_all(proposals.to_vec());
    search.vary(PROPOSALS, variants::custom_options);
    search.vary(3, |algorithm| variants::splits(algorithm, key.k));
    search.vary(3, variants::orders);
    search.vary(1, variants::tiles);
    search.decide(first)
}

impl Search<'_> {
    /// Queues the product once.
    fn run(&self, algorithm: &Algorithm) -> Result<(), String> {
        // SAFETY: as for the product itself; scratch memory has the size of `out`.
        unsafe { self.descriptors.multiply(self.place, algorithm, &self.pointers) }.map_err(|error| error.to_string())
    }

    fn time(&self, algorithm: &Algorithm, runs: usize) -> Result<f32, String> {
        self.run(algorithm)?;
        self.clock.time(self.place.stream, runs, || self.run(algorithm))
    }

    fn warm_up(&self, algorithm: &Algorithm) -> Result<(), String> {
        let start = Instant::now();
        while start.elapsed() < WARMING {
            self.time(algorithm, RUNS)?;
        }
        Ok(())
    }

    /// Times what is new, while there is time. What the library or the device does not run is left out.
    fn try_all(&mut self, algorithms: Vec<Algorithm>) {
        for algorithm in algorithms {
            if Instant::now() > self.deadline {
                break;
            }
            let accepted = || self.descriptors.accepts(self.place.handle, &self.pointers, &algorithm);
            if self.seen.insert(algorithm.data) && accepted() {
                self.timed.extend(self.time(&algorithm, RUNS).map(|time| (algorithm, time)));
            }
        }
        self.timed.sort_by(|a, b| a.1.total_cmp(&b.1));
    }

    /// Tries variations on the `best` fastest so far.
    fn vary(&mut self, best: usize, variations: impl Fn(&Algorithm) -> Vec<Algorithm>) {
        let parents: Vec<Algorithm> = self.timed.iter().take(best).map(|(algorithm, _)| *algorithm).collect();
        for parent in parents {
            self.try_all(variations(&parent));
        }
    }

    /// The fastest over many turns whose result repeats to the bit and is the first proposal's up to rounding.
    fn decide(&self, first: &Algorithm) -> Result<Fastest, String> {
        let mut finalists = vec![(*first, 0.0)];
        let others = self.timed.iter().filter(|(algorithm, _)| algorithm.data != first.data);
        finalists.extend(others.take(FINALISTS).map(|(algorithm, _)| (*algorithm, 0.0f32)));
        for _ in 0..TURNS {
            for (algorithm, total) in &mut finalists {
                *total += self.time(algorithm, RUNS_PER_TURN)? / TURNS as f32;
            }
        }
        let first_milliseconds = finalists[0].1;
        let expected = self.sample(first)?;
        finalists.sort_by(|a, b| a.1.total_cmp(&b.1));
        for (algorithm, milliseconds) in finalists {
            let (once, again) = (self.sample(&algorithm)?, self.sample(&algorithm)?);
            let repeats = once.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits());
            if repeats && agree(&once, &expected, self.descriptors.key.out_kind) {
                return Ok(Fastest { algorithm, tried: self.timed.len(), milliseconds, first_milliseconds });
            }
        }
        Err("results cannot be compared".into())
    }

    /// Values at both ends of the result.
    fn sample(&self, algorithm: &Algorithm) -> Result<Vec<f32>, String> {
        let (kind, bytes) = (self.descriptors.key.out_kind, self.descriptors.key.out_bytes());
        let taken = bytes.min(SAMPLE);
        let mut values = Vec::new();
        self.run(algorithm)?;
        for start in [0, bytes - taken] {
            let mut part = vec![0u8; taken];
            // SAFETY: `taken` bytes of the result, from the stream that writes it, into as many of ours.
            unsafe {
                let from = self.pointers.out + start as u64;
                check(cu::cuMemcpyDtoHAsync_v2(part.as_mut_ptr().cast(), from, taken, self.place.stream))?;
                check(cu::cuStreamSynchronize(self.place.stream))?;
            }
            values.extend(part.chunks_exact(kind.size()).map(|value| match (kind, value) {
                (FloatKind::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
                (FloatKind::Bf16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
                (_, value) => f32::from_le_bytes(value.try_into().unwrap_or_default()),
            }));
        }
        Ok(values)
    }
}

/// Whether two results differ by rounding alone. Values that are no numbers have to be so in both.
fn agree(got: &[f32], expected: &[f32], kind: FloatKind) -> bool {
    let allowed = match kind {
        FloatKind::F32 => 1e-3,
        FloatKind::F16 => 4e-3,
        FloatKind::Bf16 => 2e-2,
    };
    let largest = expected.iter().filter(|x| x.is_finite()).fold(0.0f32, |most, x| most.max(x.abs()));
    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= allowed * largest || (!a.is_finite() && !b.is_finite());
    got.len() == expected.len() && got.iter().zip(expected).all(close)
}

/// Device memory that lives as long as the search.
struct Scratch(u64);

impl Scratch {
    fn new(bytes: usize) -> Result<Self, String> {
        let mut start = 0;
        // SAFETY: the driver writes an address into a local.
        check(unsafe { cu::cuMemAlloc_v2(&mut start, bytes) })?;
        Ok(Scratch(start))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: allocated above; freeing waits for the device.
        let _ = unsafe { cu::cuMemFree_v2(self.0) };
    }
}

/// Time on the device between two events.
struct Clock {
    start: cu::CUevent,
    end: cu::CUevent,
}

impl Clock {
    fn new() -> Result<Self, String> {
        let null = std::ptr::null_mut::<cu::CUevent_st>();
        let mut clock = Clock { start: null, end: null };
        // SAFETY: the driver writes handles into locals.
        unsafe {
            check(cu::cuEventCreate(&mut clock.start, 0))?;
            check(cu::cuEventCreate(&mut clock.end, 0))?;
        }
        Ok(clock)
    }

    /// Milliseconds per run.
    fn time(&self, stream: cu::CUstream, runs: usize, run: impl Fn() -> Result<(), String>) -> Result<f32, String> {
        // SAFETY: live handles.
        check(unsafe { cu::cuEventRecord(self.start, stream) })?;
        for _ in 0..runs {
            run()?;
        }
        // SAFETY: live handles; both events are recorded before they are compared.
        unsafe {
            check(cu::cuEventRecord(self.end, stream))?;
            check(cu::cuEventSynchronize(self.end))?;
            let total = result::event::elapsed(self.start, self.end).map_err(|error| format!("{error:?}"))?;
            Ok(total / runs as f32)
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        for event in [self.start, self.end].into_iter().filter(|event| !event.is_null()) {
            // SAFETY: created above.
            let _ = unsafe { cu::cuEventDestroy_v2(event) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::agree;
    use crate::FloatKind::{Bf16, F32};

    #[test]
    fn rounding_agrees_and_a_wrong_value_does_not() {
        assert!(agree(&[1.0, -200.0], &[1.5, -201.0], Bf16));
        assert!(!agree(&[1.0, -200.0], &[1.5, -201.0], F32));
        assert!(!agree(&[1.0, 0.0], &[1.0, -200.0], Bf16));
        assert!(!agree(&[1.0], &[1.0, -200.0], Bf16));
        assert!(agree(&[f32::NAN, 1.0], &[f32::INFINITY, 1.0], F32));
        assert!(!agree(&[f32::NAN, 1.0], &[1.0, 1.0], F32));
    }
}
