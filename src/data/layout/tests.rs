use super::*;
use crate::data::Captions;
use crate::data::rng::{Purpose, keyed};
use crate::data::sampling::FrameRule;
use proptest::prelude::*;

fn clip(video: &str, start_s: f64, end_s: f64) -> Clip {
    Clip::narrated(video.into(), start_s, end_s, Captions::One("something happens".into()))
}

/// A source over a fresh folder with these (empty) files in it.
fn source(layout: Layout, files: &[&str]) -> (tempfile::TempDir, Source) {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        let path = root.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    let source = Source { name: "test".into(), root: root.path().to_owned(), layout, fps: None, clips: Vec::new() };
    (root, source)
}

fn whole() -> Layout {
    Layout::Whole { extension: "mp4".into() }
}

fn chunked(chunk_s: f64) -> Layout {
    Layout::Chunked { chunk_s, extension: "mp4".into() }
}

fn centred(start: u64, end: u64) -> Vec<u64> {
    FrameRule::Avion.view(start, end, 4, 0, 1)
}

/// Plans four frames without jitter where every file has `frames[file]` frames at `fps`.
fn plan(files: &ClipFiles, clip: &Clip, fps: f64, frames: &[u64]) -> Result<Vec<FilePart>, ClipError> {
    files.plan(clip, None, 4, centred, |file| Ok(FileInfo { frames: frames[file], fps }))
}

fn part(file: usize, frames: &[u64]) -> FilePart {
    FilePart { file, frames: frames.to_vec() }
}

#[test]
fn names_get_their_extension_once() {
    let (root, source) = source(whole(), &["a.mp4", "sub/b.mkv"]);
    let find = |name| ClipFiles::locate(&source, &clip(name, 0.0, 1.0));
    assert_eq!(find("a").unwrap().paths, [root.path().join("a.mp4")]);
    assert_eq!(find("a.mp4").unwrap().paths, [root.path().join("a.mp4")]);
    assert_eq!(find("sub/b.mkv").unwrap().paths, [root.path().join("sub/b.mkv")]);
    assert_eq!(find("c").unwrap_err().kind(), "missing");
}

#[test]
fn names_stay_below_the_root() {
    let (_root, source) = source(whole(), &[]);
    for name in ["", "../a", "/etc/passwd", "a/../../b", "./..", "a\0b"] {
        let error = ClipFiles::locate(&source, &clip(name, 0.0, 1.0)).unwrap_err();
        assert_eq!(error.kind(), "unsafe-path", "{name:?}");
    }
}

#[test]
fn impossible_segments_are_refused() {
    let (_root, source) = source(whole(), &["a.mp4"]);
    let kind = |start, end| ClipFiles::locate(&source, &clip("a", start, end)).unwrap_err().kind();
    assert_eq!(kind(1.0, 1.0), "zero-length");
    assert_eq!(kind(2.0, 1.0), "zero-length");
    assert_eq!(kind(-1.0, 1.0), "out-of-range");
    assert_eq!(kind(f64::NAN, 1.0), "out-of-range");
    assert_eq!(kind(0.0, f64::NAN), "out-of-range");
    assert_eq!(kind(0.0, f64::INFINITY), "out-of-range");
    assert_eq!(kind(0.0, 1e18), "out-of-range");
}

#[test]
fn whole_file_frames() {
    let (_root, source) = source(whole(), &["a.mp4"]);
    let frames = |start, end, frames| {
        let clip = clip("a", start, end);
        let files = ClipFiles::locate(&source, &clip).unwrap();
        plan(&files, &clip, 30.0, &[frames]).map(|parts| parts[0].frames.clone())
    };
    // Frames 30 to 61 as in SEEDS.md 4.6: int(31.2) = 31 frames long.
    assert_eq!(frames(1.0, 2.04, 300).unwrap(), [33, 41, 49, 57]);
    // Lengthened to as many frames as are asked for.
    assert_eq!(frames(1.0, 1.001, 300).unwrap(), [30, 31, 32, 33]);
    // Cut at the file's end.
    assert_eq!(frames(1.0, 9.0, 34).unwrap(), [30, 31, 32, 33]);
    assert_eq!(frames(1.0, 9.0, 31).unwrap(), [30; 4]);
    assert_eq!(frames(1.0, 9.0, 30).unwrap_err().kind(), "out-of-range");
    assert_eq!(frames(1.0, 9.0, 0).unwrap_err().kind(), "no-frames");
}

