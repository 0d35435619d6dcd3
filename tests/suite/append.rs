//! A run that goes on: only what is new is measured, and the table is that of an analysis from nothing, byte for byte.

use std::path::{Path, PathBuf};

use lpa::internals::xxh3_64;
use lpa::{Manifest, Writer, WriterOptions};
use tempfile::TempDir;

use crate::support::{
    Copy, Ran, borrow, copy_dir, flip, manifest, part_of, record, run, signs, two_ranks, write_by_ranks,
};

fn options() -> WriterOptions {
    WriterOptions { shard_steps: 5, ..WriterOptions::default() }
}

/// A run that grows, and the table of it.
struct Growing {
    dir: TempDir,
    manifest: Manifest,
    options: WriterOptions,
}

impl Growing {
    /// Of some steps.
    fn new(manifest: Manifest, steps: u64) -> Growing {
        let options = options();
        let growing = Growing { dir: tempfile::tempdir().unwrap(), manifest, options };
        let mut writers = vec![Writer::create(&growing.run(), growing.manifest.clone(), options).unwrap()];
        let others = 1..growing.manifest.world;
        writers.extend(others.map(|rank| Writer::join(&growing.run(), rank, options).unwrap()));
        write_by_ranks(&mut writers, 0..steps);
        writers.iter_mut().for_each(|writer| writer.stop().unwrap());
        growing
    }

    fn run(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    fn table(&self) -> PathBuf {
        self.dir.path().join("table.parquet")
    }

    fn sums(&self) -> PathBuf {
        self.dir.path().join("table.parquet.sums")
    }

    fn writers(&self, from: u64) -> Vec<Writer> {
        let resume = |rank| Writer::resume(&self.run(), rank, from, self.options).unwrap();
        (0..self.manifest.world).map(resume).collect()
    }

    /// Goes on from a step up to another one.
    fn grow(&self, from: u64, to: u64) {
        let mut writers = self.writers(from);
        write_by_ranks(&mut writers, from..to);
        writers.iter_mut().for_each(|writer| writer.stop().unwrap());
    }

    /// The same, and the final iterate.
    fn end(&self, from: u64, to: u64) {
        let mut writers = self.writers(from);
        write_by_ranks(&mut writers, from..to);
        for (rank, writer) in writers.iter_mut().enumerate() {
            writer.finish(&borrow(&part_of(&self.manifest, rank as u32, to, 1))).unwrap();
        }
    }

    fn append(&self, question: &[&str]) -> Ran {
        let (run_path, table) = (self.run(), self.table());
        let args = ["analyze", run_path.to_str().unwrap(), "--out", table.to_str().unwrap(), "--append"];
        run(&[&args, question].concat())
    }

    /// Appends, and checks that the table is that of an analysis from nothing; returns what was said.
    fn check(&self, question: &[&str]) -> String {
        let ran = self.append(question);
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(std::fs::read(self.table()).unwrap() == analyzed(&self.run(), question), "{question:?}");
        ran.err
    }
}

/// The table of a run from nothing.
fn analyzed(path: &Path, question: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.parquet");
    let args = ["analyze", path.to_str().unwrap(), "--quiet", "--out", out.to_str().unwrap()];
    let ran = run(&[&args, question].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    std::fs::read(out).unwrap()
}

const STEP: [&str; 2] = ["--ref", "step:7"];

#[test]
fn only_what_is_new_is_read() {
    let growing = Growing::new(manifest(&[300, 20]), 40);
    assert!(!growing.check(&STEP).contains("taken"));
    growing.grow(40, 60);
    let expected = analyzed(&growing.run(), &STEP);
    // What lies in the shards of before is damaged, but for the first and the last of them: where in them what lies is not.
    let mut shards = Copy::shards_of(&growing.run());
    shards.sort();
    let damaged = &shards[1..7];
    for shard in damaged {
        flip(shard, std::fs::metadata(shard).unwrap().len() as usize / 2, 4);
    }
    let whole = run(&["analyze", growing.run().to_str().unwrap(), "--ref", "step:7", "--quiet"]);
    assert_eq!(whole.code, 1, "{}", whole.err);
    let ran = growing.append(&STEP);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("steps before 39 are taken from"), "{}", ran.err);
    assert!(std::fs::read(growing.table()).unwrap() == expected);
    assert!(growing.append(&STEP).out.contains("is up to date"));
    for shard in damaged {
        flip(shard, std::fs::metadata(shard).unwrap().len() as usize / 2, 4);
    }
    growing.end(60, 73);
    assert!(growing.check(&STEP).contains("steps before 59 are taken from"));
    // The table is lost, and not the sums: x_73 was known to step 72.
    std::fs::remove_file(growing.table()).unwrap();
    assert!(growing.check(&STEP).contains("steps before 73 are taken from"));
}

#[test]
fn so_it_is_of_every_reference_that_stays() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other");
    record(&other, &[300, 20], 12, options());
    let (of_other, file) = (format!("{}:step:9", other.display()), other.join("ref/final.safetensors"));
    let references = ["--ref", "mean:3..9", "--ref", &of_other, "--ref", file.to_str().unwrap()];
    let groups = ["--group", "*", "--group", "each", "--stream", "grad", "--stream", "update"];
    for question in [
        &[&STEP[..], &references].concat()[..],
        &[&references[..], &groups].concat(),
        &[&STEP[..], &["--steps", "3..:4"]].concat(),
        &[&STEP[..], &["--steps", "3..31"]].concat(),
    ] {
        let growing = Growing::new(manifest(&[300, 20]), 23);
        growing.check(question);
        for (from, to) in [(23, 24), (24, 37)] {
            growing.grow(from, to);
            let said = growing.check(question);
            assert!(said.contains(&format!("steps before {} are taken from", from - 1)), "{said}");
        }
    }
}

