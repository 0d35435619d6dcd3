//! A recording that is killed at any moment loses no published step, and can be resumed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lpa::{Access, Run, Writer, WriterOptions};

use crate::support::{borrow, copy_dir, files, manifest, run, vector, write_step};

const SIZES: [u64; 2] = [3000, 17];
const KILLS: u64 = 20;

fn options() -> WriterOptions {
    WriterOptions { shard_steps: 2, ..WriterOptions::default() }
}

/// A process that records a run, or goes on with it, until it is killed.
pub fn recording_process(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["crash::child_that_records", "--exact", "--nocapture"])
        .env("LPA_TEST_RECORD", path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Not a test: what the killed process runs. It records until it is killed.
#[test]
fn child_that_records() {
    let Some(path) = std::env::var_os("LPA_TEST_RECORD") else { return };
    let path = Path::new(&path);
    let mut writer = if path.join("manifest.json").exists() {
        let end = Run::open(path, Access::default()).unwrap().end_of_rank(0);
        Writer::resume(path, 0, end, options()).unwrap()
    } else {
        Writer::create(path, manifest(&SIZES), options()).unwrap()
    };
    loop {
        write_step(&mut writer, &SIZES);
    }
}

fn published(path: &Path) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let Ok(steps) = std::fs::read_dir(path.join("steps")) else { return all };
    for dir in steps {
        for file in std::fs::read_dir(dir.unwrap().path()).unwrap() {
            all.insert(file.unwrap().file_name().to_string_lossy().into_owned());
        }
    }
    all
}

#[test]
fn kill_at_random_moments() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut before = BTreeSet::new();
    let mut end = 0;
    for i in 0..KILLS {
        let mut child = recording_process(&path);
        // Every other kill comes while the recording is under way, the rest at any moment: before
        // the manifest is there, between the renaming of a shard and the next one, ...
        if i % 2 == 1 {
            let deadline = Instant::now() + Duration::from_secs(20);
            while published(&path).len() <= before.len() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        std::thread::sleep(Duration::from_millis(i * i * 37 % 50));
        child.kill().unwrap();
        child.wait().unwrap();
        if !path.join("manifest.json").exists() {
            continue;
        }
        let opened = Run::open(&path, Access::default()).unwrap();
        assert!(opened.missing().is_empty(), "kill {i}");
        assert!(opened.end_of_rank(0) >= end, "kill {i} took published steps back");
        end = opened.end_of_rank(0);
        let now = published(&path);
        assert!(before.is_subset(&now), "kill {i} took a shard back");
        before = now;
        let ran = run(&["verify", path.to_str().unwrap()]);
        assert_eq!(ran.code, 0, "kill {i}: {}{}", ran.out, ran.err);
    }
    assert!(end > 0, "no step was ever published");
    let mut writer = Writer::resume(&path, 0, end, options()).unwrap();
    assert_eq!(std::fs::read_dir(path.join("tmp")).unwrap().count(), 0, "tmp/ is wiped");
    write_step(&mut writer, &SIZES);
    let last = vector(&SIZES, end + 1, 1);
    writer.finish(&borrow(&last)).unwrap();
    let ran = run(&["analyze", path.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains(&format!("against reference final (x_{})", end + 1)), "{}", ran.out);
}

/// A process that is killed while it writes the manifest leaves a draft, which nobody else would take away.
#[test]
fn what_is_left_of_a_manifest_is_taken_away_by_the_next_recording() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut writer = Writer::create(&path, manifest(&SIZES), options()).unwrap();
    write_step(&mut writer, &SIZES);
    writer.stop().unwrap();
    for name in ["manifest.a1B2c3.tmp", "r7.s0000000000", "notes.txt"] {
        std::fs::write(path.join("tmp").join(name), "{").unwrap();
    }
    drop(Writer::resume(&path, 0, 1, options()).unwrap());
    let mut left: Vec<_> =
        std::fs::read_dir(path.join("tmp")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["notes.txt", "r7.s0000000000"]);
}

