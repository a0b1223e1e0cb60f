//! Runs that go on: after a stop, a full disk, a change of sources; what is finished is not made again.

use super::*;
use avion::fs::WriteError;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

/// Three videos of 4, 3 and 2 s.
fn raw_videos(folder: &Path) -> PathBuf {
    let raw = folder.join("raw");
    for (name, frames) in [("a.mp4", 120), ("b/c.mp4", 90), ("d.avi", 60)] {
        write_coded(&raw.join(name), 30.0, frames);
    }
    raw
}

#[test]
fn a_full_disk_keeps_what_is_finished_and_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, whole, out) = (raw_videos(folder.path()), folder.path().join("whole"), folder.path().join("out"));
    run(&options(&raw, &whole)).unwrap();

    let room = AtomicUsize::new(4);
    let written = Mutex::new(Vec::new());
    let full = |path: &Path, bytes: &[u8]| {
        if room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |room| room.checked_sub(1)).is_err() {
            return Err(WriteError::DiskFull { path: path.to_owned(), needed_bytes: bytes.len() as u64 });
        }
        written.lock().unwrap().push(path.to_owned());
        prepare::publish(path, bytes)
    };
    let error = prepare::run(&options(&raw, &out), &|| false, &full).unwrap_err();
    let PrepareError::DiskFull { videos, .. } = &error else { panic!("{error}") };
    assert!((1..=3).contains(videos), "{videos}");
    let text = error.to_string();
    assert!(
        text.contains("disk full") && text.contains("needs about ") && text.contains("run the same command again"),
        "{text}"
    );
    assert_eq!(video_files(&out).len(), 4);

    let before = written.lock().unwrap().clone();
    let again = |path: &Path, bytes: &[u8]| {
        assert!(!before.contains(&path.to_owned()), "made again: {}", path.display());
        prepare::publish(path, bytes)
    };
    prepare::run(&options(&raw, &out), &|| false, &again).unwrap();
    assert_eq!(contents(&out), contents(&whole));
}

#[test]
fn a_stop_drops_the_chunk_at_hand_only() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, whole, out) = (raw_videos(folder.path()), folder.path().join("whole"), folder.path().join("out"));
    run(&options(&raw, &whole)).unwrap();
    let chunks = AtomicUsize::new(0);
    let count = |path: &Path, bytes: &[u8]| {
        chunks.fetch_add(1, Ordering::SeqCst);
        prepare::publish(path, bytes)
    };
    let one = Options { workers: 1, ..options(&raw, &out) };
    let stopped = prepare::run(&one, &|| chunks.load(Ordering::SeqCst) >= 6, &count).unwrap();
    assert!(stopped.interrupted);
    assert_eq!((stopped.made, video_files(&out).len()), (1, 6));
    let summary = prepare::run(&one, &|| false, &count).unwrap();
    assert_eq!((summary.made, summary.found), (2, 1));
    assert_eq!(chunks.into_inner(), 9, "each chunk was made once");
    assert_eq!(contents(&out), contents(&whole));
}

#[test]
fn what_changed_is_made_anew_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, out) = (raw_videos(folder.path()), folder.path().join("out"));
    run(&options(&raw, &out)).unwrap();
    let written = Mutex::new(Vec::new());
    let note = |path: &Path, bytes: &[u8]| {
        written.lock().unwrap().push(path.strip_prefix(&out).unwrap().display().to_string());
        prepare::publish(path, bytes)
    };
    let again = || {
        let summary = prepare::run(&options(&raw, &out), &|| false, &note).unwrap();
        let mut files = std::mem::take(&mut *written.lock().unwrap());
        files.sort();
        (summary.made, summary.found, files)
    };
    assert_eq!(again(), (0, 3, vec![]));
    // Touched only: the same content.
    let file = std::fs::File::options().append(true).open(raw.join("a.mp4")).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(60)).unwrap();
    assert_eq!(again(), (0, 3, vec![]));
    // Shorter now: two chunks instead of four.
    write_coded(&raw.join("a.mp4"), 30.0, 45);
    assert_eq!(again(), (1, 2, ["a/0.mp4", "a/1.mp4"].map(str::to_owned).into()));
    assert_eq!(video_files(&out).iter().filter(|file| file.starts_with("a/")).count(), 2);
    assert_eq!(codes(&out.join("a/1.mp4")), (30..45).collect::<Vec<_>>());
    // Two files went away, one of them cut.
    std::fs::remove_file(out.join("b/c/1.mp4")).unwrap();
    std::fs::write(out.join("d/0.mp4"), "short").unwrap();
    assert_eq!(again(), (2, 1, ["b/c/1.mp4", "d/0.mp4"].map(str::to_owned).into()));
    // A new video beside the others; one that left stays as it was made.
    write_coded(&raw.join("e.mp4"), 30.0, 20);
    std::fs::remove_file(raw.join("d.avi")).unwrap();
    assert_eq!(again(), (1, 2, vec!["e/0.mp4".to_owned()]));
    let (_, videos) = manifest_of(&out);
    assert_eq!(videos.keys().collect::<Vec<_>>(), ["a", "b/c", "d", "e"]);
}

