//! Where chunks begin and end, and what lies in them.

use super::*;

/// Every chunk of a coded video holds the frames from the first at or after its start, each once.
fn check_chunks(output: &Path, name: &str, frames: u64, expected_fps: [u32; 2]) {
    let (settings, videos) = manifest_of(output);
    let ready = ready(&videos[name]);
    assert_eq!((ready.fps, ready.frames(), ready.repeated, ready.dropped), (expected_fps, frames, 0, 0), "{name}");
    for (number, chunk) in ready.chunks.iter().enumerate() {
        let first = settings.first_frame(number, ready.fps);
        let path = output.join(settings.file(name, number));
        let expected: Vec<u64> = (first..first + u64::from(chunk.frames)).collect();
        assert_eq!(codes(&path), expected, "{name}, chunk {number}");
    }
}

#[test]
fn frame_k_of_a_chunk_is_frame_k_after_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, out) = (folder.path().join("raw"), folder.path().join("out"));
    // At 29.97 frames/s the 17th second begins 1/2 frame before the 17 * 30th.
    for (name, fps, frames) in [("a/whole.mp4", 30.0, 91), ("ntsc.mp4", 29.97, 1200), ("slow.avi", 12.5, 40)] {
        write_coded(&raw.join(name), fps, frames);
    }
    let summary = run(&options(&raw, &out)).unwrap();
    assert_eq!((summary.made, summary.found, summary.failed.len()), (3, 0, 0), "{:?}", summary.failed);
    check_chunks(&out, "a/whole", 91, [30, 1]);
    check_chunks(&out, "ntsc", 1200, [2997, 100]);
    check_chunks(&out, "slow", 40, [25, 2]);

    let (settings, videos) = manifest_of(&out);
    assert_eq!((settings.layout.as_str(), settings.chunk_s, settings.gop), ("plain", 1, 8));
    let whole = ready(&videos["a/whole"]);
    assert_eq!((whole.width, whole.height), (86, 64));
    assert_eq!(whole.chunks.iter().map(|chunk| chunk.frames).collect::<Vec<_>>(), [30, 30, 30, 1]);
    // 33 * 29.97 = 989.01.
    assert_eq!(settings.first_frame(33, [2997, 100]), 990);
    for (file, bytes) in contents(&out).into_iter().filter(|(file, _)| file.extension().is_some_and(|e| e == "mp4")) {
        let at = |name: &[u8]| bytes.windows(4).position(|window| window == name);
        assert!(at(b"moov").unwrap() < at(b"mdat").unwrap(), "{}: index first", file.display());
    }
}

#[test]
fn kinetics_stays_a_file_a_clip() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, out) = (folder.path().join("raw/train"), folder.path().join("out"));
    write_coded(&raw.join("using segway/a_000001_000011.avi"), 25.0, 40);
    let summary = run(&Options { chunk_s: None, ..options(&raw, &out) }).unwrap();
    assert_eq!(summary.made, 1);
    assert_eq!(video_files(&out), ["using segway/a_000001_000011.mp4"]);
    assert_eq!(codes(&out.join("using segway/a_000001_000011.mp4")), (0..40).collect::<Vec<_>>());
}

#[test]
fn lists_name_videos_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, out, list) = (folder.path().join("raw"), folder.path().join("out"), folder.path().join("videos.txt"));
    write_coded(&raw.join("a/P01_01.mp4"), 10.0, 12);
    write_coded(&raw.join("b/P02_11.mp4"), 10.0, 5);
    write_coded(&raw.join("b/P03_01.mp4"), 10.0, 5);
    std::fs::write(&list, format!("# two of three\n\nraw/a/P01_01.mp4\r\n{}\n", raw.join("b/P02_11.mp4").display()))
        .unwrap();
    assert_eq!(run(&options(&list, &out)).unwrap().made, 2);
    assert_eq!(video_files(&out), ["P01/P01_01/0.mp4", "P01/P01_01/1.mp4", "P02/P02_11/0.mp4"]);
    std::fs::write(&list, [0xff, 0xfe, b'\n']).unwrap();
    let text = run(&options(&list, &out)).unwrap_err().to_string();
    assert!(text.contains("videos.txt: line 1: not UTF-8"), "{text}");
}

/// Frames at their own times, every third of seven missing: each hole shows the picture before it.
#[test]
fn a_variable_rate_becomes_constant() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, out) = (folder.path().join("raw"), folder.path().join("out"));
    write_coded(&folder.path().join("whole.mp4"), 30.0, 100);
    std::fs::create_dir_all(&raw).unwrap();
    let select = "-vf select='not(eq(mod(n\\,7)\\,3))' -vsync vfr -c:v mpeg4 -q:v 2 -an";
    if !ffmpeg(select, [&folder.path().join("whole.mp4"), &raw.join("holes.mp4")]) {
        return;
    }
    run(&options(&raw, &out)).unwrap();
    let (settings, videos) = manifest_of(&out);
    let ready = ready(&videos["holes"]);
    assert_eq!((ready.fps, ready.frames(), ready.repeated), ([30, 1], 100, 14));
    let found: Vec<u64> =
        (0..ready.chunks.len()).flat_map(|chunk| codes(&out.join(settings.file("holes", chunk)))).collect();
    let expected: Vec<u64> = (0..100).map(|frame| if frame % 7 == 3 { frame - 1 } else { frame }).collect();
    assert_eq!(found, expected);
}

#[test]
fn mpeg4_is_cut_in_the_same_way() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, out) = (folder.path().join("raw"), folder.path().join("out"));
    write_coded(&raw.join("v.mp4"), 30.0, 70);
    run(&Options { codec: Some(prepare::MPEG4.into()), ..options(&raw, &out) }).unwrap();
    check_chunks(&out, "v", 70, [30, 1]);
    assert_eq!(manifest_of(&out).0.codec, "mpeg4");
    let checked = prepare::verify(&out, 2, false, &|| false).unwrap();
    assert!(checked.wrong.is_empty() && checked.frames == 70, "{:?}", checked.wrong);
}

/// The encoder takes its quantiser from each picture, not from its settings.
#[test]
fn mpeg4_follows_its_quantiser() {
    let folder = tempfile::tempdir().unwrap();
    let [raw, out, coarse] = ["raw", "out", "coarse"].map(|name| folder.path().join(name));
    std::fs::create_dir_all(&raw).unwrap();
    let noise =
        |number: u32| (0..3 * 64 * 64u32).map(move |i| (i.wrapping_mul(2_654_435_761) >> 20) as u8 ^ number as u8);
    write_video(&raw.join("v.mp4"), 64, 64, 30.0, (0..10).map(|number| noise(number).collect::<Vec<u8>>())).unwrap();
    run(&Options { codec: Some(prepare::MPEG4.into()), quality: Some(2), ..options(&raw, &out) }).unwrap();
    run(&Options { codec: Some(prepare::MPEG4.into()), quality: Some(31), ..options(&raw, &coarse) }).unwrap();
    let bytes = |folder: &Path| ready(&manifest_of(folder).1["v"]).chunks.iter().map(|chunk| chunk.bytes).sum::<u64>();
    assert!(3 * bytes(&coarse) < 2 * bytes(&out), "{} and {}", bytes(&coarse), bytes(&out));
}
