//! The loader's memory, in a process of its own: at batch 256 with 16 threads under 3 GiB, and flat.
#![cfg(all(feature = "video", target_os = "linux"))]

use avion::data::loader::{Loader, LoaderConfig};
use avion::data::sampler::Position;
use avion::data::synthetic::{Split, SyntheticConfig, generate};

/// Resident memory and its peak, MiB.
fn memory_mib() -> [u64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    ["VmRSS:", "VmHWM:"].map(|key| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    })
}

fn run(samples: usize) {
    let folder = tempfile::tempdir().unwrap();
    let set = SyntheticConfig { clips: 512, heldout: 1, size_px: 64, seconds: 1.0, ..SyntheticConfig::default() };
    let source = generate(folder.path(), &set).unwrap().source(Split::Train);
    let config = LoaderConfig {
        batch_size: 256,
        frames: 4,
        size_px: 224,
        workers: 16,
        epochs: u64::MAX,
        ..LoaderConfig::default()
    };
    let mut loader = Loader::train([source].into(), config, Position::default()).unwrap();
    let (mut seen, mut settled) = (0, None);
    while seen < samples {
        let batch = loader.next().unwrap().unwrap();
        seen += batch.samples.len();
        drop(batch);
        if seen >= samples / 2 {
            settled.get_or_insert(memory_mib()[0]);
        }
    }
    let ([now, peak], settled) = (memory_mib(), settled.unwrap());
    println!("{seen} samples: {settled} MiB after half of them, {now} MiB now, {peak} MiB at most");
    assert!(peak < 3 * 1024, "{peak} MiB");
    // Which threads hold buffers at the moment changes; what leaks grows with the samples.
    assert!(now < settled + 96, "{settled} MiB, then {now} MiB");
}

#[test]
fn memory_is_bounded() {
    run(2_048);
}

#[test]
#[ignore = "takes a minute or more"]
fn memory_is_flat_over_ten_thousand_samples() {
    run(10_240);
}
