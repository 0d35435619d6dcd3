//! Every bit of a run: whoever changes one is found out, or has changed nothing.
//!
//! Here every so many bits of small runs, one of each kind; with `LPA_TORTURE=1` each of them (`make torture`).

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use lpa::{
    Access, Execution, Manifest, Precision, Profile, Question, Row, Run, Step, Storage, Writer,
    WriterOptions, verify,
};

use crate::support::{
    borrow, copy_dir, files, manifest, record, record_by_ranks, run, signs, two_ranks, vector,
};

const SIZES: [u64; 2] = [5, 3];
/// Of so many bits one is changed, where not each is.
const EVERY: usize = 61;
/// Of so many bits of frozen runs, which are larger, one is, and of so many of those where not each is.
const FROZEN: usize = 499;

fn options(profile: Profile) -> WriterOptions {
    WriterOptions { shard_steps: 3, threads: 1, profile, ..WriterOptions::default() }
}

/// Writes steps up to `end`, of which one has a tensor without gradient.
fn write(writer: &mut Writer, sizes: &[u64], end: u64) {
    for t in writer.next_step()..end {
        let (x, g) = (vector(sizes, t, 1), vector(sizes, t, 2));
        let (x, mut g) = (borrow(&x), borrow(&g));
        if t == 2 && g.len() > 1 {
            g[1] = None;
        }
        let scalars = [("lr/0", 0.1), ("loss", 1.0 / (t + 1) as f64)];
        let step = Step { iterate: Some(&x), streams: &[("grad", &g)], scalars: &scalars, ..Step::default() };
        writer.step(&step).unwrap();
    }
}

