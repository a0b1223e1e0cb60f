//! What `avion prepare` reads and leaves: raw videos, its manifest, the journal of a run that was killed.

use super::video::made_files;
use super::{Target, outcome, shared};
use avion::data::manifest::{self, FILE, JOURNAL, Prepared};
use avion::prepare::{Found, Layout, MPEG4, Options, publish, run};
use std::time::{Duration, Instant};

const SETTINGS: &str =
    r#"{"layout":"plain","chunk_s":15,"short_side":288,"gop":12,"codec":"libx264","quality":24,"preset":"veryfast"}"#;

/// Read by training, and by the next `avion prepare`.
pub fn manifests() -> Target {
    let seed = concat!(
        r#"{"avion_manifest":1,"settings":{"layout":"plain","chunk_s":15,"short_side":288,"gop":12,"codec":"libx264","#,
        r#""quality":24,"preset":"veryfast"},"videos":2,"complete":true}"#,
        "\n",
        r#"{"video":"00","source":{"path":"00.mp4","bytes":696260,"modified_ns":1,"hash":"xxh3-sampled:5b47"},"result":"#,
        r#"{"ready":{"fps":[30,1],"width":512,"height":288,"repeated":0,"dropped":0,"decode_errors":0,"chunks":[{"frames":"#,
        r#"450,"bytes":1012499,"crc32c":1533411891,"key_every":12}]}}}"#,
        "\n",
        r#"{"video":"01","source":{"path":"01.mp4","bytes":0,"modified_ns":2,"hash":"xxh3-sampled:0"},"result":"#,
        r#"{"failed":{"kind":"no-frames","reason":"01.mp4: no frames"}}}"#,
        "\n",
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    std::fs::write(&path, seed).unwrap();
    let mut videos = 0;
    manifest::read(&path, |_, _| videos += 1).unwrap();
    assert_eq!(videos, 2);
    let whole_files = seed.replace("\"chunk_s\":15", "\"chunk_s\":0");
    Target::on_file("manifest", vec![seed.into(), whole_files.into()], FILE, |path| {
        let folder = path.parent().unwrap();
        let text = outcome(manifest::read(path, |_, video| drop(video)));
        // Its files are not there, so that `find` looks for each and names them.
        text + &outcome(Prepared::find(folder).map(|found| found.is_some())) + &outcome(Found::read(folder))
    })
}

pub fn journals() -> Target {
    let source = r#"{"path":"00.mp4","bytes":696260,"modified_ns":1,"hash":"xxh3-sampled:5b47"}"#;
    let chunk = r#"{"frames":450,"bytes":1012499,"crc32c":1533411891,"key_every":12}"#;
    let seed = format!(
        "{{\"settings\":{SETTINGS}}}\n\
         {{\"begun\":{{\"video\":\"00\",\"source\":{source},\"fps\":[30,1],\"width\":512,\"height\":288}}}}\n\
         {{\"chunk\":{{\"video\":\"00\",\"number\":0,\"chunk\":{chunk}}}}}\n\
         {{\"done\":{{\"video\":\"01\",\"source\":{source},\"result\":{{\"failed\":{{\"kind\":\"no-frames\",\
         \"reason\":\"no frames\"}}}}}}}}\n"
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(JOURNAL), &seed).unwrap();
    assert_eq!(Found::read(folder.path()).unwrap().videos.len(), 2);
    Target::on_file("journal", vec![seed.into()], JOURNAL, |path| outcome(Found::read(path.parent().unwrap())))
}

/// A raw video, prepared: whatever it is, what is left must be whole.
pub fn sources() -> Target {
    let mut seeds = made_files(&["a.mp4", "a.mkv", "a.avi"]);
    seeds.extend(shared("hard", &["mp4", "mkv", "avi", "mov", "webm"], 20 << 10));
    Target::on_file("source", seeds, "a.mp4", |path| {
        let folder = path.parent().unwrap();
        let (list, output) = (folder.join("list.txt"), folder.join("out"));
        std::fs::write(&list, "a.mp4\n").unwrap();
        let options = Options {
            input: list,
            output: output.clone(),
            layout: Some(Layout::Plain),
            chunk_s: Some(1),
            short_side: 32,
            gop: 12,
            codec: Some(MPEG4.into()),
            quality: None,
            preset: "veryfast".to_owned(),
            workers: 1,
        };
        // Pictures a minute apart at 1000 frames/s are shown again for as long.
        let end = Instant::now() + Duration::from_secs(3);
        let summary = run(&options, &|| Instant::now() > end, &publish);
        let failed = summary.as_ref().map(|summary| summary.failed.iter().any(|(_, why)| why.kind == "panic"));
        assert!(!failed.unwrap_or(false), "{summary:?}");
        let left = match output.is_dir() {
            true => Prepared::find(&output).map(|found| found.is_some()),
            false => Ok(false),
        };
        let _ = std::fs::remove_dir_all(&output);
        left.unwrap();
        outcome(summary)
    })
}
