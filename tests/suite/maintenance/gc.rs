//! `lpa gc`: what it says, what it removes, and that the results stay.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use lpa::{Access, Run, Writer};

use super::{SIZES, analyzed, fine, has, names, options, refused, resumed, shard, tree, truncate};
use crate::support::{borrow, copy_dir, flip, manifest, two_ranks, vector, write_step};

#[test]
fn gc_removes_what_is_superseded_and_the_results_stay() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    resumed(&path);
    // No directory of this name is lpa's, and a file of another name keeps its directory.
    std::fs::create_dir(path.join("steps/notes")).unwrap();
    let superseded = ["s0000000006-0000000007.a1", "s0000000008-0000000009.a1"].map(|n| shard(&path, n));
    let size: u64 = superseded.iter().map(|f| std::fs::metadata(f).unwrap().len()).sum();
    let before = analyzed(&path, &[]);
    let mut files = tree(&path);

    let said = fine("gc", &path, &[]);
    let kilobytes = format!("({:.1} kB)", size as f64 / 1000.0);
    has(&said, &["would remove 2 superseded shards ", &kilobytes, "attempt 1, rank 0: 2 shards among"]);
    has(&said, &["among steps 6 to 9, ", "1 shard stays, since a part of the steps counts", "--yes"]);
    assert!(tree(&path) == files, "a dry run changed something");

    let said = fine("gc", &path, &["--yes"]);
    has(&said, &["removed 2 superseded shards ", &kilobytes]);
    assert!(!said.contains("--yes") && !said.contains("no later attempt"), "{said}");
    superseded.iter().for_each(|f| assert!(files.remove(f).is_some()));
    assert!(tree(&path) == files, "something else was changed");
    assert!(analyzed(&path, &[]) == before);
    fine("verify", &path, &[]);
    has(&fine("inspect", &path, &[]), &["0 superseded shards"]);
    has(&fine("gc", &path, &["--yes"]), &["there is nothing to remove"]);
}

#[test]
fn gc_removes_directories_that_are_empty_then() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut first = Writer::create(&path, manifest(&[4]), options(100)).unwrap();
    (0..2100).for_each(|_| write_step(&mut first, &[4]));
    first.stop().unwrap();
    let mut second = Writer::resume(&path, 0, 950, options(100)).unwrap();
    (950..990).for_each(|_| write_step(&mut second, &[4]));
    second.finish(&borrow(&vector(&[4], 990, 1))).unwrap();
    std::fs::write(path.join("steps/000002/mine"), "").unwrap();
    let before = analyzed(&path, &[]);
    has(&fine("gc", &path, &[]), &["would remove 11 superseded shards, 1 empty directory ("]);
    has(&fine("gc", &path, &["--yes"]), &["removed 11 superseded shards, 1 empty directory ("]);
    assert_eq!(names(&path.join("steps")), ["000000", "000002"]);
    assert_eq!(names(&path.join("steps/000002")), ["mine"]);
    assert!(analyzed(&path, &[]) == before);
}

