//! A small mutation fuzzer: seeds are changed at random, what ends in a new way becomes a seed too.
//!
//! Each target runs for `AVION_FUZZ_SECONDS` (half a second by default, so that the usual test run keeps it working).
//! Input that panics, takes too long or too much memory is written to `fuzz-findings` in the system's folder for temporary
//! files, and the test fails. A crash of the process leaves its input too, where the target reads a file: in a folder
//! `fuzz-TARGET-..` beside.

use crate::feeds::Target;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Inputs kept.
const MAX_CORPUS: usize = 4_096;
/// An input that takes longer is kept, to be looked at.
const SLOW: Duration = Duration::from_millis(300);
/// Numbers that readers trip over.
const NUMBERS: [u64; 14] =
    [0, 1, 2, 7, 8, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];
const TEXTS: [&str; 16] = [
    "-1",
    "0",
    "1e308",
    "nan",
    "inf",
    "18446744073709551616",
    "\u{feff}",
    "\"",
    "\"\"",
    ",",
    "\n",
    "\r\n",
    "..",
    "/",
    "\0",
    "é",
];

impl Target {
    /// Runs changed inputs until the time is over. Two outcomes that differ in digits only count as one.
    pub fn fuzz(mut self) {
        let budget = std::env::var("AVION_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0.5);
        let end = Instant::now() + Duration::from_secs_f64(budget);
        let seed = std::env::var("AVION_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let watch = Watch::start(self.name, self.limit);
        let mut corpus: Vec<Vec<u8>> =
            self.seeds.iter().map(|seed| seed[..seed.len().min(self.max_len)].to_vec()).collect();
        let (mut outcomes, mut tried, mut slowest) = (HashSet::new(), 0u64, Duration::ZERO);
        let mut waiting: Vec<Vec<u8>> = corpus.clone();
        while Instant::now() < end || !waiting.is_empty() {
            let input = waiting.pop().unwrap_or_else(|| mutated(&corpus, self.max_len, &mut rng));
            watch.begin(&input);
            let mut timed = || {
                let begin = Instant::now();
                (catch_unwind(AssertUnwindSafe(|| self.run(&input))), begin.elapsed())
            };
            let (outcome, mut time) = timed();
            if time > SLOW && outcome.is_ok() {
                // Once more: a busy machine is slow now and then, a bad input always.
                time = time.min(timed().1);
            }
            watch.end();
            tried += 1;
            if time > slowest {
                slowest = time;
                if time > SLOW {
                    println!("{}: {time:?} on {}", self.name, keep(self.name, "slow", &input).display());
                }
            }
            let Ok(text) = outcome else {
                panic!("{}: panicked on {}", self.name, keep(self.name, "panic", &input).display());
            };
            let mut hasher = DefaultHasher::new();
            text.bytes().filter(|byte| !byte.is_ascii_digit()).take(200).for_each(|byte| byte.hash(&mut hasher));
            if outcomes.insert(hasher.finish()) && corpus.len() < MAX_CORPUS {
                corpus.push(input);
            }
        }
        let peak = peak_memory_mb();
        println!(
            "{}: {tried} inputs in {budget} s, {} outcomes, slowest {:.0} ms, peak memory of the process {peak} MB",
            self.name,
            outcomes.len(),
            slowest.as_secs_f64() * 1e3,
        );
        assert!(outcomes.len() > 1, "{}: every input ends alike: is the target reached?", self.name);
        assert!(peak < 2_000, "{}: {peak} MB", self.name);
    }
}

fn mutated(corpus: &[Vec<u8>], max_len: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut data = corpus[rng.random_range(0..corpus.len())].clone();
    for _ in 0..1 << rng.random_range(0..5u32) {
        mutate(&mut data, corpus, rng);
        data.truncate(max_len);
    }
    data
}

fn mutate(data: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut ChaCha8Rng) {
    if data.is_empty() {
        data.push(rng.random());
    }
    // Headers matter most: half of all places lie in the first 64 bytes.
    let span = if rng.random() { data.len().min(64) } else { data.len() };
    let at = rng.random_range(0..span);
    let length = (1usize << rng.random_range(0..9u32)).min(data.len() - at);
    match rng.random_range(0..11u32) {
        0 => data[at] ^= 1 << rng.random_range(0..8u32),
        1 => data[at] = rng.random(),
        2 => drop(data.drain(at..at + length)),
        3 => data.truncate(at),
        4 => {
            let piece = data[at..at + length].to_vec();
            data.splice(at..at, piece);
        }
        5 => {
            let other = &corpus[rng.random_range(0..corpus.len())];
            if !other.is_empty() {
                let from = rng.random_range(0..other.len());
                let piece = other[from..(from + length).min(other.len())].to_vec();
                let end = if rng.random() { at } else { (at + piece.len()).min(data.len()) };
                data.splice(at..end, piece);
            }
        }
        6 | 7 => {
            let number = NUMBERS[rng.random_range(0..NUMBERS.len())];
            let bytes = if rng.random() { number.to_le_bytes() } else { number.to_be_bytes() };
            let width = [1, 2, 4, 8][rng.random_range(0..4usize)].min(data.len() - at);
            let bytes = if rng.random() { &bytes[..width] } else { &bytes[8 - width..] };
            data[at..at + width].copy_from_slice(bytes);
        }
        8 => {
            let text = TEXTS[rng.random_range(0..TEXTS.len())].bytes();
            let end = if rng.random() { at } else { at + length.min(4) };
            data.splice(at..end.min(data.len()), text);
        }
        9 => {
            // A number in a text, changed.
            if let Some(from) = data[at..].iter().position(u8::is_ascii_digit).map(|offset| at + offset) {
                let digits = data[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                let number = NUMBERS[rng.random_range(0..NUMBERS.len())].to_string();
                data.splice(from..from + digits, number.bytes());
            }
        }
        _ => {
            let to = rng.random_range(0..data.len());
            data.swap(at, to);
        }
    }
}

/// Ends the process when an input takes too long: a thread that hangs cannot be ended otherwise.
struct Watch(Arc<Mutex<Option<(Instant, Vec<u8>)>>>);

impl Watch {
    fn start(name: &'static str, limit: Duration) -> Self {
        let at_work = Arc::<Mutex<Option<(Instant, Vec<u8>)>>>::default();
        let watched = Arc::downgrade(&at_work);
        std::thread::spawn(move || {
            while let Some(at_work) = watched.upgrade() {
                if let Some((begun, input)) = &*at_work.lock().unwrap()
                    && begun.elapsed() > limit
                {
                    eprintln!("{name}: more than {limit:?} on {}", keep(name, "hang", input).display());
                    std::process::abort();
                }
                drop(at_work);
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        Watch(at_work)
    }

    fn begin(&self, input: &[u8]) {
        *self.0.lock().unwrap() = Some((Instant::now(), input.to_vec()));
    }

    fn end(&self) {
        *self.0.lock().unwrap() = None;
    }
}

/// Where findings, and the input at work, are kept.
fn findings() -> PathBuf {
    let folder = std::env::temp_dir().join("fuzz-findings");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn keep(name: &str, what: &str, input: &[u8]) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let path = findings().join(format!("{name}-{what}-{:016x}", hasher.finish()));
    std::fs::write(&path, input).unwrap();
    path
}

/// 0 where the system does not tell.
fn peak_memory_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1000
}
