//! TensorBoard event files: scalars, texts and pictures.
//!
//! An event file is a sequence of TFRecords (length, payload, a masked CRC-32C after each), each payload a protocol
//! buffer `Event`. The few messages needed are encoded here; only the checksum comes from a crate.
//!
//! Source: `tensorflow/core/lib/io/record_writer.cc`, `tensorflow/core/util/event.proto`,
//! `tensorflow/core/framework/summary.proto`.

use super::picture::encode_png;
use super::{Record, ReportError};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes one event file. Events are on disk after [`flush`](Self::flush).
#[derive(Debug)]
pub struct EventWriter {
    out: BufWriter<File>,
    path: PathBuf,
}

impl EventWriter {
    /// Starts a new event file in `folder`, which is made if needed.
    ///
    /// `resumed_step`: the last step kept of an earlier run in the same folder; TensorBoard then forgets that run's
    /// later events.
    pub fn create(folder: &Path, resumed_step: Option<u64>) -> Result<Self, ReportError> {
        fs::create_dir_all(folder).map_err(ReportError::io("create", folder))?;
        let (path, file) = new_file(folder)?;
        let mut writer = Self { out: BufWriter::new(file), path };
        let mut version = Message::default();
        version.bytes(3, b"brain.Event:2");
        writer.event(0, &version)?;
        if let Some(step) = resumed_step {
            let mut session_log = Message::default();
            session_log.varint(1, 1); // SessionLog.status = START
            let mut start = Message::default();
            start.message(7, &session_log);
            writer.event(step + 1, &start)?;
        }
        writer.flush()?;
        Ok(writer)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All numbers of a record: `train/loss`, .. of a step, `eval/SET/SCORE` of an evaluation.
    pub fn record(&mut self, record: &Record) -> Result<(), ReportError> {
        match record {
            Record::Step(step) => [
                ("loss", step.loss),
                ("accuracy", step.accuracy),
                ("grad_norm", step.grad_norm),
                ("lr", step.lr),
                ("logit_scale", step.logit_scale),
                ("step_ms", step.step_ms),
                ("clips_per_s", step.clips_per_s),
                ("data_wait", step.data_wait),
            ]
            .into_iter()
            .chain(step.workers_busy.map(|share| ("workers_busy", share)))
            .chain(step.workers_decoding.map(|share| ("workers_decoding", share)))
            .try_for_each(|(name, value)| self.scalar(&format!("train/{name}"), step.step, value)),
            Record::Eval(eval) => eval
                .scores
                .iter()
                .try_for_each(|(name, &score)| self.scalar(&format!("eval/{}/{name}", eval.set), eval.step, score)),
        }
    }

    /// A point of the curve `tag`.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) -> Result<(), ReportError> {
        let mut summary = Message::default();
        summary.bytes(1, tag.as_bytes());
        summary.float(2, value as f32);
        self.summary(step, &summary)
    }

    /// A text, shown as Markdown.
    pub fn text(&mut self, tag: &str, step: u64, text: &str) -> Result<(), ReportError> {
        let mut dimension = Message::default();
        dimension.varint(1, 1); // TensorShapeProto.Dim.size
        let mut shape = Message::default();
        shape.message(2, &dimension);
        let mut tensor = Message::default();
        tensor.varint(1, 7); // DT_STRING
        tensor.message(2, &shape);
        tensor.bytes(8, text.as_bytes());
        let mut plugin = Message::default();
        plugin.bytes(1, b"text");
        let mut metadata = Message::default();
        metadata.message(1, &plugin);
        let mut summary = Message::default();
        summary.bytes(1, tag.as_bytes());
        summary.message(8, &tensor);
        summary.message(9, &metadata);
        self.summary(step, &summary)
    }

    /// A picture, `rgb`: `[height, width, 3]`.
    pub fn image(&mut self, tag: &str, step: u64, rgb: &[u8], width: usize, height: usize) -> Result<(), ReportError> {
        let png = encode_png(rgb, width, height)?;
        let mut image = Message::default();
        image.varint(1, height as u64);
        image.varint(2, width as u64);
        image.varint(3, 3); // colour space: RGB
        image.bytes(4, &png);
        let mut summary = Message::default();
        summary.bytes(1, tag.as_bytes());
        summary.message(4, &image);
        self.summary(step, &summary)
    }

    pub fn flush(&mut self) -> Result<(), ReportError> {
        self.out.flush().map_err(ReportError::io("write", &self.path))
    }

    fn summary(&mut self, step: u64, value: &Message) -> Result<(), ReportError> {
        let mut summary = Message::default();
        summary.message(1, value);
        let mut what = Message::default();
        what.message(5, &summary);
        self.event(step, &what)
    }

    fn event(&mut self, step: u64, what: &Message) -> Result<(), ReportError> {
        let mut event = Message::default();
        event.double(1, seconds_since_epoch());
        event.varint(2, step);
        event.0.extend_from_slice(&what.0);
        write_record(&mut self.out, &event.0).map_err(ReportError::io("write", &self.path))
    }
}

/// `events.out.tfevents.SECONDS.avion.PROCESS.N`, the first `N` that is free: TensorBoard reads them in this order.
fn new_file(folder: &Path) -> Result<(PathBuf, File), ReportError> {
    let (seconds, process) = (seconds_since_epoch() as u64, std::process::id());
    let mut number = 0;
    loop {
        let name = format!("events.out.tfevents.{seconds:010}.avion.{process}.{number}");
        let path = folder.join(name);
        match File::create_new(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(ReportError::io("create", &path)(error)),
        }
    }
}

fn seconds_since_epoch() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A TFRecord: length (u64), its checksum, payload, its checksum; all little-endian.
fn write_record(out: &mut impl Write, payload: &[u8]) -> std::io::Result<()> {
    let length = (payload.len() as u64).to_le_bytes();
    out.write_all(&length)?;
    out.write_all(&masked_crc(&length).to_le_bytes())?;
    out.write_all(payload)?;
    out.write_all(&masked_crc(payload).to_le_bytes())
}

/// CRC-32C, rotated and offset so that a checksum of data that holds checksums stays a good one.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A protocol buffer message under construction. Field numbers here are all below 16: a key is one byte.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, field: u8, value: u64) {
        self.0.push(field << 3);
        self.raw_varint(value);
    }

    fn double(&mut self, field: u8, value: f64) {
        self.0.push(field << 3 | 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn float(&mut self, field: u8, value: f32) {
        self.0.push(field << 3 | 5);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, field: u8, value: &[u8]) {
        self.0.push(field << 3 | 2);
        self.raw_varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn message(&mut self, field: u8, value: &Message) {
        self.bytes(field, &value.0);
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_rfc_3720() {
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(masked_crc(&[0; 32]), 0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn varints_are_little_endian_groups_of_seven_bits() {
        let mut message = Message::default();
        message.varint(1, 150);
        assert_eq!(message.0, [0x08, 0x96, 0x01]); // the protocol buffer documentation's example
    }
}
