//! What a person sees of a run: the progress line, metrics.jsonl, event files, results.json and the page.

use avion::report::{
    BadSamples, ClipCard, EvalRecord, EvalTable, EventWriter, Fact, Match, MetricsLog, Progress, ProgressPlan, Record,
    ReportData, Results, ScoreRow, Scored, Scores, Search, SearchHit, StepRecord, Thumbnail, read_metrics,
};
use std::fs;
use std::path::Path;
use std::process::Command;

fn step(step: u64) -> StepRecord {
    StepRecord {
        step,
        epoch: step as f64 / 100.0,
        loss: 4.0 / (step as f64),
        accuracy: 0.5,
        grad_norm: 0.93,
        lr: 3e-5,
        logit_scale: 2.66,
        step_ms: 412.0,
        clips_per_s: 4970.0,
        data_wait: 0.03,
        workers_busy: Some(0.9),
        workers_decoding: None,
        memory_bytes: Some(65_712_999_629),
        bad_samples: 0,
    }
}

fn evaluation(step: u64) -> EvalRecord {
    EvalRecord { step, set: "ek100".into(), scores: [("map_avg".into(), 0.25)].into(), ..EvalRecord::default() }
}

// ---- progress ----

const PLAN: ProgressPlan =
    ProgressPlan { total_steps: 48_000, batch_size: 2048, scored: Scored::Retrieval, horizon_samples: 100_000 };

fn drawn(columns: Option<usize>, draw: impl FnOnce(&mut Progress<&mut Vec<u8>>)) -> String {
    let mut out = Vec::new();
    draw(&mut Progress::new(&mut out, columns, PLAN, 1190));
    String::from_utf8(out).unwrap()
}

#[test]
fn the_progress_line_says_everything() {
    let line = drawn(None, |progress| {
        progress.update(&StepRecord { epoch: 1.23, loss: 2.4813, accuracy: 0.4118, ..step(1200) })
    });
    assert_eq!(
        line,
        "step 1200/48000  epoch 1.23  loss 2.4813  acc 41.2%  grad 0.93  lr 3.0e-5  412 ms/step  4970 clips/s  \
         data-wait 3%  mem 61.2 GiB  ETA 5h21m\n"
    );
}

#[test]
fn a_terminal_is_redrawn_in_place_and_never_overflows() {
    let text = drawn(Some(80), |progress| {
        progress.update(&step(1200));
        progress.message("checkpoint written");
        progress.update(&step(1210));
        progress.finish();
    });
    let parts: Vec<&str> = text.split('\r').collect();
    assert_eq!(parts.len(), 4, "{text:?}"); // nothing, a line, erased for the message, a line
    assert!(parts[1].starts_with("step 1200/48000  ") && parts[1].ends_with("\x1b[K"));
    assert_eq!(parts[2], "\x1b[Kcheckpoint written\n");
    assert!(parts[3].ends_with("\x1b[K\n"));
    for part in [parts[1], parts[3]] {
        let visible = part.trim_end().trim_end_matches("\x1b[K");
        assert!(visible.len() < 80, "{visible}");
        assert!(visible.contains("loss") && visible.contains("ETA"), "{visible}");
    }
}

#[test]
fn means_forget_by_clips_not_by_updates() {
    let loss_after = |batch_size: usize, every: u64| {
        let mut out = Vec::new();
        let plan = ProgressPlan { batch_size, ..PLAN };
        let mut progress = Progress::new(&mut out, None, plan, 0);
        progress.update(&StepRecord { loss: 4.0, ..step(every) });
        for i in 2..=(1_000_000 / batch_size as u64 / every) {
            progress.update(&StepRecord { loss: 2.0, ..step(i * every) });
        }
        let text = String::from_utf8(out).unwrap();
        let last = text.lines().last().unwrap().split("loss ").nth(1).unwrap();
        last.split(' ').next().unwrap().parse::<f64>().unwrap()
    };
    // A million clips at a horizon of 100,000: the first loss is forgotten, however they were batched.
    let (small, large) = (loss_after(250, 10), loss_after(1000, 5));
    assert!((small - 2.0).abs() < 1e-3 && (large - 2.0).abs() < 1e-3, "{small} {large}");
}