/// A way to end a recording, or to publish what it has.
type End = fn(&mut Writer, &[Option<&[u8]>]) -> lpa::Result<()>;

#[test]
fn whoever_records_a_run_that_was_removed_leaves_the_one_in_its_place_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let steps = |writer: &mut Writer, count: u64| (0..count).for_each(|_| write_step(writer, &SIZES));
    let options = WriterOptions { shard_steps: 100, ..WriterOptions::default() };
    let x = vector(&SIZES, 0, 5);
    let ends: [End; 4] = [|w, _| w.flush(), |w, _| w.stop(), |w, x| w.finish(x), |w, x| w.checkpoint(x)];
    for end in ends {
        let mut old = Writer::create(&path, manifest(&SIZES), options).unwrap();
        steps(&mut old, 5);
        std::fs::remove_dir_all(&path).unwrap();
        let mut new = Writer::create(&path, manifest(&SIZES), options).unwrap();
        steps(&mut new, 7);
        let refused = end(&mut old, &borrow(&x)).unwrap_err().to_string();
        assert!(refused.contains("was removed, moved or replaced"), "{refused}");
        steps(&mut new, 3);
        new.stop().unwrap();
        let verified = run(&["verify", path.to_str().unwrap()]);
        assert_eq!(verified.code, 0, "{}", verified.err);
        assert_eq!(Run::open(&path, Access::default()).unwrap().end_of_rank(0), 10);
        std::fs::remove_dir_all(&path).unwrap();
    }
    // Nothing is in its place.
    let mut old = Writer::create(&path, manifest(&SIZES), options).unwrap();
    steps(&mut old, 5);
    std::fs::rename(&path, dir.path().join("moved")).unwrap();
    let refused = old.flush().unwrap_err().to_string();
    assert!(refused.contains("was removed, moved or replaced"), "{refused}");
    assert!(!path.exists());
}

#[test]
fn so_it_does_where_a_copy_has_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("run"), dir.path().join("copy"));
    let options = WriterOptions { shard_steps: 100, ..WriterOptions::default() };
    let mut old = Writer::create(&path, manifest(&SIZES), options).unwrap();
    (0..5).for_each(|_| write_step(&mut old, &SIZES));
    // As a move to another disk does, with a link to it or without.
    copy_dir(&path, &copy);
    std::fs::remove_dir_all(&path).unwrap();
    std::fs::rename(&copy, &path).unwrap();
    // The draft goes, wherever it lies: nobody would finish it.
    let recorded = || files(&path).into_iter().filter(|(file, _)| !file.starts_with(path.join("tmp")));
    let before: Vec<_> = recorded().collect();
    for _ in 0..2 {
        let refused = old.flush().unwrap_err().to_string();
        assert!(refused.contains("was removed, moved or replaced"), "{refused}");
    }
    assert!(recorded().eq(before));
}

#[test]
fn an_end_that_was_not_noted_makes_room_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let options = WriterOptions::default();
    let mut writer = Writer::create(&path, manifest(&SIZES), options).unwrap();
    (0..5).for_each(|_| write_step(&mut writer, &SIZES));
    writer.finish(&borrow(&vector(&SIZES, 5, 1))).unwrap();
    // The line that says so was torn.
    let journal = path.join("journal.r0.jsonl");
    let text = std::fs::read_to_string(&journal).unwrap();
    std::fs::write(&journal, text.trim_end()).unwrap();
    let mut writer = Writer::resume(&path, 0, 5, options).unwrap();
    (5..7).for_each(|_| write_step(&mut writer, &SIZES));
    writer.finish(&borrow(&vector(&SIZES, 7, 1))).unwrap();
    let verified = run(&["verify", path.to_str().unwrap()]);
    assert_eq!(verified.code, 0, "{}", verified.err);
    assert_eq!(Run::open(&path, Access::default()).unwrap().final_step(), Some(7));
    // What was there is kept.
    assert!(path.join("bad/final.safetensors").exists());
}
