//! How far a preparation is: counters that threads add to, and the line that shows them.

use crate::report::format_duration;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Between two lines: on a terminal, and in a log.
const ON_TERMINAL: Duration = Duration::from_millis(500);
const IN_LOG: Duration = Duration::from_secs(30);

/// Counters of a run; all threads add to them.
#[derive(Debug, Default)]
pub struct Progress {
    videos: usize,
    total_ms: u64,
    done_us: AtomicU64,
    bytes: AtomicU64,
    finished: AtomicU64,
    failed: AtomicU64,
    ended: AtomicBool,
}

impl Progress {
    /// For `videos` of `total_s` seconds together.
    pub fn new(videos: usize, total_s: f64) -> Self {
        Self { videos, total_ms: (total_s * 1e3) as u64, ..Self::default() }
    }

    /// Notes frames that have been gone through.
    pub fn frames(&self, frames: u64, fps: [u32; 2]) {
        let us = frames * 1_000_000 * u64::from(fps[1]) / u64::from(fps[0]).max(1);
        self.done_us.fetch_add(us, Relaxed);
    }

    pub fn bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub fn finished(&self) {
        self.finished.fetch_add(1, Relaxed);
    }

    pub fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    pub fn num_failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    pub fn num_finished(&self) -> u64 {
        self.finished.load(Relaxed)
    }

    pub fn written_bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Seconds of video gone through.
    fn done_s(&self) -> f64 {
        self.done_us.load(Relaxed) as f64 / 1e6
    }

    /// Seconds of video that are left.
    pub fn left_s(&self) -> f64 {
        (self.total_ms as f64 / 1e3 - self.done_s()).max(0.0)
    }

    /// Tells [`Progress::show`] to return.
    pub fn end(&self) {
        self.ended.store(true, Relaxed);
    }

    /// Draws on stderr until [`Progress::end`]; for a thread of its own.
    pub fn show(&self) {
        let (start, terminal) = (Instant::now(), std::io::stderr().is_terminal());
        let every = if terminal { ON_TERMINAL } else { IN_LOG };
        let mut drawn = Instant::now();
        while !self.ended.load(Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
            if drawn.elapsed() < every {
                continue;
            }
            drawn = Instant::now();
            let line = self.line(start.elapsed());
            // Failing to draw never fails a run.
            let _ = match terminal {
                true => write!(std::io::stderr(), "\r{line}\x1b[K"),
                false => writeln!(std::io::stderr(), "{line}"),
            };
        }
        if terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    fn line(&self, elapsed: Duration) -> String {
        let (done_s, total_s) = (self.done_s(), self.total_ms as f64 / 1e3);
        let rate = done_s / elapsed.as_secs_f64().max(1e-3);
        let left = Duration::try_from_secs_f64((total_s - done_s).max(0.0) / rate);
        let share = (100.0 * done_s / total_s.max(1e-3)).min(100.0);
        let finished = self.num_finished() + self.num_failed();
        let mut line = format!(
            "videos {finished}/{}  {:.2}/{:.2} h ({share:.0}%)  {rate:.0} s/s  {}",
            self.videos,
            done_s / 3600.0,
            total_s / 3600.0,
            size(self.written_bytes() as f64),
        );
        match self.num_failed() {
            0 => {}
            failed => line += &format!("  failed {failed}"),
        }
        line + &format!("  ETA {}", left.map_or_else(|_| "?".to_owned(), format_duration))
    }
}

/// `512 B`, `3.4 MB`, `1.2 TB`: decimal, as disks are sold.
pub fn size(bytes: f64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let (mut value, mut unit) = (bytes.max(0.0), 0);
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if unit > 0 && value < 99.95 { 1 } else { 0 };
    format!("{value:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let texts = [0.0, 512.0, 3.44e6, 99.96e6, 999.6e9, 1.25e12].map(size);
        assert_eq!(texts, ["0 B", "512 B", "3.4 MB", "100 MB", "1.0 TB", "1.2 TB"]);
    }

    #[test]
    fn the_line_says_how_far_and_how_long() {
        let progress = Progress::new(4, 7200.0);
        progress.frames(30 * 3600, [30, 1]);
        progress.bytes(2_500_000_000);
        progress.finished();
        progress.failed();
        let line = progress.line(Duration::from_secs(60));
        assert_eq!(line, "videos 2/4  1.00/2.00 h (50%)  60 s/s  2.5 GB  failed 1  ETA 1m00s");
    }
}