/// The first steps of a run compile kernels and time algorithms.
#[test]
fn the_first_record_does_not_colour_later_rates() {
    let text = drawn(None, |progress| {
        progress.update(&StepRecord { loss: 4.0, step_ms: 7386.0, clips_per_s: 35.0, ..step(1195) });
        progress.update(&StepRecord { loss: 2.0, step_ms: 250.0, clips_per_s: 1024.0, ..step(1200) });
        progress.update(&StepRecord { loss: 2.0, step_ms: 500.0, clips_per_s: 512.0, ..step(1205) });
    });
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("7386 ms/step  35 clips/s"), "{}", lines[0]);
    assert!(lines[1].contains("250 ms/step  1024 clips/s") && lines[1].contains("ETA 3h15m"), "{}", lines[1]);
    assert!(!lines[1].contains("loss 2.0000"), "the loss is smoothed: {}", lines[1]);
    assert!(!lines[2].contains("500 ms/step"), "and so are later rates: {}", lines[2]);
}

#[test]
fn a_bad_step_shows_and_passes() {
    let text = drawn(None, |progress| {
        progress.update(&step(1200));
        progress.update(&StepRecord { loss: f64::NAN, ..step(1210) });
        progress.update(&StepRecord { loss: 1.5, bad_samples: 3, ..step(1220) });
    });
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].contains("loss NaN"), "{}", lines[1]);
    assert!(lines[2].contains("loss 1.5000") && lines[2].contains("bad 3"), "{}", lines[2]);
}

// ---- metrics.jsonl ----

#[test]
fn records_come_back_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut log = MetricsLog::create(&path).unwrap();
    let records = [Record::Eval(evaluation(0)), Record::Step(step(10)), Record::Eval(evaluation(10))];
    for (index, record) in records.iter().enumerate() {
        log.write(record).unwrap();
        // On disk at once, the writer still open.
        assert_eq!(read_metrics(&path).unwrap(), records[..=index]);
    }
    let first = fs::read_to_string(&path).unwrap();
    assert!(first.starts_with(r#"{"kind":"eval","step":0,"#), "{first}");
}

#[test]
fn a_loss_that_is_not_finite_is_kept_as_null() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut log = MetricsLog::create(&path).unwrap();
    log.write(&Record::Step(StepRecord { loss: f64::INFINITY, ..step(1) })).unwrap();
    assert!(fs::read_to_string(&path).unwrap().contains(r#""loss":null"#));
    let Record::Step(back) = &read_metrics(&path).unwrap()[0] else { panic!("not a step") };
    assert!(back.loss.is_nan() && back.grad_norm == 0.93);
}

#[test]
fn resuming_drops_later_records_and_a_torn_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut log = MetricsLog::create(&path).unwrap();
    for at in [10, 20, 30] {
        log.write(&Record::Step(step(at))).unwrap();
        log.write(&Record::Eval(evaluation(at))).unwrap();
    }
    drop(log);
    let mut torn = fs::read(&path).unwrap();
    torn.extend_from_slice(br#"{"kind":"step","step":40,"epo"#);
    fs::write(&path, torn).unwrap();
    assert_eq!(read_metrics(&path).unwrap().len(), 6);

    let mut log = MetricsLog::resume(&path, 20).unwrap();
    log.write(&Record::Step(step(25))).unwrap();
    let steps: Vec<u64> = read_metrics(&path).unwrap().iter().map(Record::step).collect();
    assert_eq!(steps, [10, 10, 20, 20, 25]);

    // No file yet: a new one.
    let fresh = folder.path().join("fresh.jsonl");
    MetricsLog::resume(&fresh, 5).unwrap();
    assert_eq!(read_metrics(&fresh).unwrap(), []);
}

#[test]
fn a_damaged_line_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    fs::write(&path, "\n{\"kind\":\"lunch\"}\n").unwrap();
    let message = read_metrics(&path).unwrap_err().to_string();
    assert!(message.contains("metrics.jsonl, line 2: unknown variant `lunch`"), "{message}");
}

// ---- TensorBoard ----

/// A second reading of the format: fields of a protocol buffer message as (number, wire type, bytes or number).
fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let size = match key & 7 {
            0 => {
                let value = varint(&mut bytes);
                out.push((key >> 3, 0, value.to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            5 => 4,
            wire => panic!("wire type {wire}"),
        };
        out.push((key >> 3, key & 7, bytes[..size].to_vec()));
        bytes = &bytes[size..];
    }
    out
}

fn field(message: &[u8], number: u64) -> Vec<u8> {
    let found = fields(message).into_iter().find(|f| f.0 == number);
    found.unwrap_or_else(|| panic!("no field {number}")).2
}

/// CRC-32C bit by bit, masked as TFRecords are.
fn masked_crc(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn events(path: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(path).unwrap();
    let (mut rest, mut out) = (&file[..], Vec::new());
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        assert_eq!(word(&rest[8..12]), masked_crc(&rest[..8]));
        let payload = &rest[12..12 + length];
        assert_eq!(word(&rest[12 + length..16 + length]), masked_crc(payload));
        out.push(payload.to_vec());
        rest = &rest[16 + length..];
    }
    out
}

fn picture(width: usize, height: usize, hue: usize) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let (dx, dy) = (x as f64 / width as f64 - 0.5, y as f64 / height as f64 - 0.5);
            let inside = dx * dx + dy * dy < 0.05 + 0.02 * (hue % 5) as f64;
            let background = (40 + 120 * y / height) as u8;
            let mut pixel = [background, background, background.saturating_add(20)];
            if inside {
                pixel = [[220, 60, 50], [50, 160, 70], [60, 90, 220], [230, 190, 40]][hue % 4];
            }
            rgb.extend(pixel);
        }
    }
    rgb
}

