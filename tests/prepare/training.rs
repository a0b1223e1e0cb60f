//! What training makes of prepared videos: files, frames and faults known from the manifest.

use super::*;
use avion::config::recipe::{SourceConfig, SourceFormat};
use avion::data::annotations::load;
use avion::data::layout::{ClipFiles, FileInfo};
use avion::data::loader::{Loader, LoaderConfig};
use avion::data::sampler::Position;
use avion::data::{Captions, Clip, Layout, Source};
use std::sync::Arc;

fn config(folder: &Path, root: &Path, rows: &str) -> SourceConfig {
    let annotations = folder.join("clips.csv");
    std::fs::write(&annotations, format!("video,start,end,caption\n{rows}")).unwrap();
    SourceConfig {
        annotations,
        root: root.to_owned(),
        format: SourceFormat::Table,
        chunk_s: 1.0,
        // Not so, and not looked at: the manifest knows.
        fps: 60.0,
        ..SourceConfig::default()
    }
}

fn prepared(folder: &Path) -> PathBuf {
    let (raw, out) = (folder.join("raw"), folder.join("out"));
    write_coded(&raw.join("ntsc.mp4"), 29.97, 200);
    write_coded(&raw.join("pal.mp4"), 25.0, 60);
    std::fs::write(raw.join("zero.mp4"), "").unwrap();
    run(&options(&raw, &out)).unwrap();
    out
}

fn kind_of(source: &Source, clip: &Clip) -> &'static str {
    ClipFiles::locate(source, clip).map_or_else(|error| error.kind(), |_| "readable")
}

#[test]
fn absent_videos_and_stretches_are_known_without_a_look_at_files() {
    let folder = tempfile::tempdir().unwrap();
    let out = prepared(folder.path());
    let rows = "ntsc.mp4,0.5,1.5,x\npal,2.39,9,x\npal,2.4,3,x\nzero,0,1,x\nnone,0,1,x\nntsc,3,2,x\n";
    let source = load(&config(folder.path(), &out, rows)).unwrap();
    assert!(matches!(source.layout, Layout::Prepared(_)));
    let kinds: Vec<_> = source.clips.iter().map(|clip| kind_of(&source, clip)).collect();
    assert_eq!(kinds, ["readable", "readable", "out-of-range", "failed-to-prepare", "not-prepared", "zero-length"]);
    let text = ClipFiles::locate(&source, &source.clips[3]).unwrap_err().to_string();
    assert!(text.contains("could not be prepared: the file is empty"), "{text}");
}

#[test]
fn the_manifest_answers_instead_of_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let out = prepared(folder.path());
    let source = load(&config(folder.path(), &out, "ntsc,0.9,6.5,x\n")).unwrap();
    let files = ClipFiles::locate(&source, &source.clips[0]).unwrap();
    assert_eq!(files.paths.len(), 7);
    let ask = |_| -> Result<FileInfo, _> { panic!("a file was opened") };
    // Every frame from 27 on; chunk 1 begins with frame 30, chunk 2 with frame 60.
    let parts = files.plan(&source.clips[0], source.fps, 200, |start, end| (start..end).collect(), ask).unwrap();
    let mut expected = 27;
    for part in parts {
        let codes = codes(&files.paths[part.file]);
        for frame in part.frames {
            assert_eq!(codes[frame as usize], expected);
            expected += 1;
        }
    }
    assert_eq!(expected, 195, "6.5 s are 194.8 frames");
}

#[test]
fn training_reads_prepared_videos_and_counts_the_absent() {
    let folder = tempfile::tempdir().unwrap();
    let out = prepared(folder.path());
    let rows: String =
        (0..10).map(|i| format!("ntsc,{},{},x\n", 0.5 * f64::from(i), 0.5 * f64::from(i) + 1.2)).collect();
    let source = load(&config(folder.path(), &out, &(rows + "zero,0,1,x\nnone,0,1,x\n"))).unwrap();
    let sources: Arc<[Source]> = [source].into();
    let config = LoaderConfig {
        epochs: 1,
        batch_size: 4,
        frames: 4,
        size_px: 32,
        max_bad_share: 0.5,
        ..LoaderConfig::default()
    };
    let mut loader = Loader::train(sources, config, Position::default()).unwrap();
    assert_eq!(loader.by_ref().map(Result::unwrap).count(), 3);
    let kinds: Vec<_> = loader.failures().kinds().collect();
    assert_eq!(kinds, [("failed-to-prepare", 1), ("not-prepared", 1)]);
}

#[test]
fn whole_videos_are_found_too() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, out) = (folder.path().join("raw"), folder.path().join("out"));
    write_coded(&raw.join("class/v.avi"), 25.0, 60);
    run(&Options { chunk_s: Some(0), ..options(&raw, &out) }).unwrap();
    let list = folder.path().join("list.csv");
    std::fs::write(&list, "class/v.avi 60 0\nclass/w.avi 60 0\n").unwrap();
    let format = SourceFormat::Kinetics;
    let config = SourceConfig { annotations: list, format, chunk_s: 0.0, ..config(folder.path(), &out, "") };
    let source = load(&config).unwrap();
    let kinds: Vec<_> = source.clips.iter().map(|clip| kind_of(&source, clip)).collect();
    assert_eq!(kinds, ["readable", "not-prepared"]);
    assert_eq!(ClipFiles::locate(&source, &source.clips[0]).unwrap().paths, [out.join("class/v.mp4")]);
    let narrated = Clip::narrated("class/v".into(), 1.0, 2.0, Captions::One("x".into()));
    let files = ClipFiles::locate(&source, &narrated).unwrap();
    let parts = files.plan(&narrated, None, 2, |start, end| vec![start, end - 1], |_| panic!("opened")).unwrap();
    assert_eq!((parts.len(), &parts[0].frames), (1, &vec![25, 49]));
}

#[test]
fn what_does_not_fit_is_said_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let out = prepared(folder.path());
    let config = config(folder.path(), &out, "ntsc,0,1,x\n");
    let text = load(&SourceConfig { chunk_s: 15.0, ..config.clone() }).unwrap_err().to_string();
    assert!(text.contains("in chunks of 1 s, the recipe says chunk_s = 15: set it to 1"), "{text}");
    std::fs::remove_file(out.join("ntsc/2.mp4")).unwrap();
    let text = load(&config).unwrap_err().to_string();
    assert!(text.contains("1 of 10 video files are not as the manifest says: ntsc/2.mp4 is missing"), "{text}");
    std::fs::write(out.join(manifest::FILE), "{}\n").unwrap();
    let text = load(&config).unwrap_err().to_string();
    assert!(text.contains("line 1 is damaged"), "{text}");
}
