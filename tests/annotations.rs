//! Annotation files of every format, written here or, where `../shared/data` exists, as published.

use avion::config::recipe::{SourceConfig, SourceFormat};
use avion::data::annotations::{
    AnnotationError, Place, check_labels, ek100, load, read_ego4d, read_kinetics, read_names, read_table,
};
use avion::data::pickle::{NdArray, Pickle};
use avion::data::{Captions, Clip, Layout};
use std::path::{Path, PathBuf};

/// The folder of real data, or `None` after saying so.
fn shared() -> Option<PathBuf> {
    let folder = match std::env::var_os("AVION_SHARED_DATA") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
    };
    if folder.is_dir() {
        return Some(folder);
    }
    println!("SKIPPED: needs ../shared/data");
    None
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Scratch(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

fn captions(clip: &Clip) -> Vec<&str> {
    match &clip.captions {
        Captions::One(text) => vec![text],
        Captions::Many(all) => all.iter().map(|text| &**text).collect(),
    }
}

fn config(format: SourceFormat, annotations: PathBuf) -> SourceConfig {
    SourceConfig { format, annotations, root: "videos".into(), ..SourceConfig::default() }
}

/// `pickle.dumps([('a/b', 1.5, 3, 'x'), ('a/b', FIELDS, ['y', 'z'], [0.1])], 0)` with the second record's times given.
fn pickled(times: &str) -> String {
    format!("(lp0\n(Va/b\np1\nF1.5\nI3\nVx\ntp2\na(g1\n{times}(lp3\nVy\naVz\na(lp4\nF0.1\natp5\na.")
}

#[test]
fn ego4d_records_become_clips() {
    let folder = Scratch::new();
    let path = folder.file("train.pkl", pickled("I9\nF-2.5\n"));
    let source = load(&SourceConfig { chunk_s: 15.0, fps: 30.0, ..config(SourceFormat::Ego4d, path) }).unwrap();
    assert_eq!(source.name, "train");
    assert_eq!(source.root, Path::new("videos"));
    assert_eq!(source.fps, Some(30.0));
    assert_eq!(source.layout, Layout::Chunked { chunk_s: 15.0, extension: "mp4".into() });
    let [first, second] = &source.clips[..] else { panic!("{:?}", source.clips) };
    assert_eq!((&*first.video, first.start_s, first.end_s), ("a/b", 1.5, 3.0));
    assert_eq!(first.captions, Captions::One("x".into()));
    // an end before its start is for the loader to count, not for us to refuse
    assert_eq!((second.start_s, second.end_s), (9.0, -2.5));
    assert_eq!(second.captions, Captions::Many(vec!["y".into(), "z".into()]));
    assert!(std::sync::Arc::ptr_eq(&first.video, &second.video));
}

#[test]
fn ego4d_errors_name_record_and_field() {
    let folder = Scratch::new();
    let cases: [(&str, &[&str]); 9] = [
        (&pickled("VA\nI1\n"), &["bad.pkl: record 1", "field start", "a number of seconds", "str \"A\""]),
        (&pickled("I1\nN"), &["record 1", "field end", "found None"]),
        ("(l(I1\nI1\nI1\nVx\nta.", &["record 0", "field video: expected a str, found int 1"]),
        ("(l(Vv\nI1\nI1\nI7\nta.", &["field caption", "found int 7"]),
        ("(l(Vv\nI1\nI1\n(lta.", &["field caption", "non-empty", "list of length 0"]),
        ("(l(Vv\nI1\nI1\n(lVa\naI5\nata.", &["field caption", "found int 5"]),
        ("(l(Vv\nI1\nI1\nta.", &["record 0", "tuple of length 3"]),
        ("(l(V../v\nI1\nI1\nVx\nta.", &["record 0", "\"../v\"", "'..'"]),
        ("(d.", &["not a readable pickle"]),
    ];
    for (content, expected) in cases {
        let error = read_ego4d(&folder.file("bad.pkl", content)).unwrap_err();
        for part in expected {
            assert!(error.to_string().contains(part), "{error} lacks {part}");
        }
    }
    let empty = load(&config(SourceFormat::Ego4d, folder.file("e.pkl", "(l."))).unwrap_err();
    assert!(matches!(empty, AnnotationError::Empty { .. }), "{empty}");
    let none = load(&config(SourceFormat::Ego4d, "none.pkl".into())).unwrap_err();
    assert!(matches!(none, AnnotationError::Io { .. }), "{none}");
}

#[test]
fn ego4d_files_of_every_protocol_hold_what_was_written() {
    let Some(shared) = shared() else { return };
    let text = std::fs::read(shared.join("ego4d/synthetic.expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let files = [
        ("synthetic_train.p2.pkl", "train"),
        ("synthetic_train.p4.pkl", "train"),
        ("synthetic_train.p5.pkl", "train"),
        ("synthetic_rephraser.p4.pkl", "rephraser"),
        ("synthetic_narrator.p4.pkl", "narrator"),
    ];
    for (file, key) in files {
        let clips = read_ego4d(&shared.join("ego4d").join(file)).unwrap();
        let records = expected[key].as_array().unwrap();
        assert_eq!(clips.len(), records.len());
        assert_eq!(clips.len(), 63);
        for (clip, record) in clips.iter().zip(records) {
            assert_eq!(&*clip.video, record[0].as_str().unwrap());
            // serde_json may miss the last bit of a decimal
            let near = |a: f64, b: f64| (a - b).abs() <= f64::EPSILON * b.abs();
            assert!(near(clip.start_s, record[1].as_f64().unwrap()));
            assert!(near(clip.end_s, record[2].as_f64().unwrap()));
            let written = match &record[3] {
                serde_json::Value::Array(all) => all.iter().map(|t| t.as_str().unwrap()).collect(),
                one => vec![one.as_str().unwrap()],
            };
            assert_eq!(captions(clip), written);
        }
    }
}

#[test]
fn tables_of_every_form_agree() {
    let folder = Scratch::new();
    let files = [
        ("a.csv", "caption,end,video,start,note\n\"cut, slowly\",00:01:02.50,v1,60.25,n\nwash,2,v2,1,\n"),
        ("a.tsv", "video\tstart\tend\tcaption\r\nv1\t60.25\t62.5\tcut, slowly\r\nv2\t1\t2\twash\r\n"),
        (
            "a.jsonl",
            "\u{feff}{\"video\":\"v1\",\"start\":60.25,\"end\":\"00:01:02.5\",\"caption\":\"cut, slowly\"}\n\n{\"video\":\"v2\",\"start\":1,\"end\":2,\"caption\":\"wash\",\"x\":0}",
        ),
    ];
    for (name, content) in files {
        let clips = read_table(&folder.file(name, content)).unwrap();
        assert_eq!(clips.len(), 2, "{name}");
        assert_eq!((&*clips[0].video, clips[0].start_s, clips[0].end_s), ("v1", 60.25, 62.5));
        assert_eq!(captions(&clips[0]), ["cut, slowly"]);
        assert_eq!(captions(&clips[1]), ["wash"]);
    }
    let many = folder.file("b.jsonl", r#"{"video":"v","start":0,"end":1,"caption":["a","b"]}"#);
    let source = load(&config(SourceFormat::Table, many)).unwrap();
    assert_eq!(captions(&source.clips[0]), ["a", "b"]);
    assert_eq!(source.fps, None);
    assert_eq!(source.layout, Layout::Whole { extension: "mp4".into() });
}

#[test]
fn table_errors_name_the_line() {
    let folder = Scratch::new();
    let header = "video,start,end,caption\n";
    let row = r#"{"video":"v","start":0,"end":1,"caption":"a"}"#;
    let cases = [
        (
            "a.csv",
            format!("{header}v,0,1,a\nv,zero,1,a\n"),
            "line 3: field start: expected seconds or hh:mm:ss.ff, found \"zero\"",
        ),
        ("a.csv", format!("{header}v,0,1,\"a\nb\"\nv,0,1:2,a\n"), "line 4: field end"),
        ("a.csv", format!("{header}v,0,1\n"), "line 2: not a well-formed row: it has 3 fields, the header 4"),
        (
            "a.csv",
            format!("{header}/etc/passwd,0,1,a\n"),
            "line 2: the video's name \"/etc/passwd\" is an absolute path",
        ),
        (
            "a.csv",
            "video,start,end,text\n".into(),
            "lacks the column \"caption\"; it has [\"video\", \"start\", \"end\", \"text\"]",
        ),
        ("a.jsonl", format!("{row}\n\n{{\"video\":"), "line 3: not a well-formed row: EOF"),
        ("a.jsonl", format!("{row}\n[1]"), "line 2: not a well-formed row"),
        ("a.jsonl", row.replace("\"v\"", "3"), "line 1: field video: expected a string, found \"3\""),
        (
            "a.jsonl",
            row.replace("\"start\":0,", ""),
            "line 1: field start: expected seconds or hh:mm:ss.ff, found nothing",
        ),
        ("a.jsonl", row.replace("\"a\"", "[]"), "line 1: field caption: expected a string or a non-empty list"),
        ("a.jsonl", row.replace("\"a\"", "[\"a\",1]"), "line 1: field caption"),
        ("a.txt", String::new(), "tables end in .csv, .tsv or .jsonl, this file in \"txt\""),
    ];
    for (name, content, expected) in cases {
        let error = read_table(&folder.file(name, content)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
    let error = read_table(&folder.file("a.csv", b"video,start,end,caption\nv,0,1,\xff\n")).unwrap_err();
    assert!(error.to_string().contains("line 2: not a well-formed row: not UTF-8"), "{error}");
}

const SEGMENTS: &str = "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes
P01_11_0,P01,P01_11,00:00:00.560,00:00:00.00,00:00:01.89,1,113,take plate,take,0,plate,2,['plate'],[2]
P01_11_1,P01,P01_11,00:00:01.700,00:01:01.56,01:00:02.45,93,147,put down plate and cup,put-down,1,plate,2,\"['plate', 'cup']\",\"[2, 13, 2]\"
P02_03_7,P02,P02_03,00:00:01.700,00:00:01.50,00:00:02.50,93,147,take cup,take,0,cup,13,['cup'],[13]
";
const SENTENCES: &str = "narration_id,narration\nP02_03_7,take cup\nP01_11_0,text of another row\n";

#[test]
fn ek100_joins_clips_and_captions_by_id() {
    let folder = Scratch::new();
    let base = SourceConfig {
        sentences: Some(folder.file("s.csv", SENTENCES)),
        chunk_s: 15.0,
        extension: "MP4".into(),
        ..config(SourceFormat::Ek100, folder.file("t.csv", SEGMENTS))
    };
    let retrieval = ek100::load_retrieval(&base).unwrap();
    let clips = &retrieval.source.clips;
    assert_eq!((&*clips[1].video, clips[1].start_s, clips[1].end_s), ("P01/P01_11", 61.56, 3602.45));
    assert_eq!(captions(&clips[1]), ["put down plate and cup"]);
    assert_eq!((retrieval.classes[1].verb(), retrieval.classes[1].nouns()), (1, [2, 13].as_slice()));
    assert_eq!(retrieval.caption_rows, [2, 0]);
    assert_eq!(&*retrieval.sentences[1], "text of another row");
    assert_eq!(retrieval.relevancy.shape(), [3, 2]);
    assert_eq!(retrieval.relevancy.to_dense(), [0.5, 1.0, 0.25, 0.25, 1.0, 0.5]);
    assert_eq!(load(&base).unwrap().clips, *clips);

    let error = ek100::load_retrieval(&SourceConfig { sentences: None, ..base.clone() }).unwrap_err();
    assert!(error.to_string().contains("sentences: expected"), "{error}");
    let foreign = folder.file("f.csv", "narration_id,narration\nP01_11_0,a\nP99_01_0,b\n");
    let error = ek100::load_retrieval(&SourceConfig { sentences: Some(foreign), ..base }).unwrap_err();
    let AnnotationError::UnknownNarration { place, id, .. } = &error else { panic!("{error}") };
    assert_eq!((*place, id.as_str()), (Place::Line(3), "P99_01_0"));
}

#[test]
fn ek100_errors_name_the_field() {
    let folder = Scratch::new();
    for (from, to, expected) in [
        ("00:00:00.00", "0.0.0", "line 2: field start_timestamp"),
        (",take,0,", ",take,zero,", "line 2: field verb_class: expected a class number, found \"zero\""),
        ("[2]\n", "2\n", "line 2: field all_noun_classes: expected a list of class numbers, found \"2\""),
        (",P01,", ",..,", "line 2: the video's name"),
    ] {
        let path = folder.file("t.csv", SEGMENTS.replacen(from, to, 1));
        let error = ek100::read_segments(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
}

#[test]
fn ek100_numpy_matrices_replace_the_computed_one() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("ek100/pickle_format");
    let text = std::fs::read(folder.join("relevancy_8x12.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let expected: Vec<f64> = json["values"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row.as_array().unwrap())
        .map(|value| value.as_f64().unwrap())
        .collect();
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "pkl") {
            continue;
        }
        files += 1;
        let data = std::fs::read(&path).unwrap();
        let pickle = Pickle::parse(&data).unwrap();
        let array = NdArray::from_value(pickle.root()).unwrap();
        assert_eq!(array.fortran, path.to_string_lossy().contains("fortran"));
        let relevancy = ek100::read_relevancy(&path, 8, 12).unwrap();
        assert_eq!(relevancy.to_dense(), expected, "{}", path.display());
        let error = ek100::read_relevancy(&path, 12, 8).unwrap_err().to_string();
        assert!(error.contains("shape [8, 12], expected [12, 8]"), "{error}");
    }
    assert_eq!(files, 9);
}

fn real(split: &str) -> Option<SourceConfig> {
    let folder = shared()?.join("ek100/retrieval_annotations");
    let name = format!("EPIC_100_retrieval_{split}");
    Some(SourceConfig {
        sentences: Some(folder.join(format!("{name}_sentence.csv"))),
        ..config(SourceFormat::Ek100, folder.join(format!("{name}.csv")))
    })
}

/// The checks of the published test split: counts and the histogram of relevancies.
#[test]
fn ek100_test_relevancies_are_the_published_ones() {
    let Some(config) = real("test") else { return };
    let retrieval = ek100::load_retrieval(&config).unwrap();
    let relevancy = &retrieval.relevancy;
    assert_eq!(relevancy.shape(), [9668, 3842]);
    let dense = relevancy.to_dense();
    // one pass over 37 million values; bins of 1/24000 tell all of them apart
    let (mut sum, mut tenths, mut bins) = (0.0, 0, vec![0; 24_001]);
    let (mut ones, mut columns) = (Vec::new(), vec![0; 3842]);
    for row in dense.chunks_exact(3842) {
        let mut in_row = 0;
        for (column, &r) in row.iter().enumerate() {
            sum += r;
            bins[(r * 24_000.0 + 0.5) as usize] += 1;
            if r == 0.1 {
                tenths += 1;
            } else if r == 1.0 {
                in_row += 1;
                columns[column] += 1;
            }
        }
        ones.push(in_row);
    }
    assert!((sum - 2_040_309.233_3_f64).abs() < 1e-3, "{sum}");
    assert_eq!(dense[..8], [1.0, 0.5, 0.5, 0.0, 0.5, 0.0, 0.0, 0.0]);
    assert_eq!(dense[100 * 3842..][..8], [0.5, 0.5, 0.0, 0.5, 0.0, 0.0, 0.5, 0.5]);
    let histogram = [
        (0.0, 32_919_500),
        (1.0 / 12.0, 10),
        (0.1, 679),
        (0.125, 11_729),
        (1.0 / 6.0, 101_143),
        (0.2, 12),
        (0.25, 319_728),
        (0.3, 2),
        (1.0 / 3.0, 591),
        (0.375, 15),
        (0.5, 3_655_357),
        (0.6, 155),
        (0.625, 2_451),
        (2.0 / 3.0, 35_848),
        (0.75, 34_502),
        (5.0 / 6.0, 194),
        (0.875, 5),
        (1.0, 62_535),
    ];
    for (value, expected) in histogram {
        assert_eq!(bins[(value * 24_000.0 + 0.5) as usize], expected, "{value}");
    }
    let binned: usize = histogram.iter().map(|bin| bin.1).sum();
    assert_eq!(binned, dense.len());
    assert_eq!(dense.len() - bins[0], 4_224_956); // above 0
    assert_eq!(tenths, 679); // exactly 0.1 in f64, so not above it
    assert_eq!(dense.len() - bins[0] - bins[2000] - tenths, 4_224_267); // above 0.1
    assert_eq!(ones.iter().sum::<usize>(), 62_535);
    assert_eq!((ones.iter().min(), ones.iter().max()), (Some(&1), Some(&25)));
    assert_eq!((columns.iter().min(), columns.iter().max()), (Some(&1), Some(&226)));

    // every caption column's own clip is fully relevant to it; the text, too, is its own in all but 6 shifted rows
    let mut shifted = Vec::new();
    for (caption, &row) in retrieval.caption_rows.iter().enumerate() {
        assert_eq!(dense[row * 3842 + caption], 1.0);
        if captions(&retrieval.source.clips[row]) != [&*retrieval.sentences[caption]] {
            shifted.push(caption);
        }
    }
    assert_eq!(shifted.len(), 6);
    assert!(shifted.iter().all(|&caption| caption >= 3835), "{shifted:?}");

    for video in (0..9668).step_by(100) {
        let row = &dense[video * 3842..][..3842];
        let above: Vec<usize> = (0..3842).filter(|&caption| row[caption] > 0.1).collect();
        assert_eq!(relevancy.row(video), row);
        assert_eq!(relevancy.candidates(video), above);
    }
    assert_eq!(&*retrieval.source.clips[0].video, "P01/P01_11");
}

/// The training split at full size: its matrix is never held.
#[test]
fn ek100_training_sentences_are_read() {
    let Some(config) = real("train") else { return };
    let sentences = ek100::read_sentences(config.sentences.as_deref().unwrap()).unwrap();
    assert_eq!(sentences.len(), 15_989);
    assert_eq!(&*sentences[1].narration, "turn on light");
    assert_eq!(sentences[1].line, 3);
}

fn labelled(text: &str) -> Vec<(String, u32)> {
    let folder = Scratch::new();
    let source = load(&config(SourceFormat::Kinetics, folder.file("list.txt", text))).unwrap();
    assert!(source.clips.iter().all(|clip| clip.whole));
    source.clips.iter().map(|clip| (clip.video.to_string(), clip.label.unwrap())).collect()
}

fn named(pairs: &[(&str, u32)]) -> Vec<(String, u32)> {
    pairs.iter().map(|(video, label)| ((*video).to_owned(), *label)).collect()
}

#[test]
fn labelled_lists_are_read_in_every_form() {
    let expected = named(&[("a/x.mp4", 3), ("b/y.mp4", 0)]);
    for text in [
        "a/x.mp4 3\nb/y.mp4 0\n",
        "a/x.mp4 300 3\r\nb/y.mp4 1 0",
        "\u{feff}a/x.mp4,3\n\nb/y.mp4,0\n\n",
        "a/x.mp4, 300, 3\nb/y.mp4, 12, 0",
        "a/x.mp4\t300\t3\nb/y.mp4\t12\t0",
        "\"a/x.mp4\" 3\n'b/y.mp4' 0",
    ] {
        assert_eq!(labelled(text), expected, "{text}");
    }
    // Spaces and commas within paths; names without an extension.
    assert_eq!(labelled("my cat, 2.mp4 7\nplain.mp4 8"), named(&[("my cat, 2.mp4", 7), ("plain.mp4", 8)]));
    assert_eq!(labelled("riding a bike/v 12 300 7\nx 5 8"), named(&[("riding a bike/v 12", 7), ("x", 8)]));
    assert_eq!(labelled("RGB_val/jf7RDuUTrsQ 300 325"), named(&[("RGB_val/jf7RDuUTrsQ", 325)]));
    assert_eq!(labelled("a b.mp4,3\nc.mp4,4"), named(&[("a b.mp4", 3), ("c.mp4", 4)]));
}

#[test]
fn lists_keep_their_lines_and_frame_counts() {
    let folder = Scratch::new();
    let read = |text: &str| {
        let source = load(&config(SourceFormat::Kinetics, folder.file("list.txt", text))).unwrap();
        let of = |clip: &Clip| (clip.line.map_or(0, |n| n.get()), clip.listed_frames.map(|n| n.get()));
        source.clips.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(read("a 300 3\n\nb 1 0\n"), [(1, Some(300)), (3, Some(1))]);
    assert_eq!(read("a.mp4,3\nb.mp4,0\n"), [(1, None), (2, None)]);
}

#[test]
fn lists_may_count_from_one_and_name_whole_paths() {
    let folder = Scratch::new();
    let root = std::path::absolute(folder.0.path()).unwrap();
    let text = format!("{}/Apply/v_a.avi 1\nArchery/v_b.avi 2\n", root.display());
    let list = folder.file("trainlist01.txt", text);
    let ucf = SourceConfig { first_label: 1, root: root.clone(), ..config(SourceFormat::Kinetics, list) };
    let clips = load(&ucf).unwrap().clips;
    let found: Vec<_> = clips.iter().map(|clip| (&*clip.video, clip.label)).collect();
    assert_eq!(found, [("Apply/v_a.avi", Some(0)), ("Archery/v_b.avi", Some(1))]);
    let elsewhere = SourceConfig { root: root.join("videos"), ..ucf };
    let text = load(&elsewhere).unwrap_err().to_string();
    assert!(text.contains("line 1") && text.contains("absolute"), "{text}");
}

#[test]
fn wrong_lines_of_a_list_are_named() {
    let folder = Scratch::new();
    let fails = |text: &str, first_label| {
        let list = folder.file("list.txt", text);
        load(&SourceConfig { first_label, ..config(SourceFormat::Kinetics, list) }).unwrap_err().to_string()
    };
    for (text, first_label, parts) in [
        ("a.mp4 0\nb.mp4 x\n", 0, ["line 2: field label", "expected a class number, 0 or more", "\"b.mp4 x\""]),
        ("a.mp4 -1", 0, ["line 1: field label", "0 or more", "-1"]),
        ("a.mp4 99999999999", 0, ["line 1: field label", "0 or more", "99999999999"]),
        ("a.mp4 1\nb.mp4 0", 1, ["line 2: field label", "first_label or more", "b.mp4 0"]),
        ("a.mp4 0 3", 0, ["line 1: field frames", "1 to 4,294,967,295", "a.mp4 0 3"]),
        ("a.mp4 9 3\nb.mp4 3", 0, ["line 2", "path frames label", "b.mp4 3"]),
        ("a.mp4 3\nb.mp4 9 3", 0, ["line 2", "path label", "b.mp4 9 3"]),
        ("a.mp4 3\n7", 0, ["line 2", "path label", "\"7\""]),
        ("a.mp4,3\nb.mp4 4", 0, ["line 2", "path,label", "b.mp4 4"]),
        (
            "label,youtube_id,time_start\nabseiling,0wR5jVB-WPk,417",
            0,
            ["line 1: field label", "class number", "time_start"],
        ),
        ("../a.mp4 3", 0, ["line 1", "../a.mp4", ".."]),
        ("\n\n", 0, ["holds no records", "list.txt", ""]),
    ] {
        let found = fails(text, first_label);
        assert!(parts.iter().all(|part| found.contains(part)), "{text}: {found}");
    }
    let chunked = SourceConfig { chunk_s: 15.0, ..config(SourceFormat::Kinetics, folder.file("c.txt", "a 3")) };
    assert!(load(&chunked).unwrap_err().to_string().contains("chunk_s"));
}

#[test]
fn labels_must_fit_the_classes() {
    let folder = Scratch::new();
    let list = folder.file("list.txt", "a.mp4 0\nb.mp4 101\n");
    let source = load(&config(SourceFormat::Kinetics, list.clone())).unwrap();
    check_labels(&list, &source, 102).unwrap();
    let text = check_labels(&list, &source, 101).unwrap_err().to_string();
    assert!(text.contains("\"b.mp4\" is of class 101") && text.contains("0 to 100"), "{text}");
    let names = folder.file("names.txt", "archery\nriding a bike\n");
    assert_eq!(read_names(&names, 2).unwrap(), ["archery", "riding a bike"]);
    assert!(read_names(&names, 3).unwrap_err().to_string().contains("2 lines for classify.classes = 3"));
}

#[test]
fn published_lists_are_read() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("kinetics");
    let read = |name: &str| read_kinetics(&folder.join(name), &shared, 0).unwrap();
    let validation = read("k400_val_list_path_frames_label.head500.txt");
    assert_eq!(validation.len(), 500);
    assert_eq!((&*validation[0].video, validation[0].label), ("RGB_val/jf7RDuUTrsQ", Some(325)));
    // The same clips in AVION's and in VideoMAE's form, which has no numbers of frames.
    let mut ours = read("avion_list_of_clips.txt");
    assert_eq!(ours.iter().map(|clip| clip.listed_frames.unwrap().get()).collect::<Vec<_>>(), [327, 332, 280, 310]);
    ours.iter_mut().for_each(|clip| clip.listed_frames = None);
    assert_eq!(ours, read("videomae_list_of_clips.csv"));
    assert_eq!(ours.iter().map(|clip| clip.label.unwrap()).collect::<Vec<_>>(), [375, 375, 6, 129]);
    let names = read_names(&folder.join("label_map_k400.txt"), 400).unwrap();
    assert_eq!((&*names[375], &*names[129]), ("using segway", "flipping pancake"));
    // The official CSV is no list of this kind.
    assert!(read_kinetics(&folder.join("kinetics-400_val.csv"), &shared, 0).is_err());
}