fn write_events(folder: &Path) -> std::path::PathBuf {
    let mut writer = EventWriter::create(folder, None).unwrap();
    for at in 0..200u64 {
        writer.scalar("train/loss", at, 4.0 / (at + 1) as f64).unwrap();
    }
    writer.text("recipe", 0, "name = \"demo\" — ✓").unwrap();
    writer.image("clips", 3, &picture(40, 30, 0), 40, 30).unwrap();
    writer.flush().unwrap();
    writer.path().to_owned()
}

#[test]
fn event_files_decode() {
    let folder = tempfile::tempdir().unwrap();
    let events = events(&write_events(folder.path()));
    assert_eq!(events.len(), 1 + 200 + 2);
    assert_eq!(field(&events[0], 3), b"brain.Event:2");
    let value = |event: &[u8]| field(&field(event, 5), 1);

    let loss = &events[1 + 150];
    assert_eq!(field(loss, 2), 150u64.to_le_bytes());
    assert_eq!(field(&value(loss), 1), b"train/loss");
    assert_eq!(field(&value(loss), 2), (4.0f32 / 151.0).to_le_bytes());

    let text = value(&events[201]);
    assert_eq!(field(&field(&text, 8), 8), "name = \"demo\" — ✓".as_bytes());
    assert_eq!(field(&field(&field(&text, 9), 1), 1), b"text");

    let image = field(&value(&events[202]), 4);
    let png = field(&image, 4);
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut rgb).unwrap();
    assert_eq!(rgb, picture(40, 30, 0));
}

#[test]
fn tensorboard_itself_reads_event_files() {
    let folder = tempfile::tempdir().unwrap();
    write_events(folder.path());
    // Resumed after step 99: TensorBoard must forget 100 to 199 of the first file.
    let mut writer = EventWriter::create(folder.path(), Some(99)).unwrap();
    let resumed = StepRecord { loss: 0.5, ..step(100) };
    writer.record(&Record::Step(resumed)).unwrap();
    writer.record(&Record::Eval(evaluation(100))).unwrap();
    writer.flush().unwrap();
    let script = "
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
run = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0, 'images': 0, 'tensors': 0})
run.Reload()
loss = run.Scalars('train/loss')
assert [e.step for e in loss] == list(range(101)), [e.step for e in loss][-5:]
assert abs(loss[50].value - 4 / 51) < 1e-6 and loss[100].value == 0.5, loss[50]
image = run.Images('clips')[0]
assert (image.step, image.width, image.height) == (3, 40, 30), image
text = run.Tensors('recipe')[0].tensor_proto.string_val[0].decode()
assert text == 'name = \"demo\" — ✓', text
assert run.Scalars('eval/ek100/map_avg')[0].value == 0.25
assert run.Scalars('train/clips_per_s')[0].value == 4970.0
";
    let available = Command::new("python3").args(["-c", "import tensorboard"]).output();
    if !available.is_ok_and(|run| run.status.success()) {
        println!("SKIPPED: needs python3 with the package tensorboard");
        return;
    }
    let run = Command::new("python3").args(["-c", script]).arg(folder.path()).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

// ---- results.json and the page ----

fn results() -> Results {
    let scores = |r1: f64| Scores { t2v_r1: r1, v2t_r1: r1 * 0.9, map: r1 * 0.8, ndcg: r1 * 0.95 };
    Results {
        chance: scores(1.0 / 64.0),
        before: scores(0.02),
        after: scores(0.87),
        seconds: 83.2,
        device: "llvmpipe".into(),
    }
}