#[test]
fn chunked_frames_are_split_at_the_border() {
    let (root, source) = source(chunked(15.0), &["v.mp4/0.mp4", "v.mp4/15.mp4", "v.mp4/30.mp4"]);
    let at = |start, end, frames: &[u64]| {
        let clip = clip("v", start, end);
        let files = ClipFiles::locate(&source, &clip).unwrap();
        plan(&files, &clip, 30.0, frames)
    };
    // Absolute frames 435..465: 438, 446, 453, 461.
    let parts = at(14.5, 15.5, &[450, 450]).unwrap();
    assert_eq!(parts, [part(0, &[438, 446]), part(1, &[3, 11])]);
    // Absolute frames 449..453 where the first chunk is one frame short: 449 becomes its last.
    let parts = at(14.96, 15.1, &[449, 450]).unwrap();
    assert_eq!(parts, [part(0, &[448]), part(1, &[0, 1, 2])]);
    // Over three chunks the middle one is read whole: frames 300..1050.
    let parts = at(10.0, 35.0, &[450, 450, 450]).unwrap();
    assert_eq!(parts, [part(0, &[393]), part(1, &[131, 318]), part(2, &[56])]);
    // Ends where the last chunk ends: at frame 30 * 30 + 9.
    let parts = at(29.0, 40.0, &[450, 10]).unwrap();
    assert_eq!(parts, [part(0, &[424, 434, 444]), part(1, &[4])]);

    let paths = ClipFiles::locate(&source, &clip("v", 29.0, 500.0)).unwrap().paths;
    let folder = root.path().join("v.mp4");
    assert_eq!(paths, [folder.join("15.mp4"), folder.join("30.mp4")]);
}

#[test]
fn chunk_errors_have_their_own_kinds() {
    let (_root, source) = source(chunked(15.0), &["v/0.mp4", "v/30.mp4"]);
    let locate = |start, end| ClipFiles::locate(&source, &clip("v", start, end));
    assert_eq!(locate(1.0, 31.0).unwrap_err().kind(), "missing-chunk");
    assert_eq!(locate(16.0, 17.0).unwrap_err().kind(), "missing-chunk");
    assert_eq!(locate(50.0, 51.0).unwrap_err().kind(), "missing-chunk");
    let other = ClipFiles::locate(&source, &clip("w", 0.0, 1.0));
    assert_eq!(other.unwrap_err().kind(), "missing");

    let kind = |start, end, frames: &[u64]| {
        let files = locate(start, end).unwrap();
        plan(&files, &clip("v", start, end), 30.0, frames).unwrap_err().kind()
    };
    assert_eq!(kind(2.0, 2.01, &[450]), "too-short");
    assert_eq!(kind(2.0, 3.0, &[50]), "out-of-range");
    assert_eq!(kind(2.0, 3.0, &[0]), "no-frames");
}

#[test]
fn a_chunk_length_may_have_a_fraction() {
    let (root, source) = source(chunked(7.5), &["v/7.5.mp4", "v/15.mp4"]);
    let clip = clip("v", 7.6, 16.0);
    let files = ClipFiles::locate(&source, &clip).unwrap();
    let folder = root.path().join("v");
    assert_eq!(files.paths, [folder.join("7.5.mp4"), folder.join("15.mp4")]);
    // At 10 frames/s: 76..160 from a first chunk that begins with frame 75.
    let parts = plan(&files, &clip, 10.0, &[75, 75]).unwrap();
    assert_eq!(parts, [part(0, &[11, 32, 53, 74])]);
}

