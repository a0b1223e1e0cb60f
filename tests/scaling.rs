//! Cropped and scaled frames against their definition: Pillow's antialiased bilinear filter, in f64.
//!
//! Needs the `ffmpeg` program, and for real pictures `../shared/data` (or `AVION_SHARED_DATA`).
#![cfg(feature = "video")]

mod common;

use std::path::Path;

use avion::video::{CropBox, ReadOptions, VideoReader, random_resized_crop};
use common::clips::{ffmpeg, generate};
use common::shared_data;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One plane, `[height, width]`.
struct Plane {
    width: usize,
    height: usize,
    samples: Vec<f64>,
}

impl Plane {
    fn new(width: usize, height: usize, bytes: impl Iterator<Item = u8>) -> Plane {
        let samples: Vec<f64> = bytes.map(f64::from).collect();
        assert_eq!(samples.len(), width * height);
        Plane { width, height, samples }
    }

    /// `[out, out]`: Pillow's `resize((out, out), BILINEAR, box=(x, y, x + width, y + height))`, not rounded.
    fn resized(&self, [x, y, width, height]: [f64; 4], out: usize) -> Vec<f64> {
        let columns: Vec<_> = (0..out).map(|i| weights(self.width, x, width, out, i)).collect();
        let mut rows = Vec::with_capacity(self.height * out);
        for row in self.samples.chunks(self.width) {
            rows.extend(columns.iter().map(|w| w.iter().map(|(i, w)| row[*i] * w).sum::<f64>()));
        }
        let column = |x: usize, w: &[(usize, f64)]| w.iter().map(|(i, w)| rows[i * out + x] * w).sum::<f64>();
        (0..out)
            .flat_map(|i| {
                let weights = weights(self.height, y, height, out, i);
                (0..out).map(|x| column(x, &weights)).collect::<Vec<_>>()
            })
            .collect()
    }
}

fn weights(size: usize, from: f64, len: f64, out: usize, i: usize) -> Vec<(usize, f64)> {
    let scale = len / out as f64;
    let support = scale.max(1.0);
    let centre = from + (i as f64 + 0.5) * scale;
    let triangle = |i: usize| 1.0 - ((i as f64 + 0.5 - centre) / support).abs();
    let taps: Vec<_> = (0..size).map(|i| (i, triangle(i))).filter(|(_, w)| *w > 0.0).collect();
    let sum: f64 = taps.iter().map(|(_, w)| w).sum();
    taps.into_iter().map(|(i, w)| (i, w / sum)).collect()
}

/// RGB of three resized planes, `[out, out, 3]`.
fn to_rgb(planes: [Vec<f64>; 3], [kr, kb]: [f64; 2], full: bool) -> Vec<f64> {
    let (black, luma, chroma) = if full { (0.0, 1.0, 1.0) } else { (16.0, 255.0 / 219.0, 255.0 / 224.0) };
    let [y, u, v] = planes;
    let kg = 1.0 - kr - kb;
    (0..y.len())
        .flat_map(|i| {
            let (y, u, v) = (luma * (y[i] - black), chroma * (u[i] - 128.0), chroma * (v[i] - 128.0));
            let (r, b) = (y + 2.0 * (1.0 - kr) * v, y + 2.0 * (1.0 - kb) * u);
            [r, (y - kr * r - kb * b) / kg, b].map(|v| v.clamp(0.0, 255.0))
        })
        .collect()
}

fn psnr_db(got: &[u8], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let squares: f64 = got.iter().zip(expected).map(|(g, e)| (f64::from(*g) - e).powi(2)).sum();
    10.0 * (255.0f64.powi(2) * got.len() as f64 / squares).log10()
}

/// Crops of all kinds: the whole, odd corners, at the edges, drawn.
fn crops(width: u32, height: u32, rng: &mut ChaCha8Rng) -> Vec<CropBox> {
    let mut crops = vec![
        CropBox::full(width, height),
        CropBox { x: 7, y: 3, width: width / 3, height: height / 2 },
        CropBox { x: width - 41, y: height - 33, width: 41, height: 33 },
    ];
    crops.extend((0..3).map(|_| random_resized_crop(width, height, [0.5, 1.0], [0.75, 1.33], rng)));
    crops
}

