//! The program itself: killed, interrupted, verified.

use super::*;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

fn avion(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_avion"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn command(raw: &Path, out: &Path) -> Command {
    let mut command = avion(&["prepare", "--chunk-s", "1", "--short-side", "64", "--preset", "slow", "--workers", "2"]);
    command.arg("--input").arg(raw).arg("--output").arg(out);
    command
}

fn quiet(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Both folders hold the same frames, each its own manifest tells the truth, and the manifests differ in bytes at most: where
/// two ways of coding a picture cost the same, x264's slower presets do not always take the same one.
#[track_caller]
fn assert_same(found: &Path, expected: &Path) {
    assert_eq!(contents(found).into_keys().collect::<Vec<_>>(), contents(expected).into_keys().collect::<Vec<_>>());
    for file in video_files(found) {
        assert_eq!(codes(&found.join(&file)), codes(&expected.join(&file)), "{file}");
    }
    let checked = prepare::verify(found, 2, false, &|| false).unwrap();
    assert!(checked.wrong.is_empty(), "{:?}", checked.wrong);
    let without_bytes = |folder: &Path| {
        let (settings, mut videos) = manifest_of(folder);
        for video in videos.values_mut() {
            let Outcome::Ready(ready) = &mut video.result else { panic!("{} failed", video.video) };
            ready.chunks.iter_mut().for_each(|chunk| (chunk.bytes, chunk.crc32c) = (0, 0));
        }
        (settings, videos)
    };
    assert_eq!(without_bytes(found), without_bytes(expected));
}

fn raw_videos(folder: &Path) -> PathBuf {
    let raw = folder.join("raw");
    for number in 0..4 {
        write_coded(&raw.join(format!("{number}.mp4")), 30.0, 150 + 40 * number);
    }
    raw
}

/// Finished chunks with the times of their files, `VIDEO/0.mp4`; files may come and go meanwhile.
fn finished(out: &Path) -> BTreeMap<String, SystemTime> {
    let list = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = list(out).flat_map(|folder| list(&folder).collect::<Vec<_>>());
    let chunk = |path: PathBuf| {
        let modified = std::fs::metadata(&path).ok()?.modified().ok()?;
        let name = path.strip_prefix(out).ok()?.display().to_string();
        name.ends_with(".mp4").then_some((name, modified))
    };
    files.filter_map(chunk).collect()
}

#[test]
fn kills_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, whole, out) = (raw_videos(folder.path()), folder.path().join("whole"), folder.path().join("out"));
    assert!(quiet(command(&raw, &whole)).wait().unwrap().success());
    let mut made_twice = 0;
    for kill in 0..6u64 {
        let before = finished(&out);
        let mut child = quiet(command(&raw, &out));
        let give_up = Instant::now() + Duration::from_secs(60);
        while finished(&out).len() < before.len() + 2 && child.try_wait().unwrap().is_none() && Instant::now() < give_up
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(7 * kill));
        child.kill().unwrap();
        child.wait().unwrap();
        let after = finished(&out);
        made_twice += before.iter().filter(|(name, time)| after[*name] != **time).count();
        println!("kill {kill}: {} chunks", after.len());
    }
    // Killed between the file and its line in the journal, a chunk is made again: at most one a thread and kill.
    assert!(made_twice <= 12, "{made_twice}");
    assert!(quiet(command(&raw, &out)).wait().unwrap().success());
    assert_same(&out, &whole);
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, whole, out) = (raw_videos(folder.path()), folder.path().join("whole"), folder.path().join("out"));
    assert!(quiet(command(&raw, &whole)).wait().unwrap().success());
    let mut child = quiet(command(&raw, &out));
    while finished(&out).is_empty() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    if !sent.is_ok_and(|status| status.success()) {
        child.kill().unwrap();
        println!("SKIPPED: needs the program kill");
        return;
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(out.join(manifest::FILE).is_file(), "what is finished can be trained on");
    assert!(quiet(command(&raw, &out)).wait().unwrap().success());
    assert_same(&out, &whole);
}

#[test]
fn verify_says_what_differs_and_fails() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, out) = (folder.path().join("raw"), folder.path().join("out"));
    write_coded(&raw.join("a.mp4"), 30.0, 40);
    let made = command(&raw, &out).output().unwrap();
    assert!(made.status.success() && text(&made).contains("1 videos made"), "{}", text(&made));
    let verify = |more: &[&str]| avion(&["prepare", "verify", "--output"]).arg(&out).args(more).output().unwrap();
    let good = verify(&[]);
    assert!(good.status.success() && text(&good).contains("0 chunks differ"), "{}", text(&good));
    std::fs::write(out.join("a/0.mp4"), "no video").unwrap();
    let bad = verify(&["--repair"]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(text(&bad).contains("a/0.mp4: size in bytes 8") && text(&bad).contains("were removed"), "{}", text(&bad));
    assert!(command(&raw, &out).output().unwrap().status.success());
    assert!(verify(&[]).status.success());
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, out) = (raw_videos(folder.path()), folder.path().join("out"));
    std::fs::write(raw.join("zero.mp4"), "").unwrap();
    let dry = command(&raw, &out).arg("--dry-run").output().unwrap();
    let text = text(&dry);
    assert!(dry.status.success(), "{text}");
    for expected in
        ["4 videos to make, 0.01 h", "1 cannot be opened", "zero.mp4", "about ", "with 2 workers", "are free"]
    {
        assert!(text.contains(expected), "{expected:?} is not in {text}");
    }
    assert!(!out.exists());
    let none = avion(&["prepare", "--input", "x"]).output().unwrap();
    assert_eq!(none.status.code(), Some(2));
}
