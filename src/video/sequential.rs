//! Decoding from the start and counting: slow, and the definition of "frame k".

use std::path::Path;

use ffmpeg_next::Packet;
use ffmpeg_next::frame::Video as Frame;

use super::VideoError;
use super::container::{Container, Probing};
use super::decoder::Decoder;

/// A pass over the whole file that goes on over errors, as the ffmpeg program does.
pub struct Sequential {
    decoder: Decoder,
    container: Container,
    packet: Packet,
    num_decoded: u64,
    num_errors: u64,
    at_end: bool,
}

impl Sequential {
    /// Starts at the file's first packet.
    pub fn new(path: &Path) -> Result<Sequential, VideoError> {
        let container = Container::open(path, Probing::Always)?;
        Ok(Sequential {
            decoder: Decoder::open(&container, None)?,
            container,
            packet: Packet::empty(),
            num_decoded: 0,
            num_errors: 0,
            at_end: false,
        })
    }

    pub fn start_clock(&self) {
        self.container.start_clock();
    }

    /// The number of the frame that [`Sequential::next`] gives.
    pub fn position(&self) -> u64 {
        self.num_decoded
    }

    /// How many packets or pictures were damaged so far.
    pub fn num_errors(&self) -> u64 {
        self.num_errors
    }

    /// Decodes the next picture; `None` at the end.
    pub fn next(&mut self) -> Result<Option<&Frame>, VideoError> {
        loop {
            self.container.check_clock("decoding")?;
            match self.decoder.next_frame() {
                Ok(true) => break,
                Ok(false) if self.at_end => return Ok(None),
                Ok(false) => self.feed()?,
                Err(_) => {
                    self.num_errors += 1;
                    // A decoder that fails while it is drained would fail for ever.
                    if self.at_end {
                        return Ok(None);
                    }
                    self.feed()?;
                }
            }
        }
        self.num_decoded += 1;
        Ok(Some(self.decoder.frame()))
    }

    fn feed(&mut self) -> Result<(), VideoError> {
        if self.container.read_packet(&mut self.packet)? {
            self.container.refuse_encrypted(&self.packet)?;
            // An empty packet would mean the end to the decoder; the ffmpeg program skips it.
            if self.packet.size() > 0 && self.decoder.send(&self.packet).is_err() {
                self.num_errors += 1;
            }
        } else {
            self.at_end = true;
            if self.decoder.finish().is_err() {
                self.num_errors += 1;
            }
        }
        Ok(())
    }
}
