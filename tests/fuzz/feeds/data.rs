//! Annotations.

use super::{MAX_LEN, Target, outcome, shared};
use avion::data::annotations::{ek100, read_ego4d, read_kinetics, read_names, read_table};
use avion::data::layout::ClipFiles;
use avion::data::pickle::{NdArray, Pickle};
use avion::data::{Clip, Layout, Source};
use avion::text::{END_OF_TEXT, START_OF_TEXT, Tokenizer, clean};
use std::path::Path;

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
    all.extend(shared("ego4d", &[".pkl"], MAX_LEN));
    all.extend(shared("ek100/pickle_format", &[".pkl"], MAX_LEN));
    all
}

pub fn pickle() -> Target {
    let seeds = pickles();
    assert!(NdArray::from_value(Pickle::parse(&seeds[2]).unwrap().root()).is_ok());
    Target::new("pickle", seeds, |input| match Pickle::parse(input) {
        Ok(pickle) => {
            outcome(NdArray::from_value(pickle.root()).map(|array| (array.shape.clone(), array.to_f64().len())))
        }
        Err(error) => error.to_string(),
    })
}

pub fn narrations() -> Target {
    let seeds = pickles();
    let folder = tempfile::tempdir().unwrap();
    for (seed, clips) in seeds.iter().zip([2, 1]) {
        let path = folder.path().join("a.pkl");
        std::fs::write(&path, seed).unwrap();
        assert_eq!(read_ego4d(&path).unwrap().len(), clips);
    }
    Target::on_file("narrations", seeds, "a.pkl", |path| {
        let clips = outcome(read_ego4d(path).map(|clips| clips.len()));
        clips + &outcome(ek100::read_relevancy(path, 1, 2).map(|_| ()))
    })
}

/// Tables in each of the three forms.
pub fn tables() -> Target {
    let csv =
        "video,start,end,caption\na/b.mp4,12.5,15.0,a person opens the fridge\na.mp4,00:01:02.50,00:01:05,\"x, y\"\n";
    let json =
        "{\"video\": \"a.mp4\", \"start\": 12.5, \"end\": \"00:00:15\", \"caption\": [\"opens\", \"is opened\"]}\n";
    let ek100 = "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,\
        stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n\
        P01_11_0,P01,P01_11,00:00:00.560,00:00:00.00,00:00:01.89,1,113,take plate,take,0,plate,2,\"['plate', 'cup']\",\"[2, 13]\"\n";
    let seeds = [csv, &csv.replace(',', "\t"), json, ek100, "narration_id,narration\nP01_11_0,take plate\n"];
    let mut seeds: Vec<Vec<u8>> = seeds.iter().map(|text| text.as_bytes().to_vec()).collect();
    seeds.extend(shared("kinetics", &["clips.csv"], MAX_LEN));
    Target::on_file("tables", seeds, "a.csv", |path| {
        let read =
            |path: &Path| outcome(read_table(path).map(|clips| clips.iter().filter(|clip| locate(clip)).count()));
        let mut text = read(path);
        text += &outcome(ek100::read_segments(path).map(|rows| rows.len()));
        text += &outcome(ek100::read_sentences(path).map(|rows| rows.len()));
        let [tsv, jsonl] = ["tsv", "jsonl"].map(|ending| path.with_extension(ending));
        std::fs::rename(path, &tsv).unwrap();
        text += &read(&tsv);
        std::fs::rename(&tsv, &jsonl).unwrap();
        text += &read(&jsonl);
        std::fs::remove_file(&jsonl).unwrap();
        text
    })
}

pub fn lists() -> Target {
    let seeds =
        ["riding a bike/v 12 300 7\nx 5 8\n", "a b.mp4,3\nc.mp4,4\n", "\u{feff}'a.mp4',300,1\n\n\"b\",5,2\n", "v 1\n"];
    let mut seeds: Vec<Vec<u8>> = seeds.iter().map(|text| text.as_bytes().to_vec()).collect();
    seeds.extend(shared("kinetics", &["clips.txt", "clips.csv", "head500.txt"], MAX_LEN));
    Target::on_file("lists", seeds, "a.txt", |path| {
        let clips = read_kinetics(path, Path::new("/videos"), 1);
        outcome(clips.map(|clips| clips.iter().filter(|clip| locate(clip)).count())) + &outcome(read_names(path, 2))
    })
}

/// Captions, as ids for the text tower.
pub fn captions() -> Target {
    let seeds = [
        "#C C opens the fridge's door",
        "take &amp;lt;plate&gt;",
        "caf\u{e9} \u{fb01} \u{1f468}\u{200d}\u{1f373} 12.5",
        "",
    ];
    let tokenizer = Tokenizer::new();
    Target::new("captions", seeds.iter().map(|text| text.as_bytes().to_vec()).collect(), move |input| {
        let text = String::from_utf8_lossy(input);
        let ids = tokenizer.encode(&text, 77);
        assert!((2..=77).contains(&ids.len()));
        assert_eq!((ids[0], ids[ids.len() - 1]), (START_OF_TEXT, END_OF_TEXT));
        format!("{ids:?} {}", clean(&text))
    })
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
