//! `avion prepare verify` finds every kind of damage, and repairing makes it good.

use super::*;

/// Rewrites the manifest after a change of one video.
fn change(out: &Path, name: &str, change: impl FnOnce(&mut Ready)) {
    let (settings, mut videos) = manifest_of(out);
    let Outcome::Ready(ready) = &mut videos.get_mut(name).unwrap().result else { panic!("{name} failed") };
    change(ready);
    let path = out.join(manifest::FILE);
    manifest::write(&path, &settings, true, videos.values()).unwrap();
}

#[test]
fn each_kind_of_damage_is_found_and_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, out) = (folder.path().join("raw"), folder.path().join("out"));
    write_coded(&raw.join("a.mp4"), 30.0, 75);
    write_coded(&raw.join("b.mp4"), 30.0, 45);
    write_coded(&folder.path().join("other/a.mp4"), 30.0, 10);
    std::fs::write(raw.join("zero.mp4"), "").unwrap();
    run(&options(&raw, &out)).unwrap();
    run(&options(&folder.path().join("other"), &folder.path().join("other-out"))).unwrap();
    let good = contents(&out);
    let problems = || {
        let checked = prepare::verify(&out, 2, false, &|| false).unwrap();
        assert_eq!((checked.videos, checked.chunks, checked.frames, checked.failed), (2, 5, 120, 1));
        let text =
            |(path, problem): &(PathBuf, String)| format!("{}: {problem}", path.strip_prefix(&out).unwrap().display());
        checked.wrong.iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(problems(), [""; 0]);
    let restore = || good.iter().for_each(|(path, bytes)| std::fs::write(out.join(path), bytes).unwrap());
    let found = |expected: &str| {
        let problems = problems();
        assert!(problems.len() == 1 && problems[0].contains(expected), "{problems:?} instead of {expected}");
        restore();
    };

    std::fs::remove_file(out.join("a/1.mp4")).unwrap();
    found("a/1.mp4: missing");
    let file = &good[Path::new("a/1.mp4")];
    std::fs::write(out.join("a/1.mp4"), &file[..file.len() / 2]).unwrap();
    found("a/1.mp4: size in bytes");
    let mut flipped = file.clone();
    flipped[file.len() / 2] ^= 16;
    std::fs::write(out.join("a/1.mp4"), flipped).unwrap();
    found("a/1.mp4: content differs");

    // A file that is whole, and belongs elsewhere.
    let other = std::fs::read(folder.path().join("other-out/a/0.mp4")).unwrap();
    std::fs::write(out.join("a/2.mp4"), &other).unwrap();
    change(&out, "a", |a| (a.chunks[2].bytes, a.chunks[2].crc32c) = (other.len() as u64, crc32c::crc32c(&other)));
    found("a/2.mp4: frames 10 with 0 errors, expected 15");
    change(&out, "b", |b| b.chunks[1].frames = 14);
    // The sum of the frames follows the manifest.
    let checked = prepare::verify(&out, 2, false, &|| false).unwrap();
    assert_eq!(checked.wrong[0].1, "frames 15 with 0 errors, expected 14");
    restore();
    change(&out, "b", |b| b.chunks[0].key_every = 16);
    found("b/0.mp4: key frames [0, 8, 16, 24], expected one every 16");
    change(&out, "b", |b| b.height += 2);
    assert!(problems().iter().all(|problem| problem.contains("pictures of 86 x 64 px, expected 86 x 66 px")));
    restore();

    std::fs::write(out.join("b/1.mp4"), "damaged").unwrap();
    let checked = prepare::verify(&out, 2, true, &|| false).unwrap();
    assert_eq!(checked.wrong.len(), 1);
    assert!(!out.join("b/1.mp4").exists());
    run(&options(&raw, &out)).unwrap();
    assert_eq!(contents(&out), good);
}

#[test]
fn a_folder_of_nothing_is_said_to_be_so() {
    let folder = tempfile::tempdir().unwrap();
    let text = prepare::verify(folder.path(), 1, false, &|| false).unwrap_err().to_string();
    assert!(text.contains("nothing has been prepared"), "{text}");
}
