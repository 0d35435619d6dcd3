//! A recording whose operations fail: what it has published is there, the rest is absent or reported, and it goes on.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use lpa::{Access, Manifest, Run, Step, Vector, Writer, WriterOptions, verify};

use crate::faults::disk::Lost;
use crate::faults::tracer::{Fault, Traced, can_trace, trace};
use crate::faults::{place, some_of};
use crate::support::{borrow, copy_dir, files, manifest, run, vector};

const SIZES: [u64; 2] = [300, 5];
pub const STEPS: u64 = 10;
/// Of so many operations one has a fault in the short form.
const EVERY: usize = 23;
/// Both halves begin here when a recording is continued.
const HALF: u64 = 4;

const FAULTS: [Fault; 8] = [
    Fault::Fails,
    Fault::Full,
    Fault::Interrupted,
    Fault::Short,
    Fault::Killed,
    Fault::PowerLost(Lost::All),
    Fault::PowerLost(Lost::Data),
    Fault::PowerLost(Lost::Zeros),
];

fn options() -> WriterOptions {
    WriterOptions { shard_steps: 2, threads: 1, ..WriterOptions::default() }
}

fn described() -> Manifest {
    Manifest { run_id: "0".repeat(31) + "1", created_unix_s: 0, ..manifest(&SIZES) }
}

/// Records up to `end`, and tells what was published; to the end of the run where that is its own.
pub fn record(path: &Path, end: u64, published: &mut dyn FnMut(u64)) -> lpa::Result<()> {
    let mut writer = if path.join("manifest.json").exists() {
        // Where the final iterate is published and the run is not closed, it is recorded again.
        let from = Run::open(path, Access::default())?.end_of_rank(0).min(STEPS);
        Writer::resume(path, 0, from, options())?
    } else {
        Writer::create(path, described(), options())?
    };
    while writer.next_step() < end {
        let t = writer.next_step();
        let (x, g) = (vector(&SIZES, t, 1), vector(&SIZES, t, 2));
        let (x, g) = (borrow(&x), borrow(&g));
        let scalars = [("loss", 1.0 / (t + 1) as f64), ("lr/0", 0.1)];
        let step = Step { iterate: Some(&x), streams: &[("grad", &g)], scalars: &scalars, ..Step::default() };
        writer.step(&step)?;
        if writer.next_step().is_multiple_of(2) {
            writer.flush()?;
            published(writer.next_step());
        }
        if t == 5 {
            writer.checkpoint(&x)?;
            published(writer.next_step());
        }
    }
    if end < STEPS {
        return writer.stop();
    }
    writer.finish(&borrow(&vector(&SIZES, STEPS, 1)))?;
    published(STEPS + 1);
    Ok(())
}

/// Not a test: what the traced process runs.
#[test]
fn child_that_records() {
    let Some(path) = std::env::var_os("LPA_TEST_FAULTS") else { return };
    let told = std::env::var_os("LPA_TEST_TOLD").unwrap();
    let mut told = std::fs::File::options().append(true).open(told).unwrap();
    let recorded = record(Path::new(&path), STEPS, &mut |step| writeln!(told, "{step}").unwrap());
    if let Err(e) = recorded {
        eprintln!("lpa: {e}");
        std::process::exit(1);
    }
}

/// What a recording in `folder/run` did with a fault, and the steps that it said were published.
fn traced(folder: &Path, fault: Fault, at: usize) -> (Traced, u64) {
    let told = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["faults::recording::child_that_records", "--exact", "--nocapture", "--test-threads", "1"])
        .env("LPA_TEST_FAULTS", folder.join("run"))
        .env("LPA_TEST_TOLD", told.path());
    let traced = trace(command, folder, fault, at).unwrap();
    let told = std::fs::read_to_string(told.path()).unwrap();
    (traced, told.lines().last().map_or(0, |line| line.parse().unwrap()))
}

/// What a run holds must be as it was recorded: every step that was published, and of the others what is there.
fn check_vectors(path: &Path, published: u64, place: &dyn Fn() -> String) {
    let opened = Run::open(path, Access::default()).unwrap_or_else(|e| panic!("{}: {e}", place()));
    assert!(opened.end_of_rank(0) >= published, "{}: {published} steps were published", place());
    for step in opened.steps() {
        for (name, salt) in [("iterate", 1), ("grad", 2)] {
            if step == STEPS && name == "grad" {
                continue;
            }
            let read = Vector::open(&opened, step, name).and_then(|mut vector| {
                let mut bytes = Vec::new();
                (0..SIZES.len()).try_for_each(|i| vector.tensor(i, &mut bytes).map(drop))?;
                Ok(bytes)
            });
            let read = read.unwrap_or_else(|e| panic!("{}: {e}", place()));
            assert!(read == vector(&SIZES, step, salt).concat(), "{}: {name} of step {step}", place());
        }
    }
}

