//! Decoding single pictures by way of the index: from the key frame before each, and no more than needed.
//!
//! Every prediction is checked. A packet must be where the index says; each packet that was fed (to NVDEC, each that
//! is wanted) must come out as one picture, in order of presentation, undamaged. The first deviation ends with
//! [`Outcome::Mistrust`], and the caller counts pictures from the start instead.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use ffmpeg_next::Packet;
use ffmpeg_next::frame::Video as Frame;

use super::VideoError;
use super::bitstream::Syntax;
use super::container::Container;
use super::decoder::{Decoder, is_damaged};
use super::hardware::{self, DECLINED};
use super::index::{Gop, Index, Mistrust};
use super::options::ReadOptions;
use super::stages::{Stages, timed};
use crate::config::recipe::VideoDecoder;

/// How a run ended.
pub enum Outcome {
    Done,
    Mistrust(Mistrust),
    /// Decoding must start at an earlier key frame: this GOP's is none, or the picture is shown before it.
    StartEarlier {
        key_is_false: bool,
    },
}

/// Demuxer and decoder of a file whose index is trusted.
pub struct Seeker {
    decoder: Decoder,
    container: Container,
    syntax: Syntax,
    index: Arc<Index>,
    /// Headers of the stream's first packet. Encoders name themselves there, and libavcodec decodes the streams of some
    /// (old x264, DivX, Xvid) by their own rules.
    headers: Arc<[u8]>,
    /// Whether the decoder has seen them.
    headers_read: bool,
    /// Pictures that are not shown go without the loop filter.
    fast_loop_filter: bool,
    pub stages: Stages,
}

/// A packet that waits for its frame number, or for its turn.
struct Waiting {
    packet: Packet,
    entry: usize,
    pts: i64,
    shown: bool,
    disposable: bool,
    ordinal: Option<u64>,
}

/// What one run knows between packets.
struct Run<'a> {
    /// Frame numbers asked for, ascending, without repeats.
    wanted: &'a [u64],
    /// Presentation time of the key frame that decoding started at.
    start_pts: i64,
    queue: VecDeque<Waiting>,
    /// Index position of the packet taken last.
    last_entry: Option<usize>,
    /// Packets of the current GOP without a frame number yet, by presentation time.
    unnumbered: BTreeMap<i64, usize>,
    /// The frame number of the first of them.
    next_ordinal: u64,
    /// Whether decoding times bound the presentation times of what follows, in the current GOP.
    times_are_bounds: bool,
    last_numbered_pts: i64,
    /// Pictures that the decoder owes: presentation time to frame number.
    owed: BTreeMap<i64, u64>,
    num_sent: usize,
}

impl Seeker {
    pub fn new(
        container: Container,
        syntax: Syntax,
        index: Arc<Index>,
        headers: Arc<[u8]>,
        options: ReadOptions,
    ) -> Result<Seeker, VideoError> {
        let ReadOptions { fast_loop_filter, decoder, .. } = options;
        let decoder = Decoder::reuse(&container, decoder)?;
        let (headers_read, stages) = (false, Stages::default());
        Ok(Seeker { decoder, container, syntax, index, headers, headers_read, fast_loop_filter, stages })
    }

    /// Whether NVDEC decodes, as far as is known.
    pub fn by_nvdec(&self) -> bool {
        self.decoder.by_nvdec()
    }

    #[cfg(test)]
    pub fn decoder_mut(&mut self) -> &mut Decoder {
        &mut self.decoder
    }

    /// Goes on with a decoder on the CPU, for `reason`; false when that is what has decoded so far.
    pub fn leave_device(&mut self, reason: Mistrust) -> Result<bool, VideoError> {
        if !self.by_nvdec() {
            return Ok(false);
        }
        hardware::fell_back(self.container.path(), reason);
        self.decoder = Decoder::reuse(&self.container, VideoDecoder::Cpu)?;
        self.headers_read = false;
        Ok(true)
    }

    /// Leaves the decoder to the next file.
    pub fn recycle(self) {
        self.decoder.recycle();
    }

    pub fn start_clock(&self) {
        self.container.start_clock();
    }

    /// Decodes the frames `wanted` (ascending, no repeats, all below the index's number) and hands each to
    /// `emit`, in order, unless it ends in mistrust.
    pub fn read(
        &mut self,
        wanted: &[u64],
        emit: &mut dyn FnMut(u64, &Frame) -> Result<(), VideoError>,
    ) -> Result<Option<Mistrust>, VideoError> {
        let mut rest = wanted;
        while let Some(&first) = rest.first() {
            let gop = self.index.gop_of_frame(first);
            let in_gop = rest.partition_point(|&k| self.index.gop_of_frame(k) == gop);
            let (group, after) = rest.split_at(in_gop);
            let mut start = gop;
            loop {
                match self.read_from(start, group, emit)? {
                    Outcome::Done => break,
                    Outcome::Mistrust(reason) => return Ok(Some(reason)),
                    Outcome::StartEarlier { .. } if start == 0 => {
                        return Ok(Some("the first packet is no place to start"));
                    }
                    Outcome::StartEarlier { key_is_false } => {
                        if key_is_false {
                            Arc::make_mut(&mut self.index).join_to_previous(start);
                        }
                        start -= 1;
                    }
                }
            }
            rest = after;
        }
        Ok(None)
    }

