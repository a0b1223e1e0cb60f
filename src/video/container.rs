//! An open video file: its demuxer, and what it tells about the video stream.

use std::ffi::{CStr, CString, c_void};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use ffmpeg_next::codec::packet::side_data::Type as SideData;
use ffmpeg_next::ffi;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::{Dictionary, Error, Packet, Stream, format};

use super::VideoError;
use super::bitstream::{Framing, Syntax};
use super::cache::Stamp;
use super::index::Mistrust;
use super::orientation::Orientation;
use super::sps::Sequence;

/// A call that takes longer than this ends with [`VideoError::Timeout`]; the slowest honest work, counting the
/// frames of an hour-long file that cannot be indexed, takes less.
pub const CALL_LIMIT: Duration = Duration::from_secs(120);

/// How often the demuxer may ask to be called again without giving anything.
const MAX_RETRIES: u32 = 100;

/// When the current call must be over, in ms since the program's first video; read by FFmpeg while it blocks.
#[derive(Default)]
struct Deadline(AtomicU64);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Deadline {
    fn set(&self) {
        let end = START.elapsed() + CALL_LIMIT;
        self.0.store(end.as_millis() as u64, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        START.elapsed().as_millis() as u64 > self.0.load(Ordering::Relaxed)
    }
}

/// FFmpeg's interrupt callback: 1 stops a blocking operation.
unsafe extern "C" fn interrupted(deadline: *mut c_void) -> i32 {
    // SAFETY: the pointer is the `Deadline` of the container that registered this callback, which outlives it.
    let deadline = unsafe { &*deadline.cast_const().cast::<Deadline>() };
    i32::from(deadline.is_over())
}

/// Whether libavformat decodes the first pictures to learn what the container does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probing {
    /// As the ffmpeg program does.
    Always,
    /// Not where header and parameter set tell all.
    WhereNeeded,
}

/// A demuxer on the video stream of a file.
pub struct Container {
    // Dropped before the deadline that its callback reads.
    input: Input,
    deadline: Arc<Deadline>,
    path: PathBuf,
    stream: usize,
    stamp: Stamp,
    probed: bool,
}

