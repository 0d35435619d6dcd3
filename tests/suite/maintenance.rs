//! `lpa gc` and `lpa recover`: what they share, and what keeps them and a recording apart.

mod gc;
mod links;
mod recover;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lpa::internals::Held;
use lpa::{Access, Run, Writer, WriterOptions};

use crate::support::{borrow, flip, manifest, record, run, vector, write_step};

const SIZES: [u64; 2] = [3000, 17];

fn options(shard_steps: u64) -> WriterOptions {
    WriterOptions { shard_steps, ..WriterOptions::default() }
}

/// Every file below a directory with its bytes, and every directory, by path.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(tree(&path));
            all.insert(path, None);
        } else {
            let bytes = std::fs::read(&path).unwrap();
            all.insert(path, Some(bytes));
        }
    }
    all
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut all: Vec<String> =
        entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    all.sort();
    all
}

/// Runs a command on a run and expects that it does its work.
fn fine(command: &str, path: &Path, extra: &[&str]) -> String {
    let ran = run(&[&[command, path.to_str().unwrap()], extra].concat());
    assert_eq!(ran.code, 0, "{command}: {}{}", ran.out, ran.err);
    ran.out
}

/// Runs a command on a run and expects one line, a code that says so, and nothing changed.
fn refused(command: &[&str], path: &Path, expected: &str) {
    let before = tree(path);
    let ran = run(&[&[command[0], path.to_str().unwrap()], &command[1..]].concat());
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{command:?}: {}", ran.err);
    assert_eq!(ran.err.trim_end().lines().count(), 1, "{command:?}: {}", ran.err);
    assert!(ran.err.contains(expected), "{command:?}: no '{expected}' in: {}", ran.err);
    assert!(tree(path) == before, "{command:?}: something was changed");
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no '{part}' in: {text}");
    }
}

/// The rows and the table that an analysis gives, byte for byte.
fn analyzed(path: &Path, extra: &[&str]) -> (String, Vec<u8>) {
    let csv = fine("analyze", path, &[&["--format", "csv"], extra].concat());
    let table = tempfile::NamedTempFile::with_suffix(".parquet").unwrap();
    let to = ["--quiet", "--out", table.path().to_str().unwrap()];
    std::fs::remove_file(table.path()).unwrap();
    fine("analyze", path, &[&to, extra].concat());
    (csv, std::fs::read(table.path()).unwrap())
}

/// A complete run whose second attempt superseded steps 5 to 9 of the first.
fn resumed(path: &Path) {
    let mut first = Writer::create(path, manifest(&SIZES), options(2)).unwrap();
    (0..10).for_each(|_| write_step(&mut first, &SIZES));
    first.stop().unwrap();
    let mut second = Writer::resume(path, 0, 5, options(3)).unwrap();
    (5..12).for_each(|_| write_step(&mut second, &SIZES));
    let last = vector(&SIZES, 12, 1);
    second.finish(&borrow(&last)).unwrap();
}

/// A run that broke off: steps 0 to 9 are published, two a shard, and step 10 is not.
fn broken_off(path: &Path) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["maintenance::child_that_breaks_off", "--exact", "--nocapture"])
        .env("LPA_TEST_BREAK", path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !path.join("now").exists() {
        assert!(Instant::now() < deadline, "the child does not get there");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::remove_file(path.join("now")).unwrap();
}

/// Not a test: what the killed process runs.
#[test]
fn child_that_breaks_off() {
    let Some(path) = std::env::var_os("LPA_TEST_BREAK") else { return };
    let path = Path::new(&path);
    let mut writer = Writer::create(path, manifest(&SIZES), options(2)).unwrap();
    (0..10).for_each(|_| write_step(&mut writer, &SIZES));
    writer.flush().unwrap();
    // Not flushed, and so not published.
    write_step(&mut writer, &SIZES);
    std::fs::write(path.join("now"), "").unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

fn shard(path: &Path, name: &str) -> PathBuf {
    path.join(format!("steps/000000/{name}.r0.safetensors"))
}

fn truncate(path: &Path) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(5000).unwrap();
}

#[test]
fn gc_and_recover_refuse_while_a_process_records() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut writer = Writer::create(&path, manifest(&SIZES), options(2)).unwrap();
    (0..5).for_each(|_| write_step(&mut writer, &SIZES));
    writer.flush().unwrap();
    write_step(&mut writer, &SIZES);
    std::thread::scope(|scope| {
        for command in [&["gc"][..], &["gc", "--yes"], &["recover"]] {
            let path = &path;
            scope.spawn(move || refused(command, path, "a process is recording here; nothing was changed"));
        }
    });
    // And the writer has lost nothing.
    write_step(&mut writer, &SIZES);
    writer.finish(&borrow(&vector(&SIZES, 7, 1))).unwrap();
    fine("verify", &path, &[]);
}