#[test]
fn so_it_is_of_two_ranks_and_where_a_second_moment_divides() {
    let taken = "steps before 11 are taken from";
    let whole = WriterOptions { predict: false, ..options() };
    for (m, later, what) in [
        (two_ranks(), options(), taken),
        (signs(two_ranks()), options(), taken),
        // That these ranks record no second moments is seen at their second keyframe.
        (signs(two_ranks()), whole, "it is of another question (sums)"),
    ] {
        let growing = Growing { options: later, ..Growing::new(m, 12) };
        growing.check(&STEP);
        growing.grow(12, 20);
        let said = growing.check(&STEP);
        assert!(said.contains(what), "{said}");
        growing.end(20, 31);
        assert!(growing.check(&STEP).contains("steps before 19 are taken from"));
    }
}

#[test]
fn what_has_changed_is_measured_again_and_told() {
    // With what is said, and how many steps there are then.
    type Change = (&'static str, u64, fn(&Growing));
    let changes: [Change; 9] = [
        ("steps before 17 are taken from", 40, |g| g.grow(18, 40)),
        ("those from there on were recorded anew", 40, |g| g.grow(18, 40)),
        ("the first shard is another one", 40, |g| g.grow(0, 40)),
        ("(checksum)", 30, |g| {
            change(&g.sums(), |b| {
                let middle = b.len() / 2;
                b[middle] ^= 1;
            });
        }),
        ("it is cut short", 30, |g| change(&g.sums(), |b| b.truncate(20))),
        ("it was made by lpa 0.0.9", 30, |g| {
            change(&g.sums(), |b| {
                let own = format!("\"lpa\":\"{}\"", env!("CARGO_PKG_VERSION"));
                let at = b.windows(own.len()).position(|w| w == own.as_bytes()).unwrap();
                b[at..at + own.len()].copy_from_slice(b"\"lpa\":\"0.0.9\"");
                seal(b);
            });
        }),
        ("in version 0 of the format of parts", 30, |g| {
            change(&g.sums(), |b| {
                b[8] = 0;
                seal(b);
            });
        }),
        ("it is of another question (lpa.references)", 35, |g| {
            assert_eq!(g.append(&["--ref", "step:8"]).code, 0);
            g.grow(30, 35);
        }),
        ("it is a part of a plan", 30, |g| {
            let plan = g.dir.path().join("plan");
            let (run_path, plan) = (g.run(), plan.to_str().unwrap());
            let made =
                run(&["plan", run_path.to_str().unwrap(), "--parts", "1", "--out", plan, STEP[0], STEP[1]]);
            assert_eq!(made.code, 0, "{}", made.err);
            assert_eq!(run(&["partial", "--plan", plan, "--part", "0"]).code, 0);
            std::fs::copy(Path::new(plan).join("part-0000.sums"), g.sums()).unwrap();
        }),
    ];
    for (what, steps, change) in changes {
        let growing = Growing::new(manifest(&[300, 20]), 30);
        growing.check(&STEP);
        change(&growing);
        std::fs::remove_file(growing.table()).unwrap();
        let said = growing.check(&STEP);
        assert!(said.contains(what), "'{what}' is not in: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        // What is kept now is of use.
        growing.grow(steps, 45);
        assert!(growing.check(&STEP).contains("are taken from"));
    }
    // The same path, and another run.
    let growing = Growing::new(manifest(&[300, 20]), 30);
    growing.check(&STEP);
    let other = Growing::new(manifest(&[300, 20]), 30);
    std::fs::remove_dir_all(growing.run()).unwrap();
    copy_dir(&other.run(), &growing.run());
    let said = growing.check(&STEP);
    assert!(said.contains("it is of another question (lpa.run_id"), "{said}");
}

/// Writes the hash of sums that were changed, as if they had been written so.
fn seal(bytes: &mut [u8]) {
    let end = bytes.len() - 8;
    let hash = xxh3_64(&bytes[..end]).to_le_bytes();
    bytes[end..].copy_from_slice(&hash);
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_of_the_whole_run_is_measured_whole() {
    let growing = Growing::new(manifest(&[300, 20]), 12);
    growing.end(12, 13);
    for reference in ["final", "last", "mean:3..", "ema:0.9"] {
        let _ = std::fs::remove_file(growing.table());
        let said = growing.check(&["--ref", reference, "--ref", "step:7"]);
        let line = format!("all steps were measured and no sums are kept: {reference} is another iterate");
        assert!(said.contains(&line), "{said}");
        assert!(!growing.sums().exists());
    }
    for (more, what) in [
        (&["--skip-damaged"][..], "--skip-damaged"),
        (&["--shadow"], "--shadow"),
        (&["--backend", "cuda"], "--backend cuda"),
    ] {
        let ran = growing.append(&[&STEP[..], more].concat());
        assert!(ran.code == 2 && ran.err.contains(what), "{} {}", ran.code, ran.err);
    }
    let run_path = growing.run();
    let ran = run(&["analyze", run_path.to_str().unwrap(), "--append", "--format", "csv"]);
    assert!(ran.code == 2 && ran.err.contains("--append keeps sums beside a Parquet table"), "{}", ran.err);
}

#[test]
fn another_file_is_not_taken_for_sums() {
    let growing = Growing::new(manifest(&[300]), 12);
    std::fs::write(growing.sums(), "notes").unwrap();
    let ran = growing.append(&STEP);
    assert!(ran.code != 0 && ran.err.contains("no file of sums of lpa's"), "{}", ran.err);
    assert_eq!(std::fs::read(growing.sums()).unwrap(), b"notes");
    assert!(!growing.table().exists());
}

#[test]
fn several_runs_are_appended_to_by_one_command() {
    let all = [12, 20].map(|steps| Growing::new(manifest(&[300]), steps));
    let paths = all.each_ref().map(Growing::run);
    let append = || {
        let args = ["analyze", paths[0].to_str().unwrap(), paths[1].to_str().unwrap(), "--append"];
        run(&[&args, &STEP[..]].concat())
    };
    assert_eq!(append().code, 0);
    all[0].grow(12, 17);
    let ran = append();
    assert!(
        ran.err.contains("steps before 11 are taken from") && ran.out.contains("1 up to date"),
        "{}",
        ran.out
    );
    let table = paths[0].join("metrics.step-7.parquet");
    assert!(std::fs::read(table).unwrap() == analyzed(&paths[0], &STEP));
    assert!(paths[0].join("metrics.step-7.parquet.sums").exists());
}
