//! `lpa pack`: nothing that counts changes, and nothing goes wrong by halves.

mod crash;
mod refusals;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lpa::internals::{Codec, Journal, State};
use lpa::{Access, DType, Error, Manifest, Run, Slice, Step, StreamInfo, Vector, Writer, WriterOptions};

use crate::support::{Copy, borrow, copy_dir, data_of, fixture, manifest, run, tensors, vector, write_step};

const SIZES: [u64; 3] = [70_000, 0, 17];
const WAYS: [&[&str]; 4] =
    [&["--profile", "fast"], &[], &["--no-predict"], &["--profile", "fast", "--no-predict"]];

/// Packs a run and expects that it does its work; returns the line.
fn pack(path: &Path, extra: &[&str]) -> String {
    let ran = run(&[&["pack", path.to_str().unwrap()], extra].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{extra:?}");
    assert!(ran.out.contains("every vector verified"), "{}", ran.out);
    assert_eq!(ran.out.lines().count(), 1, "{}", ran.out);
    ran.out
}

/// The only thing in a directory is the run.
fn is_alone(path: &Path) {
    let all: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(all, [path]);
}

/// A rank's number of steps, dropped steps, checkpoints, and the step of its final iterate.
type Noted = (u64, Vec<(u64, String)>, Vec<(u64, String)>, Option<u64>);

/// Everything that counts, read vector by vector.
#[derive(Debug, PartialEq)]
struct Contents {
    manifest: Vec<u8>,
    fin: Option<Vec<u8>>,
    /// By step, stream and tensor; `None` where it is absent.
    vectors: BTreeMap<(u64, String, usize), Option<Vec<u8>>>,
    /// By rank, step and name, the bits.
    scalars: BTreeMap<(u32, u64, String), u64>,
    ranks: Vec<Noted>,
    final_step: Option<u64>,
}

impl Contents {
    fn of(path: &Path) -> Contents {
        let run = Run::open(path, Access::default()).unwrap();
        let (mut vectors, mut scalars, mut ranks) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let streams = run.manifest().streams.iter().map(|s| s.name.clone());
        let streams: Vec<String> = streams.chain(["iterate".to_owned()]).collect();
        for (step, stream) in run.steps().flat_map(|s| streams.iter().map(move |name| (s, name))) {
            let mut vector = match Vector::open(&run, step, stream) {
                Err(Error::NotFound { .. }) => continue,
                other => other.unwrap(),
            };
            for tensor in 0..run.manifest().tensors.len() {
                let mut bytes = Vec::new();
                let there = vector.tensor(tensor, &mut bytes).unwrap();
                vectors.insert((step, stream.clone(), tensor), there.then_some(bytes));
            }
        }
        for rank in 0..run.manifest().world {
            for segment in run.segments(rank) {
                let shard = run.open_shard(&segment.file).unwrap();
                for (step, name) in
                    (segment.first..=segment.last).flat_map(|s| shard.columns().iter().map(move |c| (s, c)))
                {
                    if let Some(value) = shard.scalar(step, name) {
                        scalars.insert((rank, step, name.clone()), value.to_bits());
                    }
                }
            }
            let journal = Journal::read(path, rank).unwrap();
            let end = match journal.attempts().last().unwrap().state {
                State::Closed(step) => Some(step),
                State::Open | State::Stopped(_) => None,
            };
            ranks.push((run.end_of_rank(rank), journal.dropped(), journal.checkpoints(), end));
        }
        let manifest = std::fs::read(path.join("manifest.json")).unwrap();
        let fin = std::fs::read(path.join("ref/final.safetensors")).ok();
        let fin = fin.map(|bytes| data_of(&bytes).to_vec());
        Contents { manifest, fin, vectors, scalars, ranks, final_step: run.final_step() }
    }
}

fn csv(path: &Path, reference: &str) -> String {
    let args = ["analyze", path.to_str().unwrap(), "--format", "csv", "--ref", reference, "--group", "*"];
    let ran = run(&[&args[..], &["--group", "each"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    ran.out
}

/// How many chunks of a run have each codec.
fn codecs(path: &Path) -> BTreeMap<Codec, usize> {
    let run = Run::open(path, Access::default()).unwrap();
    let mut all = BTreeMap::new();
    for segment in (0..run.manifest().world).flat_map(|rank| run.segments(rank)) {
        let shard = run.open_shard(&segment.file).unwrap();
        for record in (0..shard.vectors().len()).flat_map(|v| shard.records(v)) {
            *all.entry(record.coding.codec()).or_insert(0) += 1;
        }
    }
    all
}

/// Packs a run in every way, one after the other, and compares all that counts with what it was.
fn survives(path: &Path, reference: Option<&str>) {
    let (contents, rows) = (Contents::of(path), reference.map(|r| csv(path, r)));
    assert!(!contents.vectors.is_empty());
    for way in WAYS {
        pack(path, way);
        assert!(Contents::of(path) == contents, "{way:?}");
        assert!(reference.map(|r| csv(path, r)) == rows, "{way:?}");
        let verified = run(&["verify", path.to_str().unwrap()]);
        assert_eq!(verified.code, 0, "{way:?}: {}", verified.out);
        let codecs = codecs(path);
        let other = if way.contains(&"fast") { Codec::Planes } else { Codec::Packed };
        assert!(!codecs.contains_key(&other), "{way:?}: {codecs:?}");
        let predicted = codecs.contains_key(&Codec::Residual);
        assert!(!(predicted && way.contains(&"--no-predict")), "{way:?}: {codecs:?}");
    }
}

#[test]
fn the_fixture_there_and_back() {
    let copy = Copy::of("digits_mlp");
    survives(&copy.path, Some("final"));
    is_alone(&copy.path);
    let said = pack(&copy.path, &[]);
    assert!(said.contains("2.32 MB before, 1.08 MB after (55.7 and 25.9 bits per parameter"), "{said}");
    assert!(codecs(&copy.path)[&Codec::Residual] > 400);
}

#[test]
fn every_type_and_codec_of_the_frozen_files() {
    for name in [
        "f32",
        "bf16",
        "f16",
        "f32-fast",
        "bf16-fast",
        "f16-fast",
        "sgd",
        "adam",
        "linear",
        "shared-sgd",
        "shared-adam",
    ] {
        let copy = Copy::of(&format!("format/v1-{name}"));
        survives(&copy.path, None);
    }
}

fn two_ranks() -> (Manifest, Vec<Slice>) {
    let mut m = manifest(&SIZES);
    m.tensors[2].aliases = vec!["tied".to_owned()];
    m.tensors[2].dtype = DType::BF16;
    m.streams.push(StreamInfo { name: "probe/a".to_owned(), stage: "before".to_owned() });
    m.world = 2;
    // The second has no element of the third tensor.
    let slices = [(0, 0, 65_600, 1), (0, 65_600, 70_000, 0), (1, 0, 0, 1), (2, 0, 17, 0)];
    m.slices = slices.map(|(tensor, begin, end, rank)| Slice { tensor, begin, end, rank }).to_vec();
    let slices = m.slices.clone();
    (m, slices)
}

/// One rank's part of a vector.
fn part(slices: &[Slice], rank: u32, step: u64, salt: u64) -> Vec<Vec<u8>> {
    let whole = vector(&SIZES, step, salt);
    let own = |tensor: usize| {
        let size = if tensor == 2 { 2 } else { 4 };
        let own = slices.iter().filter(move |s| s.tensor == tensor && s.rank == rank);
        own.flat_map(|s| whole[tensor][s.begin as usize * size..s.end as usize * size].to_vec()).collect()
    };
    (0..SIZES.len()).map(own).collect()
}

/// A step with what is out of the ordinary at some of them.
fn write_unusual(writer: &mut Writer, slices: &[Slice], rank: u32, salt: u64) {
    let t = writer.next_step();
    let [x, g, p] = [salt, salt + 1, salt + 2].map(|salt| part(slices, rank, t, salt));
    let (x, g, p) = (borrow(&x), borrow(&g), borrow(&p));
    let loss = if t == 4 { f64::from_bits(0x7ff8_0000_0000_0123) } else { -0.0 };
    let scalars = [("loss", loss), ("lr/0", 0.1), (if rank == 0 { "first" } else { "second" }, t as f64)];
    let absent = [None, Some([].as_slice()), g[2]];
    let none = [None; 3];
    let zeros = [vec![0; x[0].unwrap().len()], vec![], vec![0; x[2].unwrap().len()]];
    let zeros = borrow(&zeros);
    let streams: &[(&str, &[Option<&[u8]>])] = match t % 6 {
        0 => &[("grad", &g)],
        1 => &[("grad", &absent), ("probe/a", &p)],
        2 => &[("probe/a", &none)],
        3 => &[],
        4 => &[("grad", &zeros)],
        _ => &[("grad", &g), ("probe/a", &p)],
    };
    match t {
        7 => writer.drop_step(&scalars, "the queue was full").unwrap(),
        9 => {
            writer.step(&Step { iterate: None, streams, scalars: &scalars[..1], ..Step::default() }).unwrap()
        }
        _ => writer
            .step(&Step {
                iterate: Some(&x),
                streams,
                scalars: &scalars[..t as usize % 4],
                ..Step::default()
            })
            .unwrap(),
    }
}

/// Two ranks, three attempts, of which the second goes elsewhere.
fn unusual(path: &Path, slices: &[Slice], m: Manifest) -> [Writer; 2] {
    let options = WriterOptions { shard_steps: 4, ..WriterOptions::default() };
    let steps = |writers: &mut [Writer; 2], to: u64, salt: u64| {
        for (rank, writer) in (0..).zip(writers) {
            while writer.next_step() < to {
                write_unusual(writer, slices, rank, salt);
                if writer.next_step() % 5 == 3 {
                    let x = part(slices, rank, writer.next_step(), salt);
                    writer.checkpoint(&borrow(&x)).unwrap();
                }
            }
        }
    };
    let mut writers = [Writer::create(path, m, options).unwrap(), Writer::join(path, 1, options).unwrap()];
    steps(&mut writers, 15, 1);
    writers.iter_mut().for_each(|w| w.stop().unwrap());
    for (from, to, salt) in [(8, 13, 50), (11, 20, 1)] {
        drop(writers);
        writers = [0, 1].map(|rank| Writer::resume(path, rank, from, options).unwrap());
        steps(&mut writers, to, salt);
        writers.iter_mut().for_each(|w| w.flush().unwrap());
    }
    writers
}

#[test]
fn ranks_attempts_gaps_absent_gradients_drops_and_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let (m, slices) = two_ranks();
    let mut writers = unusual(&path, &slices, m);
    // Unpublished: it never counts.
    write_unusual(&mut writers[0], &slices, 0, 1);
    drop(writers);
    let before = Contents::of(&path);
    assert_eq!(before.ranks[0].1, [(7, "the queue was full".to_owned())]);
    assert_eq!(before.ranks[1].2.iter().map(|c| c.0).collect::<Vec<_>>(), [3, 8, 13, 18]);
    std::fs::write(path.join("tmp/r0.s0000000020"), "of a dead writer").unwrap();
    std::fs::create_dir(path.join("bad")).unwrap();

    let out = dir.path().join("there");
    let said = pack(&path, &["--out", out.to_str().unwrap()]);
    assert!(said.starts_with(out.to_str().unwrap()), "{said}");
    assert!(said.contains("left out ") && said.contains("superseded shards") && said.contains("bad/"));
    assert!(Contents::of(&out) == before && Contents::of(&path) == before);
    assert!(path.join("tmp/r0.s0000000020").exists() && path.join("bad").exists());
    assert!(!out.join("bad").exists() && std::fs::read_dir(out.join("tmp")).unwrap().count() == 0);
    std::fs::remove_dir_all(&out).unwrap();

    survives(&path, Some("last"));
    is_alone(&path);
    let opened = Run::open(&path, Access::default()).unwrap();
    assert_eq!((opened.attempts().len(), opened.superseded().len(), opened.end_of_rank(1)), (1, 0, 20));
    // The recording goes on, and ends.
    let options = WriterOptions::default();
    let mut writers = [0, 1].map(|rank| Writer::resume(&path, rank, 18, options).unwrap());
    for (rank, writer) in (0..).zip(&mut writers) {
        (18..22).for_each(|_| write_unusual(writer, &slices, rank, 1));
        writer.finish(&borrow(&part(&slices, rank, 22, 1))).unwrap();
    }
    survives(&path, Some("final"));
    assert_eq!(Contents::of(&path).final_step, Some(22));
}

#[test]
fn a_rank_whose_end_was_superseded_stays_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let (m, slices) = two_ranks();
    let mut writers = unusual(&path, &slices, m);
    let last = writers[1].next_step();
    writers[1].finish(&borrow(&part(&slices, 1, last, 1))).unwrap();
    drop(writers);
    let contents = Contents::of(&path);
    pack(&path, &[]);
    assert!(Contents::of(&path) == contents, "one rank is closed, the other is not");
    let options = WriterOptions::default();
    drop(Writer::resume(&path, 0, 17, options).unwrap());
    pack(&path, &[]);
    let opened = Run::open(&path, Access::default()).unwrap();
    assert_eq!((opened.end_of_rank(0), opened.end_of_rank(1), opened.final_step()), (17, 17, None));
    assert!(opened.missing().is_empty());
    for rank in [0, 1] {
        let mut writer = Writer::resume(&path, rank, 17, options).unwrap();
        writer.finish(&borrow(&part(&slices, rank, 17, 1))).unwrap();
    }
    assert_eq!(Run::open(&path, Access::default()).unwrap().final_step(), Some(17));
}

#[test]
fn files_that_are_not_lpas_go_along() {
    for out in [false, true] {
        let copy = Copy::of("digits_mlp");
        assert_eq!(run(&["analyze", copy.arg(), "--ref", "mean:0..9"]).code, 0);
        for (file, text) in [
            ("notes.md", "mine"),
            ("plots/a/b.svg", "mine"),
            ("steps/000000/readme", "mine"),
            ("steps/000000.bak/s0000000000-0000000021.a1.r0.safetensors", "a copy"),
            ("ref/best.safetensors", "mine"),
            ("journal.r1.jsonl", "of no rank"),
            ("tmp/r0.s0000000000", "of a dead writer"),
            ("bad/reasons.txt", "damaged"),
        ] {
            let path = copy.path.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::fs::create_dir_all(copy.path.join("plots/none")).unwrap();
        std::os::unix::fs::symlink("notes.md", copy.path.join("link")).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        std::fs::File::open(copy.path.join("notes.md")).unwrap().set_modified(old).unwrap();
        let to = if out { copy.path.with_file_name("new") } else { copy.path.clone() };
        let before = others(&copy.path);
        assert!(before.contains_key(Path::new("metrics.mean-0..9.parquet")), "{:?}", before.keys());
        assert!(before.keys().any(|p| p.starts_with("lpa-references")));
        let extra = ["--out", to.to_str().unwrap()];
        pack(&copy.path, if out { &extra } else { &[] });
        assert!(others(&to) == before, "{:?} and {:?}", others(&to).keys(), before.keys());
        assert!(to.join("plots/none").is_dir() && to.join("link").is_symlink());
        assert_eq!(std::fs::metadata(to.join("notes.md")).unwrap().modified().unwrap(), old);
        assert!(!to.join("bad").exists() && !to.join("tmp/r0.s0000000000").exists());
        assert_eq!(copy.path.join("bad").exists(), out);
    }
}

/// Files that are none of lpa's recording, with their contents.
fn others(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(path: &Path, top: &Path, all: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let below = path.strip_prefix(top).unwrap().to_owned();
            let own = ["tmp", "bad", "manifest.json", "journal.r0.jsonl", "ref/final.safetensors"];
            let shard = below.starts_with("steps/000000") && below.extension().is_some();
            if own.iter().any(|o| below == Path::new(o)) || shard {
                continue;
            }
            if path.is_dir() {
                walk(&path, top, all)
            } else {
                all.extend([(below, std::fs::read(path).unwrap())])
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(path, path, &mut all);
    all
}

#[test]
fn the_line_says_what_was_gained_and_a_table_is_made_again_with_the_same_rows() {
    let copy = Copy::of("digits_mlp");
    assert_eq!(run(&["analyze", copy.arg(), "--quiet"]).code, 0);
    let said = pack(&copy.path, &[]);
    assert!(
        said.contains("run: 1.12 MB before, 1.08 MB after (27.0 and 25.9 bits per parameter and"),
        "{said}"
    );
    assert!(!said.contains("left out"), "{said}");
    assert!(run(&["analyze", copy.arg()]).out.contains("wrote "), "the shards are others");
}

#[test]
fn a_run_without_a_step_or_a_parameter() {
    let dir = tempfile::tempdir().unwrap();
    for (name, sizes, steps) in [("nothing", &[4u64][..], 0), ("empty", &[0], 3), ("none", &[], 3)] {
        let path = dir.path().join(name);
        let mut writer = Writer::create(&path, manifest(sizes), WriterOptions::default()).unwrap();
        (0..steps).for_each(|_| write_step(&mut writer, sizes));
        writer.stop().unwrap();
        let before = Contents::of(&path);
        pack(&path, &[]);
        assert!(Contents::of(&path) == before, "{name}");
        let mut writer = Writer::resume(&path, 0, steps, WriterOptions::default()).unwrap();
        writer.finish(&borrow(&vector(sizes, steps, 1))).unwrap();
        let before = Contents::of(&path);
        pack(&path, &[]);
        assert!(Contents::of(&path) == before, "{name}, closed");
    }
}

#[test]
fn a_run_that_is_named_by_a_link_or_from_inside() {
    let copy = Copy::of("digits_mlp");
    let before = Contents::of(&copy.path);
    let link = copy.path.with_file_name("latest");
    std::os::unix::fs::symlink("run", &link).unwrap();
    pack(&link, &["--profile", "fast"]);
    assert!(link.is_symlink() && !copy.path.is_symlink());
    assert!(codecs(&copy.path).contains_key(&Codec::Packed));
    let ran = crate::support::lpa().args(["pack", "."]).current_dir(&copy.path).output().unwrap();
    assert!(ran.status.success());
    assert!(Contents::of(&copy.path) == before);
    std::fs::remove_file(link).unwrap();
    is_alone(&copy.path);
}

#[test]
fn unknown_keys_of_the_manifest_stay() {
    // A manifest in another spelling than lpa's own.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    std::fs::create_dir_all(path.join("steps")).unwrap();
    let mut value = serde_json::to_value(Manifest::new(tensors(&[5]), vec![]).unwrap()).unwrap();
    value["newer"] = serde_json::json!({"key": [1, 2]});
    std::fs::write(path.join("manifest.json"), format!(" {value}\n\n")).unwrap();
    let mut writer = Writer::join(&path, 0, WriterOptions::default()).unwrap();
    let x = vector(&[5], 0, 1);
    writer.step(&Step { iterate: Some(&borrow(&x)), ..Step::default() }).unwrap();
    writer.finish(&borrow(&x)).unwrap();
    survives(&path, None);
}

#[test]
fn without_mapping_the_shards() {
    let copy = Copy::of("digits_mlp");
    let before = Contents::of(&copy.path);
    pack(&copy.path, &["--no-mmap"]);
    assert!(Contents::of(&copy.path) == before);
    let again = copy.path.with_file_name("again");
    copy_dir(&fixture("digits_mlp"), &again);
    pack(&again, &[]);
    let shard = "steps/000000/s0000000000-0000000220.a1.r0.safetensors";
    let bytes = |path: &Path| std::fs::read(path.join(shard)).unwrap();
    assert!(bytes(&again) == bytes(&copy.path), "the same bytes on any day");
}
