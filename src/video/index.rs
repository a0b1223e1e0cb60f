//! Where pictures lie in a stream: the packets in decoding order, cut at the key frames.
//!
//! The pictures between two key frames in decoding order ("GOP") hold a contiguous range of frame numbers;
//! inside it, presentation time decides. So the frame number of any picture follows from the number of packets
//! before its GOP and the times within it.

/// A presentation time that the container's own table does not tell.
pub const UNKNOWN: i64 = i64::MIN;

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Presentation time in the stream's time base, or [`UNKNOWN`].
    pub pts: i64,
    /// Decoding time, or [`UNKNOWN`].
    pub dts: i64,
    pub key: bool,
    /// False for packets that only feed the decoder: cut off by an edit list, or a hidden picture.
    pub shown: bool,
}

/// The packets from one key frame to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gop {
    /// Position of the key frame in decoding order.
    pub first: usize,
    /// Frame number of the first picture shown from this GOP.
    pub ordinal: u64,
}

/// Why frame numbers cannot be predicted: the frames must then be counted while decoding in order.
pub type Mistrust = &'static str;

#[derive(Clone, Debug)]
pub struct Index {
    entries: Vec<Entry>,
    gops: Vec<Gop>,
    num_frames: u64,
    /// Positions by presentation time; empty when the times are not known.
    by_pts: Vec<usize>,
    /// Frame number of each entry; empty when the times are not known.
    ordinals: Vec<Option<u64>>,
}

impl Index {
    /// From all packets of a stream with their times.
    pub fn from_packets(entries: Vec<Entry>) -> Result<Index, Mistrust> {
        if entries.iter().any(|entry| entry.pts == UNKNOWN) {
            return Err("packets without presentation time");
        }
        let mut by_pts: Vec<usize> = (0..entries.len()).collect();
        by_pts.sort_by_key(|&i| entries[i].pts);
        if by_pts.windows(2).any(|w| entries[w[0]].pts == entries[w[1]].pts) {
            return Err("two packets with one presentation time");
        }
        let mut ordinals = vec![None; entries.len()];
        let shown = by_pts.iter().filter(|&&i| entries[i].shown);
        for (ordinal, &i) in shown.enumerate() {
            ordinals[i] = Some(ordinal as u64);
        }
        let mut index = Index::new(entries)?;
        index.check_order()?;
        index.by_pts = by_pts;
        index.ordinals = ordinals;
        Ok(index)
    }

    /// From a container's table that tells decoding times, key frames and cuts, but no presentation times.
    pub fn from_table(entries: Vec<Entry>) -> Result<Index, Mistrust> {
        if entries.windows(2).any(|w| w[0].dts >= w[1].dts) {
            return Err("decoding times that do not rise");
        }
        Index::new(entries)
    }

    fn new(entries: Vec<Entry>) -> Result<Index, Mistrust> {
        if !entries.first().is_some_and(|entry| entry.key) {
            return Err("no key frame at the start");
        }
        let mut gops = Vec::new();
        let mut num_frames = 0;
        for (first, entry) in entries.iter().enumerate() {
            if entry.key {
                gops.push(Gop { first, ordinal: num_frames });
            }
            num_frames += u64::from(entry.shown);
        }
        Ok(Index { entries, gops, num_frames, by_pts: Vec::new(), ordinals: Vec::new() })
    }

    /// Whether GOPs follow one another in presentation as in decoding, and none starts before the first key frame.
    fn check_order(&self) -> Result<(), Mistrust> {
        if self.entries.iter().any(|e| e.pts < self.entries[0].pts) {
            return Err("pictures before the first key frame");
        }
        let mut end = UNKNOWN;
        for (at, gop) in self.gops.iter().enumerate() {
            let packets = &self.entries[gop.first..self.gop_end(at)];
            if packets.iter().any(|e| e.pts <= end) {
                return Err("key frames out of order");
            }
            end = packets.iter().map(|e| e.pts).max().unwrap_or(end);
        }
        Ok(())
    }

