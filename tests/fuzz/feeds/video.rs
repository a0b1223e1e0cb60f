//! Video files: what our own code reads of them, and all of it with FFmpeg.

use super::{Target, outcome, shared};
use avion::data::synthetic::write_video;
use avion::video::bitstream::{Framing, Syntax};
use avion::video::container::{Container, Probing};
use avion::video::index::{Entry, Index, UNKNOWN};
use avion::video::sps::Sequence;
use avion::video::{CropBox, Read, VideoReader};
use std::path::Path;
use std::time::Duration;

pub fn packets() -> Target {
    let seeds: [&[u8]; 7] = [
        &[0, 0, 0, 5, 0x65, 0x88, 1, 2, 3, 0, 0, 0, 2, 0x06, 5],
        &[0, 0, 0, 9, 0x06, 5, 2, 1, 1, 6, 1, 0xC4, 0x80, 0, 0, 0, 2, 0x61, 0x88],
        &[0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x65, 0x88],
        &[
            0, 0, 1, 0xB6, 0x90, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0, 0, 1, 0xB6,
            0x40,
        ],
        &[0b1000_0010, 0],
        &[0b1000_1000],
        &[0, 0, 0, 3, 19 << 1, 1, 7],
    ];
    Target::new("packets", seeds.iter().map(|seed| seed.to_vec()).collect(), |input| {
        let framing = Framing::from_config(input, 4);
        let mut syntaxes = vec![Syntax::Mpeg4, Syntax::Vp8, Syntax::Vp9, Syntax::OneToOne];
        for framing in [framing, Framing::StartCode, Framing::Length(1), Framing::Length(2), Framing::Length(4)] {
            syntaxes.extend([Syntax::H264(framing), Syntax::Hevc(framing)]);
        }
        let facts = |syntax: Syntax| {
            let headers = syntax.headers(input).len();
            (syntax.content(input), syntax.is_random_access(input), syntax.has_parameter_sets(input), headers)
        };
        format!("{:?}", syntaxes.into_iter().map(facts).collect::<Vec<_>>())
    })
}

/// `avcC` records and the parameter sets in them.
pub fn parameter_sets() -> Target {
    let hex = [
        // x264; one with VUI but no restriction; a set of constant frame rate with HRD parameters.
        "01640015ffe1001c67640015acd9408025a6a0c0c0c8000003000800000301e078b16cb001000668ebe3cb22c0fdf8f800",
        "01428016ffe100176742801696540601bd350606064000000300400000066101000468ce3520",
        "01640028ffe1000d27640028ac2b40a0fd00f1226a01000528ee025cb0",
    ];
    let byte = |text: &str, at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    let seeds: Vec<Vec<u8>> =
        hex.iter().map(|text| (0..text.len()).step_by(2).map(|at| byte(text, at)).collect()).collect();
    assert!(seeds.iter().all(|seed| Sequence::from_config(seed).is_some()));
    Target::new("parameter-sets", seeds, |input| {
        // The set alone begins after the record's eight bytes; libFuzzer then needs to guess no length.
        let alone = Sequence::from_nal(input.get(8..).unwrap_or(&[]));
        format!("{:?} {alone:?}", Sequence::from_config(input))
    })
}

/// Six bytes an entry: flags, a shift, presentation time, decoding time.
fn entries(input: &[u8]) -> Vec<Entry> {
    let time = |bytes: [u8; 2], shift: u8, unknown: bool| {
        if unknown { UNKNOWN } else { i64::from(i16::from_le_bytes(bytes)) << (shift & 63) }
    };
    let entry = |piece: &[u8; 6]| {
        let [flags, shift, p0, p1, d0, d1] = *piece;
        let pts = time([p0, p1], shift, flags & 4 != 0);
        Entry { pts, dts: time([d0, d1], shift, flags & 8 != 0), key: flags & 1 != 0, shown: flags & 2 != 0 }
    };
    input.as_chunks().0.iter().map(entry).collect()
}

/// Whatever the times, an index that is made must agree with itself.
pub fn indices() -> Target {
    // I0 P3 B1 B2 | I6 B4 B5 P7, and a stream that an edit list cuts.
    let open = [(3, 0), (2, 3), (2, 1), (2, 2), (3, 6), (2, 4), (2, 5), (2, 7)];
    let cut = [(1, -2), (0, -1), (3, 0), (2, 1)];
    let seed = |list: &[(u8, i16)]| -> Vec<u8> {
        let numbered = list.iter().zip(0i16..);
        numbered.flat_map(|(&(flags, pts), dts)| [[flags, 0], pts.to_le_bytes(), dts.to_le_bytes()].concat()).collect()
    };
    Target::new("indices", vec![seed(&open), seed(&cut)], |input| {
        let entries = entries(input);
        let mut text = String::new();
        for index in [Index::from_packets(entries.clone()), Index::from_table(entries)] {
            match index {
                Ok(mut index) => {
                    agree(&index);
                    text += &format!("{} {} {},", index.num_frames(), index.gops().len(), index.bytes());
                    if index.gops().len() > 1 {
                        index.join_to_previous(input.len() % (index.gops().len() - 1) + 1);
                        agree(&index);
                    }
                }
                Err(reason) => text += reason,
            }
        }
        text
    })
}

