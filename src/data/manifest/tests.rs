use super::*;
use proptest::prelude::*;
use std::path::PathBuf;

fn settings(chunk_s: u32) -> Settings {
    Settings {
        layout: "plain".into(),
        chunk_s,
        short_side: 288,
        gop: 8,
        codec: "libx264".into(),
        quality: 24,
        preset: "veryfast".into(),
    }
}

/// A video of `frames` frames, cut as the settings say.
fn ready(settings: &Settings, name: &str, fps: [u32; 2], frames: u64) -> Video {
    let ends = (0..).map(|chunk| match settings.chunk_s {
        0 => (0, frames),
        _ => (settings.first_frame(chunk, fps), settings.first_frame(chunk + 1, fps).min(frames)),
    });
    let chunks = ends.take_while(|(first, end)| first < end).take(if settings.chunk_s == 0 { 1 } else { 1000 });
    let chunk = |(first, end): (u64, u64)| Chunk {
        frames: (end - first) as u32,
        bytes: 100 + first,
        crc32c: first as u32,
        key_every: 8,
    };
    let source = SourceFile { path: format!("/raw/{name}.mkv"), bytes: 5, modified_ns: 6, hash: "h".into() };
    let chunks = chunks.map(chunk).collect();
    let ready = Ready { fps, width: 512, height: 288, repeated: 0, dropped: 0, decode_errors: 0, chunks };
    Video { video: name.into(), source, result: Outcome::Ready(ready) }
}

fn failed(name: &str) -> Video {
    let result = Outcome::Failed(Failed { kind: "empty".into(), reason: "the file is empty".into() });
    Video { video: name.into(), source: SourceFile::default(), result }
}

fn write_and_read(settings: &Settings, videos: &[Video]) -> Result<Vec<Video>, ManifestError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    write(&path, settings, true, videos.iter()).unwrap();
    let mut found = Vec::new();
    let header = read(&path, |_, video| found.push(video))?;
    assert_eq!((&header.settings, header.videos, header.complete), (settings, videos.len(), true));
    Ok(found)
}

/// The error of a manifest of these lines.
fn error(lines: &[u8]) -> ManifestError {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    std::fs::write(&path, lines).unwrap();
    read(&path, |_, _| ()).unwrap_err()
}

fn lines(settings: &Settings, videos: &[Video]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    write(&path, settings, true, videos.iter()).unwrap();
    std::fs::read(&path).unwrap()
}

#[test]
fn chunks_begin_at_whole_seconds_without_drift() {
    let settings = settings(15);
    assert_eq!([0, 1, 2].map(|chunk| settings.first_frame(chunk, [30, 1])), [0, 450, 900]);
    let ntsc = [30000, 1001];
    // 15 s are 449.55 frames: frame 450 is the first that is shown at or after 15 s.
    assert_eq!([1, 2, 1001].map(|chunk| settings.first_frame(chunk, ntsc)), [450, 900, 450_000]);
    assert_eq!([449, 450, 899, 900].map(|frame| settings.chunk_of(frame, ntsc)), [0, 1, 1, 2]);
    assert_eq!(settings.chunk_of(7, [1, 100]), 46);
    assert_eq!(settings.file("P01/P01_01", 2), "P01/P01_01/30.mp4");
    assert_eq!(super::tests::settings(0).file("a/b", 0), "a/b.mp4");
}