#[test]
fn a_declared_frame_rate_must_hold() {
    let (_root, source) = source(whole(), &["a.mp4"]);
    let clip = clip("a", 0.0, 1.0);
    let files = ClipFiles::locate(&source, &clip).unwrap();
    let kind = |declared, fps, frames| {
        let info = |_| Ok(FileInfo { frames, fps });
        files.plan(&clip, declared, 4, centred, info).map_err(|error| error.kind())
    };
    assert_eq!(kind(Some(30.0), 59.94, 600), Err("wrong-fps"));
    assert_eq!(kind(Some(30.0), 25.0, 600), Err("wrong-fps"));
    assert_eq!(kind(None, 0.0, 600), Err("wrong-fps"));
    assert_eq!(kind(None, f64::NAN, 600), Err("wrong-fps"));
    assert!(kind(Some(30.0), 29.97, 600).is_ok());
    // Too few frames for the stated rate to mean anything.
    assert!(kind(Some(30.0), 15.0, 3).is_ok());
}

#[test]
fn a_whole_video_is_as_long_as_its_file() {
    let (_root, source) = source(whole(), &["a.mp4"]);
    let clip = Clip::labelled("a".into(), 3);
    let files = ClipFiles::locate(&source, &clip).unwrap();
    let at = |declared, fps, frames| {
        let info = |_| Ok(FileInfo { frames, fps });
        files.plan(&clip, declared, 4, |start, end| vec![start, end - 1, end / 2, end / 2], info)
    };
    // Time goes back: another part.
    assert_eq!(at(None, 30.0, 100).unwrap(), [part(0, &[0, 99]), part(0, &[50, 50])]);
    assert_eq!(at(None, f64::NAN, 1).unwrap(), [part(0, &[0, 0, 0, 0])]);
    assert_eq!(at(None, 30.0, 0).unwrap_err().kind(), "no-frames");
    assert_eq!(at(Some(30.0), 15.0, 100).unwrap_err().kind(), "wrong-fps");
    let missing = ClipFiles::locate(&source, &Clip::labelled("b".into(), 3));
    assert_eq!(missing.unwrap_err().kind(), "missing");
    let outside = ClipFiles::locate(&source, &Clip::labelled("../a".into(), 3));
    assert_eq!(outside.unwrap_err().kind(), "unsafe-path");
}

proptest! {
    #[test]
    fn planned_frames_exist(
        start_s in 0.0f64..70.0,
        length_s in 0.05f64..40.0,
        fps in prop::sample::select(vec![12.5, 24.0, 29.97, 30.0, 47.95, 59.94]),
        short in prop::collection::vec(0u64..12, 6),
        last in 1u64..500,
        seed in any::<u64>(),
    ) {
        let clip = clip("v", start_s, start_s + length_s);
        let first_chunk = (start_s / 15.0) as u64;
        let chunks = ((clip.end_s / 15.0) as u64 - first_chunk) as usize + 1;
        let files = ClipFiles {
            paths: (0..chunks).map(|i| PathBuf::from(i.to_string())).collect(),
            chunks: Some((15.0, first_chunk)),
            known: Vec::new(),
        };
        let frames: Vec<u64> = (0..chunks)
            .map(|i| if i + 1 == chunks { last } else { (15.0 * fps) as u64 - short[i] })
            .collect();
        let mut rng = keyed(seed, 0, 0, Purpose::Frames);
        let info = |file: usize| Ok(FileInfo { frames: frames[file], fps });
        let drawn = |start, end| FrameRule::Avion.drawn(start, end, 16, &mut rng);
        match files.plan(&clip, None, 16, drawn, info) {
            Ok(parts) => {
                prop_assert_eq!(parts.iter().map(|p| p.frames.len()).sum::<usize>(), 16);
                prop_assert!(parts.is_sorted_by(|a, b| a.file < b.file));
                for part in parts {
                    prop_assert!(part.frames.is_sorted());
                    prop_assert!(*part.frames.last().unwrap() < frames[part.file]);
                }
            }
            Err(error) => prop_assert!(["out-of-range", "too-short"].contains(&error.kind())),
        }
    }
}
