//! A decoder on one thread, fed packet by packet.

use std::cell::RefCell;

use ffmpeg_next::codec::{Context, Id};
use ffmpeg_next::decoder::Opened;
use ffmpeg_next::frame::Video as Frame;
use ffmpeg_next::packet::Mut as PacketMut;
use ffmpeg_next::{Discard, Error, Packet, ffi};

use super::VideoError;
use super::container::Container;
use super::hardware::{self, Device, Download};
use super::index::Mistrust;
use crate::config::recipe::VideoDecoder;

/// Larger pictures are refused by libavcodec: a damaged header must not ask for all memory. 8K is half of it.
pub const MAX_PIXELS: i64 = 1 << 26;

pub struct Decoder {
    opened: Opened,
    frame: Frame,
    download: Download,
    /// Whether NVDEC decodes, as far as is known.
    on_device: bool,
    /// Whether pictures that nobody wants may stay within: to bring one out of NVDEC is to wait for it. From the first
    /// that has come from the device on.
    keeps_unwanted: bool,
    /// Set when others may have this decoder afterwards.
    key: Option<Key>,
}

/// What two streams have in common that one decoder can serve.
#[derive(PartialEq)]
struct Key {
    id: Id,
    size: (u32, u32),
    config: Vec<u8>,
    /// Whether it was opened for NVDEC.
    for_device: bool,
}

/// Decoders that a thread keeps for files to come.
const MAX_IDLE: usize = 2;

thread_local! {
    /// Their picture buffers stay allocated, and in the processor's cache.
    static IDLE: RefCell<Vec<Decoder>> = const { RefCell::new(Vec::new()) };
}

impl Decoder {
    /// A decoder that an earlier stream with the same headers left behind on this thread, or a new one. It must be
    /// flushed before the first packet.
    ///
    /// Only where libavcodec keeps nothing between streams but what those headers say: H.264 and HEVC.
    pub fn reuse(container: &Container, decoder: VideoDecoder) -> Result<Decoder, VideoError> {
        let device = match decoder {
            VideoDecoder::Cpu => None,
            VideoDecoder::Nvdec => hardware::device_for(container),
        };
        let id = container.stream().parameters().id();
        let config = container.config();
        if !matches!(id, Id::H264 | Id::HEVC) || config.is_empty() {
            return Decoder::open(container, device);
        }
        let for_device = device.is_some();
        let key = Some(Key { id, size: container.size(), config: config.to_vec(), for_device });
        let idle = IDLE.with_borrow_mut(|idle| {
            let at = idle.iter().position(|decoder| decoder.key == key)?;
            Some(idle.remove(at))
        });
        match idle {
            Some(mut decoder) => {
                if for_device && !decoder.on_device {
                    hardware::fell_back(container.path(), hardware::DECLINED);
                }
                decoder.skip_loop_filter(false);
                // SAFETY: a live context, between two streams.
                unsafe { (*decoder.opened.as_mut_ptr()).pkt_timebase = container.stream().time_base().into() };
                Ok(decoder)
            }
            None => Ok(Decoder { key, ..Decoder::open(container, device)? }),
        }
    }

    /// Leaves a decoder that has met no fault to the next stream.
    pub fn recycle(mut self) {
        if self.key.is_none() {
            return;
        }
        self.flush();
        // The device has few surfaces.
        self.frame = Frame::empty();
        // At the end of a thread there is no next stream.
        let _ = IDLE.try_with(|idle| {
            let mut idle = idle.borrow_mut();
            idle.push(self);
            if idle.len() > MAX_IDLE {
                idle.remove(0);
            }
        });
    }

