//! Every reader of files that somebody else wrote, with damaged and hostile ones: none may crash, hang, or take memory
//! that its file does not justify.
//!
//! `AVION_FUZZ_SECONDS=300 cargo test --release --test fuzz -- --nocapture --test-threads=1` looks for longer.

#[path = "../common/mod.rs"]
mod common;
mod engine;

use avion::checkpoint::{TorchFile, read_safetensors, read_weights, write_safetensors};
use avion::config::recipe::Recipe;
use avion::data::annotations::{ek100, parse_time, read_ego4d, read_kinetics, read_names, read_table};
use avion::data::layout::ClipFiles;
use avion::data::pickle::{NdArray, Pickle};
use avion::data::{Clip, Layout, Source, manifest};
use avion::report::read_metrics;
use common::shared_data;
use engine::{Target, files, findings};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn fixtures(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder)
}

fn shared(folder: &str, endings: &[&str], max_len: usize) -> Vec<Vec<u8>> {
    shared_data().map(|data| files(&data.join(folder), endings, max_len)).unwrap_or_default()
}

/// What came of an input, in words.
fn outcome<T: Debug, E: std::error::Error>(result: Result<T, E>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

/// Gives `run` the path of a file with the input.
fn on_file(target: Target, extension: &str, run: impl Fn(&Path) -> String) {
    let path = findings().join(format!("{}-at-work-{}.{extension}", target.name, std::process::id()));
    target.fuzz(|input| {
        std::fs::write(&path, input).unwrap();
        run(&path)
    });
    std::fs::remove_file(&path).unwrap();
}

/// A list of records `("v", 1.5, 2, "c")`, and one with a list of captions; protocols 2 and 0.
fn pickles() -> Vec<Vec<u8>> {
    let mut two = b"\x80\x02]q\x00(".to_vec();
    two.extend(b"(X\x01\x00\x00\x00vq\x01G?\xf8\x00\x00\x00\x00\x00\x00K\x02X\x01\x00\x00\x00cq\x02tq\x03");
    two.extend(b"(h\x01G?\xf8\x00\x00\x00\x00\x00\x00I7\n]q\x04(h\x02X\x02\x00\x00\x00ddetq\x05e.");
    let zero = b"(lp0\n(Vv\np1\nF1.5\nI2\nVc\np2\ntp3\na.".to_vec();
    let array = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02U\x01bq\x03\x87q\x04Rq\x05\
        (K\x01K\x01K\x02\x86q\x06cnumpy\ndtype\nq\x07U\x02f8q\x08K\x00K\x01\x87q\x09Rq\x0a(K\x03U\x01<q\x0bNNNJ\xff\xff\xff\xff\
        J\xff\xff\xff\xffK\x00tq\x0cb\x89U\x10\x00\x00\x00\x00\x00\x00\xf0?\x00\x00\x00\x00\x00\x00\xe0?q\x0dtq\x0eb."
        .to_vec();
    let mut all = vec![two, zero, array];
    all.extend(shared("ego4d", &[".pkl"], 64 << 10));
    all.extend(shared("ek100/pickle_format", &[".pkl"], 64 << 10));
    all
}

#[test]
fn pickle() {
    let seeds = pickles();
    assert!(NdArray::from_value(Pickle::parse(&seeds[2]).unwrap().root()).is_ok());
    Target::new("pickle", seeds).fuzz(|input| match Pickle::parse(input) {
        Ok(pickle) => {
            outcome(NdArray::from_value(pickle.root()).map(|array| (array.shape.clone(), array.to_f64().len())))
        }
        Err(error) => error.to_string(),
    });
}

#[test]
fn narrations() {
    let seeds = pickles();
    let folder = tempfile::tempdir().unwrap();
    for (seed, clips) in seeds.iter().zip([2, 1]) {
        let path = folder.path().join("a.pkl");
        std::fs::write(&path, seed).unwrap();
        assert_eq!(read_ego4d(&path).unwrap().len(), clips);
    }
    on_file(Target::new("narrations", seeds), "pkl", |path| {
        let clips = outcome(read_ego4d(path).map(|clips| clips.len()));
        let matrix = outcome(ek100::read_relevancy(path, 1, 2).map(|_| ()));
        clips.replace(&path.display().to_string(), "") + &matrix
    });
}

#[test]
fn torch_archive() {
    let seeds = files(&fixtures("torch"), &[".pt", ".pth", ".bin"], 64 << 10);
    assert!(!seeds.is_empty());
    on_file(Target::new("torch-archive", seeds), "pt", |path| {
        let read = TorchFile::open(path).and_then(|file| {
            file.verify()?;
            let tensors = file.state_dict()?;
            let names: Vec<String> = tensors.names().map(str::to_owned).collect();
            names.iter().try_for_each(|name| tensors.tensor(name).map(|_| ()))?;
            Ok(names.len())
        });
        outcome(read) + &outcome(read_weights(path).map(|_| ()))
    });
}

#[test]
fn safetensors() {
    let tensor = avion::checkpoint::HostTensor::from_f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let tensors = [("visual.a".to_owned(), tensor.clone()), ("b".to_owned(), tensor)].into();
    let mut seed = Vec::new();
    write_safetensors(&mut seed, &tensors, &[("size".to_owned(), "tiny".to_owned())].into()).unwrap();
    let mut seeds = vec![seed];
    seeds.extend(files(&fixtures("clip"), &[".safetensors"], 64 << 10));
    on_file(Target::new("safetensors", seeds), "safetensors", |path| {
        outcome(read_safetensors(path).map(|(tensors, metadata)| (tensors.len(), metadata)))
    });
}

#[test]
fn tables() {
    let csv =
        "video,start,end,caption\na/b.mp4,12.5,15.0,a person opens the fridge\na.mp4,00:01:02.50,00:01:05,\"x, y\"\n";
    let json =
        "{\"video\": \"a.mp4\", \"start\": 12.5, \"end\": \"00:00:15\", \"caption\": [\"opens\", \"is opened\"]}\n";
    let ek100 = "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,\
        stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n\
        P01_11_0,P01,P01_11,00:00:00.560,00:00:00.00,00:00:01.89,1,113,take plate,take,0,plate,2,\"['plate', 'cup']\",\"[2, 13]\"\n";
    let seeds = [csv, &csv.replace(',', "\t"), json, ek100, "narration_id,narration\nP01_11_0,take plate\n"];
    let mut seeds: Vec<Vec<u8>> = seeds.iter().map(|text| text.as_bytes().to_vec()).collect();
    seeds.extend(shared("kinetics", &["clips.csv"], 64 << 10));
    for extension in ["csv", "tsv", "jsonl"] {
        on_file(Target::new("tables", seeds.clone()), extension, |path| {
            let table = outcome(read_table(path).map(|clips| clips.iter().filter(|clip| locate(clip)).count()));
            let segments = outcome(ek100::read_segments(path).map(|rows| rows.len()));
            table + &segments + &outcome(ek100::read_sentences(path).map(|rows| rows.len()))
        });
    }
}

#[test]
fn manifests() {
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
    let mut videos = 0;
    let path = findings().join("manifest-seed.jsonl");
    std::fs::write(&path, seed).unwrap();
    manifest::read(&path, |_, _| videos += 1).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(videos, 2);
    on_file(Target::new("manifest", vec![seed.into()]), "jsonl", |path| {
        outcome(manifest::read(path, |_, _| ())).replace(&path.display().to_string(), "")
    });
}

#[test]
fn lists() {
    let seeds =
        ["riding a bike/v 12 300 7\nx 5 8\n", "a b.mp4,3\nc.mp4,4\n", "\u{feff}'a.mp4',300,1\n\n\"b\",5,2\n", "v 1\n"];
    let mut seeds: Vec<Vec<u8>> = seeds.iter().map(|text| text.as_bytes().to_vec()).collect();
    seeds.extend(shared("kinetics", &["clips.txt", "clips.csv", "head500.txt"], 64 << 10));
    on_file(Target::new("lists", seeds), "txt", |path| {
        let clips = read_kinetics(path, Path::new("/videos"), 1);
        outcome(clips.map(|clips| clips.iter().filter(|clip| locate(clip)).count())) + &outcome(read_names(path, 2))
    });
}

/// Looks for a clip's files; what an annotation says must not lead out of the root or into an endless search.
fn locate(clip: &Clip) -> bool {
    let layouts =
        [Layout::Whole { extension: "mp4".into() }, Layout::Chunked { chunk_s: 15.0, extension: "mp4".into() }];
    let located = layouts.map(|layout| {
        let source =
            Source { name: "s".into(), root: "/nonexistent".into(), layout, fps: None, clips: vec![clip.clone()] };
        ClipFiles::locate(&source, clip).is_ok()
    });
    located[0]
}

#[test]
fn recipes() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let seeds = files(&configs, &[".toml"], 64 << 10);
    assert!(!seeds.is_empty());
    Target::new("recipes", seeds).fuzz(|input| {
        let text = String::from_utf8_lossy(input);
        let change = text.lines().next().unwrap_or_default().to_owned();
        let whole = Recipe::from_toml(&text, "fuzz", &[]).map(|resolved| {
            let _ = avion::config::validate_values(&resolved.recipe);
            resolved.to_toml(true).is_ok()
        });
        outcome(whole) + &outcome(Recipe::from_toml("", "fuzz", &[change]).map(|_| ()))
    });
}

#[test]
fn metrics_and_times() {
    let line = r#"{"kind":"step","step":1,"epoch":0.1,"loss":4.0,"accuracy":null,"grad_norm":1.0,"lr":1e-3,"logit_scale":2.6,"step_ms":4.0,"clips_per_s":9.0,"data_wait":0.0}"#;
    let seeds = vec![format!("{line}\n{line}\n").into_bytes(), b"01:02:03.50".to_vec(), b"-3".to_vec()];
    on_file(Target::new("metrics", seeds), "jsonl", |path| {
        let text = std::fs::read(path).unwrap();
        let time = parse_time(&String::from_utf8_lossy(&text)).is_some();
        outcome(read_metrics(path).map(|records| records.len())) + if time { "time" } else { "" }
    });
}

#[cfg(feature = "video")]
mod video {
    use super::*;
    use avion::data::synthetic::write_video;
    use avion::video::bitstream::{Framing, Syntax};
    use avion::video::{CropBox, Read, VideoReader};

    #[test]
    fn packets() {
        let seeds: [&[u8]; 7] = [
            &[0, 0, 0, 5, 0x65, 0x88, 1, 2, 3, 0, 0, 0, 2, 0x06, 5],
            &[0, 0, 0, 9, 0x06, 5, 2, 1, 1, 6, 1, 0xC4, 0x80, 0, 0, 0, 2, 0x61, 0x88],
            &[0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x65, 0x88],
            &[
                0, 0, 1, 0xB6, 0x90, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0, 0, 1,
                0xB6, 0x40,
            ],
            &[0b1000_0010, 0],
            &[0b1000_1000],
            &[0, 0, 0, 3, 19 << 1, 1, 7],
        ];
        Target::new("packets", seeds.iter().map(|seed| seed.to_vec()).collect()).fuzz(|input| {
            let framing = Framing::from_config(input, 4);
            let mut syntaxes = vec![Syntax::Mpeg4, Syntax::Vp8, Syntax::Vp9, Syntax::OneToOne];
            for framing in [framing, Framing::StartCode, Framing::Length(1), Framing::Length(2), Framing::Length(4)] {
                syntaxes.extend([Syntax::H264(framing), Syntax::Hevc(framing)]);
            }
            let facts = |syntax: Syntax| (syntax.content(input), syntax.is_random_access(input));
            format!("{:?}", syntaxes.into_iter().map(facts).collect::<Vec<_>>())
        });
    }

    /// Real and made files, damaged: opened and read at a few frames.
    #[test]
    fn files_of_videos() {
        let folder = tempfile::tempdir().unwrap();
        let mut seeds = Vec::new();
        for name in ["a.mp4", "a.mkv", "a.avi", "a.mov"] {
            let path = folder.path().join(name);
            let frames =
                (0..30u8).map(|i| (0..48 * 64 * 3u32).map(|p| (p as u8 / 3).wrapping_mul(i)).collect::<Vec<u8>>());
            write_video(&path, 64, 48, 12.0, frames).unwrap();
            seeds.push(std::fs::read(&path).unwrap());
        }
        let most = 400 << 10;
        let real = ["mp4", "mkv", "avi", "mov", "webm", "mpg"];
        seeds.extend(shared("hard", &real, most));
        seeds.extend(shared("clips", &real, most));
        let target = Target { limit: Duration::from_secs(130), max_len: most, ..Target::new("video", seeds) };
        on_file(target, "video", |path| {
            let name = path.display().to_string();
            let mut video = match VideoReader::open(path) {
                Ok(video) => video,
                Err(error) => return error.to_string().replace(&name, ""),
            };
            let (count, size) = (video.num_frames(), [video.width(), video.height()]);
            let mut out = vec![0; 3 * 32 * 32 * 3];
            let crop = CropBox { x: 0, y: 0, width: size[0] / 2 + 1, height: size[1] / 2 + 1 };
            let mut text = String::new();
            for first in [0, count / 2, count.saturating_sub(3)] {
                let frames = [first, first + (count / 7).min(40), first + (count / 7).min(40) + 1];
                text += &outcome(video.read(&frames, crop, 32, false, &mut out));
            }
            let (one, rest) = out.split_at_mut(32 * 32 * 3);
            let mut reads = [
                Read { frames: &[1], crop, flip: true, out: one },
                Read { frames: &[0, 2], crop: CropBox::full(size[0], size[1]), flip: false, out: rest },
            ];
            text += &outcome(video.read_each(&mut reads, 32));
            text.replace(&name, "")
        });
    }
}
