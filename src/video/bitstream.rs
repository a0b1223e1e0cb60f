//! What a compressed packet says about itself, without decoding it.
//!
//! Only facts that decide which packets are needed and whether an index can be trusted: is there exactly one
//! picture, may decoding start here, does anything refer to it.

/// How the packets of a stream are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    H264(Framing),
    Hevc(Framing),
    Mpeg4,
    Vp8,
    Vp9,
    /// One packet is one shown picture by the codec's definition.
    OneToOne,
}

/// How NAL units follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A big-endian length of this many bytes before each (ISO/IEC 14496-15).
    Length(usize),
    /// `00 00 01` before each (Annex B).
    StartCode,
}

impl Framing {
    /// From the decoder configuration record of H.264 (`avcC`) or HEVC (`hvcC`).
    pub fn from_config(config: &[u8], length_at: usize) -> Framing {
        match config.get(length_at) {
            Some(byte) if config[0] == 1 => Framing::Length(usize::from(byte & 3) + 1),
            _ => Framing::StartCode,
        }
    }
}

/// What a packet holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Decoding it gives a picture that is shown.
    pub shown: bool,
    /// No other picture refers to it.
    pub disposable: bool,
}

/// A VOP after its start code shorter than this may be an empty one ("not coded"), which gives no picture.
/// An empty VOP has 3 to 7 bytes; a coded one of the smallest size we accept has more than this in practice,
/// and if not, its file is merely read in order.
const MIN_VOP_BYTES: usize = 16;

impl Syntax {
    /// Reads a packet; `None` when it is damaged or holds anything else than one picture.
    pub fn content(self, data: &[u8]) -> Option<Content> {
        let shown = |shown| Some(Content { shown, disposable: false });
        match self {
            Syntax::H264(framing) => {
                let mut reference = 0;
                let mut num_slices = 0;
                visit_nal_units(data, framing, |nal, _| {
                    if matches!(nal[0] & 31, 1..=5) {
                        num_slices += 1;
                        reference |= nal[0] >> 5 & 3;
                    }
                })?;
                (num_slices > 0).then_some(Content { shown: true, disposable: reference == 0 })
            }
            Syntax::Hevc(framing) => {
                let mut pictures = nal_units(data, framing)?.into_iter();
                pictures.any(|nal| nal[0] >> 1 & 63 < 32).then(|| shown(true))?
            }
            Syntax::Mpeg4 => {
                let mut vops = vops(data);
                let vop = vops.next()?;
                (vops.next().is_none() && vop.len() >= MIN_VOP_BYTES)
                    .then_some(Content { shown: true, disposable: vop[0] >> 6 == 2 })
            }
            // RFC 6386, 9.1: bit 4 of the frame tag is show_frame.
            Syntax::Vp8 => shown(data.first()? >> 4 & 1 == 1),
            Syntax::Vp9 => shown(vp9_shown(data)?),
            Syntax::OneToOne => shown(!data.is_empty()),
        }
    }

    /// The part of a stream's first packet in which encoders name themselves: what comes before an H.264 picture,
    /// else all of it.
    pub fn headers(self, data: &[u8]) -> &[u8] {
        let Syntax::H264(framing) = self else {
            return data;
        };
        let mut end = data.len();
        let whole = visit_nal_units(data, framing, |nal, at| {
            if matches!(nal[0] & 31, 1..=5) {
                end = end.min(at);
            }
        });
        if whole.is_some() { &data[..end] } else { data }
    }

    /// Whether an H.264 packet brings parameter sets along.
    pub fn has_parameter_sets(self, data: &[u8]) -> bool {
        match self {
            Syntax::H264(framing) => {
                nal_units(data, framing).is_some_and(|nals| nals.iter().any(|nal| nal[0] & 31 == 7))
            }
            _ => false,
        }
    }

    /// Whether a decoder that starts at this packet gets it, and all that is shown after it, exactly right.
    pub fn is_random_access(self, data: &[u8]) -> bool {
        match self {
            Syntax::H264(framing) => nal_units(data, framing).is_some_and(|nals| {
                nals.iter().any(|nal| nal[0] & 31 == 5 || (nal[0] & 31 == 6 && exact_recovery(&nal[1..])))
            }),
            // BLA, IDR and CRA pictures: ITU-T H.265, table 7-1.
            Syntax::Hevc(framing) => nal_units(data, framing).is_some_and(|nals| {
                nals.iter()
                    .map(|nal| nal[0] >> 1 & 63)
                    .find(|kind| *kind < 32)
                    .is_some_and(|kind| (16..=21).contains(&kind))
            }),
            Syntax::Mpeg4 => vops(data).next().is_some_and(|vop| vop[0] >> 6 == 0),
            // The container's key flag comes from the frame header itself.
            Syntax::Vp8 | Syntax::Vp9 | Syntax::OneToOne => true,
        }
    }
}