    /// Decodes from a GOP's key frame until all of `wanted` have come out.
    fn read_from(
        &mut self,
        gop: usize,
        wanted: &[u64],
        emit: &mut dyn FnMut(u64, &Frame) -> Result<(), VideoError>,
    ) -> Result<Outcome, VideoError> {
        let demux = self.stages.demux;
        let start = Instant::now();
        let landed = self.land(self.index.gops()[gop])?;
        self.stages.demux = demux;
        self.stages.seek += start.elapsed();
        let Some(first) = landed else {
            return Ok(Outcome::Mistrust("seeking misses the key frame"));
        };
        if !self.syntax.is_random_access(first.packet.data().unwrap_or(&[])) {
            return Ok(Outcome::StartEarlier { key_is_false: true });
        }
        if !mem::replace(&mut self.headers_read, true) && gop > 0 && !self.headers.is_empty() {
            self.decoder.read_headers(&self.headers);
        }
        self.decoder.flush();
        let mut run = Run {
            wanted,
            start_pts: first.pts,
            queue: VecDeque::new(),
            last_entry: None,
            unnumbered: BTreeMap::new(),
            next_ordinal: self.index.gops()[gop].ordinal,
            times_are_bounds: true,
            last_numbered_pts: i64::MIN,
            owed: BTreeMap::new(),
            num_sent: 0,
        };
        let mut next = Some(first);
        while let Some(waiting) = next {
            let dts = waiting.packet.dts();
            if let Err(reason) = run.take(waiting, dts, &self.index) {
                return Ok(Outcome::Mistrust(reason));
            }
            if let Some(outcome) = self.send_ready(&mut run, emit)? {
                return Ok(outcome);
            }
            next = match self.next_packet()? {
                Ok(next) => next,
                Err(reason) => return Ok(Outcome::Mistrust(reason)),
            };
        }
        if let Err(reason) = run.number_all() {
            return Ok(Outcome::Mistrust(reason));
        }
        Ok(match self.send_ready(&mut run, emit)? {
            Some(outcome) => outcome,
            None => Outcome::Mistrust("fewer packets than the index lists"),
        })
    }

    /// Moves the demuxer to a GOP and returns its key frame's packet.
    fn land(&mut self, gop: Gop) -> Result<Option<Waiting>, VideoError> {
        let entry = self.index.entries()[gop.first];
        // Demuxers take the time of a seek for either a presentation or a decoding time, and may stop a key
        // frame earlier: packets up to ours are skipped.
        let times = [entry.pts, entry.dts];
        for time in times.into_iter().filter(|&time| time != i64::MIN) {
            if !self.container.seek(time) {
                continue;
            }
            while let Ok(Some(waiting)) = self.next_packet()? {
                if waiting.entry == gop.first {
                    return Ok(Some(waiting));
                }
                if waiting.entry > gop.first {
                    break;
                }
            }
        }
        Ok(None)
    }

    /// The demuxer's next packet with what the index and its own bytes say about it.
    fn next_packet(&mut self) -> Result<Result<Option<Waiting>, Mistrust>, VideoError> {
        let mut packet = Packet::empty();
        if !timed(&mut self.stages.demux, || self.container.read_packet(&mut packet))? {
            return Ok(Ok(None));
        }
        let Some(pts) = packet.pts() else {
            return Ok(Err("a packet without presentation time"));
        };
        let Some(entry) = self.index.find(packet.pts(), packet.dts()) else {
            return Ok(Err("a packet that the index does not list"));
        };
        let Some(content) = self.syntax.content(packet.data().unwrap_or(&[])) else {
            return Ok(Err("a damaged packet, or one that is not one picture"));
        };
        let listed = self.index.entries()[entry].shown;
        if listed && !content.shown {
            return Ok(Err("a hidden picture"));
        }
        Ok(Ok(Some(Waiting { packet, entry, pts, shown: listed, disposable: content.disposable, ordinal: None })))
    }

    /// Feeds the packets whose frame number is known, and takes the pictures that come out. Ends the run once
    /// all wanted packets were fed.
    fn send_ready(
        &mut self,
        run: &mut Run,
        emit: &mut dyn FnMut(u64, &Frame) -> Result<(), VideoError>,
    ) -> Result<Option<Outcome>, VideoError> {
        while let Some(waiting) = run.queue.front() {
            if waiting.shown && waiting.ordinal.is_none() {
                return Ok(None);
            }
            let Some(mut waiting) = run.queue.pop_front() else {
                return Ok(None);
            };
            let wanted = waiting.ordinal.is_some_and(|ordinal| run.wanted.binary_search(&ordinal).is_ok());
            let leading = waiting.pts < run.start_pts;
            if wanted && leading {
                let key_is_false = false;
                return Ok(Some(Outcome::StartEarlier { key_is_false }));
            }
            if waiting.disposable && !wanted {
                continue;
            }
            let stays = !wanted && self.decoder.keep_unwanted(&mut waiting.packet);
            if let (Some(ordinal), false, false) = (waiting.ordinal, leading, stays) {
                run.owed.insert(waiting.pts, ordinal);
            }
            // Pictures shown before the start may refer to what was not decoded: their errors do not count.
            if self.fast_loop_filter {
                self.decoder.skip_loop_filter(!wanted);
            }
            if timed(&mut self.stages.decode, || self.decoder.send(&waiting.packet)).is_err() && !leading {
                return Ok(Some(Outcome::Mistrust("a packet that does not decode")));
            }
            if let Some(reason) = self.receive(run, emit)? {
                return Ok(Some(Outcome::Mistrust(reason)));
            }
            run.num_sent += usize::from(wanted);
            if run.num_sent == run.wanted.len() {
                return self.finish(run, emit).map(Some);
            }
        }
        Ok(None)
    }

