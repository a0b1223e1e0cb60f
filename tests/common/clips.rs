//! Video clips for tests: made by the `ffmpeg` program, or found.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs `ffmpeg` quietly; `None` when it is not installed or refuses (no such encoder).
pub fn ffmpeg(args: &[&str]) -> Option<Vec<u8>> {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "quiet", "-y"]).args(args);
    let output = command.stderr(Stdio::null()).output().ok()?;
    output.status.success().then_some(output.stdout)
}

/// One generated clip, `None` where ffmpeg cannot make it.
pub fn generate(folder: &Path, name: &str, source: &str, args: &str) -> Option<PathBuf> {
    let path = folder.join(name);
    let mut all = vec!["-f", "lavfi", "-i", source];
    all.extend(args.split_whitespace());
    all.extend(["-threads", "1", path.to_str().unwrap()]);
    let made = ffmpeg(&all);
    if made.is_none() {
        println!("SKIPPED: needs ffmpeg to make {name} ({args})");
    }
    made.map(|_| path)
}

pub fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}
