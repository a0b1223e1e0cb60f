//! Ways in and out: frames to the device, checkpoints to the disk.

use super::{Report, Row, time, wait};
use crate::device::DeviceError;
use crate::ops::workspace::Workspace;
use avion_kernels::cuda::upload::Uploader;
use avion_kernels::scale_planes::{self, Axes, Matrix, Plane, Table};
use burn_cubecl::CubeRuntime;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// Bytes of a copy: the frames of 256 clips of four 224-pixel frames, or fewer on small devices.
const FRAMES: [usize; 2] = [256 * 4 * 224 * 224 * 3, 4 << 20];
/// Bytes of the file written and read.
const FILE: usize = 256 << 20;
const SAMPLES: usize = 7;

/// # Errors
/// What the device reports, or a folder that cannot be written to.
pub fn run<R: CubeRuntime>(ws: &Workspace<R>, small: bool, folder: &Path) -> Result<Report, DeviceError> {
    let failed = |what: String| DeviceError::Failed { detail: what };
    let bytes = FRAMES[usize::from(small)];
    let uploader = Uploader::<R>::new(&ws.client, &ws.device);
    let (pool, marker) = (uploader.pool(), ws.client.create_from_slice(&[0; 4]));
    let mut slot = uploader.slot(bytes);
    let mut up = Vec::new();
    for sample in 0..SAMPLES + 2 {
        let buffer = pool.take(bytes);
        let start = Instant::now();
        slot = uploader.upload(slot, buffer).map_err(|e| failed(e.to_string()))?.release();
        wait(&ws.client, &marker)?;
        if sample >= 2 {
            up.push(start.elapsed().as_secs_f64());
        }
    }
    let mut host = vec![0u8; bytes];
    let mut copy = Vec::new();
    for _ in 0..SAMPLES {
        let source = vec![1u8; bytes];
        let start = Instant::now();
        host.copy_from_slice(std::hint::black_box(&source));
        std::hint::black_box(&host);
        copy.push(start.elapsed().as_secs_f64());
    }
    let (from, to) = (ws.floats(bytes / 4), ws.floats(bytes / 4));
    let on_device = time(&ws.client, || {
        let kind = avion_kernels::FloatKind::F32;
        avion_kernels::flat::cast(&ws.client, from.handle(), to.handle(), kind, bytes / 4);
    })?;
    let mut rows = vec![
        Row::new(format!("{} MB to the device", bytes / 1_000_000), up).bytes(bytes as f64),
        Row::new("the same within the host's memory, one core", copy).bytes(bytes as f64),
        Row::new("the same on the device, read and written", on_device).bytes(2.0 * bytes as f64),
    ];
    rows.push(made_frames(ws, bytes / (3 * PX * PX))?);
    let (write, read) = disk(folder).map_err(|e| failed(format!("{}: {e}", folder.display())))?;
    rows.push(Row::new(format!("{} MB to {}, synced", FILE / 1_000_000, folder.display()), write).bytes(FILE as f64));
    rows.push(Row::new("the same read back (from the system's cache, if it has one)", read).bytes(FILE as f64));
    let notes = vec![format!("copies beside kernels: {}", if uploader.overlaps() { "yes" } else { "no, in order" })];
    Ok(Report { title: "input and output".into(), rows, notes, ..Report::default() })
}

/// Width and height of the frames that are made on the device.
const PX: usize = 224;

/// Frames made of 4:2:0 planes.
fn made_frames<R: CubeRuntime>(ws: &Workspace<R>, frames: usize) -> Result<Row, DeviceError> {
    let failed = |what: String| DeviceError::Failed { detail: what };
    let record = made_up_record(PX).map_err(failed)?;
    let read = scale_planes::used_bytes(&record);
    let (records, out) = (ws.upload_bytes(&record.repeat(frames)), ws.client.empty(frames * PX * PX * 3));
    let make = || scale_planes::scale_planes(&ws.client, records.clone(), frames, PX, out.clone());
    make().map_err(|error| failed(error.to_string()))?;
    let samples = time(&ws.client, || drop(make()))?;
    let name = format!("{frames} frames of {PX} px made of planes of {:?} on the device", plane_size(PX));
    Ok(Row::new(name, samples).bytes((frames * (read + PX * PX * 3)) as f64))
}

/// Width and height of a first plane that a frame of `px` might be made of.
fn plane_size(px: usize) -> [usize; 2] {
    [px * 7 / 6, px * 10 / 9].map(|side| side.next_multiple_of(2))
}

/// A record of 4:2:0 planes, four weights an axis.
///
/// # Errors
/// A size that the device cannot make.
pub fn made_up_record(px: usize) -> Result<Vec<u8>, String> {
    let axis = |size: usize| {
        let entry = |output: usize| (output * (size - 4) / px, 2, [3000i16, 6000, 6000, 1384].into_iter());
        Table::new((0..px).map(entry))
    };
    let axes = |[columns, rows]: [usize; 2]| {
        Some(Axes { rows: axis(rows)?, columns: axis(columns)?, used_rows: 0..rows, used_columns: 0..columns })
    };
    let size = plane_size(px);
    let samples: Vec<u8> = (0..size[0] * size[1]).map(|i| ((i * 31) >> 3) as u8).collect();
    let plane = |stride| Plane { samples: &samples, stride };
    let planes = [plane(size[0]), plane(size[0] / 2), plane(size[0] / 2)];
    let matrix = Matrix { black: 16 << 7, y: 9539, rv: 13075, gu: -3209, gv: -6660, bu: 16525 };
    let mut record = vec![0; scale_planes::record_bytes(px)];
    let weights = axes(size).zip(axes(size.map(|side| side / 2)));
    let write = |(first, others): (Axes, Axes)| {
        scale_planes::write_planes(&mut record, px, Some(matrix), planes, [&first, &others])
    };
    if !weights.is_some_and(write) {
        return Err(format!("planes for frames of {px} px do not fit their record"));
    }
    Ok(record)
}

fn disk(folder: &Path) -> std::io::Result<(Vec<f64>, Vec<f64>)> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join(format!(".avion-bench-{}", std::process::id()));
    let data: Vec<u8> = (0..FILE).map(|i| ((i * 31) >> 3) as u8).collect();
    let (mut write, mut read) = (Vec::new(), Vec::new());
    let outcome = (0..3).try_for_each(|_| {
        let start = Instant::now();
        let mut file = std::fs::File::create(&path)?;
        file.write_all(&data)?;
        file.sync_all()?;
        write.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        let back = std::fs::read(&path)?;
        read.push(start.elapsed().as_secs_f64());
        if back.len() == data.len() { Ok(()) } else { Err(std::io::Error::other("read back fewer bytes than written")) }
    });
    let removed = std::fs::remove_file(&path);
    outcome.and(removed).map(|()| (write, read))
}
