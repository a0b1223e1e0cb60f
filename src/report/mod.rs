//! Everything a person sees of a run.
//!
//! | while it runs | |
//! | --- | --- |
//! | [`Progress`] | one line on stderr |
//! | [`MetricsLog`] | `metrics.jsonl`: one object per logged step and evaluation; everything else can be rebuilt from it |
//! | [`EventWriter`] | the same numbers, texts and pictures for TensorBoard |
//!
//! | when it is done | |
//! | --- | --- |
//! | [`Results`] | `results.json`: what the run reached, beside chance and its own start |
//! | [`ReportData`] | `report.html`: one page with curves, scores and what the model finds |
//! | [`draw_confusion`] | which classes are taken for which |
//! | [`lay_out`], [`write_gif`] | frames side by side, and one after the other |
//! | [`overlay_heat`] | where the model looks |
//! | [`DataPage`] | what a data set holds |

mod colour;
mod confusion;
mod gif;
mod heat;
mod html;
mod jsonl;
mod picture;
mod progress;
mod results;
mod strip;
mod tensorboard;
mod text;

pub use self::gif::write_gif;
pub use confusion::draw_confusion;
pub use heat::{heat_span, overlay_heat};
pub use html::{
    BadSamples, ClassRow, ClassSection, ClipCard, DataPage, DataSection, EvalTable, Fact, Histogram, Match, ReportData,
    ScoreRow, Scored, Search, SearchHit, Thumbnail,
};
pub use jsonl::{EvalRecord, MetricsLog, Record, StepRecord, read_metrics};
pub use picture::Picture;
#[cfg(feature = "video")]
pub(crate) use progress::format_duration;
pub use progress::{Progress, ProgressPlan};
pub use results::{Results, Scores};
pub use strip::{Layout, lay_out};
pub use tensorboard::EventWriter;
pub use text::{LETTER_PX, LINE_PX, write_text};

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Why something could not be shown or written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("cannot {action} {}: {source}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{}, line {line}: {source}; repair or remove that line", .path.display())]
    BadRecord { path: PathBuf, line: usize, source: serde_json::Error },
    #[error("{}: {source}", .path.display())]
    BadJson { path: PathBuf, source: serde_json::Error },
    #[error("a picture of {width} x {height} needs {expected} bytes of rgb, sides of 1 to 65535; it has {found}")]
    BadPicture { width: usize, height: usize, expected: usize, found: usize },
    #[error("cannot encode a picture of {width} x {height}: {reason}")]
    Encode { width: usize, height: usize, reason: String },
    #[error("frame in row {row}, column {column}: {source}")]
    BadFrame { row: usize, column: usize, source: Box<ReportError> },
    #[error("nothing to draw: no frame, or scale 0 (frames: {frames}, scale {scale}; expected at least 1 of each)")]
    NothingToDraw { frames: usize, scale: usize },
    #[error("a frame cannot be shown for {frame_ms} ms in a GIF file, expected 10 to 655350")]
    BadFrameTime { frame_ms: u32 },
    #[error("a confusion matrix of {classes} classes cannot have {found} entries, expected classes x classes, not 0")]
    BadConfusion { classes: usize, found: usize },
    #[error("heat map of {rows} x {columns}: {reason}")]
    BadHeatMap { rows: usize, columns: usize, reason: String },
    #[error(transparent)]
    Write(#[from] crate::fs::WriteError),
}

impl ReportError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// Writes `bytes` to `path` so that a reader, or a crash, meets the old file or the new one, never a part.
fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let moved = written.and_then(|()| fs::rename(&temporary, path));
    if moved.is_err() {
        let _ = fs::remove_file(&temporary); // what matters is the first error
    }
    moved.map_err(ReportError::io("write", path))
}

/// Checks that `rgb` is `[height, width, 3]` and that both sides fit what the file formats can say.
fn check_picture(rgb: &[u8], width: usize, height: usize) -> Result<(u16, u16), ReportError> {
    let expected = width.saturating_mul(height).saturating_mul(3);
    match (u16::try_from(width), u16::try_from(height)) {
        (Ok(w @ 1..), Ok(h @ 1..)) if rgb.len() == expected => Ok((w, h)),
        _ => Err(ReportError::BadPicture { width, height, expected, found: rgb.len() }),
    }
}