    /// A new decoder; with a device, NVDEC decodes unless it declines.
    pub fn open(container: &Container, device: Option<&Device>) -> Result<Decoder, VideoError> {
        let path = container.path();
        let stream = container.stream();
        let parameters = stream.parameters();
        let id = parameters.id();
        let no_decoder = |_: Error| VideoError::NoDecoder { path: path.to_owned(), codec: id.name().to_owned() };
        let codec = ffmpeg_next::decoder::find(id).ok_or(Error::DecoderNotFound);
        let codec = codec.map_err(no_decoder)?;
        let unreadable = |error: Error| VideoError::Unreadable {
            path: path.to_owned(),
            reason: format!("the decoder does not start: {error}"),
        };
        let mut context = Context::from_parameters(parameters).map_err(unreadable)?;
        // SAFETY: a live context that is not open yet. One thread: parallelism is across readers, and frame
        // threads would delay and drop pictures around errors.
        unsafe {
            let context = context.as_mut_ptr();
            (*context).thread_count = 1;
            (*context).max_pixels = MAX_PIXELS;
            (*context).pkt_timebase = stream.time_base().into();
        }
        if let Some(device) = device {
            device.attach(&mut context);
        }
        let opened = context.decoder().open_as(codec).map_err(unreadable)?;
        let (frame, download, on_device) = (Frame::empty(), Download::new(), device.is_some());
        Ok(Decoder { opened, frame, download, on_device, keeps_unwanted: false, key: None })
    }

    /// Feeds a packet; the decoder must have been emptied with [`Decoder::next_frame`] before.
    pub fn send(&mut self, packet: &Packet) -> Result<(), Error> {
        self.opened.send_packet(packet)
    }

    /// Has the picture of a packet that nobody wants decoded, but not brought out, where that saves time; whether it
    /// does.
    pub fn keep_unwanted(&self, packet: &mut Packet) -> bool {
        if self.keeps_unwanted {
            // SAFETY: a packet wrapper always holds an AVPacket; flags are plain bits.
            unsafe { (*PacketMut::as_mut_ptr(packet)).flags |= ffi::AV_PKT_FLAG_DISCARD };
        }
        self.keeps_unwanted
    }

    /// Whether the pictures of the next packets go without the loop filter.
    pub fn skip_loop_filter(&mut self, skip: bool) {
        self.opened.skip_loop_filter(if skip { Discard::All } else { Discard::Default });
    }

    /// Lets the decoder read a packet's headers without its picture; errors come back when it is decoded.
    pub fn read_headers(&mut self, headers: &[u8]) {
        self.opened.skip_frame(Discard::All);
        let _ = self.opened.send_packet(&Packet::copy(headers));
        self.opened.skip_frame(Discard::Default);
    }

    /// Says that no packet follows: all pictures held back for reordering come out.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.opened.send_eof()
    }

    /// Decodes the next picture; false when the decoder needs a packet or has ended.
    pub fn next_frame(&mut self) -> Result<bool, Error> {
        match self.opened.receive_frame(&mut self.frame) {
            Ok(()) => Ok(true),
            Err(Error::Eof) => Ok(false),
            Err(Error::Other { errno }) if errno == ffmpeg_next::error::EAGAIN => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The picture that [`Decoder::next_frame`] decoded; its pixels may lie on the device.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// The same with its pixels at hand.
    pub fn picture(&mut self) -> Result<&Frame, Mistrust> {
        if !hardware::is_on_device(&self.frame) {
            return Ok(&self.frame);
        }
        // SAFETY: a live context.
        let format = unsafe { (*self.opened.as_ptr()).sw_pix_fmt };
        self.download.picture(&self.frame, format)
    }

    /// Whether NVDEC decodes, as far as is known: it can decline once it has seen the stream.
    pub fn by_nvdec(&self) -> bool {
        self.on_device
    }

    /// As if NVDEC were there.
    #[cfg(test)]
    pub fn pretend_device(&mut self) {
        self.on_device = true;
    }

    /// As if a picture had come from there.
    #[cfg(test)]
    pub fn pretend_unwanted_stay(&mut self) {
        self.keeps_unwanted = true;
    }

    /// Takes note of who decoded the picture at hand; true once, if NVDEC has declined.
    pub fn notices_decline(&mut self) -> bool {
        let came_from_device = hardware::is_on_device(&self.frame);
        let declined = self.on_device && !came_from_device;
        self.on_device &= !declined;
        self.keeps_unwanted = came_from_device;
        declined
    }

    /// Forgets everything, to start again at a key frame.
    pub fn flush(&mut self) {
        self.opened.flush();
    }
}

/// Whether libavcodec had to guess parts of a picture.
pub fn is_damaged(frame: &Frame) -> bool {
    // SAFETY: a frame wrapper always holds an allocated AVFrame.
    unsafe {
        let frame = &*frame.as_ptr();
        frame.decode_error_flags != 0 || frame.flags & ffi::AV_FRAME_FLAG_CORRUPT != 0
    }
}