/// A run of each kind, by name.
fn runs(folder: &Path) -> Vec<(&'static str, PathBuf)> {
    let exact = |name: &str, m: Manifest, profile: Profile| {
        let path = folder.join(name);
        let mut writer = Writer::create(&path, m, options(profile)).unwrap();
        write(&mut writer, &SIZES, 5);
        writer.finish(&borrow(&vector(&SIZES, 5, 1))).unwrap();
        path
    };
    let lossy = Storage { gradients: Precision::Int8, iterates: Precision::Int8 };
    let resumed = folder.join("resumed");
    let mut first = Writer::create(&resumed, manifest(&SIZES), options(Profile::Default)).unwrap();
    write(&mut first, &SIZES, 5);
    first.stop().unwrap();
    let mut second = Writer::resume(&resumed, 0, 2, options(Profile::Default)).unwrap();
    write(&mut second, &SIZES, 5);
    second.finish(&borrow(&vector(&SIZES, 5, 1))).unwrap();
    let ranks = folder.join("ranks");
    let mut writers = vec![Writer::create(&ranks, two_ranks(), options(Profile::Default)).unwrap()];
    writers.push(Writer::join(&ranks, 1, options(Profile::Default)).unwrap());
    for writer in &mut writers {
        write(writer, &[4], 4);
    }
    writers.into_iter().for_each(|mut w| w.finish(&borrow(&vector(&[4], 4, 1))).unwrap());
    // Iterates that are stored as what a replay of the optimizer's step missed, and its moments.
    let replayed = folder.join("replayed");
    record_by_ranks(&replayed, signs(manifest(&SIZES)), 5, options(Profile::Default));
    // Sketches, and a final iterate in full.
    let (whole, sketched) = (folder.join("whole"), folder.join("sketched"));
    record(&whole, &[200, 3], 3, options(Profile::Default));
    let ran = run(&["sketch", whole.to_str().unwrap(), "--dims", "67", "--out", sketched.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    vec![
        ("replayed", replayed),
        ("sketched", sketched),
        ("exact", exact("exact", manifest(&SIZES), Profile::Default)),
        ("fast", exact("fast", manifest(&SIZES), Profile::Fast)),
        ("lossy", exact("lossy", Manifest { storage: lossy, ..manifest(&SIZES) }, Profile::Default)),
        ("resumed", resumed),
        ("ranks", ranks),
    ]
}

/// What an analysis gives: every number of every row, or nothing where it refuses.
fn rows(path: &Path) -> Option<String> {
    let run = Run::open(path, Access::default()).ok()?;
    let how = Execution { threads: 1, ..Execution::default() };
    let mut text = String::new();
    let keep = |row: &Row<'_>| {
        text.push_str(&format!("{row:?}\n"));
        Ok(())
    };
    let is_answered = Question::default().analyze(&run, &how, || Ok(keep)).is_ok();
    is_answered.then_some(text)
}

fn is_verified(path: &Path) -> bool {
    Run::open(path, Access::default()).is_ok_and(|run| verify(&run).problems.is_empty())
}

#[test]
fn no_changed_bit_gives_another_number() {
    let folder = tempfile::tempdir().unwrap();
    let every = if is_torture() { 1 } else { EVERY };
    let (tried, mut unseen) = change(&runs(folder.path()), every);
    eprintln!("{tried} bits; verify passes over: {unseen:?}");
    // A shard of which no step counts is never read.
    unseen.retain(|file, _| !file.contains("a1.r0") || !file.starts_with("resumed"));
    // The final iterate in full is the file of the run that was sketched, of whose attempts this one knows nothing; nor does
    // anything read which one it was.
    let full = std::fs::read(folder.path().join("sketched/ref/full.safetensors")).unwrap();
    let id = b"\"attempt_id\":\"";
    let id = full.windows(id.len()).position(|w| w == id).unwrap() + id.len();
    unseen.retain(|file, at| {
        file != "sketched ref/full.safetensors" || at.iter().any(|at| !(id..id + 16).contains(at))
    });
    assert!(unseen.is_empty(), "{unseen:?}");
}

/// Larger ones, with payloads of every codec and predictor: some of their bits.
#[test]
fn nor_does_one_of_a_frozen_run() {
    let frozen = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/format");
    let folder = tempfile::tempdir().unwrap();
    let mut runs = Vec::new();
    for entry in std::fs::read_dir(frozen).unwrap() {
        let from = entry.unwrap().path();
        let name = from.file_name().unwrap().to_str().unwrap().to_owned();
        let to = folder.path().join(&name);
        copy_dir(&from, &to);
        runs.push((name, to));
    }
    assert!(runs.len() >= 15);
    let runs: Vec<(&str, PathBuf)> = runs.iter().map(|(name, path)| (name.as_str(), path.clone())).collect();
    let (tried, unseen) = change(&runs, if is_torture() { FROZEN } else { EVERY * FROZEN });
    eprintln!("{tried} bits of {} runs; verify passes over: {unseen:?}", runs.len());
    assert!(unseen.is_empty(), "{unseen:?}");
}

fn is_torture() -> bool {
    std::env::var_os("LPA_TORTURE").is_some()
}

/// Changes of every `every` bits of runs one, each by itself, and checks that none gives another number. How many they
/// were, and by run and file the bytes whose change `verify` passes over.
fn change(runs: &[(&str, PathBuf)], every: usize) -> (u64, BTreeMap<String, Vec<usize>>) {
    let (mut tried, mut unseen) = (0, BTreeMap::<String, Vec<usize>>::new());
    for (name, path) in runs {
        let right = rows(path).expect("a whole run is analyzed");
        assert!(is_verified(path));
        for (file, bytes) in files(path) {
            let open = File::options().write(true).open(&file).unwrap();
            for at in (0..8 * bytes.len()).step_by(every) {
                let byte = at / 8;
                open.write_all_at(&[bytes[byte] ^ 1 << (at % 8)], byte as u64).unwrap();
                tried += 1;
                let found = rows(path);
                let place = || format!("{name}: {} byte {byte} bit {}", file.display(), at % 8);
                assert!(found.is_none_or(|rows| rows == right), "other numbers: {}", place());
                if is_verified(path) {
                    let below = file.strip_prefix(path).unwrap().display();
                    unseen.entry(format!("{name} {below}")).or_default().push(byte);
                }
                open.write_all_at(&bytes[byte..=byte], byte as u64).unwrap();
            }
        }
    }
    (tried, unseen)
}

/// Whether `verify` finds each bit of a byte that is changed.
fn is_found(path: &Path, file: &Path, byte: usize) -> bool {
    let bytes = std::fs::read(file).unwrap();
    let open = File::options().write(true).open(file).unwrap();
    let found = (0..8).all(|bit| {
        open.write_all_at(&[bytes[byte] ^ 1 << bit], byte as u64).unwrap();
        !is_verified(path)
    });
    open.write_all_at(&bytes[byte..=byte], byte as u64).unwrap();
    found
}

#[test]
fn the_last_newline_and_the_rows_of_empty_tables_count() {
    let folder = tempfile::tempdir().unwrap();
    for (name, path) in runs(folder.path()) {
        for (file, bytes) in files(&path) {
            let is_journal = file.extension().is_some_and(|e| e == "jsonl");
            assert!(!is_journal || is_found(&path, &file, bytes.len() - 1), "{name}: {}", file.display());
        }
    }
    // The shard of x_T has no scalars.
    let path = folder.path().join("resumed");
    let (file, bytes) = files(&path).into_iter().find(|(f, _)| f.to_string_lossy().contains(".a2.")).unwrap();
    let (file, bytes) = files(file.parent().unwrap()).into_iter().next_back().unwrap_or((file, bytes));
    let empty = b"\"shape\":[1,0]";
    let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(empty)).collect();
    assert_eq!(places.len(), 2);
    for at in places {
        assert!(is_found(&path, &file, at + empty.len() - 4), "{}: byte {at}", file.display());
    }
}
