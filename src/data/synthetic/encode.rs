//! Writes short videos with FFmpeg's libraries.

use ffmpeg_next as ffmpeg;
use std::path::{Path, PathBuf};

use ffmpeg::codec::{self, encoder, threading};
use ffmpeg::software::scaling;
use ffmpeg::{Dictionary, Packet, Rational, format, frame};

/// Frames between key frames: random access decodes at most so many in vain.
const KEY_FRAME_EVERY: u32 = 12;

/// MPEG-4 quantiser, 1 (best) to 31.
const MPEG4_QUANTISER: i32 = 3;

const X264: &str = "libx264";

/// x264 constant rate factor, 0 (lossless) to 51.
const X264_CRF: &str = "18";

/// Why a video could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("video of {width} x {height} px at {fps} frames/s: expected even sizes and a rate above 0: {}", path.display())]
    Shape { path: PathBuf, width: u32, height: u32, fps: f64 },
    #[error("frame {frame} has {found} bytes, expected {expected}: {}", path.display())]
    Frame { path: PathBuf, frame: i64, found: usize, expected: usize },
    #[error("expected a path in UTF-8 with a file name: {}", path.display())]
    Path { path: PathBuf },
    #[error("this FFmpeg has no encoder for H.264 or MPEG-4")]
    NoEncoder,
    #[error("cannot {action}: {source}: {}", path.display())]
    Encode { path: PathBuf, action: &'static str, source: ffmpeg::Error },
    #[error("cannot name the finished video: {source}: {}", path.display())]
    Rename { path: PathBuf, source: std::io::Error },
}

/// Encodes `frames`, each `[height, width, 3]` RGB bytes, as a video at `fps` frames/s; the container follows from
/// the path's extension. Uses libx264 where FFmpeg has it, else MPEG-4; no B-frames. The file appears under its
/// name only once it is whole. Returns the number of frames.
///
/// # Errors
/// Odd or zero sizes, frames of another size, no encoder, and whatever FFmpeg refuses.
pub fn write_video<F: AsRef<[u8]>>(
    path: &Path,
    width: u32,
    height: u32,
    fps: f64,
    frames: impl IntoIterator<Item = F>,
) -> Result<u64, WriteError> {
    at(path, "start FFmpeg", ffmpeg::init())?;
    // Its encoders print a banner a file; what goes wrong is in the errors.
    ffmpeg::log::set_level(ffmpeg::log::Level::Quiet);
    let codec = encoder::find_by_name(X264).or_else(|| encoder::find(codec::Id::MPEG4)).ok_or(WriteError::NoEncoder)?;
    write_with(codec, path, width, height, fps, frames)
}

fn write_with<F: AsRef<[u8]>>(
    codec: ffmpeg::Codec,
    path: &Path,
    width: u32,
    height: u32,
    fps: f64,
    frames: impl IntoIterator<Item = F>,
) -> Result<u64, WriteError> {
    let even = |size: u32| size > 0 && size.is_multiple_of(2);
    if !(even(width) && even(height) && fps > 0.0 && fps <= 600.0) {
        return Err(WriteError::Shape { path: path.to_owned(), width, height, fps });
    }
    // FFmpeg's binding takes UTF-8 only.
    let (Some(name), true) = (path.file_name(), path.to_str().is_some()) else {
        return Err(WriteError::Path { path: path.to_owned() });
    };
    // Keeps the extension, which names the container.
    let mut unfinished = std::ffi::OsString::from(".unfinished-");
    unfinished.push(name);
    let unfinished = path.with_file_name(unfinished);

    let written = Writer::new(codec, &unfinished, width, height, fps)
        .and_then(|writer| writer.write_all(frames))
        .inspect_err(|_| {
            // What failed is reported; a file that cannot be removed either is only litter.
            let _ = std::fs::remove_file(&unfinished);
        })?;
    std::fs::rename(&unfinished, path).map_err(|source| WriteError::Rename { path: path.to_owned(), source })?;
    Ok(written)
}

/// Gives errors the action and the path.
fn at<T>(path: &Path, action: &'static str, result: Result<T, ffmpeg::Error>) -> Result<T, WriteError> {
    result.map_err(|source| WriteError::Encode { path: path.to_owned(), action, source })
}

struct Writer {
    path: PathBuf,
    output: format::context::Output,
    encoder: encoder::Video,
    scaler: scaling::Context,
    rgb: frame::Video,
    yuv: frame::Video,
    stream: usize,
    /// Of the encoder: a frame.
    time_base: Rational,
    written: i64,
}