/// The NAL units of a packet, none empty; `None` when the lengths do not add up.
fn nal_units(data: &[u8], framing: Framing) -> Option<Vec<&[u8]>> {
    let mut nals = Vec::with_capacity(4);
    visit_nal_units(data, framing, |nal, _| nals.push(nal))?;
    Some(nals)
}

/// Shows each NAL unit of a packet, none empty, and where its length or start code begins; `None` when the lengths do
/// not add up or there is no unit.
fn visit_nal_units<'a>(data: &'a [u8], framing: Framing, mut visit: impl FnMut(&'a [u8], usize)) -> Option<()> {
    let mut num_units = 0;
    match framing {
        Framing::Length(bytes) => {
            let mut rest = data;
            while !rest.is_empty() {
                let (length, after) = rest.split_at_checked(bytes)?;
                let length = length.iter().fold(0, |n, &b| n << 8 | usize::from(b));
                let (nal, after) = after.split_at_checked(length)?;
                if nal.is_empty() {
                    return None;
                }
                visit(nal, data.len() - rest.len());
                num_units += 1;
                rest = after;
            }
        }
        Framing::StartCode => {
            let mut at = 0;
            for (number, piece) in split_start_codes(data).enumerate() {
                if number > 0 && !piece.is_empty() {
                    visit(piece, at - 3);
                    num_units += 1;
                }
                at += piece.len() + 3;
            }
        }
    }
    (num_units > 0).then_some(())
}

/// Cuts at every `00 00 01`; the first piece is what lies before the first one.
fn split_start_codes(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(data);
    std::iter::from_fn(move || {
        let data = rest?;
        match data.windows(3).position(|w| w == [0, 0, 1]) {
            Some(at) => {
                rest = Some(&data[at + 3..]);
                Some(&data[..at])
            }
            None => rest.take(),
        }
    })
}

/// The pictures (VOPs) of an MPEG-4 part 2 packet, after their start code `00 00 01 B6`, none empty.
fn vops(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    split_start_codes(data).skip(1).filter_map(|piece| piece.strip_prefix(&[0xB6])).filter(|vop| !vop.is_empty())
}

/// Whether an SEI message says that decoding from here is exact at once: a recovery point (payload type 6)
/// with `recovery_frame_cnt` 0 and `exact_match_flag` 1 (ITU-T H.264, D.1.8).
fn exact_recovery(sei: &[u8]) -> bool {
    let sei = without_emulation(sei);
    let mut rest = sei.as_slice();
    // The last byte holds the trailing bits.
    while rest.len() > 2 {
        let Some((kind, after)) = extended(rest) else {
            return false;
        };
        let Some((length, after)) = extended(after) else {
            return false;
        };
        let Some((payload, after)) = after.split_at_checked(length) else {
            return false;
        };
        if kind == 6 {
            // ue(v) of 0 is the single bit 1; the exact_match_flag follows.
            return payload.first().is_some_and(|byte| byte >> 6 == 0b11);
        }
        rest = after;
    }
    false
}

/// A number coded as a run of 255s and a last byte.
fn extended(data: &[u8]) -> Option<(usize, &[u8])> {
    let run = data.iter().take_while(|b| **b == 255).count();
    let last = usize::from(*data.get(run)?);
    Some((run * 255 + last, &data[run + 1..]))
}

/// Drops the `03` of every `00 00 03`.
pub fn without_emulation(data: &[u8]) -> Vec<u8> {
    let mut clean = Vec::with_capacity(data.len());
    let mut zeros = 0;
    for &byte in data {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        clean.push(byte);
    }
    clean
}

