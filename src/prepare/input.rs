//! A source opened: what it is, and its frames in order, on the constant rate that its chunks will have.

use super::error::{VideoFailure, fault};
use super::picture::Shape;
use super::rate;
use crate::data::manifest::Failed;
use crate::video::decoder::MAX_PIXELS;
use crate::video::orientation::Orientation;
use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec::packet::side_data::Type as SideData;
use ffmpeg_next::frame::Video as Frame;
use ffmpeg_next::{Dictionary, Error, Packet, Rational, decoder, ffi, format};
use std::path::Path;
use std::ptr;

/// Smaller pictures are refused, as the reader refuses them.
const MIN_SIDE_PX: u32 = 16;

/// Pixels at most so many times as wide as high, or as high as wide: cameras have 4/3 or 2.
const MOST_ASPECT: f64 = 16.0;

/// A picture is shown again over a hole of at most so many seconds; a longer one is no hole but a fault.
const LONGEST_HOLE_S: f64 = 60.0;

/// What the container tells of a source.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    pub fps: [u32; 2],
    /// 0 when unknown.
    pub duration_s: f64,
    pub shape: Shape,
}

/// A source that is read from the start to the end.
pub struct Input {
    input: format::context::Input,
    decoder: decoder::Opened,
    stream: usize,
    time_base: Rational,
    pub facts: Facts,
    packet: Packet,
    frame: Frame,
    /// Time of the first frame; all others count from it.
    first: Option<i64>,
    /// Number of the last frame.
    last: i64,
    at_end: bool,
    /// Packets and pictures that could not be decoded.
    pub errors: u64,
}

impl Input {
    pub fn open(path: &Path) -> Result<Self, Failed> {
        set_up();
        let unreadable = |error: Error| fault("unreadable", error.to_string());
        let metadata = std::fs::metadata(path).map_err(|error| fault("unreadable", error.to_string()))?;
        if metadata.len() == 0 {
            return Err(fault("empty", "the file is empty"));
        }
        // FFmpeg's binding takes UTF-8 only. The prefix keeps a colon from being read as a protocol.
        let url = path.to_str().filter(|path| !path.contains('\0')).map(|path| format!("file:{path}"));
        let url = url.ok_or_else(|| fault("name", "the path is not UTF-8"))?;
        let mut options = Dictionary::new();
        // A playlist must not reach for other machines.
        options.set("protocol_whitelist", "file");
        let mut input = format::input_with_dictionary(&url, options).map_err(unreadable)?;
        let stream = main_stream(&mut input).ok_or_else(|| fault("no-video-stream", "no video stream"))?;
        let video = input.stream(stream).ok_or_else(|| fault("no-video-stream", "no video stream"))?;
        let parameters = video.parameters();
        let id = parameters.id();
        let codec = decoder::find(id)
            .ok_or_else(|| fault("no-decoder", format!("this FFmpeg does not decode {}", id.name())))?;
        let mut context = ffmpeg::codec::Context::from_parameters(parameters).map_err(unreadable)?;
        context.set_threading(ffmpeg::threading::Config::count(1));
        // SAFETY: a plain field of a context that is not open yet.
        unsafe { (*context.as_mut_ptr()).max_pixels = MAX_PIXELS };
        let time_base = video.time_base();
        let facts = Facts { fps: frame_rate(&video)?, duration_s: duration_s(&input, &video), shape: shape(&video)? };
        let decoder = context.decoder().open_as(codec).map_err(unreadable)?;
        let (packet, frame) = (Packet::empty(), Frame::empty());
        Ok(Self {
            input,
            decoder,
            stream,
            time_base,
            facts,
            packet,
            frame,
            first: None,
            last: -1,
            at_end: false,
            errors: 0,
        })
    }

    /// Begins near a time instead, for a sample; frames are still numbered from 0.
    pub fn skip_to(&mut self, time_s: f64) {
        let time = (time_s * f64::from(ffi::AV_TIME_BASE)) as i64;
        // A source that cannot be searched is read from its start.
        let _ = self.input.seek(time, ..time);
        self.decoder.flush();
    }

