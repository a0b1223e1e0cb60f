//! From raw videos to ones that are fast to read: short chunks, small pictures, near key frames, and a manifest.
//!
//! ```text
//! folder or list -> discover (names) -> look (changed? how long?) -> work, one thread a video -> state (journal, manifest)
//!                      input (decode, constant rate) -> picture (upright, scaled) -> encode -> mux -> file
//! ```
//!
//! Every chunk begins with frame `ceil(k * chunk_s * fps)` of its video: counted from the first picture, which is time 0.
//! A source of constant rate gives exactly its frames. Where times are uneven, or pictures are lost, the picture before is
//! shown again, and one of two at the same place is left out; both are counted in the manifest.

mod discover;
mod encode;
mod error;
mod estimate;
mod input;
mod look;
mod mux;
mod picture;
mod plan;
mod progress;
mod rate;
mod source_file;
mod state;
mod verify;
mod work;

pub use discover::Layout;
pub use encode::{MPEG4, X264};
pub use error::PrepareError;
pub use estimate::{Estimate, estimate};
pub use progress::size;
#[doc(hidden)] // for fuzzing
pub use state::Found;
pub use verify::{Checked, verify};
pub use work::WriteFile;

use crate::data::manifest::{Failed, Outcome, Video};
use crate::fs::{WriteError, clean_leftovers, write_atomic};
use error::VideoFailure;
use look::{Looked, look_at_all};
use plan::Plan;
use progress::Progress;
use state::State;
use std::collections::{BTreeSet, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use work::{Shared, Work};

/// What `avion prepare` is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of videos, or a text file that lists them.
    pub input: PathBuf,
    pub output: PathBuf,
    /// `None`: as an earlier run into the same folder, else as the names look.
    pub layout: Option<Layout>,
    /// `None`: 15 s; whole files for Kinetics.
    pub chunk_s: Option<u32>,
    pub short_side: u32,
    pub gop: u32,
    /// FFmpeg's name of an encoder; `None`: libx264, else mpeg4.
    pub codec: Option<String>,
    /// `None`: the codec's default.
    pub quality: Option<u32>,
    /// Of libx264.
    pub preset: String,
    /// Videos at a time.
    pub workers: usize,
}

/// How a run ended.
#[derive(Debug, Default)]
pub struct Summary {
    /// Videos made in this run, and those that were there.
    pub made: usize,
    pub found: usize,
    /// Names and reasons.
    pub failed: Vec<(String, Failed)>,
    /// Written in this run.
    pub bytes: u64,
    pub interrupted: bool,
}

/// Publishes chunks on a real disk.
///
/// # Errors
/// [`WriteError`]; nothing is then there under the name.
pub fn publish(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    write_atomic(path, |out| out.write_all(bytes))
}

/// Prepares all videos of the input that are not there yet, and writes the manifest.
///
/// A video that fails is noted, and does not stop the run. `stop` is asked between frames; chunks at hand are then
/// dropped, finished ones stay.
///
/// # Errors
/// An input or output that cannot be used, other settings than before, a full disk, and when every video failed.
pub fn run(
    options: &Options,
    stop: &(dyn Fn() -> bool + Sync),
    write: &WriteFile<'_>,
) -> Result<Summary, PrepareError> {
    let plan = Plan::of(options)?;
    let state = State::open(&options.output, plan.settings.clone())?;
    let names: HashSet<&str> = plan.videos.iter().map(|(_, video, _)| &**video).collect();
    state.forget_failed(|video| names.contains(video));
    let known = |video: &str| state.stage(video);
    let mut summary = Summary::default();
    let mut works = Vec::new();
    for looked in look_at_all(&plan, options, &known, stop) {
        match looked {
            Looked::Finished => summary.found += 1,
            Looked::Work(work) => works.push(work),
            Looked::Bad(work, failed) => {
                state.done(give_up(&state, &work, &failed)?)?;
                summary.failed.push((work.video, failed));
            }
            Looked::Away(work, failed) => {
                let reason = &failed.reason;
                tracing::warn!(
                    "what is prepared of it stays, but cannot be read now: {}: {reason}",
                    work.path.display()
                );
                summary.failed.push((work.video, failed));
            }
        }
    }
    clean(&state, &works)?;
    // The longest first, so that no thread is left with one at the end.
    works.sort_by(|a, b| b.duration_s.total_cmp(&a.duration_s));
    let progress = Progress::new(works.len(), works.iter().map(|work| work.duration_s).sum());
    let (full, failed) = make_all(&works, &state, &progress, options.workers, stop, write);
    summary.failed.extend(failed);
    summary.made = progress.num_finished() as usize;
    summary.bytes = progress.written_bytes();
    if let Some(error) = full {
        let left = works.len() - summary.made - progress.num_failed() as usize;
        let error = disk_full(error, &state, left, progress.left_s());
        // Where even the manifest has no room, the journal has it all.
        let _ = state.close(false);
        return Err(error);
    }
    summary.interrupted = stop();
    state.close(!summary.interrupted)?;
    match summary.failed.first() {
        Some((video, first)) if summary.made + summary.found == 0 && !summary.interrupted => {
            let reason = format!("{video}: {}", first.reason);
            Err(PrepareError::AllFailed { failed: summary.failed.len(), reason })
        }
        _ => Ok(summary),
    }
}