/// VP9 bitstream specification 6.2: marker (2), profile (2, or 3 for profile 3), show_existing_frame,
/// frame_type, show_frame. A superframe (annex B) shows its last frame.
fn vp9_shown(data: &[u8]) -> Option<bool> {
    let (first, last) = (*data.first()?, *data.last()?);
    if last & 0xE0 == 0xC0 {
        let num_frames = usize::from(last & 7) + 1;
        let size_bytes = usize::from(last >> 3 & 3) + 1;
        let index_bytes = 2 + num_frames * size_bytes;
        if data.len() >= index_bytes && data[data.len() - index_bytes] == last {
            return Some(true);
        }
    }
    let profile_3 = first >> 4 & 3 == 3;
    let shift = if profile_3 { 1 } else { 0 };
    let show_existing = first >> (3 - shift) & 1 == 1;
    let show = first >> (1 - shift) & 1 == 1;
    Some(show_existing || show)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AVC: Syntax = Syntax::H264(Framing::Length(4));

    fn length_prefixed(nals: &[&[u8]]) -> Vec<u8> {
        let mut data = Vec::new();
        for nal in nals {
            data.extend((nal.len() as u32).to_be_bytes());
            data.extend(*nal);
        }
        data
    }

    #[test]
    fn h264_reference_and_random_access() {
        let idr = length_prefixed(&[&[0x09, 0xF0], &[0x65, 0x88]]);
        let idr_content = AVC.content(&idr).unwrap();
        assert!(!idr_content.disposable && AVC.is_random_access(&idr));
        let b = length_prefixed(&[&[0x01, 0x9E], &[0x01, 0x9F]]);
        assert!(AVC.content(&b).unwrap().disposable);
        assert!(!AVC.is_random_access(&b));
        let mixed = length_prefixed(&[&[0x01, 0x9E], &[0x41, 0x9F]]);
        assert!(!AVC.content(&mixed).unwrap().disposable);
        // Recovery point: 6, 1 byte, 1 1 0 00 + stop; behind a user message of 2 bytes.
        let exact = length_prefixed(&[&[0x06, 5, 2, 1, 1, 6, 1, 0xC4, 0x80], &[0x61, 0x88]]);
        assert!(AVC.is_random_access(&exact));
        let later = length_prefixed(&[&[0x06, 6, 1, 0x54, 0x80], &[0x61, 0x88]]);
        assert!(!AVC.is_random_access(&later));
    }

    #[test]
    fn damaged_packets_have_no_content() {
        let mut cut = length_prefixed(&[&[0x65, 0x88, 1, 2]]);
        cut.pop();
        assert_eq!(AVC.content(&cut), None);
        assert_eq!(AVC.content(&[255, 255, 255, 255, 1]), None);
        assert_eq!(AVC.content(&[]), None);
        assert_eq!(AVC.headers(&cut), cut);
        let only_sei = length_prefixed(&[&[0x06, 5, 1, 1, 0x80]]);
        assert_eq!(AVC.content(&only_sei), None);
        for syntax in [Syntax::Mpeg4, Syntax::Vp8, Syntax::Vp9] {
            assert_eq!(syntax.content(&[]), None);
        }
    }

    #[test]
    fn annex_b_and_configuration_records() {
        let data = [0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x65, 0x88];
        let syntax = Syntax::H264(Framing::from_config(&data, 4));
        assert_eq!(syntax, Syntax::H264(Framing::StartCode));
        assert!(syntax.is_random_access(&data));
        let avcc = [1, 100, 0, 31, 0xFF, 0xE1];
        assert_eq!(Framing::from_config(&avcc, 4), Framing::Length(4));
    }

    #[test]
    fn headers_end_before_the_picture() {
        let sei: &[u8] = &[0x06, 5, 1, 1, 0x80];
        let first = length_prefixed(&[sei, &[0x65, 0x88], sei]);
        assert_eq!(AVC.headers(&first), length_prefixed(&[sei]));
        assert!(!AVC.has_parameter_sets(&first));
        assert!(AVC.has_parameter_sets(&length_prefixed(&[&[0x67, 100], &[0x65, 0x88]])));
        let annex_b = [&[0, 0, 0, 1], sei, &[0, 0, 1, 0x65, 0x88]].concat();
        assert_eq!(Syntax::H264(Framing::StartCode).headers(&annex_b), &annex_b[..9]);
        assert_eq!(Syntax::Mpeg4.headers(&annex_b), annex_b);
    }

    #[test]
    fn hevc_starts_at_irap_pictures() {
        let syntax = Syntax::Hevc(Framing::Length(4));
        assert!(syntax.is_random_access(&length_prefixed(&[&[0x40, 1], &[19 << 1, 1]])));
        assert!(syntax.is_random_access(&length_prefixed(&[&[21 << 1, 1]])));
        assert!(!syntax.is_random_access(&length_prefixed(&[&[1 << 1, 1]])));
    }

    #[test]
    fn mpeg4_counts_vops() {
        let vop = |kind: u8, bytes: usize| {
            let mut data = vec![0, 0, 1, 0xB6, kind << 6];
            data.resize(4 + bytes, 0x55);
            data
        };
        let b = Syntax::Mpeg4.content(&vop(2, 40)).unwrap();
        assert!(b.disposable);
        assert!(Syntax::Mpeg4.is_random_access(&vop(0, 40)));
        assert_eq!(Syntax::Mpeg4.content(&vop(1, 4)), None, "not coded");
        let packed = [vop(1, 40), vop(2, 40)].concat();
        assert_eq!(Syntax::Mpeg4.content(&packed), None, "packed B-frame");
    }

    #[test]
    fn hidden_frames_of_vp8_and_vp9() {
        assert!(Syntax::Vp8.content(&[0x10, 0, 0]).unwrap().shown);
        assert!(!Syntax::Vp8.content(&[0x01, 0, 0]).unwrap().shown);
        assert!(Syntax::Vp9.content(&[0b1000_0010, 0]).unwrap().shown);
        assert!(!Syntax::Vp9.content(&[0b1000_0100, 0]).unwrap().shown);
        assert!(Syntax::Vp9.content(&[0b1000_1000]).unwrap().shown);
    }
}