impl Container {
    pub fn open(path: &Path, probing: Probing) -> Result<Container, VideoError> {
        set_up_ffmpeg();
        let unreadable = |reason: String| VideoError::Unreadable { path: path.to_owned(), reason };
        let stamp = match fs::metadata(path) {
            Ok(found) if found.is_file() => Stamp::new(&found),
            Ok(_) => return Err(unreadable("not a regular file".into())),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(VideoError::Missing { path: path.to_owned() });
            }
            Err(error) => return Err(unreadable(error.to_string())),
        };
        // The system's own message for a file without permission says more than FFmpeg's.
        File::open(path).map_err(|error| unreadable(error.to_string()))?;
        let deadline = Arc::new(Deadline::default());
        deadline.set();
        let (mut input, probed) = open_input(path, &deadline, probing).map_err(|error| match error {
            Error::Exit => timeout(path, "opening"),
            error => unreadable(error.to_string()),
        })?;
        let stream = video_stream(&mut input).ok_or_else(|| VideoError::NoVideoStream { path: path.to_owned() })?;
        Ok(Container { input, deadline, path: path.to_owned(), stream, stamp, probed })
    }

    /// Tells this state of the file from any other.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    pub fn is_probed(&self) -> bool {
        self.probed
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts the time limit of a call anew.
    pub fn start_clock(&self) {
        self.deadline.set();
    }

    /// # Errors
    /// `Timeout` once the call has lasted too long.
    pub fn check_clock(&self, operation: &'static str) -> Result<(), VideoError> {
        if self.deadline.is_over() {
            return Err(timeout(&self.path, operation));
        }
        Ok(())
    }

    pub fn stream(&self) -> Stream<'_> {
        // SAFETY: the index was found among this context's streams, which never shrink.
        unsafe { Stream::wrap(&self.input, self.stream) }
    }

    pub(super) fn raw_stream(&self) -> *mut ffi::AVStream {
        // SAFETY: as in `stream`.
        unsafe { *(*self.input.as_ptr()).streams.add(self.stream) }
    }

    /// The demuxer's short name, such as `mov,mp4,m4a,3gp,3g2,mj2`.
    pub fn format(&self) -> &str {
        // SAFETY: an open input has a format, whose name is a static string.
        let name = unsafe { CStr::from_ptr((*(*self.input.as_ptr()).iformat).name) };
        name.to_str().unwrap_or("")
    }

    /// Reads the next packet of the video stream; false at the end.
    pub fn read_packet(&mut self, packet: &mut Packet) -> Result<bool, VideoError> {
        let mut num_retries = 0;
        loop {
            self.check_clock("demuxing")?;
            // `av_read_frame` overwrites the packet; what it held is let go here.
            *packet = Packet::empty();
            match packet.read(&mut self.input) {
                Ok(()) if packet.stream() == self.stream => return Ok(true),
                Ok(()) => {}
                Err(Error::Exit) => return Err(timeout(&self.path, "demuxing")),
                Err(Error::Other { errno }) if errno == ffmpeg_next::error::EAGAIN => {
                    num_retries += 1;
                    if num_retries > MAX_RETRIES {
                        return Ok(false);
                    }
                }
                // The ffmpeg program takes any other error for the end, too.
                Err(_) => return Ok(false),
            }
        }
    }

    /// Moves to a key frame at or before `timestamp`; false when the demuxer cannot.
    pub fn seek(&mut self, timestamp: i64) -> bool {
        // SAFETY: a live context and one of its streams.
        let result = unsafe {
            ffi::av_seek_frame(self.input.as_mut_ptr(), self.stream as i32, timestamp, ffi::AVSEEK_FLAG_BACKWARD)
        };
        result >= 0
    }

    /// Width and height in pixels as stored; 0 when unknown.
    pub fn size(&self) -> (u32, u32) {
        // SAFETY: every stream has codec parameters.
        let (width, height) = unsafe {
            let parameters = &*(*self.raw_stream()).codecpar;
            (parameters.width, parameters.height)
        };
        (width.max(0) as u32, height.max(0) as u32)
    }

    /// The number of frames that the container's header promises; 0 when it makes no promise.
    pub fn declared_frames(&self) -> u64 {
        u64::try_from(self.stream().frames()).unwrap_or(0)
    }

    /// Average frames per second: the container's word, else `num_frames` over the duration, else 0.
    pub fn fps(&self, num_frames: u64) -> f64 {
        let stream = self.stream();
        let average = f64::from(stream.avg_frame_rate());
        if average.is_finite() && average > 0.0 {
            return average;
        }
        let duration_s = stream.duration().max(0) as f64 * f64::from(stream.time_base());
        let average = num_frames as f64 / duration_s;
        if num_frames > 1 && average.is_finite() && average > 0.0 {
            return average;
        }
        let nominal = f64::from(stream.rate());
        if nominal.is_finite() && nominal > 0.0 { nominal } else { 0.0 }
    }

    /// How the stored pictures are turned for display.
    pub fn orientation(&self) -> Result<Orientation, VideoError> {
        let stream = self.stream();
        let matrix = stream.side_data().find(|data| data.kind() == SideData::DisplayMatrix);
        let Some(matrix) = matrix.filter(|matrix| matrix.data().len() >= 36) else {
            return Ok(Orientation::default());
        };
        let number = |at: usize| {
            let bytes = &matrix.data()[4 * at..4 * at + 4];
            bytes.try_into().map_or(0, i32::from_ne_bytes)
        };
        let matrix = [number(0), number(1), number(3), number(4)];
        Orientation::from_matrix(matrix).ok_or_else(|| VideoError::Rotation { path: self.path.clone(), matrix })
    }

    /// The codec's own header.
    pub fn config(&self) -> &[u8] {
        // SAFETY: every stream has codec parameters, whose `extradata` holds `extradata_size` bytes.
        unsafe { config(&*(*self.raw_stream()).codecpar) }
    }

    /// Whether packets are protected by a key that we do not have.
    pub fn is_encrypted(&self, packet: &Packet) -> bool {
        packet.side_data().any(|data| data.kind() == SideData::EncryptionInfo)
    }

    /// How to read the stream's packets, if one packet can be told to be one picture.
    pub fn syntax(&self) -> Result<Syntax, Mistrust> {
        // SAFETY: every stream has codec parameters; `extradata` holds `extradata_size` bytes; codec
        // descriptors are static.
        let (parameters, config, intra_only) = unsafe {
            let parameters = &*(*self.raw_stream()).codecpar;
            let config = config(parameters);
            let descriptor = ffi::avcodec_descriptor_get(parameters.codec_id).as_ref();
            let intra = |d: &ffi::AVCodecDescriptor| d.props & ffi::AV_CODEC_PROP_INTRA_ONLY;
            (parameters, config, descriptor.is_some_and(|d| intra(d) != 0))
        };
        use ffi::{AVCodecID as Id, AVFieldOrder as Fields};
        if !matches!(parameters.field_order, Fields::AV_FIELD_UNKNOWN | Fields::AV_FIELD_PROGRESSIVE) {
            return Err("interlaced: a packet may be half a picture");
        }
        match parameters.codec_id {
            Id::AV_CODEC_ID_H264 => Ok(Syntax::H264(Framing::from_config(config, 4))),
            Id::AV_CODEC_ID_HEVC => Ok(Syntax::Hevc(Framing::from_config(config, 21))),
            Id::AV_CODEC_ID_MPEG4 => Ok(Syntax::Mpeg4),
            Id::AV_CODEC_ID_VP8 => Ok(Syntax::Vp8),
            Id::AV_CODEC_ID_VP9 => Ok(Syntax::Vp9),
            Id::AV_CODEC_ID_AV1 => Ok(Syntax::OneToOne),
            _ if intra_only => Ok(Syntax::OneToOne),
            _ => Err("a codec whose packets are not known to be one picture each"),
        }
    }

    /// # Errors
    /// `Encrypted`.
    pub fn refuse_encrypted(&self, packet: &Packet) -> Result<(), VideoError> {
        if self.is_encrypted(packet) {
            return Err(VideoError::Encrypted { path: self.path.clone() });
        }
        Ok(())
    }
}