/// Removes the halves of files that killed runs left where this one will write.
fn clean(state: &State, works: &[Work]) -> Result<(), WriteError> {
    let file = |work: &Work| state.folder().join(state.settings.file(&work.video, 0));
    let mut folders: BTreeSet<PathBuf> =
        works.iter().filter_map(|work| file(work).parent().map(Path::to_owned)).collect();
    folders.insert(state.folder().to_owned());
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        clean_leftovers(folder)?;
    }
    Ok(())
}

/// Removes what there is of a video that failed, and logs it.
fn give_up(state: &State, work: &Work, failed: &Failed) -> Result<Video, WriteError> {
    if failed.kind != "name" {
        work::tidy(state.folder(), &state.settings, &work.video, 0)?;
    }
    tracing::warn!("not prepared: {}: {}", work.path.display(), failed.reason);
    Ok(Video { video: work.video.clone(), source: work.source.clone(), result: Outcome::Failed(failed.clone()) })
}

/// Makes all videos; returns what stopped it, if something did, and the videos that failed.
fn make_all(
    works: &[Work],
    state: &State,
    progress: &Progress,
    workers: usize,
    stop: &(dyn Fn() -> bool + Sync),
    write: &WriteFile<'_>,
) -> (Option<WriteError>, Vec<(String, Failed)>) {
    let (broken, first) = (AtomicBool::new(false), Mutex::new(None));
    let failed = Mutex::new(Vec::new());
    let stop = || stop() || broken.load(Ordering::Relaxed);
    let shared = Shared { state, progress, write, stop: &stop };
    let make = |work: &Work| {
        if stop() {
            return;
        }
        // A panic must not take the others along, nor leave them waiting.
        let made = catch_unwind(AssertUnwindSafe(|| work::make(work, &shared)));
        let made =
            made.unwrap_or_else(|_| Err(VideoFailure::bad("panic", "the program failed on it: please report this")));
        let broke = match made {
            Ok(()) => return progress.finished(),
            Err(VideoFailure::Stopped) => return,
            Err(VideoFailure::Write(error)) => Err(error),
            Err(VideoFailure::Bad(reason)) => {
                give_up(state, work, &reason).and_then(|video| state.done(video)).map(|()| {
                    progress.failed();
                    failed.lock().unwrap_or_else(PoisonError::into_inner).push((work.video.clone(), reason));
                })
            }
        };
        if let Err(error) = broke {
            broken.store(true, Ordering::Relaxed);
            first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| progress.show());
        in_parallel(works, workers, make);
        progress.end();
    });
    (first.into_inner().unwrap_or_default(), failed.into_inner().unwrap_or_default())
}

/// Calls with every item in order, `threads` at a time.
fn in_parallel<T: Sync>(items: &[T], threads: usize, call: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            call(item);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, items.len().max(1)) {
            scope.spawn(work);
        }
    });
}

/// Says what a run that met a full disk still needs, from what its videos took so far.
fn disk_full(error: WriteError, state: &State, videos: usize, left_s: f64) -> PrepareError {
    let WriteError::DiskFull { needed_bytes, .. } = &error else {
        return error.into();
    };
    let (mut bytes, mut seconds) = (0, 0.0);
    state.each(|_, stage| {
        if let Some(begun) = stage.clone().into_begun() {
            let frames: u64 = begun.chunks.values().map(|chunk| u64::from(chunk.frames)).sum();
            bytes += begun.chunks.values().map(|chunk| chunk.bytes).sum::<u64>();
            seconds += frames as f64 * f64::from(begun.fps[1]) / f64::from(begun.fps[0]);
        }
    });
    let per_s = match seconds > 0.0 {
        true => bytes as f64 / seconds,
        false => *needed_bytes as f64 / f64::from(state.settings.chunk_s.max(1)),
    };
    let folder = state.folder();
    let needed = (per_s * left_s).max(*needed_bytes as f64);
    let free = free_bytes(folder).map_or_else(|| "an unknown number of bytes".to_owned(), |free| size(free as f64));
    PrepareError::DiskFull { path: folder.to_owned(), needed: format!("about {}", size(needed)), free, videos }
}

/// Free space where a folder is, or will be.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    let found = rustix::fs::statvfs(there).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}
