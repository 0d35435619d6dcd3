//! `lpa pack` that is killed, and what a second call does.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lpa::{Writer, WriterOptions};

use super::{Contents, is_alone, pack};
use crate::support::{Copy, copy_dir, lpa, manifest, run, write_step};

const SIZES: [u64; 2] = [100_000, 50];
const KILLS: u32 = 24;

#[test]
fn kill_at_random_moments() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut writer = Writer::create(&path, manifest(&SIZES), WriterOptions::default()).unwrap();
    (0..40).for_each(|_| write_step(&mut writer, &SIZES));
    writer.stop().unwrap();
    let before = Contents::of(&path);
    let start = |i: u32| -> Command {
        let mut command = lpa();
        command.args([
            "pack",
            path.to_str().unwrap(),
            "--profile",
            if i.is_multiple_of(2) { "fast" } else { "default" },
        ]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let began = Instant::now();
    assert!(start(1).status().unwrap().success());
    let whole = began.elapsed();
    let mut killed = 0;
    for i in 0..KILLS {
        let mut child = start(i).spawn().unwrap();
        // Spread over all of it; every fourth as soon as something happens to the old run's name.
        if i % 4 == 3 {
            let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
            let old = inode();
            while inode() == old && child.try_wait().unwrap().is_none() {}
        } else {
            std::thread::sleep(whole * (i * 7 % KILLS) / KILLS);
        }
        killed += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(run(&["verify", path.to_str().unwrap()]).code, 0, "kill {i}");
        let analyzed = run(&["analyze", path.to_str().unwrap(), "--ref", "last", "--format", "csv"]);
        assert_eq!(analyzed.code, 0, "kill {i}: {}", analyzed.err);
    }
    assert!(killed > KILLS / 2, "{killed} of {KILLS}");
    pack(&path, &[]);
    assert!(Contents::of(&path) == before);
    is_alone(&path);
}

fn beside(path: &Path, purpose: &str) -> PathBuf {
    path.with_file_name(format!(".run.{purpose}"))
}

/// Every state that a crash can leave, made by hand: what is whole under which name.
#[test]
fn every_state_that_a_crash_leaves_is_gone_after_a_second_call() {
    let half = |path: &Path| {
        copy_dir(&crate::support::fixture("digits_mlp"), path);
        std::fs::remove_dir_all(path.join("steps/000000")).unwrap();
    };
    let whole = |path: &Path| copy_dir(&crate::support::fixture("digits_mlp"), path);
    type Left<'a> = &'a dyn Fn(&Path);
    let states: [(&str, Left<'_>); 6] = [
        ("a draft", &|path| half(&beside(path, "lpa-packing"))),
        ("what it replaced", &|path| whole(&beside(path, "lpa-packing"))),
        ("nothing of it but the manifest", &|path| {
            let left = beside(path, "lpa-packing");
            std::fs::create_dir(&left).unwrap();
            std::fs::copy(path.join("manifest.json"), left.join("manifest.json")).unwrap();
        }),
        ("an empty directory", &|path| std::fs::create_dir(beside(path, "lpa-packing")).unwrap()),
        ("the moment between two renamings", &|path| {
            std::fs::rename(path, beside(path, "lpa-unpacked")).unwrap();
            whole(&beside(path, "lpa-packing"));
        }),
        ("what it replaced by two renamings", &|path| half(&beside(path, "lpa-unpacked"))),
    ];
    for (name, left) in states {
        let copy = Copy::of("digits_mlp");
        let before = Contents::of(&copy.path);
        left(&copy.path);
        let missing = !copy.path.exists();
        if missing {
            let said = run(&["analyze", copy.arg()]);
            assert!(said.err.contains("lpa pack was interrupted"), "{name}: {}", said.err);
        }
        pack(&copy.path, &["--profile", "fast"]);
        assert!(Contents::of(&copy.path) == before, "{name}");
        is_alone(&copy.path);
    }
}

#[test]
fn a_new_run_that_was_not_finished_is_written_anew() {
    let copy = Copy::of("digits_mlp");
    let out = copy.path.with_file_name("new");
    let left = copy.path.with_file_name(".new.lpa-packing");
    copy_dir(&copy.path, &left);
    pack(&copy.path, &["--out", out.to_str().unwrap()]);
    assert!(!left.exists() && Contents::of(&out) == Contents::of(&copy.path));
}

/// A process that still removes what it has replaced holds the locks of that.
#[test]
fn two_at_once_do_not_meet() {
    let copy = Copy::of("digits_mlp");
    let before = Contents::of(&copy.path);
    let start =
        |_| lpa().args(["pack", copy.arg()]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let all: Vec<_> = (0..4).map(start).collect();
    let deadline = Instant::now() + Duration::from_secs(120);
    for child in all {
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert!(Instant::now() < deadline);
    }
    assert!(Contents::of(&copy.path) == before);
    is_alone(&copy.path);
}
