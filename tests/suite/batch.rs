//! Several runs by one command.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::bad_input::unprivileged;
use crate::support::{Copy, Ran, copy_dir, fixture, flip, run};

/// Copies of the fixture below a folder.
fn copies(folder: &Path, names: &[&str]) -> Vec<PathBuf> {
    let all = names.iter().map(|name| folder.join(name));
    all.inspect(|path| copy_dir(&fixture("digits_mlp"), path)).collect()
}

fn analyze(runs: &[PathBuf], more: &[&str]) -> Ran {
    let runs: Vec<&str> = runs.iter().map(|r| r.to_str().unwrap()).collect();
    run(&[&["analyze"], runs.as_slice(), more].concat())
}

#[test]
fn a_damaged_run_costs_only_itself() {
    let folder = tempfile::tempdir().unwrap();
    let runs = copies(folder.path(), &["a", "b", "c", "d"]);
    let shard = Copy::shards_of(&runs[1])[2].clone();
    flip(&shard, 4096 + 700, 3);
    let missing = folder.path().join("none");
    let asked = [runs.clone(), vec![missing]].concat();
    let ran = analyze(&asked, &[]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    let last = ran.out.lines().last().unwrap();
    assert_eq!(last, "5 runs: 3 written, 2 failed", "{}", ran.out);
    let (shard, lines) = (shard.file_name().unwrap().to_str().unwrap(), ran.err.lines().collect::<Vec<_>>());
    assert!(lines.len() == 2 && lines.iter().all(|line| line.starts_with("lpa: ")), "{}", ran.err);
    assert!(ran.err.contains(shard) && ran.err.contains("none is no lpa run"), "{}", ran.err);
    assert!(!runs[1].join("metrics.parquet").exists());

    let alone = Copy::of("digits_mlp");
    assert_eq!(run(&["analyze", alone.arg()]).code, 0);
    let expected = std::fs::read(alone.path.join("metrics.parquet")).unwrap();
    for whole in [&runs[0], &runs[2], &runs[3]] {
        assert_eq!(std::fs::read(whole.join("metrics.parquet")).unwrap(), expected);
    }
    let again = analyze(&asked, &["--threads", "1"]);
    assert!(again.code == 1 && again.out.ends_with("5 runs: 3 up to date, 2 failed\n"), "{}", again.out);
    // What is left of the damaged one is a table, and not all.
    let partial = analyze(&asked, &["--skip-damaged"]);
    let counts = "5 runs: 3 written, 1 written without what is damaged, 1 failed\n";
    assert!(partial.code == 1 && partial.out.ends_with(counts), "{}{}", partial.out, partial.err);
    assert!(partial.err.contains("left out"), "{}", partial.err);
    assert!(runs[1].join("metrics.parquet").exists());
}

#[test]
fn what_happens_is_told_to_programs() {
    let folder = tempfile::tempdir().unwrap();
    let runs = copies(folder.path(), &["a", "b"]);
    std::fs::remove_file(runs[1].join("manifest.json")).unwrap();
    let told = |more: &[&str]| {
        let ran = analyze(&runs, &[&["--tell", "json"], more].concat());
        let mut lines: Vec<Value> = ran.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        lines.sort_by_key(|line| line["run"].to_string());
        (ran.code, lines)
    };
    let (code, lines) = told(&[]);
    assert_eq!((code, lines.len()), (1, 2));
    assert_eq!(
        (&lines[0]["outcome"], &lines[0]["rows"], &lines[0]["of"]),
        (&"written".into(), &220.into(), &2.into())
    );
    assert_eq!(lines[0]["table"], *runs[0].join("metrics.parquet").to_str().unwrap());
    assert_eq!((&lines[1]["outcome"], &lines[1]["exit_code"]), (&"failed".into(), &1.into()));
    assert!(lines[1]["why"].as_str().unwrap().contains("is no lpa run"));
    let done: u64 = lines.iter().map(|line| line["done"].as_u64().unwrap()).sum();
    assert_eq!(done, 3);
    assert_eq!(told(&[]).1[0]["outcome"], "up to date");
}

#[test]
fn what_is_of_one_run_is_not_asked_of_several() {
    let folder = tempfile::tempdir().unwrap();
    let runs = copies(folder.path(), &["a", "b"]);
    for (more, said) in [
        (&["--out", "x.parquet"][..], "--out names the table of one run"),
        (&["--format", "csv"], "are of one run"),
    ] {
        let ran = analyze(&runs, more);
        assert!(ran.code == 2 && ran.err.contains(said), "{}", ran.err);
    }
    assert_eq!(run(&["analyze"]).code, 2);
}

#[test]
fn a_full_disk_and_too_few_open_files_are_the_machine_s() {
    let copy = Copy::of("digits_mlp");
    let out = copy.path.parent().unwrap().join("x.parquet");
    // A file of at most 4 kB stands for a disk with no more room.
    let line = r#"ulimit -f 4; trap "" XFSZ; exec "$0" "$@""#;
    let lpa = env!("CARGO_BIN_EXE_lpa");
    let ran = Command::new("bash").args(["-c", line, lpa, "analyze", copy.arg(), "--out"]).arg(&out).output();
    let ran: Ran = ran.unwrap().into();
    assert_eq!((ran.code, ran.err.lines().count()), (3, 1), "{}", ran.err);
    assert!(!out.exists());
    // Of a run that is not mapped each shard is an open file.
    let files =
        Command::new("prlimit").args(["--nofile=8:8", lpa, "analyze", "--no-mmap", copy.arg()]).output();
    let files: Ran = files.unwrap().into();
    assert!(files.code == 3 && files.err.contains("Too many open files"), "{}", files.err);
    // A soft limit is no limit.
    let soft =
        Command::new("prlimit").args(["--nofile=8:64", lpa, "analyze", "--no-mmap", copy.arg()]).output();
    assert_eq!(Ran::from(soft.unwrap()).code, 0);
    if let Some(mut command) = unprivileged() {
        // What may not be read is not to be tried again.
        let denied: Ran = command.args(["analyze", "/proc/1/root"]).output().unwrap().into();
        assert_eq!(denied.code, 1, "{}", denied.err);
    }
}