    /// Decodes the next picture into `frame`, and gives its number at the constant rate, never falling; `None` at the end.
    pub fn next(&mut self, frame: &mut Frame) -> Result<Option<u64>, VideoFailure> {
        loop {
            match self.decoder.receive_frame(&mut self.frame) {
                Ok(()) => break,
                Err(Error::Eof) => return Ok(None),
                Err(Error::Other { errno }) if errno == ffmpeg::error::EAGAIN && !self.at_end => self.feed()?,
                Err(_) => {
                    self.errors += 1;
                    // A decoder that fails while it is drained would fail for ever.
                    if self.at_end {
                        return Ok(None);
                    }
                    self.feed()?;
                }
            }
        }
        std::mem::swap(frame, &mut self.frame);
        let number = match (frame.timestamp(), self.first) {
            (Some(time), Some(first)) => {
                let ticks = time.saturating_sub(first);
                rate::frame_number(ticks, [self.time_base.0, self.time_base.1], self.facts.fps)
            }
            (Some(time), None) => {
                self.first = Some(time);
                0
            }
            (None, _) => self.last + 1,
        };
        let number = number.max(self.last).max(0);
        let hole_s = (number - self.last.max(0)) as f64 * f64::from(self.facts.fps[1]) / f64::from(self.facts.fps[0]);
        if hole_s > LONGEST_HOLE_S {
            let reason =
                format!("no picture for {hole_s:.0} s after frame {}: times are broken, or most is damaged", self.last);
            return Err(VideoFailure::bad("hole", reason));
        }
        self.last = number;
        Ok(Some(number as u64))
    }

