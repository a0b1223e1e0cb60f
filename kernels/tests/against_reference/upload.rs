//! The upload's circle of slots, beside kernels where the runtime has streams: the same calls, the same bytes.

use crate::device::{OVERLAPS, Runtime, client, device};
use avion_kernels::cuda::pinned::PinnedBuffer;
use avion_kernels::cuda::take_failure;
use avion_kernels::cuda::upload::{HostRows, Uploader};
use std::sync::Arc;

#[test]
fn batches_arrive_in_order_while_slots_go_round() {
    let client = client();
    let uploader = Uploader::new(&client, &device());
    assert_eq!(uploader.overlaps(), OVERLAPS);
    assert_eq!(uploader.pool().take(1).is_locked(), OVERLAPS);
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
    let uploader = Uploader::new(&client, &device());
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

#[test]
fn parts_and_rows_of_a_buffer_keep_their_places() {
    let client = client();
    let uploader = Uploader::new(&client, &device());
    let mut bytes = uploader.pool().take(1000);
    bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at % 251) as u8 + 1);
    let bytes = Arc::new(bytes);
    // Start and end of the part, stride and width of its rows.
    for (start, end, rows) in [
        (0, 1000, None),
        (120, 360, None),
        (40, 440, Some((100, 60))),
        (8, 108, Some((100, 100))),
        (8, 108, Some((50, 0))),
        (90, 90, None),
    ] {
        let cleared = uploader.upload(uploader.slot(1000), zeros(&uploader)).unwrap().release();
        let (stride, width) = rows.unwrap_or((end - start, end - start));
        let part = match rows {
            Some(_) => HostRows::rows(Arc::clone(&bytes), start..end, stride, width),
            None => HostRows::part(Arc::clone(&bytes), start..end),
        };
        let filled = uploader.upload(cleared, part.unwrap()).unwrap();
        let got = client.read_one(filled.handle().clone()).unwrap();
        for at in (0..end - start).step_by(stride.max(1)) {
            assert_eq!(got[at..][..width], bytes[start + at..][..width], "{start}..{end}, from {at}");
        }
        assert!(got[end - start..].iter().all(|byte| *byte == 0), "{start}..{end}");
    }
    assert_eq!(take_failure(&client), None);
    for (part, stride, width) in [(990..2000, 10, 10), (0..95, 10, 10), (0..100, 10, 11), (5..10, 0, 0)] {
        let error = HostRows::rows(Arc::clone(&bytes), part, stride, width).err().unwrap().to_string();
        assert!(error.contains("upload"), "{error}");
    }
}

fn zeros(uploader: &Uploader<Runtime>) -> PinnedBuffer {
    let mut bytes = uploader.pool().take(1000);
    bytes.fill(0);
    bytes
}