/// A disk that is not there today must not cost what was prepared from it.
#[test]
fn what_cannot_be_read_now_keeps_its_video() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, out, list) = (raw_videos(folder.path()), folder.path().join("out"), folder.path().join("list"));
    std::fs::write(&list, "raw/a.mp4\nraw/b/c.mp4\n").unwrap();
    run(&options(&list, &out)).unwrap();
    let before = contents(&out);
    std::fs::rename(&raw, folder.path().join("away")).unwrap();
    let summary = run(&options(&list, &out)).unwrap_err().to_string();
    assert!(summary.contains("all 2 videos failed"), "{summary}");
    assert_eq!(contents(&out), before);
}

#[test]
fn other_settings_are_refused_with_the_difference() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, out) = (folder.path().join("raw"), folder.path().join("out"));
    write_coded(&raw.join("a.mp4"), 30.0, 40);
    run(&options(&raw, &out)).unwrap();
    let before = contents(&out);
    let text = run(&Options { gop: 12, chunk_s: Some(2), ..options(&raw, &out) }).unwrap_err().to_string();
    assert!(text.contains("chunk-s 1, not 2; gop 8, not 12") && text.contains("another --output"), "{text}");
    assert_eq!(contents(&out), before);
}

/// A journal that was cut in its last line is read up to there; one that is damaged before is not.
#[test]
fn a_journal_may_end_in_the_middle() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, whole, out) = (raw_videos(folder.path()), folder.path().join("whole"), folder.path().join("out"));
    run(&options(&raw, &whole)).unwrap();
    let journal = out.join("prepare.journal");
    let seen = Mutex::new(Vec::new());
    let look = |path: &Path, bytes: &[u8]| {
        seen.lock().unwrap().push(std::fs::read(&journal).unwrap());
        prepare::publish(path, bytes)
    };
    prepare::run(&Options { workers: 1, ..options(&raw, &out) }, &|| false, &look).unwrap();
    let seen = seen.into_inner().unwrap();
    let at_five = &seen[5];
    for cut in [at_five.len(), at_five.len() - 1, at_five.len() - 40, 30, 0] {
        std::fs::remove_file(out.join(manifest::FILE)).unwrap();
        std::fs::write(&journal, &at_five[..cut]).unwrap();
        run(&options(&raw, &out)).unwrap();
        assert_eq!(contents(&out), contents(&whole), "cut at {cut}");
    }
    std::fs::remove_file(out.join(manifest::FILE)).unwrap();
    let mut damaged = at_five.clone();
    damaged[5] = b'X';
    std::fs::write(&journal, damaged).unwrap();
    let text = run(&options(&raw, &out)).unwrap_err().to_string();
    assert!(text.contains("prepare.journal: line 1 is damaged"), "{text}");
}

#[test]
fn two_at_once_are_one_too_many() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, out) = (folder.path().join("raw"), folder.path().join("out"));
    write_coded(&raw.join("a.mp4"), 30.0, 40);
    let second = Mutex::new(None);
    let meanwhile = |path: &Path, bytes: &[u8]| {
        *second.lock().unwrap() = Some(run(&options(&raw, &out)).unwrap_err().to_string());
        prepare::publish(path, bytes)
    };
    prepare::run(&options(&raw, &out), &|| false, &meanwhile).unwrap();
    let text = second.into_inner().unwrap().unwrap();
    assert!(text.contains("another `avion prepare` is at work in"), "{text}");
}