fn timeout(path: &Path, operation: &'static str) -> VideoError {
    VideoError::Timeout { path: path.to_owned(), operation, limit_s: CALL_LIMIT.as_secs() }
}

/// Most that FFmpeg may take at once. libavformat keeps 24 bytes of every sample that a table names, be it there or not,
/// so that a few damaged bytes ask for gigabytes: this is 100 hours at 60 frames/s. The largest picture takes as much.
const MAX_BLOCK_BYTES: usize = 512 << 20;

/// FFmpeg reports harmless oddities of files on stderr; what matters comes back as an error value.
fn set_up_ffmpeg() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        ffmpeg_next::log::set_level(ffmpeg_next::log::Level::Quiet);
        // Without this table the wrapper's errors print as nothing.
        ffmpeg_next::util::error::register_all();
        // SAFETY: sets a number that allocations look at.
        unsafe { ffi::av_max_alloc(MAX_BLOCK_BYTES) };
    });
}

/// The demuxer, and whether it was probed.
fn open_input(path: &Path, deadline: &Arc<Deadline>, probing: Probing) -> Result<(Input, bool), Error> {
    // The prefix keeps a colon in a name from being read as a protocol.
    let mut url = b"file:".to_vec();
    url.extend(path.as_os_str().as_encoded_bytes());
    let url = CString::new(url).map_err(|_| Error::InvalidData)?;
    let mut options = Dictionary::new();
    // A playlist must not reach for other machines.
    options.set("protocol_whitelist", "file");
    // SAFETY: `avformat_open_input` takes the context over and frees it when it fails; the deadline lives as
    // long as the container that owns the context; the dictionary is taken out of its wrapper and freed here.
    unsafe {
        let mut context = ffi::avformat_alloc_context();
        if context.is_null() {
            return Err(Error::Other { errno: ffmpeg_next::error::ENOMEM });
        }
        (*context).interrupt_callback =
            ffi::AVIOInterruptCB { callback: Some(interrupted), opaque: Arc::as_ptr(deadline).cast_mut().cast() };
        let mut options = options.disown();
        let result = ffi::avformat_open_input(&mut context, url.as_ptr(), ptr::null_mut(), &mut options);
        ffi::av_dict_free(&mut options);
        if result < 0 {
            return Err(Error::from(result));
        }
        let input = format::context::Input::wrap(context);
        if probing == Probing::WhereNeeded && header_tells_all(&input) {
            return Ok((input, false));
        }
        let result = ffi::avformat_find_stream_info(context, ptr::null_mut());
        if result < 0 {
            return Err(Error::from(result));
        }
        Ok((input, true))
    }
}