#[test]
fn no_recording_starts_while_the_run_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut writer = Writer::create(&path, manifest(&SIZES), options(2)).unwrap();
    write_step(&mut writer, &SIZES);
    writer.stop().unwrap();
    let held = Held::take(&path).unwrap();
    std::thread::scope(|scope| {
        let resumed = scope.spawn(|| Writer::resume(&path, 0, 1, options(2)).is_ok());
        std::thread::sleep(Duration::from_millis(400));
        assert!(!resumed.is_finished());
        drop(held);
        assert!(resumed.join().unwrap());
    });
}

#[test]
fn a_writer_keeps_its_lock_until_the_final_iterate_is_there() {
    // So large that it takes a while to make it.
    const LARGE: [u64; 1] = [6_000_000];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut writer = Writer::create(&path, manifest(&LARGE), options(2)).unwrap();
    write_step(&mut writer, &LARGE);
    let closed = || std::fs::read_to_string(path.join("journal.r0.jsonl")).unwrap().contains("closed");
    let made = path.join("ref/final.safetensors");
    let last = vector(&LARGE, 1, 1);
    std::thread::scope(|scope| {
        let finished = scope.spawn(|| writer.finish(&borrow(&last)));
        while !closed() {
            assert!(!finished.is_finished());
        }
        let mut looked = 0;
        loop {
            let journal = std::fs::File::open(path.join("journal.r0.jsonl")).unwrap();
            let free = rustix::fs::flock(&journal, rustix::fs::FlockOperation::NonBlockingLockShared);
            if made.exists() {
                break;
            }
            assert_eq!(free, Err(rustix::io::Errno::WOULDBLOCK));
            looked += 1;
        }
        assert!(looked > 0, "it was made at once");
        finished.join().unwrap().unwrap();
    });
    fine("verify", &path, &[]);
    drop(Held::take(&path).unwrap());
}

#[test]
fn a_final_iterate_that_cannot_be_made_leaves_nothing_under_tmp() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record(&path, &SIZES, 4, options(2));
    std::fs::remove_file(path.join("ref/final.safetensors")).unwrap();
    flip(&shard(&path, "s0000000004-0000000004.a1"), 5000, 0);
    let ran = run(&["analyze", path.to_str().unwrap()]);
    assert_eq!(ran.code, 1);
    assert_eq!(names(&path.join("tmp")), [] as [&str; 0]);
}

#[test]
fn an_attempt_that_starts_earlier_takes_back_what_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut first = Writer::create(&path, manifest(&SIZES), options(2)).unwrap();
    (0..10).for_each(|_| write_step(&mut first, &SIZES));
    first.stop().unwrap();
    drop(Writer::resume(&path, 0, 10, options(2)).unwrap());
    drop(Writer::resume(&path, 0, 6, options(2)).unwrap());
    let opened = Run::open(&path, Access::default()).unwrap();
    assert!(opened.missing().is_empty(), "{:?}", opened.missing());
    assert_eq!(opened.end_of_rank(0), 6);
}

#[test]
fn a_run_that_lacks_its_beginning_has_published_nothing_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut writer = Writer::create(&path, manifest(&SIZES), options(2)).unwrap();
    (0..4).for_each(|_| write_step(&mut writer, &SIZES));
    writer.stop().unwrap();
    std::fs::remove_file(shard(&path, "s0000000000-0000000001.a1")).unwrap();
    assert_eq!(Run::open(&path, Access::default()).unwrap().end_of_rank(0), 0);
    let refused = Writer::resume(&path, 0, 4, options(2)).err().unwrap().to_string();
    assert!(refused.contains("the steps from 0 on are not there"), "{refused}");
}

#[test]
fn recover_of_a_run_without_a_step_and_of_no_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    drop(Writer::create(&path, manifest(&SIZES), options(2)).unwrap());
    let said = fine("recover", &path, &[]);
    has(&said, &["No step is published", "next: resume at step 0, by"]);
    std::fs::write(path.join("journal.r0.jsonl"), "").unwrap();
    has(&fine("recover", &path, &[]), &["rank 0: no attempt"]);
    drop(Writer::resume(&path, 0, 0, options(2)).unwrap());
    refused(&["recover"], dir.path(), "it has no manifest.json");
    refused(&["gc", "--yes"], dir.path(), "it has no manifest.json");
}
