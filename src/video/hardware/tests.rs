use std::sync::Arc;

use super::super::container::Probing;
use super::super::crop::CropBox;
use super::super::options::ReadOptions;
use super::super::orientation::Orientation;
use super::super::scale::Scaler;
use super::super::seek::Seeker;
use super::*;

/// A picture of noise; samples of more than 8 bits stay within `bits`.
fn noise(format: Format, width: u32, height: u32, bits: u32) -> Frame {
    let mut frame = Frame::new(format.into(), width, height);
    for plane in 0..3 {
        for (at, byte) in frame.data_mut(plane).iter_mut().enumerate() {
            let value = ((at + 7 * plane) as u32).wrapping_mul(2654435761) >> 13;
            *byte = if bits > 8 && at % 2 == 1 { value as u8 & ((1 << (bits - 8)) - 1) } else { value as u8 };
        }
    }
    frame
}

/// The same as NVDEC gives it.
fn as_on_device(planar: &Frame, format: Format) -> Frame {
    let wide = format == Format::AV_PIX_FMT_P010LE;
    let bytes = if wide { 2 } else { 1 };
    let sample = |plane: usize, x: usize, y: usize| {
        let at = y * planar.stride(plane) + x * bytes;
        let data = planar.data(plane);
        if wide { u16::from_le_bytes([data[at], data[at + 1]]) << 6 } else { u16::from(data[at]) }
    };
    let (width, height) = (planar.width(), planar.height());
    let mut device = Frame::new(format.into(), width, height);
    copy_colours(planar, &mut device);
    for plane in 0..2 {
        let rows = if plane == 0 { height } else { height.div_ceil(2) } as usize;
        let columns = if plane == 0 { width } else { 2 * width.div_ceil(2) } as usize;
        let stride = device.stride(plane);
        for (x, y) in (0..rows).flat_map(|y| (0..columns).map(move |x| (x, y))) {
            let value = if plane == 0 { sample(0, x, y) } else { sample(1 + x % 2, x / 2, y) };
            let at = y * stride + x * bytes;
            device.data_mut(plane)[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        }
    }
    device
}

#[test]
fn interleaved_pictures_give_the_pixels_of_planes() {
    use Format::*;
    for (planes, interleaved, bits, full_range) in [
        (AV_PIX_FMT_YUV420P, AV_PIX_FMT_NV12, 8, false),
        (AV_PIX_FMT_YUVJ420P, AV_PIX_FMT_NV12, 8, true),
        (AV_PIX_FMT_YUV420P10LE, AV_PIX_FMT_P010LE, 10, false),
    ] {
        for (width, height) in [(64, 48), (50, 34), (33, 17)] {
            let mut expected = noise(planes, width, height, bits);
            let range = if full_range { ffmpeg_next::color::Range::JPEG } else { ffmpeg_next::color::Range::MPEG };
            expected.set_color_range(range);
            expected.set_color_space(ffmpeg_next::color::Space::BT709);
            let host = as_on_device(&expected, interleaved);
            let mut planar = Frame::empty();
            // Twice: the second picture lies in the memory of the first.
            spread(&as_on_device(&noise(planes, width, height, bits), interleaved), &mut planar, planes).unwrap();
            spread(&host, &mut planar, planes).unwrap();
            assert_eq!(planar.format(), planes.into());
            let (mut scaler, turn) = (Scaler::new(), Orientation::default());
            let crop = CropBox { x: 3, y: 1, width: width - 7, height: height - 2 };
            let mut pixels = |frame: &Frame| {
                let (mut part, mut whole) = (vec![0; 3 * 20 * 20], vec![0; (3 * width * height) as usize]);
                scaler.part(frame, crop, turn, 20, 20, &mut part).unwrap();
                scaler.whole(frame, turn, &mut whole).unwrap();
                (part, whole)
            };
            let (got, right) = (pixels(&planar), pixels(&expected));
            assert!(right.0.iter().any(|byte| *byte != right.0[0]));
            assert!(got == right, "{width}x{height} {interleaved:?}");
        }
    }
    let host = as_on_device(&noise(AV_PIX_FMT_YUV420P, 32, 32, 8), AV_PIX_FMT_NV12);
    assert!(spread(&host, &mut Frame::empty(), AV_PIX_FMT_YUV420P10LE).is_err());
}

#[test]
fn only_profiles_that_nvdec_decodes_to_the_bit() {
    assert_eq!(check_profile(Id::H264, &[1, 100, 0, 40]), Ok(()));
    assert_eq!(check_profile(Id::HEVC, &[1, 0x22, 0]), Ok(()));
    assert_eq!(check_profile(Id::VP9, &[]), Ok(()));
    assert!(check_profile(Id::H264, &[1, 244, 0, 40]).unwrap_err().contains("profile 244 of `h264`"));
    assert!(check_profile(Id::HEVC, &[1, 4]).unwrap_err().contains("profile 4 of `hevc`"));
    assert!(check_profile(Id::H264, &[0, 0, 0, 1, 0x67, 100]).unwrap_err().contains("does not tell"));
}

/// A pattern of moving noise, with B-frames where FFmpeg has x264, and its index.
fn seeker(folder: &std::path::Path) -> Seeker {
    let path = folder.join("a.mp4");
    let picture = |k: usize| (0..3 * 64 * 48).map(|i| (i * (k + 1) / 7) as u8).collect::<Vec<u8>>();
    crate::data::synthetic::write_video(&path, 64, 48, 25.0, (0..12).map(picture)).unwrap();
    let mut container = Container::open(&path, Probing::Always).unwrap();
    let syntax = container.syntax().unwrap();
    let (index, headers) = container.index(syntax).unwrap().unwrap();
    Seeker::new(container, syntax, Arc::new(index), headers.into(), ReadOptions::default()).unwrap()
}

fn read(seeker: &mut Seeker, wanted: &[u64]) -> Vec<(u64, Vec<u8>)> {
    let mut luma = Vec::new();
    let mut emit = |k: u64, frame: &Frame| {
        luma.push((k, frame.data(0).to_vec()));
        Ok(())
    };
    assert_eq!(seeker.read(wanted, &mut emit).unwrap(), None);
    luma
}

/// Pictures that stay in the decoder change none of those that come out.
#[test]
fn unwanted_pictures_may_stay_in_the_decoder() {
    let folder = tempfile::tempdir().unwrap();
    let mut seeker = seeker(folder.path());
    let all = read(&mut seeker, &(0..12).collect::<Vec<u64>>());
    for wanted in [vec![0], vec![11], vec![2, 5, 11], vec![3, 4, 5], (0..12).collect()] {
        seeker.decoder_mut().pretend_unwanted_stay();
        let got = read(&mut seeker, &wanted);
        assert!(got.iter().map(|(k, _)| k).eq(&wanted), "{wanted:?}");
        assert!(got.iter().all(|(k, luma)| *luma == all[*k as usize].1), "{wanted:?}");
    }
}

/// What becomes of a file on which the device fails, or that it declines.
#[test]
fn the_cpu_goes_on_where_the_device_stops() {
    let folder = tempfile::tempdir().unwrap();
    let mut seeker = seeker(folder.path());
    let wanted = [2, 5, 11];
    let expected = read(&mut seeker, &wanted);
    assert!(expected.iter().map(|(k, _)| *k).eq(wanted));
    assert!(!seeker.leave_device("it was never there").unwrap());
    seeker.decoder_mut().pretend_device();
    assert!(read(&mut seeker, &wanted) == expected && !seeker.by_nvdec(), "declined");
    seeker.decoder_mut().pretend_device();
    assert!(seeker.leave_device("a fault").unwrap() && !seeker.by_nvdec());
    assert!(read(&mut seeker, &wanted) == expected);
}
