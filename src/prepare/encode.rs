//! Encodes a chunk: closed groups of pictures of a fixed length, no B-frames, one thread.

use super::error::VideoFailure;
use super::mux;
use crate::data::manifest::{Chunk, Settings};
use ffmpeg_next::codec::{self, encoder, threading};
use ffmpeg_next::frame::Video as Frame;
use ffmpeg_next::{Dictionary, Packet, Rational, ffi, format, picture};

/// FFmpeg's names of the encoders that can be asked for.
pub const X264: &str = "libx264";
pub const MPEG4: &str = "mpeg4";

/// x264's own names, from the fastest.
pub const PRESETS: [&str; 10] =
    ["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo"];

/// Defaults of the two scales of quality.
pub const X264_CRF: u32 = 24;
pub const MPEG4_QUANTISER: u32 = 6;

/// Whether FFmpeg has an encoder of this name that we know how to use.
pub fn exists(codec: &str) -> bool {
    [X264, MPEG4].contains(&codec) && encoder::find_by_name(codec).is_some()
}

/// What makes H.264 fast to decode (x264's `tune=fastdecode`): together 38% of the time to read a clip, for 13% more bytes
/// and 0.4 dB; see "Prepared videos" in `benches/NOTES.md`.
const X264_PARAMS: &str = "no-deblock=1:cabac=0:weightp=0";

/// Colours of a source, written into its chunks as they are.
#[derive(Clone, Copy, PartialEq)]
pub struct Colours {
    pub primaries: ffi::AVColorPrimaries,
    pub transfer: ffi::AVColorTransferCharacteristic,
    pub matrix: ffi::AVColorSpace,
    pub range: ffi::AVColorRange,
    pub chroma: ffi::AVChromaLocation,
}

/// What all chunks of a video have in common.
#[derive(Clone, PartialEq)]
pub struct Format {
    pub width: u32,
    pub height: u32,
    pub pixel: format::Pixel,
    pub fps: [u32; 2],
    pub colours: Colours,
}

/// A chunk in the making.
pub struct Encoder {
    encoder: encoder::Video,
    time_base: Rational,
    gop: u32,
    /// MPEG-4's quantiser, as FFmpeg scales it.
    quality: i32,
    packets: Vec<Packet>,
    frames: u32,
}

/// A finished chunk.
pub struct Encoded {
    pub file: Vec<u8>,
    pub chunk: Chunk,
}

impl Encoder {
    pub fn new(settings: &Settings, format: &Format) -> Result<Self, VideoFailure> {
        let refused = |error| VideoFailure::refused("encoder", &format!("open the encoder {}", settings.codec), error);
        let codec =
            encoder::find_by_name(&settings.codec).ok_or_else(|| refused(ffmpeg_next::Error::EncoderNotFound))?;
        let mut context = codec::context::Context::new_with_codec(codec);
        // One thread: videos are prepared beside each other. The same frames then give the same pictures; x264 was seen to code
        // them in a byte more or less once in many runs, where two ways cost the same.
        context.set_threading(threading::Config::count(1));
        let mut video = context.encoder().video().map_err(refused)?;
        let rate = Rational(format.fps[0] as i32, format.fps[1] as i32);
        video.set_width(format.width);
        video.set_height(format.height);
        video.set_format(format.pixel);
        video.set_time_base(rate.invert());
        video.set_frame_rate(Some(rate));
        video.set_aspect_ratio(Rational(1, 1));
        video.set_gop(settings.gop);
        video.set_max_b_frames(0);
        let quality = settings.quality as i32 * ffi::FF_QP2LAMBDA;
        let mut flags = codec::Flags::GLOBAL_HEADER | codec::Flags::CLOSED_GOP;
        let mut options = Dictionary::new();
        // Key frames where the length of a group says, not where pictures change.
        if settings.codec == X264 {
            options.set("preset", &settings.preset);
            options.set("crf", &settings.quality.to_string());
            let gop = settings.gop;
            options
                .set("x264-params", &format!("keyint={gop}:min-keyint={gop}:scenecut=0:bframes=0:ref=1:{X264_PARAMS}"));
        } else {
            options.set("sc_threshold", "1000000000");
            flags |= codec::Flags::QSCALE;
            video.set_global_quality(quality);
        }
        video.set_flags(flags);
        let colours = &format.colours;
        // SAFETY: plain fields of a context that is not open yet.
        unsafe {
            let context = &mut *video.as_mut_ptr();
            context.color_primaries = colours.primaries;
            context.color_trc = colours.transfer;
            context.colorspace = colours.matrix;
            context.color_range = colours.range;
            context.chroma_sample_location = colours.chroma;
        }
        let encoder = video.open_with(options).map_err(refused)?;
        Ok(Self { encoder, time_base: rate.invert(), gop: settings.gop, quality, packets: Vec::new(), frames: 0 })
    }

    /// Encodes the next frame, which must be of the chunk's format.
    pub fn push(&mut self, frame: &mut Frame) -> Result<(), VideoFailure> {
        frame.set_pts(Some(self.frames.into()));
        frame.set_kind(picture::Type::None);
        // SAFETY: a plain field of an allocated frame. MPEG-4 takes its quantiser from each picture; x264 does not look.
        unsafe { (*frame.as_mut_ptr()).quality = self.quality };
        self.encoder.send_frame(frame).map_err(|error| VideoFailure::refused("encoder", "encode a frame", error))?;
        self.frames += 1;
        self.drain();
        Ok(())
    }

    pub fn frames(&self) -> u32 {
        self.frames
    }

    fn drain(&mut self) {
        let mut packet = Packet::empty();
        while self.encoder.receive_packet(&mut packet).is_ok() {
            self.packets.push(std::mem::replace(&mut packet, Packet::empty()));
        }
    }

    /// Ends the chunk, and checks that the encoder did what it was asked.
    pub fn finish(mut self) -> Result<Encoded, VideoFailure> {
        self.encoder.send_eof().map_err(|error| VideoFailure::refused("encoder", "end a chunk", error))?;
        self.drain();
        let key = |number: usize| number.is_multiple_of(self.gop as usize);
        let as_asked = self.packets.iter().enumerate().all(|(number, packet)| packet.is_key() == key(number));
        if self.packets.len() != self.frames as usize || !as_asked {
            let keys = self.packets.iter().filter(|packet| packet.is_key()).count();
            return Err(VideoFailure::bad(
                "encoder",
                format!(
                    "{} frames became {} packets with {keys} key frames, expected one a frame and every {}th a key frame",
                    self.frames,
                    self.packets.len(),
                    self.gop
                ),
            ));
        }
        let file = mux::mp4(&mut self.packets, &self.encoder, self.time_base)
            .map_err(|error| VideoFailure::refused("encoder", "make an MP4 file of a chunk", error))?;
        let (bytes, crc32c) = (file.len() as u64, crc32c::crc32c(&file));
        Ok(Encoded { file, chunk: Chunk { frames: self.frames, bytes, crc32c, key_every: self.gop } })
    }
}