#[test]
fn gc_that_a_crash_stops_anywhere_leaves_the_run_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let original = dir.path().join("original");
    let mut first = Writer::create(&original, manifest(&[4]), options(1)).unwrap();
    (0..400).for_each(|_| write_step(&mut first, &[4]));
    first.stop().unwrap();
    let mut second = Writer::resume(&original, 0, 5, options(4)).unwrap();
    (5..12).for_each(|_| write_step(&mut second, &[4]));
    second.finish(&borrow(&vector(&[4], 12, 1))).unwrap();
    let csv = |path: &Path| fine("analyze", path, &["--format", "csv"]);
    let before = csv(&original);
    let mut counts = Vec::new();
    for i in 0..12u64 {
        let path = dir.path().join(format!("run{i}"));
        copy_dir(&original, &path);
        let mut gc = Command::new(env!("CARGO_BIN_EXE_lpa"))
            .args(["gc", path.to_str().unwrap(), "--yes"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // The kills come once the removal is under way, where it is seen in time.
        let all = names(&path.join("steps/000000")).len();
        while names(&path.join("steps/000000")).len() == all && gc.try_wait().unwrap().is_none() {}
        std::thread::sleep(Duration::from_micros(i * 100));
        let _ = gc.kill();
        gc.wait().unwrap();
        counts.push(names(&path.join("steps/000000")).len());
        assert_eq!(csv(&path), before, "kill {i}");
        assert!(Run::open(&path, Access::default()).unwrap().missing().is_empty(), "kill {i}");
        fine("gc", &path, &["--yes"]);
        assert_eq!(names(&path.join("steps/000000")).len(), 7);
        assert_eq!(csv(&path), before, "kill {i}");
    }
    eprintln!("shards left by the kills: {counts:?}");
    // Whatever the kills hit: one file after the other, from either end.
    let superseded = Run::open(&original, Access::default()).unwrap().superseded().to_vec();
    assert_eq!(superseded.len(), 395);
    for k in [0, 394, 1, 200] {
        std::fs::remove_file(&superseded[k].path).unwrap();
        assert_eq!(csv(&original), before);
    }
}

#[test]
fn gc_removes_nothing_from_a_run_that_is_not_whole() {
    let dir = tempfile::tempdir().unwrap();
    let original = dir.path().join("run");
    resumed(&original);
    let mut copies = 0;
    let mut check = |expected: &str, damage: &dyn Fn(&Path)| {
        copies += 1;
        let path = dir.path().join(copies.to_string());
        copy_dir(&original, &path);
        damage(&path);
        refused(&["gc"], &path, expected);
        refused(&["gc", "--yes"], &path, expected);
    };
    let newest = "s0000000008-0000000010.a2";
    check("a shard that counts is missing: rank 0, steps 8 to 10", &|p| {
        std::fs::remove_file(shard(p, newest)).unwrap();
    });
    check("may be wanted; restore the shard from a copy first", &|p| truncate(&shard(p, newest)));
    check("journal.r0.jsonl is damaged: line 2", &|p| {
        let journal = p.join("journal.r0.jsonl");
        let first = std::fs::read(&journal).unwrap().iter().position(|&b| b == b'\n').unwrap();
        flip(&journal, first + 20, 0);
    });
    check("manifest.json", &|p| flip(&p.join("manifest.json"), 150, 0));
}

#[test]
fn gc_says_what_no_later_attempt_has_recorded_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut first = Writer::create(&path, manifest(&SIZES), options(2)).unwrap();
    (0..10).for_each(|_| write_step(&mut first, &SIZES));
    first.stop().unwrap();
    let mut second = Writer::resume(&path, 0, 4, options(2)).unwrap();
    (4..6).for_each(|_| write_step(&mut second, &SIZES));
    second.stop().unwrap();
    has(&fine("gc", &path, &[]), &["among them are steps 6 to 9, which no later attempt has recorded again"]);
}

#[test]
fn gc_takes_dead_writers_files_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    drop(Writer::create(&path, two_ranks(), options(2)).unwrap());
    // Rank 1 has no journal yet, so there is no lock that it could be kept out by.
    let old = ["final.123.final", "manifest.abc.tmp"];
    let all = ["r0.s0000000000", "r0.final.x.tmp", "r1.s0000000000", "final.124.final", "mine", "r0", "r."];
    for name in all.iter().chain(&old) {
        std::fs::write(path.join("tmp").join(name), "0123456789").unwrap();
    }
    for name in old {
        let file = std::fs::File::options().write(true).open(path.join("tmp").join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(4000)).unwrap();
    }
    has(
        &fine("gc", &path, &[]),
        &["would remove 4 files of dead writers (40 B)", "  tmp/r0.s0000000000: 10 B"],
    );
    has(&fine("gc", &path, &["--yes"]), &["removed 4 files of dead writers (40 B)"]);
    assert_eq!(names(&path.join("tmp")), ["final.124.final", "mine", "r.", "r0", "r1.s0000000000"]);
}