/// Puts the run in order, twice, and records the rest: it is then what an undisturbed recording gives.
pub fn check(folder: &Path, published: u64, expected: &str, place: &dyn Fn() -> String) {
    let path = folder.join("run");
    let at = path.to_str().unwrap();
    let is_begun = path.join("manifest.json").exists();
    assert!(is_begun || published == 0, "{}: the run is gone", place());
    if is_begun {
        // All that has a name is whole before anything is put in order.
        check_vectors(&path, published, place);
        let problems = verify(&Run::open(&path, Access::default()).unwrap()).problems;
        assert!(problems.is_empty(), "{}: {problems:?}", place());
        let first = run(&["recover", at]);
        assert_eq!(first.code, 0, "{}: {}", place(), first.err);
        let before = files(&path);
        let second = run(&["recover", at]);
        assert_eq!(second.code, 0, "{}: {}", place(), second.err);
        assert!(files(&path) == before, "{}: recover does something twice", place());
        check_vectors(&path, published, place);
    }
    if !is_begun || Run::open(&path, Access::default()).unwrap().final_step().is_none() {
        record(&path, STEPS, &mut |_| {}).unwrap_or_else(|e| panic!("{}: {e}", place()));
    }
    check_vectors(&path, STEPS + 1, place);
    assert!(verify(&Run::open(&path, Access::default()).unwrap()).problems.is_empty(), "{}", place());
    assert!(path.join("ref/final.safetensors").exists(), "{}", place());
    let left: Vec<_> = files(&path.join("tmp")).into_keys().collect();
    assert!(left.is_empty(), "{}: {left:?}", place());
    let analyzed = run(&["analyze", at, "--format", "csv", "--threads", "1"]);
    assert_eq!(analyzed.out, expected, "{}: {}", place(), analyzed.err);
}

/// Every operation of a recording that begins with what is in `start`.
fn all_operations(start: &Path, what: &str) {
    if !can_trace() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let fresh = || {
        let _ = std::fs::remove_dir_all(folder.path());
        copy_dir(start, folder.path());
    };
    fresh();
    record(&folder.path().join("run"), STEPS, &mut |_| {}).unwrap();
    let at = folder.path().join("run");
    let expected = run(&["analyze", at.to_str().unwrap(), "--format", "csv", "--threads", "1"]);
    assert_eq!(expected.code, 0, "{}", expected.err);
    let (mut tried, mut ended) = (Vec::new(), 0);
    for (i, fault) in FAULTS.into_iter().enumerate() {
        let every = some_of(EVERY);
        let mut at = 1 + i % every;
        loop {
            fresh();
            let (traced, published) = traced(folder.path(), fault, at);
            let Some(hit) = &traced.hit else {
                tried.push((fault, traced.operations));
                break;
            };
            let place = || place(what, fault, at, hit);
            let dies = matches!(fault, Fault::Killed | Fault::PowerLost(_));
            assert!(!traced.err.contains("panicked"), "{}: {}", place(), traced.err);
            assert_eq!(traced.code.is_none(), dies, "{}: {:?} {}", place(), traced.code, traced.err);
            let goes_on = matches!(fault, Fault::Interrupted | Fault::Short);
            assert!(!goes_on || traced.code == Some(0), "{}: {}", place(), traced.err);
            if traced.code == Some(1) {
                ended += 1;
                assert_eq!(traced.err.trim_end().lines().count(), 1, "{}: {}", place(), traced.err);
            }
            check(folder.path(), published, &expected.out, &place);
            at += every;
        }
    }
    eprintln!("{what}: operations by fault {tried:?}; {ended} ended it with a line");
}

/// A folder with nothing, or with a run that was stopped half-way.
fn start(is_half_there: bool) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let start = folder.path().join("start");
    std::fs::create_dir(&start).unwrap();
    if is_half_there {
        record(&start.join("run"), HALF, &mut |_| {}).unwrap();
    }
    (folder, start)
}

#[test]
fn a_new_recording() {
    let (_folder, start) = start(false);
    all_operations(&start, "recording");
}

#[test]
fn a_recording_that_is_resumed() {
    let (_folder, start) = start(true);
    all_operations(&start, "resumed recording");
}