    /// Memory that it takes, about.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.entries)
            + size_of_val(&*self.gops)
            + size_of_val(&*self.by_pts)
            + size_of_val(&*self.ordinals)
    }

    pub fn num_frames(&self) -> u64 {
        self.num_frames
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn gops(&self) -> &[Gop] {
        &self.gops
    }

    /// The GOP whose range holds frame `ordinal`.
    pub fn gop_of_frame(&self, ordinal: u64) -> usize {
        // A GOP that shows nothing shares its ordinal with the next: the last of them is meant.
        self.gops.partition_point(|gop| gop.ordinal <= ordinal) - 1
    }

    /// The GOP that packet `entry` belongs to.
    pub fn gop_of_entry(&self, entry: usize) -> usize {
        self.gops.partition_point(|gop| gop.first <= entry) - 1
    }

    /// One past the last packet of a GOP.
    pub fn gop_end(&self, gop: usize) -> usize {
        self.gops.get(gop + 1).map_or(self.entries.len(), |next| next.first)
    }

    /// Frame number of a packet, when the times of all packets are known.
    pub fn ordinal(&self, entry: usize) -> Option<u64> {
        self.ordinals.get(entry).copied().flatten()
    }

    /// Whether the frame number of every packet is known.
    pub fn is_complete(&self) -> bool {
        !self.ordinals.is_empty()
    }

    /// The position of a packet that the demuxer gave.
    pub fn find(&self, pts: Option<i64>, dts: Option<i64>) -> Option<usize> {
        if self.is_complete() {
            let pts = pts?;
            let at = self.by_pts.binary_search_by_key(&pts, |&i| self.entries[i].pts);
            at.ok().map(|at| self.by_pts[at])
        } else {
            let dts = dts?;
            self.entries.binary_search_by_key(&dts, |e| e.dts).ok()
        }
    }

    /// Takes back that decoding may start at a GOP's key frame: it becomes part of the GOP before.
    pub fn join_to_previous(&mut self, gop: usize) {
        self.gops.remove(gop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(list: &[(i64, bool, bool)]) -> Vec<Entry> {
        let numbered = list.iter().zip(0..);
        numbered.map(|(&(pts, key, shown), dts)| Entry { pts, dts, key, shown }).collect()
    }

    #[test]
    fn numbers_pictures_across_open_gops() {
        // I0 P3 B1 B2 | I6 B4 B5 P7: the second GOP begins with two leading pictures.
        let index = Index::from_packets(packets(&[
            (0, true, true),
            (3, false, true),
            (1, false, true),
            (2, false, true),
            (6, true, true),
            (4, false, true),
            (5, false, true),
            (7, false, true),
        ]))
        .unwrap();
        assert_eq!(index.num_frames(), 8);
        assert_eq!(index.ordinal(4), Some(6));
        assert_eq!([3, 4, 6, 7].map(|k| index.gop_of_frame(k)), [0, 1, 1, 1]);
        assert_eq!(index.find(Some(5), None), Some(6));
        assert_eq!(index.gop_end(0), 4);
    }

    #[test]
    fn cut_packets_have_no_number() {
        let list = packets(&[(-2, true, false), (-1, false, false), (0, true, true), (1, false, true)]);
        let index = Index::from_packets(list.clone()).unwrap();
        assert_eq!(index.num_frames(), 2);
        assert_eq!(index.gop_of_frame(0), 1);
        assert_eq!((index.ordinal(1), index.ordinal(2)), (None, Some(0)));
        let table = Index::from_table(list).unwrap();
        assert_eq!(table.gop_of_frame(0), 1);
        assert_eq!(table.find(None, Some(3)), Some(3));
    }

    #[test]
    fn rejects_what_cannot_be_predicted() {
        let mut unknown = packets(&[(0, true, true), (1, false, true)]);
        unknown[1].pts = UNKNOWN;
        assert!(Index::from_packets(unknown).is_err());
        for list in [
            &[(0, true, true), (0, false, true)][..],
            &[(0, false, true), (1, true, true)],
            &[(1, true, true), (0, false, true)],
            &[(0, true, true), (5, false, true), (4, true, true)],
            &[],
        ] {
            assert!(Index::from_packets(packets(list)).is_err(), "{list:?}");
        }
        let mut flat = packets(&[(0, true, true), (1, false, true)]);
        flat[1].dts = 0;
        assert!(Index::from_table(flat).is_err());
    }
}