    fn feed(&mut self) -> Result<(), VideoFailure> {
        let mut retries = 0;
        loop {
            self.packet = Packet::empty();
            match self.packet.read(&mut self.input) {
                Ok(()) if self.packet.stream() != self.stream => {}
                Ok(()) => {
                    if self.packet.side_data().any(|data| data.kind() == SideData::EncryptionInfo) {
                        return Err(VideoFailure::bad("encrypted", "the video is encrypted"));
                    }
                    // An empty packet would mean the end to the decoder.
                    if self.packet.size() == 0 {
                        continue;
                    }
                    if self.decoder.send_packet(&self.packet).is_err() {
                        self.errors += 1;
                    }
                    return Ok(());
                }
                Err(Error::Other { errno }) if errno == ffmpeg::error::EAGAIN && retries < 100 => retries += 1,
                Err(error) => {
                    if error != Error::Eof {
                        self.errors += 1;
                    }
                    self.at_end = true;
                    if self.decoder.send_eof().is_err() {
                        self.errors += 1;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Whether what was read is less than the container promised; in words.
    pub fn cut_short(&self) -> Option<String> {
        let read_s = (self.last + 1) as f64 * f64::from(self.facts.fps[1]) / f64::from(self.facts.fps[0]);
        let promised_s = self.facts.duration_s;
        // Without an error the picture may end before the sound, or the last one stand for a while.
        let slack_s = if self.errors > 0 { (0.01 * promised_s).max(0.25) } else { (0.05 * promised_s).max(2.0) };
        (read_s + slack_s < promised_s)
            .then(|| format!("decoding ended after {read_s:.2} s of {promised_s:.2} s, with {} errors", self.errors))
    }
}

fn set_up() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // What matters comes back as an error value, and the encoders print a banner a chunk.
        ffmpeg::log::set_level(ffmpeg::log::Level::Quiet);
        ffmpeg::util::error::register_all();
    });
}

/// The stream that FFmpeg holds for the main one; all others are switched off. Cover pictures do not count.
fn main_stream(input: &mut format::context::Input) -> Option<usize> {
    let best = input.streams().best(ffmpeg::media::Type::Video)?.index();
    let count = input.streams().count();
    for at in (0..count).filter(|at| *at != best) {
        if let Some(mut stream) = input.stream_mut(at) {
            // SAFETY: a live stream of this input.
            unsafe { (*stream.as_mut_ptr()).discard = ffi::AVDiscard::AVDISCARD_ALL };
        }
    }
    let cover = input.stream(best)?.disposition().contains(format::stream::Disposition::ATTACHED_PIC);
    (!cover).then_some(best)
}

fn frame_rate(video: &ffmpeg::Stream) -> Result<[u32; 2], Failed> {
    let rate = |rate: Rational| [rate.0, rate.1].map(|term| u32::try_from(term).unwrap_or(0));
    let (nominal, mean) = (rate(video.rate()), rate(video.avg_frame_rate()));
    rate::constant_rate(nominal, mean)
        .ok_or_else(|| fault("no-frame-rate", format!("no frame rate: {nominal:?}, on average {mean:?}")))
}

fn duration_s(input: &format::context::Input, video: &ffmpeg::Stream) -> f64 {
    if video.duration() > 0 {
        return video.duration() as f64 * f64::from(video.time_base());
    }
    input.duration().max(0) as f64 / f64::from(ffi::AV_TIME_BASE)
}

/// Size, shape of pixels, and how pictures are turned.
fn shape(video: &ffmpeg::Stream) -> Result<Shape, Failed> {
    // SAFETY: a live stream with its parameters; the guess reads both.
    let (width, height, aspect) = unsafe {
        let stream = video.as_ptr().cast_mut();
        let parameters = &*(*stream).codecpar;
        let aspect = ffi::av_guess_sample_aspect_ratio(ptr::null_mut(), stream, ptr::null_mut());
        (parameters.width, parameters.height, aspect)
    };
    let [width, height] = [width, height].map(|side| u32::try_from(side).unwrap_or(0));
    let aspect = if aspect.num > 0 && aspect.den > 0 { f64::from(aspect.num) / f64::from(aspect.den) } else { 1.0 };
    check_shape([width, height], aspect)?;
    let matrix = video.side_data().find(|data| data.kind() == SideData::DisplayMatrix);
    let orientation = match matrix.as_ref().filter(|matrix| matrix.data().len() >= 36) {
        None => Orientation::default(),
        Some(matrix) => {
            let number = |at: usize| matrix.data()[4 * at..][..4].try_into().map_or(0, i32::from_ne_bytes);
            let matrix = [number(0), number(1), number(3), number(4)];
            Orientation::from_matrix(matrix)
                .ok_or_else(|| fault("rotation", format!("{matrix:?} turns by no multiple of 90 degrees")))?
        }
    };
    Ok(Shape { width, height, aspect, orientation })
}

/// Whether sizes make sense: a damaged header must not ask for all memory.
fn check_shape([width, height]: [u32; 2], aspect: f64) -> Result<(), Failed> {
    let size = format!("pictures of {width}x{height} px");
    if width.min(height) < MIN_SIDE_PX {
        return Err(fault("tiny", format!("{size} are below {MIN_SIDE_PX}x{MIN_SIDE_PX}")));
    }
    if u64::from(width) * u64::from(height) > MAX_PIXELS as u64 {
        return Err(fault("huge", format!("{size} are above {MAX_PIXELS} px")));
    }
    if !(1.0 / MOST_ASPECT..=MOST_ASPECT).contains(&aspect) {
        let reason = format!("pixels {aspect:.4} times as wide as high: expected 1/{MOST_ASPECT} to {MOST_ASPECT}");
        return Err(fault("aspect", reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_sizes_are_refused() {
        let kind = |size, aspect| check_shape(size, aspect).err().map(|failed| failed.kind);
        // Up to 8K, and the pixels of DV and of anamorphic film.
        for (size, aspect) in [([16, 16], 1.0), ([7680, 4320], 1.0), ([720, 576], 64.0 / 45.0), ([720, 480], 0.5)] {
            assert_eq!(kind(size, aspect), None, "{size:?} {aspect}");
        }
        for (size, aspect, expected) in [
            ([8, 480], 1.0, "tiny"),
            ([16_384, 16_384], 1.0, "huge"),
            ([u32::MAX, u32::MAX], 1.0, "huge"),
            ([640, 480], 255.0, "aspect"),
            ([640, 480], 1.0 / 65_535.0, "aspect"),
            ([640, 480], f64::from(i32::MAX), "aspect"),
        ] {
            assert_eq!(kind(size, aspect).as_deref(), Some(expected), "{size:?} {aspect}");
        }
    }
}