impl Writer {
    fn new(codec: ffmpeg::Codec, path: &Path, width: u32, height: u32, fps: f64) -> Result<Self, WriteError> {
        let mut output = at(path, "create the file", format::output(path))?;

        let mut context = codec::context::Context::new_with_codec(codec);
        // One thread, so that the same frames give the same file.
        context.set_threading(threading::Config::count(1));
        let mut video = at(path, "set up the encoder", context.encoder().video())?;
        let rate = frame_rate(fps);
        let time_base = rate.invert();
        video.set_width(width);
        video.set_height(height);
        video.set_format(format::Pixel::YUV420P);
        video.set_time_base(time_base);
        video.set_frame_rate(Some(rate));
        video.set_gop(KEY_FRAME_EVERY);
        video.set_max_b_frames(0);
        let mut flags = codec::Flags::empty();
        if output.format().flags().contains(format::Flags::GLOBAL_HEADER) {
            flags |= codec::Flags::GLOBAL_HEADER;
        }
        let mut options = Dictionary::new();
        if codec.name() == X264 {
            options.set("preset", "veryfast");
            options.set("crf", X264_CRF);
        } else {
            flags |= codec::Flags::QSCALE;
            video.set_global_quality(MPEG4_QUANTISER * ffmpeg::ffi::FF_QP2LAMBDA);
        }
        video.set_flags(flags);
        let encoder = at(path, "open the encoder", video.open_with(options))?;

        let mut stream = at(path, "add a stream", output.add_stream(codec))?;
        stream.set_parameters(&encoder);
        stream.set_time_base(time_base);
        stream.set_avg_frame_rate(rate);
        let stream = stream.index();
        at(path, "write the header", output.write_header())?;

        let (rgb, yuv) = (format::Pixel::RGB24, format::Pixel::YUV420P);
        let flags = scaling::Flags::BICUBIC | scaling::Flags::ACCURATE_RND;
        let scaler = scaling::Context::get(rgb, width, height, yuv, width, height, flags);
        Ok(Self {
            path: path.to_owned(),
            output,
            encoder,
            scaler: at(path, "set up the colour conversion", scaler)?,
            rgb: frame::Video::new(rgb, width, height),
            yuv: frame::Video::new(yuv, width, height),
            stream,
            time_base,
            written: 0,
        })
    }

    fn write_all<F: AsRef<[u8]>>(mut self, frames: impl IntoIterator<Item = F>) -> Result<u64, WriteError> {
        for frame in frames {
            self.write(frame.as_ref())?;
        }
        at(&self.path, "end the encoding", self.encoder.send_eof())?;
        self.drain()?;
        at(&self.path, "end the file", self.output.write_trailer())?;
        Ok(self.written as u64)
    }

    /// `[height, width, 3]`.
    fn write(&mut self, pixels: &[u8]) -> Result<(), WriteError> {
        let row = self.rgb.width() as usize * 3;
        let expected = row * self.rgb.height() as usize;
        if pixels.len() != expected {
            return Err(WriteError::Frame {
                path: self.path.clone(),
                frame: self.written,
                found: pixels.len(),
                expected,
            });
        }
        let stride = self.rgb.stride(0);
        let rows = self.rgb.data_mut(0).chunks_mut(stride);
        for (to, from) in rows.zip(pixels.chunks_exact(row)) {
            to[..row].copy_from_slice(from);
        }
        let converted = self.scaler.run(&self.rgb, &mut self.yuv);
        at(&self.path, "convert a frame", converted)?;
        self.yuv.set_pts(Some(self.written));
        // SAFETY: a plain field of an allocated frame. MPEG-4 takes its quantiser from each picture; x264 does not look.
        unsafe { (*self.yuv.as_mut_ptr()).quality = MPEG4_QUANTISER * ffmpeg::ffi::FF_QP2LAMBDA };
        at(&self.path, "encode a frame", self.encoder.send_frame(&self.yuv))?;
        self.written += 1;
        self.drain()
    }

    /// Writes the packets that are ready.
    fn drain(&mut self) -> Result<(), WriteError> {
        let mut packet = Packet::empty();
        while self.encoder.receive_packet(&mut packet).is_ok() {
            packet.set_stream(self.stream);
            packet.set_duration(1);
            // Writing the header may have changed the stream's time base.
            let time_base = self.output.stream(self.stream).map_or(self.time_base, |stream| stream.time_base());
            packet.rescale_ts(self.time_base, time_base);
            let written = packet.write_interleaved(&mut self.output);
            at(&self.path, "write a packet", written)?;
        }
        Ok(())
    }
}

/// `fps` as a fraction with a numerator that MPEG-4 can store (16 bit).
fn frame_rate(fps: f64) -> Rational {
    if fps.fract() == 0.0 { Rational(fps as i32, 1) } else { Rational((fps * 100.0).round() as i32, 100).reduce() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::{CropBox, VideoReader};

    /// FFmpeg as we link it statically has this one only.
    #[test]
    fn mpeg4_is_good_enough() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ramp.mp4");
        let frame = |number: usize| -> Vec<u8> {
            let pixel = |i: usize| [i % 64 * 4, i / 64 * 4, 12 * number].map(|value| value as u8);
            (0..64 * 64).flat_map(pixel).collect()
        };
        let frames: Vec<Vec<u8>> = (0..20).map(frame).collect();
        ffmpeg::init().unwrap();
        let codec = encoder::find(codec::Id::MPEG4).unwrap();
        assert_eq!(write_with(codec, &path, 64, 64, 29.97, &frames).unwrap(), 20);

        let mut video = VideoReader::open(&path).unwrap();
        assert_eq!((video.num_frames(), video.width()), (20, 64));
        assert!((video.fps() - 29.97).abs() < 1e-3, "{}", video.fps());
        let mut read = vec![0; 20 * 64 * 64 * 3];
        let numbers: Vec<u64> = (0..20).collect();
        let whole = CropBox::full(64, 64);
        video.read(&numbers, whole, 64, false, &mut read).unwrap();
        let difference: f64 = read.iter().zip(frames.concat()).map(|(a, b)| f64::from(a.abs_diff(b))).sum();
        let mean = difference / read.len() as f64;
        assert!(mean < 3.0, "{mean}");
    }

    #[test]
    fn frame_rates_fit_the_container() {
        assert_eq!(frame_rate(30.0), Rational(30, 1));
        assert_eq!(frame_rate(29.97), Rational(2997, 100));
        assert_eq!(frame_rate(12.5), Rational(25, 2));
        assert_eq!(frame_rate(0.1), Rational(1, 10));
    }
}
