//! The books of the loader: reports come in, slots fill up, hung threads are given up, whole batches go out.

use super::batch::{Filled, InFlight, Slot};
use super::clip::View;
use super::job::Place;
use super::worker::{Event, Report};
use super::{ClipBatch, FrameBuffer, Loader, LoaderError, WorkerTimes};
use crate::data::failures::SampleFailure;
use crossbeam_channel::RecvTimeoutError;
use std::time::{Duration, Instant};

/// How often the decode threads are checked while a batch is waited for.
const WATCH_EVERY: Duration = Duration::from_millis(200);

impl Loader {
    /// The next batch; `None` after the last.
    pub(super) fn take(&mut self) -> Result<Option<ClipBatch>, LoaderError> {
        self.fill();
        if self.in_flight.is_empty() {
            return Ok(None);
        }
        let begin = Instant::now();
        // What is there already, of later batches too.
        while let Ok(report) = self.reports.try_recv() {
            self.note(report)?;
        }
        while self.in_flight.front().is_some_and(|batch| batch.pending > 0) {
            match self.reports.recv_timeout(WATCH_EVERY) {
                Ok(report) => self.note(report)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => self.watch()?,
            }
        }
        let wait = begin.elapsed();
        self.waited += wait;
        let Some(batch) = self.in_flight.pop_front() else {
            return Ok(None);
        };
        self.fill();
        self.finish(batch, wait).map(Some)
    }

    fn note(&mut self, report: Report) -> Result<(), LoaderError> {
        let front = self.begun - self.in_flight.len() as u64;
        let batch = &mut self.in_flight[(report.batch - front) as usize];
        match report.event {
            Event::Bad(failure) => batch.slots[report.slot].failures.push(failure),
            Event::Done(filled) => {
                batch.slots[report.slot].filled = Some(filled);
                batch.pending -= 1;
            }
            Event::Empty => batch.pending -= 1,
            Event::Panicked { sample, message } => {
                return Err(LoaderError::Panicked {
                    sample,
                    video: self.shared.samples.video(sample).display().to_string(),
                    message,
                });
            }
        }
        Ok(())
    }

    /// Gives up threads that hang on a sample and lets others fill their slots.
    fn watch(&mut self) -> Result<(), LoaderError> {
        if self.workers.iter().all(|worker| worker.thread.is_finished()) {
            return Err(LoaderError::ThreadsEnded);
        }
        let timeout = self.shared.config.timeout;
        let Some(deadline) = Instant::now().checked_sub(timeout).filter(|_| !timeout.is_zero()) else {
            return Ok(());
        };
        let mut index = 0;
        while let Some(worker) = self.workers.get(index) {
            let Some((job, sample)) = worker.give_up_if_stalled(deadline) else {
                index += 1;
                continue;
            };
            // Not joined: it may never come back. It ends by itself if it does.
            let worker = self.workers.swap_remove(index);
            self.lost = WorkerTimes::total([self.lost, worker.times.read()]);
            drop(worker);
            self.given_up += 1;
            self.spawn_worker()?;
            // Of several that were read together it is not known which one hangs: each is tried by itself.
            let alone = job.places.len() == 1;
            self.stalled += usize::from(alone);
            for place in &job.places {
                if alone {
                    let failure = self.timed_out(sample);
                    self.note(Report { batch: job.batch, slot: place.slot, event: Event::Bad(failure) })?;
                }
                // The lost thread keeps the slot's memory.
                let buffer = self.pool.take(self.clip_bytes);
                let attempt = place.attempt + u32::from(alone);
                let _ = self.jobs.send(job.with(vec![Place { slot: place.slot, attempt, buffer }]));
            }
            if self.stalled > self.shared.config.threads() {
                let failure = self.timed_out(sample);
                self.failures.record(&failure);
                return Err(LoaderError::Stalled {
                    threads: self.stalled,
                    timeout_s: timeout.as_secs_f64(),
                    summary: self.failures.summary(),
                });
            }
        }
        Ok(())
    }

    fn timed_out(&self, sample: u64) -> SampleFailure {
        let path = self.shared.samples.video(sample);
        let seconds = self.shared.config.timeout.as_secs_f64();
        let reason = format!("not decoded within {seconds} s: {}", path.display());
        SampleFailure { sample, kind: "timeout", path, reason }
    }

    /// Does the accounts of a decoded batch and joins it.
    fn finish(&mut self, batch: InFlight, wait: Duration) -> Result<ClipBatch, LoaderError> {
        let InFlight { position, next, slots, .. } = batch;
        let (mut bad, mut samples, mut views, mut captions, mut pieces) = (vec![], vec![], vec![], vec![], vec![]);
        let mut labels = Vec::new();
        let mut empty = false;
        // In order of slots, so that what is counted and logged is the same in every run.
        for Slot { failures, filled } in slots {
            for failure in failures {
                self.failures.record(&failure);
                bad.push(failure.sample);
            }
            let Some(Filled { buffer, sample, turn, words }) = filled else {
                empty = true;
                continue;
            };
            self.failures.good(sample);
            pieces.push(buffer);
            samples.push(sample);
            views.push(turn);
            captions.push(words.caption);
            labels.extend(words.label.filter(|_| self.shared.samples.labelled));
        }
        self.failures.check()?;
        if empty && self.shared.view == View::Train {
            return Err(LoaderError::Exhausted { position, summary: self.failures.summary() });
        }
        let config = &self.shared.config;
        Ok(ClipBatch {
            frames: FrameBuffer::join(pieces, &self.pool),
            as_records: self.as_records,
            captions,
            labels,
            samples,
            views,
            bad,
            num_frames: config.frames,
            size_px: config.size_px as usize,
            position,
            next,
            wait,
        })
    }
}