/// Whether the header of an MP4 or MOV file leaves nothing to learn from packets: a single video stream, of H.264,
/// of whole frames, whose parameter set gives the size that the container gives, and says how far pictures are reordered.
fn header_tells_all(input: &Input) -> bool {
    // SAFETY: a live context; indices stay below `nb_streams`; every stream has codec parameters, whose `extradata`
    // holds `extradata_size` bytes; names of formats are static.
    unsafe {
        let context = &*input.as_ptr();
        let is_mov = CStr::from_ptr((*context.iformat).name).to_bytes().starts_with(b"mov");
        let streams = (0..context.nb_streams as usize).map(|at| &**context.streams.add(at));
        let mut videos = streams.filter(|s| (*s.codecpar).codec_type == ffi::AVMediaType::AVMEDIA_TYPE_VIDEO);
        let (Some(stream), None, true) = (videos.next(), videos.next(), is_mov) else {
            return false;
        };
        let parameters = &*stream.codecpar;
        let rate = stream.avg_frame_rate;
        if parameters.codec_id != ffi::AVCodecID::AV_CODEC_ID_H264 || rate.num <= 0 || rate.den <= 0 {
            return false;
        }
        Sequence::from_config(config(parameters)).is_some_and(|sequence| {
            let size = (i64::from(sequence.width), i64::from(sequence.height));
            let same_size = size == (i64::from(parameters.width), i64::from(parameters.height));
            same_size && sequence.progressive && sequence.states_reordering
        })
    }
}

/// # Safety
/// `extradata` is null or holds `extradata_size` bytes.
unsafe fn config(parameters: &ffi::AVCodecParameters) -> &[u8] {
    match usize::try_from(parameters.extradata_size) {
        // SAFETY: the caller's word.
        Ok(len) if !parameters.extradata.is_null() => unsafe { std::slice::from_raw_parts(parameters.extradata, len) },
        _ => &[],
    }
}

/// The stream that FFmpeg holds for the main one; all others are switched off. Cover pictures do not count.
fn video_stream(input: &mut Input) -> Option<usize> {
    // SAFETY: a live context; the indices stay below `nb_streams`.
    unsafe {
        let context = input.as_mut_ptr();
        let best = ffi::av_find_best_stream(context, ffi::AVMediaType::AVMEDIA_TYPE_VIDEO, -1, -1, ptr::null_mut(), 0);
        let best = usize::try_from(best).ok()?;
        for at in 0..(*context).nb_streams as usize {
            if at != best {
                (**(*context).streams.add(at)).discard = ffi::AVDiscard::AVDISCARD_ALL;
            }
        }
        let disposition = (**(*context).streams.add(best)).disposition;
        let is_cover = disposition & ffi::AV_DISPOSITION_ATTACHED_PIC != 0;
        (!is_cover).then_some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs real files: few encoders write every kind of header.
    #[test]
    fn a_header_that_tells_all_tells_what_probing_finds() {
        let data = std::env::var_os("AVION_SHARED_DATA")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
        let mut num_unprobed = 0;
        for folder in ["clips", "hard"] {
            let Ok(files) = fs::read_dir(data.join(folder)) else {
                println!("SKIPPED: needs ../shared/data");
                return;
            };
            for path in files.map(|file| file.unwrap().path()) {
                let Ok(quick) = Container::open(&path, Probing::WhereNeeded) else { continue };
                if quick.is_probed() {
                    continue;
                }
                num_unprobed += 1;
                let probed = Container::open(&path, Probing::Always).unwrap();
                let facts = |c: &Container| {
                    let syntax = c.syntax().map_err(|_| ());
                    (c.size(), c.fps(0), c.declared_frames(), c.orientation(), syntax, c.stream, c.config().to_vec())
                };
                assert_eq!(facts(&quick), facts(&probed), "{}", path.display());
            }
        }
        println!("{num_unprobed} files were not probed");
        assert!(num_unprobed > 5, "{num_unprobed}");
    }
}
