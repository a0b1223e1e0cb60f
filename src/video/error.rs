//! What can go wrong between a video's path and its frames.

use std::path::PathBuf;

/// Why a video could not be opened or read. [`VideoError::kind`] is the name under which a run counts it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum VideoError {
    #[error(
        "cannot open {path}: this build has no video decoder (rebuild with the feature `video`)",
        path = path.display()
    )]
    NotBuilt { path: PathBuf },
    #[error("cannot open {path}: no such file", path = path.display())]
    Missing { path: PathBuf },
    #[error("cannot open {path}: {reason}", path = path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("{path} has no video stream", path = path.display())]
    NoVideoStream { path: PathBuf },
    #[error(
        "this FFmpeg build has no decoder for `{codec}`, which {path} uses",
        path = path.display()
    )]
    NoDecoder { path: PathBuf, codec: String },
    #[error("{path} is encrypted", path = path.display())]
    Encrypted { path: PathBuf },
    #[error("{path} has a video stream without a single picture", path = path.display())]
    NoFrames { path: PathBuf },
    #[error("pictures of {width}x{height} are below {min}x{min}: {path}", path = path.display())]
    Tiny { path: PathBuf, width: u32, height: u32, min: u32 },
    #[error(
        "the display matrix {matrix:?} is no rotation by a multiple of 90 degrees: {path}",
        path = path.display()
    )]
    Rotation { path: PathBuf, matrix: [i32; 4] },
    #[error("asked for frame {frame}, the video has {num_frames}: {path}", path = path.display())]
    TooShort { path: PathBuf, frame: u64, num_frames: u64 },
    #[error(
        "asked for frame {frame}, decoding ended after {decoded} of {num_frames} frames with \
         {num_errors} errors: {path}",
        path = path.display()
    )]
    Corrupt { path: PathBuf, frame: u64, decoded: u64, num_frames: u64, num_errors: u64 },
    #[error(
        "frame {frame} is {found_width}x{found_height}, the video began with {width}x{height}: {path}",
        path = path.display()
    )]
    SizeChanged { path: PathBuf, frame: u64, width: u32, height: u32, found_width: u32, found_height: u32 },
    #[error("cannot convert pictures of format `{format}` to RGB: {path}", path = path.display())]
    PixelFormat { path: PathBuf, format: String },
    #[error("{operation} took more than {limit_s} s: {path}", path = path.display())]
    Timeout { path: PathBuf, operation: &'static str, limit_s: u64 },
    #[error("cannot read frames: {reason}: {path}", path = path.display())]
    Request { path: PathBuf, reason: String },
}

impl VideoError {
    /// A short, stable name of the kind of fault, for counters and reports.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotBuilt { .. } => "not-built",
            Self::Missing { .. } => "missing",
            Self::Unreadable { .. } => "unreadable",
            Self::NoVideoStream { .. } => "no-video-stream",
            Self::NoDecoder { .. } => "no-decoder",
            Self::Encrypted { .. } => "encrypted",
            Self::NoFrames { .. } => "no-frames",
            Self::Tiny { .. } => "tiny",
            Self::Rotation { .. } => "rotation",
            Self::TooShort { .. } => "too-short",
            Self::Corrupt { .. } => "corrupt",
            Self::SizeChanged { .. } => "size-changed",
            Self::PixelFormat { .. } => "pixel-format",
            Self::Timeout { .. } => "timeout",
            Self::Request { .. } => "request",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_file_and_the_numbers() {
        let error = VideoError::TooShort { path: "videos/a.mp4".into(), frame: 512, num_frames: 480 };
        assert_eq!(error.to_string(), "asked for frame 512, the video has 480: videos/a.mp4");
        assert_eq!(error.kind(), "too-short");
    }
}
