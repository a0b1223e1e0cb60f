//! Packets to an MP4 file in memory, index first.
//!
//! In memory, because a chunk is small and because a file that is written in one piece is written whole or not at
//! all: what a full disk does to it is then known exactly.

use ffmpeg_next::codec::encoder;
use ffmpeg_next::{Dictionary, Error, Packet, Rational, ffi};
use std::ptr;

/// Room for the index: a frame's size, a key frame's number, and all that does not grow; what is left over stays as a
/// few hundred bytes of padding.
fn index_bytes(frames: usize, extradata: usize) -> usize {
    2048 + extradata + 8 * frames
}

/// An MP4 muxer that writes to memory.
struct Muxer(*mut ffi::AVFormatContext);

impl Drop for Muxer {
    fn drop(&mut self) {
        // SAFETY: the context came from `avformat_alloc_output_context2`; its buffer, unless it was taken, from
        // `avio_open_dyn_buf`.
        unsafe {
            free_buffer(self.0);
            ffi::avformat_free_context(self.0);
        }
    }
}

/// # Safety
/// `context` is a muxer whose `pb` is null or a dynamic buffer.
unsafe fn free_buffer(context: *mut ffi::AVFormatContext) {
    // SAFETY: by the contract above; the bytes that come back are freed at once.
    unsafe {
        if !(*context).pb.is_null() {
            let mut bytes = ptr::null_mut();
            ffi::avio_close_dyn_buf((*context).pb, &mut bytes);
            (*context).pb = ptr::null_mut();
            ffi::av_free(bytes.cast());
        }
    }
}

fn checked(result: i32) -> Result<i32, Error> {
    if result < 0 { Err(Error::from(result)) } else { Ok(result) }
}

/// The file of packets that `encoder` made, one a frame, their times in `time_base`, one tick a frame.
///
/// # Errors
/// Whatever libavformat refuses.
pub fn mp4(packets: &mut [Packet], encoder: &encoder::Video, time_base: Rational) -> Result<Vec<u8>, Error> {
    let rate = time_base.invert();
    // SAFETY: all pointers come from FFmpeg's own functions, are checked before they are used, and belong to
    // `muxer`, which frees them; the encoder is open, so that its parameters are whole.
    unsafe {
        let mut context = ptr::null_mut();
        checked(ffi::avformat_alloc_output_context2(&mut context, ptr::null(), c"mp4".as_ptr(), ptr::null()))?;
        let muxer = Muxer(context);
        // Files then depend on nothing but their frames and the libraries.
        (*context).flags |= ffi::AVFMT_FLAG_BITEXACT;
        let stream = ffi::avformat_new_stream(context, ptr::null());
        if stream.is_null() {
            return Err(Error::Other { errno: ffmpeg_next::error::ENOMEM });
        }
        checked(ffi::avcodec_parameters_from_context((*stream).codecpar, encoder.as_ptr()))?;
        (*(*stream).codecpar).codec_tag = 0;
        (*stream).time_base = time_base.into();
        (*stream).avg_frame_rate = rate.into();
        checked(ffi::avio_open_dyn_buf(&mut (*context).pb))?;

        let extradata = (*(*stream).codecpar).extradata_size.max(0) as usize;
        let mut options = Dictionary::new();
        options.set("moov_size", &index_bytes(packets.len(), extradata).to_string());
        // A time scale in which frames have whole lengths.
        options.set("video_track_timescale", &rate.numerator().to_string());
        let mut options = options.disown();
        let written = ffi::avformat_write_header(context, &mut options);
        ffi::av_dict_free(&mut options);
        checked(written)?;
        for packet in packets {
            packet.set_stream(0);
            packet.set_duration(1);
            packet.rescale_ts(time_base, Rational::from((*stream).time_base));
            use ffmpeg_next::packet::Mut;
            checked(ffi::av_write_frame(context, packet.as_mut_ptr()))?;
        }
        checked(ffi::av_write_trailer(context))?;
        let mut bytes = ptr::null_mut();
        let length = ffi::avio_close_dyn_buf((*context).pb, &mut bytes);
        (*context).pb = ptr::null_mut();
        let file = match usize::try_from(length) {
            Ok(length) if !bytes.is_null() => std::slice::from_raw_parts(bytes, length).to_vec(),
            _ => Vec::new(),
        };
        ffi::av_free(bytes.cast());
        drop(muxer);
        Ok(file)
    }
}