fn agree(index: &Index) {
    for (at, entry) in index.entries().iter().enumerate() {
        let gop = index.gop_of_entry(at);
        assert!((index.gops()[gop].first..index.gop_end(gop)).contains(&at));
        assert_eq!(index.find(Some(entry.pts), Some(entry.dts)), Some(at));
        assert!(index.ordinal(at).is_none_or(|ordinal| entry.shown && ordinal < index.num_frames()));
        // A picture's GOP by its number is the one that its packet lies in.
        if let Some(ordinal) = index.ordinal(at) {
            assert_eq!(index.gop_of_frame(ordinal), gop);
        }
    }
    for frame in 0..index.num_frames() {
        assert!(index.gops()[index.gop_of_frame(frame)].ordinal <= frame);
    }
}

/// Made files, small: one a container.
pub fn made_files(names: &[&str]) -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &&str| {
        let path = folder.path().join(name);
        let frames = (0..30u8).map(|i| (0..48 * 64 * 3u32).map(|p| (p as u8 / 3).wrapping_mul(i)).collect::<Vec<u8>>());
        write_video(&path, 64, 48, 12.0, frames).unwrap();
        std::fs::read(&path).unwrap()
    };
    names.iter().map(make).collect()
}

/// An MP4 file whose table names 85 million samples.
fn many_samples(mp4: &[u8]) -> Vec<u8> {
    let mut file = mp4.to_vec();
    let mut set = |name: &[u8; 4], offset: usize, numbers: &[u32]| {
        let at = file.windows(4).position(|window| window == name).unwrap() + offset;
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        file[at..at + bytes.len()].copy_from_slice(&bytes);
    };
    let count = 85_000_000;
    set(b"stsz", 8, &[1, count]);
    set(b"stsc", 16, &[count]);
    set(b"stts", 12, &[count]);
    file
}

/// Headers, sample tables and packets, without decoding more than FFmpeg does to probe.
pub fn containers() -> Target {
    let mut seeds = made_files(&["a.mp4", "a.mkv", "a.avi"]);
    // FFmpeg took 3.4 GB for it.
    seeds.push(many_samples(&seeds[0]));
    seeds.extend(shared("hard", &["mp4", "mkv", "avi", "mov", "webm"], 40 << 10));
    on_fresh_file("containers", seeds, |path| {
        let mut container = match Container::open(path, Probing::WhereNeeded) {
            Ok(container) => container,
            Err(error) => return error.to_string(),
        };
        let facts = (container.size(), container.fps(7), container.declared_frames(), container.is_probed());
        let mut text = format!("{facts:?} {} {:?}", outcome(container.orientation()), container.syntax());
        if let Ok(syntax) = container.syntax() {
            text += &match container.index(syntax) {
                Ok(Ok((index, headers))) => {
                    agree(&index);
                    format!("{} {}", index.num_frames(), syntax.has_parameter_sets(&headers))
                }
                Ok(Err(reason)) => reason.to_owned(),
                Err(error) => error.to_string(),
            };
        }
        text
    })
}

/// Real and made files, damaged: opened and read at a few frames.
pub fn files() -> Target {
    let most = 400 << 10;
    let mut seeds = made_files(&["a.mp4", "a.mkv", "a.avi", "a.mov"]);
    let real = ["mp4", "mkv", "avi", "mov", "webm", "mpg"];
    seeds.extend(shared("hard", &real, most));
    seeds.extend(shared("clips", &real, most));
    let target = on_fresh_file("video", seeds, |path| {
        let mut video = match VideoReader::open(path) {
            Ok(video) => video,
            Err(error) => return error.to_string(),
        };
        let (count, size) = (video.num_frames(), [video.width(), video.height()]);
        let mut out = vec![0; 3 * 32 * 32 * 3];
        let crop = CropBox { x: 0, y: 0, width: size[0] / 2 + 1, height: size[1] / 2 + 1 };
        let mut text = String::new();
        for first in [0, count / 2, count.saturating_sub(3)] {
            let frames = [first, first + (count / 7).min(40), first + (count / 7).min(40) + 1];
            text += &outcome(video.read(&frames, crop, 32, false, &mut out));
        }
        let (one, rest) = out.split_at_mut(32 * 32 * 3);
        let mut reads = [
            Read { frames: &[1], crop, flip: true, out: one },
            Read { frames: &[0, 2], crop: CropBox::full(size[0], size[1]), flip: false, out: rest },
        ];
        text += &outcome(video.read_each(&mut reads, 32));
        text
    });
    // The program's own limit, and some time to notice.
    Target { limit: Duration::from_secs(130), max_len: most, ..target }
}

/// As [`Target::on_file`], each input under a name of its own: what the program learnt of a file of the same name,
/// length and time would else be taken for this one's.
fn on_fresh_file(name: &'static str, seeds: Vec<Vec<u8>>, run: impl Fn(&Path) -> String + 'static) -> Target {
    let mut number = 0u64;
    Target::on_file(name, seeds, "a.video", move |path| {
        number += 1;
        let fresh = path.with_file_name(format!("{number}.video"));
        std::fs::rename(path, &fresh).unwrap();
        let text = run(&fresh);
        std::fs::remove_file(&fresh).unwrap();
        text
    })
}
