//! Where the decode threads' time goes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a decode thread spends time on. The last three are parts of `Busy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// For a job: the batches ahead are done, or wait for buffers.
    Waiting,
    /// At a job.
    Busy,
    /// Finding and opening files.
    Opening,
    /// Seeking, decoding, cropping, scaling.
    Decoding,
    /// Augmenting decoded clips.
    Changing,
}

const ACTIVITIES: usize = 5;

/// The clock of one decode thread, read by others while it runs.
#[derive(Debug, Default)]
pub(super) struct Times {
    nanoseconds: [AtomicU64; ACTIVITIES],
    clips: AtomicU64,
}

impl Times {
    pub fn add(&self, activity: Activity, time: Duration) {
        self.nanoseconds[activity as usize].fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Adds the time that `work` takes.
    pub fn time<T>(&self, activity: Activity, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = work();
        self.add(activity, begin.elapsed());
        result
    }

    pub fn count_clip(&self) {
        self.clips.fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self) -> WorkerTimes {
        let at = |activity| Duration::from_nanos(self.nanoseconds[activity as usize].load(Ordering::Relaxed));
        WorkerTimes {
            clips: self.clips.load(Ordering::Relaxed),
            waiting: at(Activity::Waiting),
            busy: at(Activity::Busy),
            opening: at(Activity::Opening),
            decoding: at(Activity::Decoding),
            changing: at(Activity::Changing),
        }
    }
}

/// What one decode thread, or several together, did up to the last finished job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerTimes {
    /// Clips read, each repetition and view counted.
    pub clips: u64,
    /// Waiting for something to do.
    pub waiting: Duration,
    /// Reading clips.
    pub busy: Duration,
    /// Of that: finding and opening files.
    pub opening: Duration,
    /// Of that: seeking, decoding, cropping, scaling.
    pub decoding: Duration,
    /// Of that: RandAugment and erasing.
    pub changing: Duration,
}

impl WorkerTimes {
    /// The sum over threads.
    pub fn total(threads: impl IntoIterator<Item = Self>) -> Self {
        threads.into_iter().fold(Self::default(), |a, b| Self {
            clips: a.clips + b.clips,
            waiting: a.waiting + b.waiting,
            busy: a.busy + b.busy,
            opening: a.opening + b.opening,
            decoding: a.decoding + b.decoding,
            changing: a.changing + b.changing,
        })
    }

    /// What was done since an earlier reading.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            clips: self.clips.saturating_sub(earlier.clips),
            waiting: self.waiting.saturating_sub(earlier.waiting),
            busy: self.busy.saturating_sub(earlier.busy),
            opening: self.opening.saturating_sub(earlier.opening),
            decoding: self.decoding.saturating_sub(earlier.decoding),
            changing: self.changing.saturating_sub(earlier.changing),
        }
    }

    /// Share of the time that was spent reading; `None` before the first clip.
    pub fn busy_share(&self) -> Option<f64> {
        let all = (self.busy + self.waiting).as_secs_f64();
        (all > 0.0).then(|| self.busy.as_secs_f64() / all)
    }

    /// Share of the reading that was decoding; `None` before the first clip.
    pub fn decoding_share(&self) -> Option<f64> {
        (!self.busy.is_zero()).then(|| self.decoding.as_secs_f64() / self.busy.as_secs_f64())
    }

    /// Clips a second of one thread that never waits; `None` before the first clip.
    pub fn clips_per_busy_s(&self) -> Option<f64> {
        (self.clips > 0 && !self.busy.is_zero()).then(|| self.clips as f64 / self.busy.as_secs_f64())
    }
}

impl std::fmt::Display for WorkerTimes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = |part: Duration| 100.0 * part.as_secs_f64() / self.busy.as_secs_f64().max(1e-9);
        write!(
            f,
            "{} clips, busy {:.1} s ({:.0}%), waiting {:.1} s; of the busy time {:.0}% opening, {:.0}% decoding, {:.0}% augmenting",
            self.clips,
            self.busy.as_secs_f64(),
            100.0 * self.busy_share().unwrap_or(0.0),
            self.waiting.as_secs_f64(),
            percent(self.opening),
            percent(self.decoding),
            percent(self.changing),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_up_and_give_shares() {
        let times = Times::default();
        times.add(Activity::Busy, Duration::from_secs(3));
        times.add(Activity::Waiting, Duration::from_secs(1));
        times.add(Activity::Decoding, Duration::from_millis(1500));
        times.count_clip();
        let one = times.read();
        assert_eq!((one.busy_share(), one.decoding_share()), (Some(0.75), Some(0.5)));
        times.count_clip();
        let two = WorkerTimes::total([times.read(), one]);
        assert_eq!((two.clips, two.busy), (3, Duration::from_secs(6)));
        assert_eq!(two.clips_per_busy_s(), Some(0.5));
        assert_eq!(two.since(one).clips, 2);
        let none = WorkerTimes::default();
        assert_eq!((none.busy_share(), none.decoding_share(), none.clips_per_busy_s()), (None, None, None));
        assert!(one.to_string().contains("busy 3.0 s (75%)") && one.to_string().contains("50% decoding"), "{one}");
    }
}
