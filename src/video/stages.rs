//! Where the time of reading goes.

use std::ops::{Add, AddAssign};
use std::time::Duration;

/// Time by stage. Two readings of the clock a packet: far below a thousandth of decoding one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// Opening the file and the decoder; probing where the container leaves something open.
    pub open: Duration,
    /// Learning where the pictures lie, or counting them.
    pub index: Duration,
    /// Moving to key frames.
    pub seek: Duration,
    /// Reading packets.
    pub demux: Duration,
    pub decode: Duration,
    /// Crop, scale and colours.
    pub convert: Duration,
}

impl Stages {
    /// Each stage with its name.
    pub fn named(&self) -> [(&'static str, Duration); 6] {
        [
            ("open", self.open),
            ("index", self.index),
            ("seek", self.seek),
            ("demux", self.demux),
            ("decode", self.decode),
            ("convert", self.convert),
        ]
    }
}

impl Add for Stages {
    type Output = Stages;

    fn add(self, other: Stages) -> Stages {
        Stages {
            open: self.open + other.open,
            index: self.index + other.index,
            seek: self.seek + other.seek,
            demux: self.demux + other.demux,
            decode: self.decode + other.decode,
            convert: self.convert + other.convert,
        }
    }
}

impl AddAssign for Stages {
    fn add_assign(&mut self, other: Stages) {
        *self = *self + other;
    }
}

/// Adds the time of `work` to a stage.
#[cfg(feature = "video")]
pub fn timed<T>(stage: &mut Duration, work: impl FnOnce() -> T) -> T {
    let start = std::time::Instant::now();
    let result = work();
    *stage += start.elapsed();
    result
}