proptest! {
    #[test]
    fn a_frame_lies_in_the_chunk_that_begins_before_it(
        chunk_s in 1u32..100, numerator in 1u32..70_000, denominator in 1u32..2000, frame in 0u64..10_000_000,
    ) {
        let (settings, fps) = (settings(chunk_s), [numerator, denominator]);
        let chunk = settings.chunk_of(frame, fps);
        prop_assert!(settings.first_frame(chunk, fps) <= frame);
        prop_assert!(frame < settings.first_frame(chunk + 1, fps));
    }

    #[test]
    fn what_is_written_is_read(
        chunk_s in prop_oneof![Just(0u32), 1u32..20],
        videos in proptest::collection::btree_map("[a-z]{1,8}(/[A-Za-z0-9 _.-]{1,9}[a-z])?", (1u64..5000, 1u32..100), 0..8),
    ) {
        let settings = settings(chunk_s);
        let videos: Vec<Video> = videos
            .into_iter()
            .map(|(name, (frames, fps))| match fps % 7 {
                0 => failed(&name),
                _ => ready(&settings, &name, [fps + 6, 1], frames),
            })
            .collect();
        prop_assert_eq!(write_and_read(&settings, &videos).unwrap(), videos);
    }

    /// Whatever happens to the bytes, the answer is an error with a line, or a manifest that holds together.
    #[test]
    fn damage_is_an_error_of_a_line(
        at in 0usize..10_000, byte in any::<u8>(), kind in 0u8..4, length in 0usize..40,
    ) {
        let settings = settings(15);
        let videos = [ready(&settings, "a", [30, 1], 1000), failed("b"), ready(&settings, "c", [25, 1], 10)];
        let good = lines(&settings, &videos);
        let at = at % good.len();
        let mut bad = good.clone();
        match kind {
            0 => bad[at] = byte,
            1 => bad.truncate(at),
            2 => bad.insert(at, byte),
            _ => drop(bad.drain(at..(at + length).min(good.len()))),
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        std::fs::write(&path, &bad).unwrap();
        let mut found = Vec::new();
        match read(&path, |_, video| found.push(video)) {
            Ok(header) => {
                prop_assert_eq!(found.len(), header.videos);
                prop_assert!(kind != 1 || bad == good, "a cut was not noticed");
                for video in &found {
                    prop_assert_eq!(check(&header.settings, video), Ok(()));
                }
            }
            Err(ManifestError::Damaged { line, reason, .. }) => {
                prop_assert!((1..=6).contains(&line) && !reason.is_empty(), "{line} {reason}");
            }
            Err(ManifestError::Version { found, .. }) => prop_assert!(found != 1),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

#[test]
fn errors_name_the_line_and_what_to_do() {
    let settings = settings(15);
    let video = |change: &dyn Fn(&mut Ready)| {
        let mut video = ready(&settings, "a", [30, 1], 1000);
        if let Outcome::Ready(ready) = &mut video.result {
            change(ready);
        }
        error(&lines(&settings, &[failed("b"), video])).to_string()
    };
    let text = video(&|ready| ready.chunks[1].frames = 449);
    assert!(text.contains("line 3") && text.contains("chunk 1 of 3 has 449 frames, a full one 450"), "{text}");
    assert!(text.contains("Put a copy of the file in its place"), "{text}");
    assert!(video(&|ready| ready.chunks.clear()).contains("0 chunks"));
    assert!(video(&|ready| ready.chunks[2].frames = 0).contains("chunk 2 of 3 has 0 frames"));
    assert!(video(&|ready| ready.width = 511).contains("511 x 288 px"));
    assert!(video(&|ready| ready.fps = [30, 0]).contains("30/0 frames/s"));
    assert!(video(&|ready| ready.chunks[0].key_every = 0).contains("key_every"));

    let twice = error(&lines(&settings, &[failed("b"), failed("b")])).to_string();
    assert!(twice.contains("line 3") && twice.contains("earlier line"), "{twice}");
    let outside = ready(&settings, "../b", [30, 1], 10);
    assert!(error(&lines(&settings, &[outside])).to_string().contains("leaves the data root"));
    assert!(error(b"").to_string().contains("line 1 is damaged: the file is empty"));

    let good = lines(&settings, &[failed("b"), failed("c")]);
    let one_less = &good[..=good[..good.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap()];
    let text = error(one_less).to_string();
    assert!(text.contains("the first line promises 2 videos, 1 follow"), "{text}");
    let text = error(&good[..good.len() - 1]).to_string();
    assert!(text.contains("line 3 is damaged: the line does not end"), "{text}");
    let unknown = String::from_utf8(good.clone()).unwrap().replacen("\"kind\"", "\"kind_\"", 1);
    assert!(error(unknown.as_bytes()).to_string().contains("unknown field"));
    let text = error(b"{\"avion_manifest\":2,\"new\":true}\n").to_string();
    assert!(text.contains("format 2, this one reads 1"), "{text}");
}

#[test]
fn differences_are_said_in_words() {
    let other = Settings { gop: 16, preset: "slow".into(), ..settings(15) };
    assert_eq!(settings(15).differences(&other), ["gop 8, not 16", "preset veryfast, not slow"]);
}

/// A folder with files of the sizes that a manifest states.
fn folder_of(settings: &Settings, videos: &[Video]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join(FILE), settings, true, videos.iter()).unwrap();
    for video in videos {
        if let Outcome::Ready(ready) = &video.result {
            for (number, chunk) in ready.chunks.iter().enumerate() {
                let path = folder.path().join(settings.file(&video.video, number));
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, vec![0; chunk.bytes as usize]).unwrap();
            }
        }
    }
    let path = folder.path().to_owned();
    (folder, path)
}

#[test]
fn files_are_found_by_the_names_of_annotations() {
    let settings = settings(15);
    let videos = [ready(&settings, "P01/P01_01", [30000, 1001], 1000), failed("b.c")];
    let (_guard, folder) = folder_of(&settings, &videos);
    let prepared = Prepared::find(&folder).unwrap().unwrap();
    for name in ["P01/P01_01", "P01/P01_01.MP4", "./P01/P01_01"] {
        let files = prepared.files(name, Some((14.0, 16.0))).unwrap();
        let shown: Vec<_> = files.iter().map(|file| (file.path.to_str().unwrap(), file.first_frame)).collect();
        assert_eq!(shown, [("P01/P01_01/0.mp4", 0), ("P01/P01_01/15.mp4", 450)]);
        assert_eq!(files.iter().map(|file| file.info.frames).collect::<Vec<_>>(), [450, 450]);
    }
    // The video ends at 33.37 s, in its third chunk.
    assert_eq!(prepared.files("P01/P01_01", Some((31.0, 99.0))).unwrap().len(), 1);
    assert_eq!(prepared.files("P01/P01_01", None).unwrap().len(), 3);
    let beyond = prepared.files("P01/P01_01", Some((33.4, 34.0))).unwrap_err();
    assert!(matches!(beyond, Absent::Beyond { video_s } if (video_s - 33.3667).abs() < 1e-3));
    assert_eq!(prepared.files("P01", Some((0.0, 1.0))), Err(Absent::Unknown));
    assert_eq!(prepared.files("b.c", None), Err(Absent::Failed { reason: "the file is empty".into() }));
}

#[test]
fn files_that_differ_are_named_at_the_start() {
    let settings = settings(15);
    let videos = [ready(&settings, "a", [30, 1], 1000), ready(&settings, "b", [30, 1], 10)];
    let (_guard, folder) = folder_of(&settings, &videos);
    assert!(Prepared::find(&folder).unwrap().is_some());
    std::fs::write(folder.join("a/15.mp4"), "short").unwrap();
    std::fs::remove_file(folder.join("b/0.mp4")).unwrap();
    let text = Prepared::find(&folder).unwrap_err().to_string();
    assert!(text.contains("2 of 4 video files are not as the manifest says"), "{text}");
    assert!(text.contains("a/15.mp4 has 5 bytes instead of 550; b/0.mp4 is missing"), "{text}");

    std::fs::rename(folder.join(FILE), folder.join(JOURNAL)).unwrap();
    let text = Prepared::find(&folder).unwrap_err().to_string();
    assert!(text.contains("run the same command again"), "{text}");
    std::fs::remove_file(folder.join(JOURNAL)).unwrap();
    assert!(Prepared::find(&folder).unwrap().is_none());
}
