//! The upload's circle of slots on a runtime without streams: the same calls, the same bytes.

use crate::support::client;
use avion_kernels::cuda::{take_failure, upload::Uploader};
use cubecl::wgpu::WgpuDevice;

#[test]
fn batches_arrive_in_order_while_slots_go_round() {
    let client = client();
    let uploader = Uploader::new(&client, &WgpuDevice::default());
    assert!(!uploader.overlaps());
    let pool = uploader.pool();
    let mut slots = vec![uploader.slot(1000), uploader.slot(1000)];
    let batch = |i: usize| {
        // Lengths that are no multiple of four, and shorter than the slot.
        let mut bytes = pool.take(997 - i);
        bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 7 + i * 31) as u8);
        bytes
    };
    let mut next = uploader.begin(slots.pop().unwrap(), batch(0)).unwrap();
    for i in 0..6 {
        let filled = next.finish();
        next = uploader.begin(slots.pop().unwrap(), batch(i + 1)).unwrap();
        let read = client.read_one(filled.handle().clone()).unwrap();
        assert_eq!(read[..997 - i], *batch(i), "batch {i}");
        slots.push(filled.release());
    }
    assert_eq!(take_failure(&client), None);
}

#[test]
fn loader_threads_fill_buffers_and_what_does_not_fit_is_refused() {
    let client = client();
    let uploader = Uploader::new(&client, &WgpuDevice::default());
    let pool = uploader.pool();
    let bytes = std::thread::spawn(move || {
        let mut bytes = pool.take(64);
        bytes.fill(9);
        bytes
    });
    let filled = uploader.upload(uploader.slot(64), bytes.join().unwrap()).unwrap();
    assert_eq!(*client.read_one(filled.handle().clone()).unwrap(), [9; 64]);
    let error = uploader.begin(uploader.slot(8), uploader.pool().take(9)).err().unwrap();
    assert!(error.to_string().contains("at most 8"), "{error}");
    // Nothing to copy is no copy.
    let empty = uploader.upload(uploader.slot(8), uploader.pool().take(0)).unwrap();
    assert_eq!(empty.handle().size_in_used(), 8);
}
