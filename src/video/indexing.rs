//! From an open container to the index of its packets.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use ffmpeg_next::{Packet, ffi};

use super::VideoError;
use super::bitstream::Syntax;
use super::container::Container;
use super::index::{Entry, Index, Mistrust, UNKNOWN};

/// How many packets are looked at when a file is opened from its table: more than any decoder's reordering.
const NUM_PEEKED: usize = 17;

impl Container {
    /// Indexes the stream: from the container's table where it is whole, else by reading every packet once.
    /// Leaves the demuxer anywhere.
    /// The headers in the first packet come with it.
    pub fn index(&mut self, syntax: Syntax) -> Result<Result<(Index, Vec<u8>), Mistrust>, VideoError> {
        let mut packet = Packet::empty();
        let is_mov = self.format().starts_with("mov");
        if !is_mov && !self.format().starts_with("matroska") && self.format() != "avi" {
            return Ok(Err("a container that does not seek exactly"));
        }
        // A hidden picture of VP8 shows in its packet alone.
        if is_mov && syntax != Syntax::Vp8 && !has_fragments(self.path()) {
            let entries = match self.table() {
                Ok(entries) => entries,
                Err(reason) => return Ok(Err(reason)),
            };
            return match Index::from_table(entries) {
                Ok(index) => self.check_table(index, syntax),
                Err(reason) => Ok(Err(reason)),
            };
        }
        let mut entries = Vec::new();
        let mut first = None;
        while self.read_packet(&mut packet)? {
            self.refuse_encrypted(&packet)?;
            let Some(content) = syntax.content(packet.data().unwrap_or(&[])) else {
                return Ok(Err("a damaged packet, or one that is not one picture"));
            };
            let cut = packet.flags().bits() & ffi::AV_PKT_FLAG_DISCARD != 0;
            entries.push(Entry {
                pts: packet.pts().unwrap_or(UNKNOWN),
                dts: packet.dts().unwrap_or(UNKNOWN),
                key: packet.is_key(),
                shown: content.shown && !cut,
            });
            first.get_or_insert_with(|| headers(syntax, &packet));
        }
        let first = first.ok_or("no packets");
        Ok(first.and_then(|first| Ok((Index::from_packets(entries)?, first))))
    }

    /// The sample table of an MP4 or MOV file, edit lists applied by libavformat.
    fn table(&self) -> Result<Vec<Entry>, Mistrust> {
        let file_bytes = fs::metadata(self.path()).map_or(0, |m| m.len());
        let stream = self.raw_stream();
        // SAFETY: a live stream; each entry is copied before the next call into libavformat.
        unsafe {
            let len = ffi::avformat_index_get_entries_count(stream);
            let mut entries = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
            for at in 0..len {
                let Some(entry) = ffi::avformat_index_get_entry(stream, at).as_ref() else {
                    return Err("a hole in the sample table");
                };
                let end = entry.pos.saturating_add(i64::from(entry.size()));
                if entry.pos < 0 || u64::try_from(end).is_ok_and(|end| end > file_bytes) {
                    return Err("samples beyond the end of the file");
                }
                // Bit fields are signed in the bindings of some versions: look at the two bits only.
                let flags = entry.flags() & 3;
                entries.push(Entry {
                    pts: UNKNOWN,
                    dts: entry.timestamp,
                    key: flags & ffi::AVINDEX_KEYFRAME != 0,
                    shown: flags & ffi::AVINDEX_DISCARD_FRAME == 0,
                });
            }
            Ok(entries)
        }
    }

    /// Compares the first packets with the table, and refuses a stream that shows pictures before its first
    /// key frame.
    fn check_table(&mut self, index: Index, syntax: Syntax) -> Result<Result<(Index, Vec<u8>), Mistrust>, VideoError> {
        let mut packet = Packet::empty();
        let mut first = None;
        let mut first_pts = None;
        for at in 0..NUM_PEEKED.min(index.entries().len()) {
            if !self.read_packet(&mut packet)? {
                return Ok(Err("fewer packets than the sample table lists"));
            }
            self.refuse_encrypted(&packet)?;
            if index.find(packet.pts(), packet.dts()) != Some(at) {
                return Ok(Err("packets that the sample table does not list"));
            }
            let Some(pts) = packet.pts() else {
                return Ok(Err("packets without presentation time"));
            };
            if pts < *first_pts.get_or_insert(pts) {
                return Ok(Err("pictures before the first key frame"));
            }
            first.get_or_insert_with(|| headers(syntax, &packet));
        }
        Ok(first.map(|first| (index, first)).ok_or("no packets"))
    }
}

fn headers(syntax: Syntax, first: &Packet) -> Vec<u8> {
    syntax.headers(first.data().unwrap_or(&[])).to_vec()
}

/// Whether an MP4 file goes on in fragments (`moof`), which libavformat indexes only as it meets them.
/// Anything unclear counts as yes: the packets are then read one by one.
fn has_fragments(path: &Path) -> bool {
    const MAX_BOXES: u32 = 10_000;
    let walk = || -> std::io::Result<bool> {
        let mut file = File::open(path)?;
        let end = file.metadata()?.len();
        let mut at = 0;
        for _ in 0..MAX_BOXES {
            let mut header = [0; 16];
            file.seek(SeekFrom::Start(at))?;
            if end - at < 16 {
                return Ok(false);
            }
            file.read_exact(&mut header)?;
            if &header[4..8] == b"moof" {
                return Ok(true);
            }
            let word = |bytes: &[u8]| bytes.iter().fold(0, |n, &b| n << 8 | u64::from(b));
            let len = match word(&header[..4]) {
                0 => return Ok(false),
                1 => word(&header[8..]),
                len => len,
            };
            match at.checked_add(len) {
                Some(next) if len >= 8 && next < end => at = next,
                Some(next) if len >= 8 && next >= end => return Ok(false),
                _ => return Ok(true),
            }
        }
        Ok(true)
    };
    walk().unwrap_or(true)
}
