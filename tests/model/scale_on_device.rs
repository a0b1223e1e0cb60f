//! Frames that the device crops, scales and converts are those that the decode threads make, to the bit; so is training.
#![cfg(all(feature = "wgpu", feature = "video"))]

use crate::common::clips::{files_in, generate};
use crate::common::shared_data;
use crate::training::{adapter, clips, recipe};
use avion::data::loader::{ClipBatch, Loader};
use avion::data::sampler::Position;
use avion::model::{DeviceMemory, MemoryPlan};
use avion::task::{ContrastiveTask, Task};
use avion::train;
use avion::video::{CropBox, ReadOptions, VideoReader, random_resized_crop};
use avion_kernels::scale_planes::{record_bytes, scale_planes, used_bytes};
use burn::tensor::DType;
use cubecl::Runtime;
use cubecl::wgpu::WgpuRuntime as R;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;

/// How many of the records left scaling to the device, of how many.
type Count = (usize, usize);

/// Reads drawn frames and crops of a file both ways.
fn compare(path: &Path, px: usize, rng: &mut ChaCha8Rng, count: &mut Count) {
    let mut finished = VideoReader::open(path).unwrap();
    let options = ReadOptions { as_records: true, ..ReadOptions::default() };
    let mut records = VideoReader::open_with(path, options).unwrap();
    let (width, height) = (finished.width(), finished.height());
    let crops = [
        CropBox::full(width, height),
        random_resized_crop(width, height, [0.5, 1.0], [0.75, 1.33], rng),
        random_resized_crop(width, height, [0.05, 0.2], [0.5, 2.0], rng),
    ];
    for (number, crop) in crops.into_iter().enumerate() {
        let flip = number == 1;
        let mut frames = [0; 2].map(|_: u64| rng.random_range(0..finished.num_frames()));
        frames.sort_unstable();
        let mut expected = vec![0; 2 * px * px * 3];
        let mut record = vec![0xEE; 2 * record_bytes(px)];
        let read = finished.read(&frames, crop, px as u32, flip, &mut expected);
        let read_records = records.read(&frames, crop, px as u32, flip, &mut record);
        if let Err(error) = read {
            // A damaged packet, which `hard/` has.
            assert_eq!(read_records.map_err(|error| error.kind()), Err(error.kind()));
            continue;
        }
        read_records.unwrap();
        for record in record.chunks_mut(record_bytes(px)) {
            count.0 += usize::from(record[0] == 1);
            count.1 += 1;
            // What is not said to be used does not count.
            let used = used_bytes(record);
            record[used..].fill(0xAA);
        }
        let client = R::client(&adapter().0);
        let out = client.empty(expected.len());
        scale_planes(&client, client.create_from_slice(&record), 2, px, out.clone()).unwrap();
        let got = client.read_one(out).unwrap();
        let differs = got.iter().zip(&expected).position(|(got, expected)| got != expected);
        assert_eq!(differs, None, "{} {crop:?} to {px}, flip {flip}", path.display());
    }
}

#[test]
fn the_device_makes_the_bytes_of_the_decode_threads() {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(21);
    for (name, size, args, by_device) in [
        ("plain.mp4", "320x180", "-c:v libx264 -pix_fmt yuv420p", true),
        ("bt709.mp4", "322x182", "-c:v libx264 -pix_fmt yuv420p -colorspace bt709", true),
        ("full.mp4", "320x180", "-c:v libx264 -pix_fmt yuvj420p -color_range pc", true),
        ("half.mp4", "322x182", "-c:v libx264 -pix_fmt yuv422p", true),
        ("odd.mkv", "321x181", "-c:v ffv1 -pix_fmt yuv420p", true),
        ("gbr.mkv", "192x128", "-c:v ffv1 -pix_fmt gbrp", true),
        ("ten.mkv", "192x128", "-c:v ffv1 -pix_fmt yuv420p10le", true),
        ("gray.mkv", "192x128", "-c:v ffv1 -pix_fmt gray", true),
        ("large.mp4", "1280x720", "-c:v libx264 -pix_fmt yuv420p", false),
        ("turned.mp4", "320x180", "-c:v libx264 -pix_fmt yuv420p -metadata:s:v rotate=90", false),
    ] {
        let source = format!("testsrc2=s={size}:r=25:d=0.4");
        let Some(path) = generate(folder.path(), name, &source, args) else { continue };
        let mut count = (0, 0);
        for px in [112, 224] {
            compare(&path, px, &mut rng, &mut count);
        }
        assert_eq!(count.1, 12);
        // A small part of a large picture still goes to the device.
        assert!(if by_device { count.0 >= 8 } else { count.0 < 12 }, "{name}: {count:?}");
    }
}