#[test]
fn results_come_back_and_have_the_promised_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    results().write(&path).unwrap();
    assert_eq!(Results::read(&path).unwrap(), results());
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for part in ["chance", "before", "after"] {
        for score in ["t2v_r1", "v2t_r1", "map", "ndcg"] {
            assert!(json[part][score].is_f64(), "{part}.{score}");
        }
    }
    // Nothing else is left in the folder.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn pictures_of_the_wrong_size_are_refused() {
    let message = Thumbnail::from_rgb(&[0; 10], 2, 2).unwrap_err().to_string();
    assert!(message.contains("2 x 2 needs 12 bytes") && message.contains("has 10"), "{message}");
    assert!(Thumbnail::from_rgb(&[], 0, 5).is_err());
}

/// A run as the page shows it: a noisy curve with two bad steps, evaluations, searches, clips.
fn sample() -> ReportData {
    let mut records = Vec::new();
    let mut state = 88_172_645_463_325_252u64;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    for index in 1..=600u64 {
        let done = index as f64 / 600.0;
        let loss = 0.12 + 4.04 * (-5.0 * done).exp() * (1.0 + 0.25 * noise());
        records.push(Record::Step(StepRecord {
            step: index * 20,
            epoch: done * 5.0,
            loss: if index == 170 || index == 171 { f64::NAN } else { loss },
            accuracy: (1.0 - loss / 4.3 + 0.05 * noise()).clamp(0.0, 1.0),
            grad_norm: (1.5 * noise() - 2.0 * done).exp() * 3.0,
            lr: 3e-5
                * if done < 0.1 { done * 10.0 } else { 0.5 + 0.5 * (std::f64::consts::PI * (done - 0.1) / 0.9).cos() },
            logit_scale: 2.659 + done,
            step_ms: 412.0 + 30.0 * noise(),
            clips_per_s: 4970.0 + 350.0 * noise(),
            data_wait: (0.03 + 0.04 * noise()).max(0.0),
            memory_bytes: Some(65_712_999_629),
            bad_samples: 3,
            ..StepRecord::default()
        }));
        if index % 120 == 0 {
            let scores = [
                ("map_avg", 0.3 * done),
                ("ndcg_avg", 0.1 + 0.3 * done),
                ("t2v_r1", 0.9 * done),
                ("v2t_r1", 0.8 * done),
            ];
            records.push(Record::Eval(EvalRecord {
                step: index * 20,
                set: "synthetic clips".into(),
                scores: scores.map(|(name, score)| (name.to_owned(), score)).into(),
                ..EvalRecord::default()
            }));
        }
    }
    let captions = [
        "a red ball rolls to the left",
        "#C C puts the green cup on the <shelf> & leaves",
        "a blue square spins slowly while a very long narration goes on about what else may be seen",
        "el hombre corta la cebolla — 切菜 — مرحبا",
    ];
    let frame = |hue| Thumbnail::from_rgb(&picture(112, 112, hue), 112, 112).unwrap();
    let frames = |hue: usize| (0..4).map(|i| frame(hue + 4 * i)).collect::<Vec<_>>();
    let found = |right: usize, first: usize| {
        (0..4).map(move |place| {
            let index = (first + place) % 4;
            (index, 0.412 - 0.11 * place as f64, index == right)
        })
    };
    let mut data = ReportData::from_run("demo", &results(), records);
    data.subtitle = "CLIP-style training of a tiny video and text encoder on 512 synthetic narrated clips".into();
    data.facts.extend([
        Fact::new("recipe", "configs/demo.toml, 30 epochs, batch 64, lr 1e-3, seed 0"),
        Fact::new("versions", "avion 0.1.0, burn 0.21.0"),
    ]);
    data.tables.push(EvalTable {
        set: "EPIC-Kitchens-100 <test>".into(),
        rows: vec![ScoreRow { name: "mAP".into(), chance: Some(0.0563), before: None, after: Some(0.274) }],
    });
    data.searches = (0..3)
        .map(|query| Search {
            caption: captions[query].into(),
            rank: if query == 1 { 2 } else { 1 },
            candidates: 1024,
            hits: found(query, if query == 1 { 0 } else { query })
                .map(|(index, similarity, right)| SearchHit {
                    frames: vec![frame(index)],
                    caption: captions[index].into(),
                    similarity,
                    right,
                })
                .collect(),
        })
        .collect();
    data.clips = (0..4)
        .map(|clip| ClipCard {
            frames: frames(clip),
            caption: captions[clip].into(),
            rank: if clip == 2 { 3 } else { 1 },
            candidates: 1024,
            matches: found(clip, if clip == 2 { 0 } else { clip })
                .map(|(index, similarity, right)| Match { caption: captions[index].into(), similarity, right })
                .collect(),
        })
        .collect();
    data.bad_samples =
        BadSamples { samples: 122_880, skipped: 3, examples: vec![Fact::new("videos/<b>.mp4", "moov atom not found")] };
    data
}

