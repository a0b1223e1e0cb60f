//! A decoder on one thread, fed packet by packet.

use ffmpeg_next::codec::Context;
use ffmpeg_next::decoder::Opened;
use ffmpeg_next::frame::Video as Frame;
use ffmpeg_next::{Discard, Error, Packet, ffi};

use super::VideoError;
use super::container::Container;

/// Larger pictures are refused by libavcodec: a damaged header must not ask for all memory. 8K is half of it.
const MAX_PIXELS: i64 = 1 << 26;

pub struct Decoder {
    opened: Opened,
    frame: Frame,
}

impl Decoder {
    pub fn open(container: &Container) -> Result<Decoder, VideoError> {
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
        let opened = context.decoder().open_as(codec).map_err(unreadable)?;
        Ok(Decoder { opened, frame: Frame::empty() })
    }

    /// Feeds a packet; the decoder must have been emptied with [`Decoder::next_frame`] before.
    pub fn send(&mut self, packet: &Packet) -> Result<(), Error> {
        self.opened.send_packet(packet)
    }

    /// Lets the decoder read a packet's headers without its picture; errors come back when it is decoded.
    pub fn read_headers(&mut self, packet: &Packet) {
        self.opened.skip_frame(Discard::All);
        let _ = self.opened.send_packet(packet);
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

    /// The picture that [`Decoder::next_frame`] decoded.
    pub fn frame(&self) -> &Frame {
        &self.frame
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