#[test]
fn so_it_does_for_real_videos() {
    let Some(data) = shared_data() else { return };
    let mut rng = ChaCha8Rng::seed_from_u64(22);
    let mut count = (0, 0);
    for folder in ["clips", "hard"] {
        for path in files_in(&data.join(folder)) {
            if VideoReader::open(&path).is_ok() {
                compare(&path, 224, &mut rng, &mut count);
            }
        }
    }
    println!("{} of {} frames were left to the device", count.0, count.1);
    assert!(2 * count.0 > count.1, "{count:?}");
}

/// Loss and gradients of the first batch.
fn first_step(more: &[&str], folder: &Path, set: &avion::data::synthetic::SyntheticSet) -> (Vec<u8>, Vec<Vec<f32>>) {
    let resolved = recipe(set, folder, more);
    let recipe = &resolved.recipe;
    let sources = train::load_sources(&recipe.data.train).unwrap();
    let mut loader = Loader::train(sources, train::loader_config(recipe), Position::default()).unwrap();
    let batch: ClipBatch = loader.next().unwrap().unwrap();
    assert_eq!(batch.as_records, recipe.data.scale_on_device);
    if batch.as_records {
        let mut records = batch.frames.chunks(record_bytes(batch.size_px));
        assert!(records.all(|record| record[0] == 1), "planes, not finished frames");
    }
    let values = train::initial_values(recipe).unwrap();
    let memory = MemoryPlan::of(recipe, avion_kernels::FloatKind::F32, DeviceMemory::default()).unwrap();
    let (device, _) = adapter();
    let mut task = ContrastiveTask::<R>::new(recipe, &values, DType::F32, &device, Vec::new(), Some(memory.step));
    task.params().clear_gradients();
    let result = task.gradients(&batch, 0).unwrap();
    let result = task.params().client.read_one(result).unwrap().to_vec();
    (result, task.params().read(task.params().gradients()).unwrap())
}

#[test]
fn evaluation_gets_finished_frames() {
    let folder = tempfile::tempdir().unwrap();
    let set = clips(&folder.path().join("data"));
    let frames = |more: &[&str]| {
        let resolved = recipe(&set, folder.path(), more);
        let sources = train::load_sources(&resolved.recipe.data.train).unwrap();
        let batches = Loader::eval(sources, train::loader_config(&resolved.recipe)).unwrap();
        batches.map(|batch| batch.unwrap()).map(|batch| (batch.as_records, batch.frames.to_vec())).collect::<Vec<_>>()
    };
    let finished = frames(&[]);
    assert!(!finished.is_empty() && finished.iter().all(|(records, _)| !records));
    assert!(frames(&["data.scale_on_device=true"]) == finished);
}

#[test]
fn training_learns_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let set = clips(&folder.path().join("data"));
    let host = first_step(&["train.batch_size=6"], folder.path(), &set);
    for more in [&["train.batch_size=6"][..], &["train.batch_size=6", "train.micro_batch=6", "data.workers=1"]] {
        let device = first_step(&[more, &["data.scale_on_device=true"]].concat(), folder.path(), &set);
        assert!(device == host, "{more:?}");
    }
    let (whole, parts) = (["train.batch_size=6", "train.micro_batch=2"], ["data.scale_on_device=true"]);
    let host = first_step(&whole, folder.path(), &set);
    assert!(first_step(&[&whole[..], &parts].concat(), folder.path(), &set) == host, "in parts");
}
