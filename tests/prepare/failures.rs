//! Sources that cannot be prepared: each is counted, and the others are.

use super::*;

fn kinds(summary: &Summary) -> BTreeMap<&str, &str> {
    summary.failed.iter().map(|(video, failed)| (video.as_str(), failed.kind.as_str())).collect()
}

/// A WAV file of silence.
fn wav() -> Vec<u8> {
    let data = [0; 16_000];
    let mut file = Vec::from(*b"RIFF");
    file.extend((36 + data.len() as u32).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(8000u32.to_le_bytes());
    file.extend(16_000u32.to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend((data.len() as u32).to_le_bytes());
    file.extend(data);
    file
}

#[test]
fn bad_sources_are_counted_and_do_not_stop_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, out) = (folder.path().join("raw"), folder.path().join("out"));
    write_coded(&raw.join("good.mp4"), 30.0, 40);
    write_coded(&raw.join("good.avi"), 30.0, 40);
    std::fs::write(raw.join("zero.mp4"), "").unwrap();
    std::fs::write(raw.join("text.mkv"), "this is no video").unwrap();
    std::fs::write(raw.join("sound.mp4"), wav()).unwrap();
    std::fs::write(raw.join("notes.txt"), "not looked at").unwrap();
    // With the index first, a file that is cut in the middle still opens.
    let whole = folder.path().join("whole");
    write_coded(&folder.path().join("long/cut.mp4"), 30.0, 300);
    run(&Options { chunk_s: Some(0), ..options(&folder.path().join("long"), &whole) }).unwrap();
    let cut = std::fs::read(whole.join("cut.mp4")).unwrap();
    std::fs::write(raw.join("cut.mp4"), &cut[..cut.len() / 2]).unwrap();

    let summary = run(&options(&raw, &out)).unwrap();
    assert_eq!(summary.made, 1);
    let taken = raw.join("good.mp4").display().to_string();
    let expected = [
        (&*taken, "name"),
        ("cut", "truncated"),
        ("sound", "no-video-stream"),
        ("text", "unreadable"),
        ("zero", "empty"),
    ];
    assert_eq!(kinds(&summary), BTreeMap::from(expected), "{:?}", summary.failed);
    assert_eq!(video_files(&out), ["good/0.mp4", "good/1.mp4"], "nothing is left of what failed");
    let (_, videos) = manifest_of(&out);
    let Outcome::Failed(cut) = &videos["cut"].result else { panic!("cut.mp4 was prepared") };
    assert!(cut.reason.contains("of 10.00 s"), "{}", cut.reason);

    // They are tried again, and one that was mended is made.
    write_coded(&raw.join("zero.mp4"), 30.0, 5);
    let again = run(&options(&raw, &out)).unwrap();
    assert_eq!((again.made, again.found, again.failed.len()), (1, 1, 4));
    assert_eq!(ready(&manifest_of(&out).1["zero"]).frames(), 5);
}

#[test]
fn a_run_without_a_single_video_fails() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, out) = (folder.path().join("raw"), folder.path().join("out"));
    std::fs::create_dir_all(&raw).unwrap();
    let text = run(&options(&raw, &out)).unwrap_err().to_string();
    assert!(text.contains("no videos") && text.contains("mkv"), "{text}");
    std::fs::write(raw.join("zero.mp4"), "").unwrap();
    let text = run(&options(&raw, &out)).unwrap_err().to_string();
    assert!(text.contains("all 1 videos failed; the first: zero: the file is empty"), "{text}");
    let text = run(&options(&raw, &raw)).unwrap_err().to_string();
    assert!(text.contains("another folder"), "{text}");
    let text = run(&options(&raw.join("none"), &out)).unwrap_err().to_string();
    assert!(text.contains("cannot read") && text.contains("none"), "{text}");
}

#[test]
fn options_out_of_range_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, out) = (folder.path().join("raw"), folder.path().join("out"));
    write_coded(&raw.join("a.mp4"), 10.0, 3);
    let error = |change: &dyn Fn(&mut Options)| {
        let mut options = options(&raw, &out);
        change(&mut options);
        run(&options).unwrap_err().to_string()
    };
    assert!(error(&|o| o.short_side = 31).contains("--short-side: expected 32 to 4320 px, found 31"));
    assert!(error(&|o| o.short_side = 65).contains("an even number"));
    assert!(error(&|o| o.gop = 0).contains("--gop"));
    assert!(error(&|o| o.quality = Some(60)).contains("--quality: expected"));
    assert!(error(&|o| o.preset = "quick".into()).contains("--preset: expected ultrafast"));
    assert!(error(&|o| o.codec = Some("prores".into())).contains("no encoder prores"));
    assert!(!out.exists(), "nothing was written");
}

/// The real files that are odd or damaged: no crash, and what decodes whole is prepared.
#[test]
fn odd_files_are_prepared_or_refused() {
    let Some(shared) = common::shared_data() else { return };
    let out = tempfile::tempdir().unwrap();
    let summary = run(&Options { gop: 12, ..options(&shared.join("hard"), out.path()) }).unwrap();
    for (video, failed) in &summary.failed {
        println!("{video}: {}: {}", failed.kind, failed.reason);
        let meant =
            ["bad_", "derived_truncated", "corrupted_", "gap_1frame"].iter().any(|prefix| video.starts_with(prefix));
        assert!(meant, "{video}: {}", failed.reason);
    }
    assert!(summary.made >= 20, "{summary:?}");
    let checked = prepare::verify(out.path(), 2, false, &|| false).unwrap();
    assert!(checked.wrong.is_empty(), "{:?}", checked.wrong);
}
