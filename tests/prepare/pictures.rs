//! Size, orientation, shape of pixels and colours: a prepared video looks as its source does.

use super::*;

/// All frames at their own size, RGB.
fn frames(path: &Path) -> (VideoReader, Vec<u8>) {
    let mut video = VideoReader::open(path).unwrap();
    let numbers: Vec<u64> = (0..video.num_frames()).collect();
    let mut pixels = vec![0; numbers.len() * (3 * video.width() * video.height()) as usize];
    video.read_native(&numbers, &mut pixels).unwrap();
    (video, pixels)
}

/// A colourful picture without symmetry.
fn gradient(number: u64, width: usize, height: usize) -> Vec<u8> {
    let pixel = |i: usize| {
        let (x, y) = (i % width, i / width);
        [255 * x / width, 255 * y / height, if x > width / 2 && y < height / 4 { 200 } else { 20 + number as usize }]
    };
    (0..width * height).flat_map(pixel).map(|value| value as u8).collect()
}

fn mean_difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64
}

/// Prepares a single file whole, never scaled, nearly lossless.
fn prepare_one(raw: &Path, out: &Path) -> PathBuf {
    let list = raw.with_extension("txt");
    std::fs::write(&list, raw.display().to_string()).unwrap();
    let options = Options { chunk_s: Some(0), short_side: 4320, quality: Some(4), ..options(&list, out) };
    let summary = run(&options).unwrap();
    assert_eq!(summary.made, 1, "{:?}", summary.failed);
    out.join(raw.file_stem().unwrap()).with_extension("mp4")
}

#[test]
fn what_ffmpeg_makes_odd_comes_out_right() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain.mp4");
    write_video(&plain, 160, 96, 25.0, (0..10).map(|number| gradient(number, 160, 96))).unwrap();
    let cases = [
        ("rotated-90", "-c copy -metadata:s:v:0 rotate=90", (96, 160)),
        ("rotated-180", "-c copy -metadata:s:v:0 rotate=180", (160, 96)),
        ("rotated-270", "-c copy -metadata:s:v:0 rotate=270", (96, 160)),
        ("odd", "-vf crop=101:75:0:0:exact=1 -pix_fmt yuv444p -c:v ffv1", (100, 74)),
        ("full-range", "-vf scale=out_range=full -pix_fmt yuvj420p -c:v mjpeg -q:v 2 -color_range pc", (160, 96)),
        (
            "bt709",
            "-vf scale=out_color_matrix=bt709 -colorspace bt709 -color_primaries bt709 -color_trc bt709 -c:v libx264 -crf 5",
            (160, 96),
        ),
        ("rgb", "-pix_fmt bgr0 -c:v ffv1", (160, 96)),
        ("ten-bit", "-pix_fmt yuv420p10le -c:v ffv1", (160, 96)),
    ];
    for (name, args, size) in cases {
        let raw = folder
            .path()
            .join(format!("{name}.{}", if args.contains("copy") || name == "bt709" { "mp4" } else { "mkv" }));
        if !ffmpeg(args, [&plain, &raw]) {
            continue;
        }
        let made = prepare_one(&raw, &folder.path().join("out").join(name));
        let ((source, mut expected), (video, found)) = (frames(&raw), frames(&made));
        assert_eq!((video.width(), video.height()), size, "{name}");
        assert_eq!(video.num_frames(), 10, "{name}");
        if (source.width(), source.height()) != size {
            // The last column and row are cut off.
            let (width, height) = (source.width() as usize, source.height() as usize);
            let rows = expected.chunks(3 * width).enumerate().filter(|(row, _)| row % height < size.1 as usize);
            expected = rows.flat_map(|(_, row)| &row[..3 * size.0 as usize]).copied().collect();
        }
        let difference = mean_difference(&found, &expected);
        println!("{name}: {difference:.2}");
        assert!(difference < 4.0, "{name}: mean difference {difference}");
    }
}

#[test]
fn pixels_become_square_and_pictures_small() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, raw) = (folder.path().join("plain.mp4"), folder.path().join("raw/wide.mp4"));
    std::fs::create_dir_all(raw.parent().unwrap()).unwrap();
    write_video(&plain, 160, 96, 25.0, (0..10).map(|number| gradient(number, 160, 96))).unwrap();
    if !ffmpeg("-vf setsar=3/2 -c:v mpeg4 -q:v 2", [&plain, &raw]) {
        return;
    }
    let out = folder.path().join("out");
    run(&Options { short_side: 48, ..options(raw.parent().unwrap(), &out) }).unwrap();
    let (_, videos) = manifest_of(&out);
    let ready = ready(&videos["wide"]);
    assert_eq!((ready.width, ready.height), (120, 48));
}