#[test]
fn planes_are_scaled_as_pillow_scales_them() {
    const BT601: [f64; 2] = [0.299, 0.114];
    const BT709: [f64; 2] = [0.2126, 0.0722];
    const BT2020: [f64; 2] = [0.2627, 0.0593];
    let folder = tempfile::tempdir().unwrap();
    let x264 = "-c:v libx264 -g 10";
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for (name, size, args, format, matrix, full) in [
        ("plain.mp4", "320x180", "-pix_fmt yuv420p", "yuv420p", BT601, false),
        ("bt709.mp4", "320x180", "-pix_fmt yuv420p -colorspace bt709", "yuv420p", BT709, false),
        ("bt2020.mp4", "320x180", "-pix_fmt yuv420p -colorspace bt2020nc", "yuv420p", BT2020, false),
        ("full.mp4", "320x180", "-pix_fmt yuvj420p -color_range pc", "yuvj420p", BT601, true),
        ("half.mp4", "322x182", "-pix_fmt yuv422p -colorspace bt709", "yuv422p", BT709, false),
        ("odd.mp4", "321x181", "-pix_fmt yuv444p", "yuv444p", BT601, false),
        ("odd.mkv", "321x181", "-c:v ffv1 -pix_fmt yuv420p", "yuv420p", BT601, false),
    ] {
        let source = format!("testsrc2=s={size}:r=25:d=0.4");
        let Some(path) = generate(folder.path(), name, &source, &format!("{x264} {args}")) else { continue };
        let raw = ["-i", path.to_str().unwrap(), "-vf", "select=eq(n\\,3)", "-frames:v", "1", "-pix_fmt", format];
        let raw = ffmpeg(&[&raw[..], &["-f", "rawvideo", "-"]].concat()).unwrap();
        let mut reader = VideoReader::open(&path).unwrap();
        let (width, height) = (reader.width() as usize, reader.height() as usize);
        let [shift_x, shift_y] = match format {
            "yuv444p" => [1, 1],
            "yuv422p" => [2, 1],
            _ => [2, 2],
        };
        let (chroma_w, chroma_h) = (width.div_ceil(shift_x), height.div_ceil(shift_y));
        let mut bytes = raw.iter().copied();
        let planes = [(width, height), (chroma_w, chroma_h), (chroma_w, chroma_h)]
            .map(|(width, height)| Plane::new(width, height, bytes.by_ref().take(width * height)));
        for crop in crops(width as u32, height as u32, &mut rng) {
            for out in [112usize, 100, 224, 37] {
                let part = [crop.x, crop.y, crop.width, crop.height].map(f64::from);
                let chroma = [0, 1, 2, 3].map(|i| part[i] / [shift_x, shift_y][i % 2] as f64);
                let [y, u, v] = &planes;
                let resized = [y.resized(part, out), u.resized(chroma, out), v.resized(chroma, out)];
                let expected = to_rgb(resized, matrix, full);
                let mut got = vec![0; 3 * out * out];
                reader.read(&[3], crop, out as u32, false, &mut got).unwrap();
                let psnr = psnr_db(&got, &expected);
                // Rounding to bytes alone is 58.9 dB.
                assert!(psnr > 56.0, "{name} {crop:?} to {out}: {psnr:.1} dB");
                let far = got.iter().zip(&expected).find(|(g, e)| (f64::from(**g) - **e).abs() > 1.5);
                assert_eq!(far, None, "{name} {crop:?} to {out}");
                let mut flipped = vec![0; got.len()];
                reader.read(&[3], crop, out as u32, true, &mut flipped).unwrap();
                let rows = flipped.chunks(3 * out);
                let mirrored: Vec<u8> = rows.flat_map(|row| row.chunks(3).rev()).flatten().copied().collect();
                assert!(mirrored == got, "{name} {crop:?} to {out} flipped");
            }
        }
    }
}

/// A frame as FFmpeg converts it to RGB, resized in f64, against ours: the PSNR in dB.
fn against_converted(path: &Path, rng: &mut ChaCha8Rng) -> f64 {
    let mut reader = VideoReader::open(path).unwrap();
    let (width, height) = (reader.width(), reader.height());
    let frame = rng.random_range(0..reader.num_frames());
    let mut rgb = vec![0; (3 * width * height) as usize];
    reader.read_native(&[frame], &mut rgb).unwrap();
    let (w, h) = (width as usize, height as usize);
    let channels = [0, 1, 2].map(|c| Plane::new(w, h, rgb.iter().skip(c).step_by(3).copied()));
    let crop = random_resized_crop(width, height, [0.5, 1.0], [0.75, 1.33], rng);
    let part = [crop.x, crop.y, crop.width, crop.height].map(f64::from);
    let out = 112.min(width.min(height) as usize / 2);
    let [r, g, b] = channels.map(|channel| channel.resized(part, out));
    let expected: Vec<f64> = (0..r.len()).flat_map(|i| [r[i], g[i], b[i]]).collect();
    let mut got = vec![0; 3 * out * out];
    reader.read(&[frame], crop, out as u32, false, &mut got).unwrap();
    psnr_db(&got, &expected)
}

/// A part of a frame as the ffmpeg program scales it, in planes and then to RGB as here: its bilinear filter widens with
/// the reduction, and its flags ask for interpolated chroma, which it repeats by default. `None` without the program.
fn scaled_by_ffmpeg(path: &Path, frame: u64, crop: CropBox, out: u32) -> Option<Vec<u8>> {
    let CropBox { x, y, width, height } = crop;
    let flags = "bilinear+accurate_rnd+full_chroma_int+full_chroma_inp";
    let filter = format!("select=eq(n\\,{frame}),crop={width}:{height}:{x}:{y},scale={out}:{out}:flags={flags}");
    let input = ["-i", path.to_str()?, "-vsync", "0", "-vf", &filter, "-frames:v", "1"];
    ffmpeg(&[&input[..], &["-pix_fmt", "rgb24", "-f", "rawvideo", "-"]].concat())
}