#[test]
fn the_page_stands_alone_and_shows_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    let data = sample();
    data.write(&path).unwrap();
    let page = fs::read_to_string(&path).unwrap();
    // Stays behind for a person to look at.
    fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("report.html"), &page).unwrap();

    for outside in ["http://", "https://", "<script", "<link", "url(", "@import", "src=\"/", "NaN", "inf"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(page.matches("<img ").count(), page.matches("<img src=\"data:image/jpeg;base64,").count());
    assert_eq!(page.matches("<img ").count(), 3 * 4 + 4 * 4);
    for shown in [
        "#C C puts the green cup on the &lt;shelf&gt; &amp; leaves",
        "EPIC-Kitchens-100 &lt;test&gt;",
        "videos/&lt;b&gt;.mp4",
        "3 of 122,880 samples could not be read",
        "2 not finite",
        "87.0%",
        "1m23s",
    ] {
        assert!(page.contains(shown), "{shown}");
    }
    assert!(!page.contains("<shelf>") && !page.contains("<test>") && !page.contains("<b>"));
    assert!(page.len() < 400_000, "{} bytes", page.len());
    balanced(&page);

    // Kept as data and drawn again, it is the same page.
    let kept = serde_json::to_string(&data).unwrap();
    let again: ReportData = serde_json::from_str(&kept).unwrap();
    assert_eq!(again.render(), page);
}

#[test]
fn a_page_of_nothing_is_still_a_page() {
    let page = ReportData::default().render();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    assert!(!page.contains("<section>"));
    balanced(&page);
    // One step, and none of its numbers finite or positive.
    let record = StepRecord { loss: f64::NAN, grad_norm: 0.0, ..StepRecord::default() };
    let data = ReportData { records: vec![Record::Step(record)], ..ReportData::default() };
    let page = data.render();
    assert!(page.contains("nothing finite was logged") && !page.contains("NaN"));
    balanced(&page);
}

/// Every element that is opened is closed, in order.
fn balanced(page: &str) {
    const VOID: [&str; 3] = ["meta", "img", "!doctype"];
    let mut open = Vec::new();
    for tag in page.split('<').skip(1) {
        let tag = tag.split('>').next().unwrap();
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}>");
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
}

/// A run of another task says what its scores are, and never speaks of retrieval.
#[test]
fn pages_and_lines_name_what_is_scored() {
    let records: Vec<Record> = (1..9).map(|i| Record::Step(StepRecord { accuracy: -0.2, ..step(i * 20) })).collect();
    let rows = vec![ScoreRow { name: "top-1".into(), chance: Some(0.1), before: None, after: Some(0.3) }];
    let tables = vec![EvalTable { set: String::new(), rows }];
    let page = |scored| {
        ReportData { scored, tables: tables.clone(), records: records.clone(), ..ReportData::default() }.render()
    };
    let [found, recognised, filled] = [Scored::Retrieval, Scored::Recognition, Scored::Reconstruction].map(page);
    assert!(found.contains("<h2>Retrieval</h2>") && found.contains("random ranking"));
    assert!(recognised.contains("<h2>Recognition</h2>") && recognised.contains("most frequent class"));
    assert!(filled.contains("<h2>Reconstruction</h2>") && filled.contains("explained share of the variance"));
    assert!(!recognised.contains("etrieval") && !filled.contains("etrieval") && !filled.contains("matches"));

    let mut out = Vec::new();
    let plan = ProgressPlan { scored: Scored::Reconstruction, ..PLAN };
    Progress::new(&mut out, None, plan, 0).update(&StepRecord { accuracy: 0.25, ..step(1) });
    let line = String::from_utf8(out).unwrap();
    assert!(line.contains("explained 25.0%") && !line.contains("acc "), "{line}");
}