    /// Drains the decoder rather than feed it the packets that it would need to let go of the last picture.
    fn finish(
        &mut self,
        run: &mut Run,
        emit: &mut dyn FnMut(u64, &Frame) -> Result<(), VideoError>,
    ) -> Result<Outcome, VideoError> {
        if self.decoder.finish().is_err() {
            return Ok(Outcome::Mistrust("a decoder that does not drain"));
        }
        Ok(match self.receive(run, emit)? {
            Some(reason) => Outcome::Mistrust(reason),
            None if run.owed.is_empty() => Outcome::Done,
            None => Outcome::Mistrust("a packet without a picture"),
        })
    }

    fn receive(
        &mut self,
        run: &mut Run,
        emit: &mut dyn FnMut(u64, &Frame) -> Result<(), VideoError>,
    ) -> Result<Option<Mistrust>, VideoError> {
        loop {
            self.container.check_clock("decoding")?;
            match timed(&mut self.stages.decode, || self.decoder.next_frame()) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(_) => return Ok(Some("a picture that does not decode")),
            }
            if self.decoder.notices_decline() {
                hardware::fell_back(self.container.path(), DECLINED);
            }
            let frame = self.decoder.frame();
            let Some(pts) = frame.pts() else {
                return Ok(Some("a picture without presentation time"));
            };
            if pts < run.start_pts {
                continue;
            }
            match run.owed.pop_first() {
                Some((owed, ordinal)) if owed == pts => {
                    if is_damaged(frame) {
                        return Ok(Some("a damaged picture"));
                    }
                    if run.wanted.binary_search(&ordinal).is_ok() {
                        let frame = match timed(&mut self.stages.decode, || self.decoder.picture()) {
                            Ok(frame) => frame,
                            Err(reason) => return Ok(Some(reason)),
                        };
                        timed(&mut self.stages.convert, || emit(ordinal, frame))?;
                    }
                }
                _ => return Ok(Some("a picture that was not expected")),
            }
        }
    }
}

impl Run<'_> {
    /// Queues a packet, and numbers the pictures that no later packet can precede.
    fn take(&mut self, mut waiting: Waiting, dts: Option<i64>, index: &Index) -> Result<(), Mistrust> {
        if self.last_entry.is_some_and(|last| waiting.entry != last + 1) {
            return Err("packets in another order than the index lists");
        }
        self.last_entry = Some(waiting.entry);
        if index.is_complete() {
            waiting.ordinal = index.ordinal(waiting.entry);
            self.queue.push_back(waiting);
            return Ok(());
        }
        let gop = index.gops()[index.gop_of_entry(waiting.entry)];
        if gop.first == waiting.entry && !self.queue.is_empty() {
            self.number_all()?;
        }
        if gop.first == waiting.entry {
            self.next_ordinal = gop.ordinal;
            self.times_are_bounds = true;
        }
        if waiting.pts <= self.last_numbered_pts {
            return Err("a picture earlier than the packets before it allowed");
        }
        self.times_are_bounds &= dts.is_some_and(|dts| dts <= waiting.pts);
        if waiting.shown && self.unnumbered.insert(waiting.pts, waiting.entry).is_some() {
            return Err("two packets with one presentation time");
        }
        self.queue.push_back(waiting);
        if let (true, Some(dts)) = (self.times_are_bounds, dts) {
            self.number_up_to(dts)?;
        }
        Ok(())
    }

    /// Numbers all pictures of the current GOP: no more of its packets follow.
    fn number_all(&mut self) -> Result<(), Mistrust> {
        self.number_up_to(i64::MAX)
    }

    fn number_up_to(&mut self, bound: i64) -> Result<(), Mistrust> {
        while let Some((&pts, &entry)) = self.unnumbered.first_key_value() {
            if pts > bound {
                break;
            }
            self.unnumbered.remove(&pts);
            self.last_numbered_pts = pts;
            let head = self.queue.front().map_or(usize::MAX, |w| w.entry);
            let place = entry.checked_sub(head);
            match place.and_then(|place| self.queue.get_mut(place)) {
                Some(waiting) => waiting.ordinal = Some(self.next_ordinal),
                None => return Err("packets in another order than the index lists"),
            }
            self.next_ordinal += 1;
        }
        Ok(())
    }
}