#[test]
fn real_pictures_are_those_that_ffmpeg_scales() {
    let Some(data) = shared_data() else { return };
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    for folder in ["clips", "hard"] {
        for path in common::clips::files_in(&data.join(folder)) {
            let Ok(mut reader) = VideoReader::open(&path) else { continue };
            // FFmpeg stretches the chroma of odd sizes over half a pixel more than there is.
            // Beyond a part's edge it repeats samples where we go on into the picture, so the part is all there is:
            // `planes_are_scaled_as_pillow_scales_them` has the others.
            let [width, height] = [reader.width(), reader.height()].map(|side| side & !1);
            let crop = CropBox { x: 0, y: 0, width, height };
            // Near the start, as the program decodes all that comes before.
            let frame = rng.random_range(0..reader.num_frames().min(40));
            let out = 112.min(width.min(height) / 2);
            let Some(expected) = scaled_by_ffmpeg(&path, frame, crop, out) else {
                println!("SKIPPED: needs the ffmpeg program");
                return;
            };
            let mut got = vec![0; expected.len()];
            reader.read(&[frame], crop, out, false, &mut got).unwrap();
            let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
            let psnr = psnr_db(&got, &expected);
            println!("{psnr:6.1} dB {}", path.display());
            assert!(psnr > 40.0, "{psnr:.1} dB: frame {frame} of {}", path.display());
        }
    }
}

#[test]
fn other_formats_go_through_planes() {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    for (name, args) in [
        ("ten.mkv", "-c:v ffv1 -pix_fmt yuv420p10le"),
        ("ten422.mkv", "-c:v ffv1 -pix_fmt yuv422p10le -colorspace bt709"),
        ("full10.mkv", "-c:v ffv1 -pix_fmt yuv420p10le -color_range pc"),
        ("rgb.avi", "-c:v rawvideo -pix_fmt bgr24"),
        ("gray.mkv", "-c:v ffv1 -pix_fmt gray"),
        ("gbr.mkv", "-c:v ffv1 -pix_fmt gbrp"),
        ("packed.avi", "-c:v rawvideo -pix_fmt yuyv422"),
        ("alpha.mkv", "-c:v ffv1 -pix_fmt yuva420p"),
    ] {
        // Smooth, so that how chroma is interpolated hardly shows.
        let source = "mandelbrot=s=192x128:r=5:end_pts=1,gblur=sigma=3";
        let Some(path) = generate(folder.path(), name, source, &format!("-t 0.6 {args}")) else { continue };
        let psnr = against_converted(&path, &mut rng);
        println!("{psnr:6.1} dB {name}");
        assert!(psnr > 40.0, "{name}: {psnr:.1} dB");
    }
}

/// What leaving out the loop filter does to real pictures; off, nothing changes.
#[test]
fn the_fast_loop_filter_changes_little() {
    let Some(data) = shared_data() else { return };
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for name in ["basketball_outdoor", "bottle_detection_1189f_longgop", "k400_segway_WUzgd7C1pWA"] {
        let path = data.join("clips").join(format!("{name}.mp4"));
        let mut exact = VideoReader::open(&path).unwrap();
        let mut fast =
            VideoReader::open_with(&path, ReadOptions { fast_loop_filter: true, ..ReadOptions::default() }).unwrap();
        let crop = CropBox::full(exact.width(), exact.height());
        let (mut expected, mut got) = (vec![0; 3 * 224 * 224], vec![0; 3 * 224 * 224]);
        let mut all = Vec::new();
        for _ in 0..20 {
            let frame = [rng.random_range(0..exact.num_frames())];
            exact.read(&frame, crop, 224, false, &mut expected).unwrap();
            fast.read(&frame, crop, 224, false, &mut got).unwrap();
            let reference: Vec<f64> = expected.iter().copied().map(f64::from).collect();
            all.push(psnr_db(&got, &reference).min(99.0));
        }
        all.sort_by(f64::total_cmp);
        println!("{name}: {:.1} dB in the middle, {:.1} at worst", all[10], all[0]);
        assert!(all[0] > 20.0, "{name}: {:.1} dB", all[0]);
        assert!(all[10] < 99.0, "{name}: nothing was left out");
        // The decoder goes on to a reader that wants exact pictures.
        drop((exact, fast));
        let mut again = VideoReader::open(&path).unwrap();
        let frame = [again.num_frames() - 1];
        again.read(&frame, crop, 224, false, &mut expected).unwrap();
        let mut other = VideoReader::open(&path).unwrap();
        other.read(&frame, crop, 224, false, &mut got).unwrap();
        assert!(got == expected, "{name}");
    }
}
