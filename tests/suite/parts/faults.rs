//! Each way in which a set of parts can be no set, or a plan no plan of the run.

use std::path::Path;
use std::process::Stdio;

use lpa::internals::xxh3_64;
use lpa::{Writer, WriterOptions};

use super::{Planned, analyzed};
use crate::support::{self, Copy, Ran, fixture, lpa, record, run, write_step};

/// Two parts of the first nine steps of the fixture, made; and a table that is to stay as it is.
fn made() -> Planned {
    let planned = Planned::of(&fixture("digits_mlp"), 2, &["--steps", "0..9"]);
    planned.make_all();
    planned
}

/// Checks that the merge refuses, says this of the part, and leaves the table alone; and that the line that it says makes
/// the part again.
fn check_refused(planned: &Planned, number: usize, what: &str) {
    let ran = planned.merge();
    assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
    let line = ran.err.lines().find(|l| l.starts_with(&format!("part {number} "))).unwrap_or_default();
    assert!(line.contains(what), "'{what}' is not in: {}", ran.err);
    assert!(
        line.ends_with(&format!("partial --plan {} --part {number}", planned.plan().display())),
        "{line}"
    );
    assert!(!planned.table().exists());
    assert_eq!(planned.missing(), number.to_string());
}

/// Makes the part again, and checks that all is well.
fn check_mended(planned: &Planned, number: usize) {
    let ran = planned.make(number);
    assert_eq!((ran.code, ran.out.contains("was made")), (0, true), "{}{}", ran.out, ran.err);
    let ran = planned.make(number);
    assert_eq!((ran.code, ran.out.contains("is there")), (0, true), "{}{}", ran.out, ran.err);
    let ran = planned.merge();
    assert_eq!(ran.code, 0, "{}", ran.err);
    let expected = analyzed(&fixture("digits_mlp"), &["--steps", "0..9"]);
    assert!(std::fs::read(planned.table()).unwrap() == expected);
}

/// Writes the hash of a part that was changed, as if it had been written so.
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
fn what_is_no_part_is_said_with_the_line_that_makes_it() {
    type Fault = (&'static str, fn(&Planned));
    let faults: [Fault; 8] = [
        ("is not there", |p| std::fs::remove_file(p.part(1)).unwrap()),
        ("it is cut short", |p| change(&p.part(1), |b| b.truncate(20))),
        ("(checksum)", |p| change(&p.part(1), |b| b.truncate(b.len() - 16))),
        ("it is part 0 under the name of another", |p| assert!(std::fs::copy(p.part(0), p.part(1)).is_ok())),
        ("it is in version 0 of the format of parts, not 3", |p| {
            change(&p.part(1), |b| {
                b[8] = 0;
                seal(b);
            });
        }),
        ("it was made by lpa 0.0.9", |p| {
            change(&p.part(1), |b| {
                let own = format!("\"lpa\":\"{}\"", env!("CARGO_PKG_VERSION"));
                let at = b.windows(own.len()).position(|w| w == own.as_bytes()).unwrap();
                b[at..at + own.len()].copy_from_slice(b"\"lpa\":\"0.0.9\"");
                seal(b);
            });
        }),
        ("it is of another plan", |p| {
            let other = Planned::of(&fixture("digits_mlp"), 2, &["--steps", "0..8"]);
            other.make_all();
            std::fs::copy(other.part(1), p.part(1)).unwrap();
        }),
        ("it is a pipe, where a file is expected", |p| {
            std::fs::remove_file(p.part(1)).unwrap();
            let made = std::process::Command::new("mkfifo").arg(p.part(1)).status().unwrap();
            assert!(made.success());
        }),
    ];
    for (what, fault) in faults {
        let planned = made();
        fault(&planned);
        check_refused(&planned, 1, what);
        check_mended(&planned, 1);
    }
}

#[test]
fn a_directory_in_the_place_of_a_part_is_to_be_removed() {
    let planned = made();
    std::fs::remove_file(planned.part(0)).unwrap();
    std::fs::create_dir(planned.part(0)).unwrap();
    check_refused(&planned, 0, "it is a directory, where a file is expected. Remove it, then");
    let ran = planned.make(0);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("a directory in the place of the part; remove it"), "{}", ran.err);
    std::fs::remove_dir(planned.part(0)).unwrap();
    check_mended(&planned, 0);
}

#[test]
fn all_faults_are_said_and_a_table_that_is_there_stays() {
    let planned = made();
    assert_eq!(planned.merge().code, 0);
    let before = std::fs::read(planned.table()).unwrap();
    let other = Planned { parts: 3, ..Planned::of(&fixture("digits_mlp"), 3, &["--steps", "0..12"]) };
    assert_eq!(other.make(1).code, 0);
    let (plan, table) = (other.plan(), planned.table());
    let ran: Ran = lpa().arg("merge").arg(&plan).arg("--out").arg(&table).output().unwrap().into();
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("part 0 is not there") && ran.err.contains("part 2 is not there"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("2 of 3 parts are missing or unfit"), "{}", ran.err);
    assert!(std::fs::read(&table).unwrap() == before);
    assert_eq!(other.missing(), "0,2");
}

#[test]
fn no_changed_bit_of_a_part_is_passed_over() {
    let planned = Planned::of(&fixture("digits_mlp"), 4, &["--steps", "0..4"]);
    planned.make_all();
    let whole = std::fs::read(planned.part(2)).unwrap();
    // The plan is read in this process too, so that every bit can be tried.
    let plan = planned.plan();
    let is_part = || lpa::internals::is_part(&plan, 2);
    assert!(is_part());
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(planned.part(2), bytes).unwrap();
        assert!(!is_part(), "bit {bit}");
    }
    std::fs::write(planned.part(2), whole).unwrap();
    assert!(is_part());
}

#[test]
fn a_plan_of_a_run_that_has_changed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let options = WriterOptions { shard_steps: 4, ..WriterOptions::default() };
    let write = |mut writer: Writer, steps: u64| {
        (0..steps).for_each(|_| write_step(&mut writer, &[100]));
        writer.stop().unwrap();
    };
    write(Writer::create(&path, support::manifest(&[100]), options).unwrap(), 12);
    let planned = Planned::of(&path, 3, &["--ref", "step:10"]);
    assert_eq!(planned.make(0).code, 0);
    write(Writer::resume(&path, 0, 12, options).unwrap(), 4);
    for ran in [planned.make(1), planned.merge()] {
        assert_eq!(ran.code, 1, "{}", ran.out);
        assert!(ran.err.contains("has changed since. Make a new plan"), "{}", ran.err);
    }
    // Another run in its place.
    std::fs::remove_dir_all(&path).unwrap();
    record(&path, &[100], 12, options);
    let ran = planned.make(1);
    assert!(ran.err.contains("(lpa.run_id)"), "{}", ran.err);
}

#[test]
fn what_a_machine_does_not_see_is_said_and_may_be_seen_by_another() {
    let (copy, other) = (Copy::of("digits_mlp"), Copy::of("digits_mlp"));
    let reference = format!("{}:step:7", other.arg());
    let planned = Planned::of(&copy.path, 2, &["--steps", "0..9", "--ref", &reference]);
    for (path, what, named) in
        [(&copy.path, "run", copy.arg()), (&other.path, "reference", reference.as_str())]
    {
        let elsewhere = path.with_extension("moved");
        std::fs::rename(path, &elsewhere).unwrap();
        for ran in [planned.make(0), planned.merge()] {
            assert_eq!((ran.code, ran.err.lines().count()), (3, 1), "{}", ran.err);
            let begin =
                format!("lpa: {named}: the {what} of the plan {} is not there", planned.plan().display());
            assert!(ran.err.starts_with(&begin) && ran.err.contains("make a new plan"), "{}", ran.err);
        }
        // Through a link it is seen at its path.
        std::os::unix::fs::symlink(&elsewhere, path).unwrap();
    }
    planned.make_all();
    assert_eq!(planned.merge().code, 0);
}

#[test]
fn a_plan_that_is_not_as_it_was_written_is_refused() {
    let planned = made();
    let path = planned.plan().join("plan.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for (old, new, what) in [
        ("\"skip_damaged\": false", "\"skip_damaged\": true", "it is not as it was written (checksum)"),
        ("\"version\": 3", "\"version\": 0", "it is a plan of lpa"),
        ("\"format\": \"lpa plan\"", "\"format\": \"plan\"", "it is no plan of lpa's"),
        ("{", "[", "is damaged"),
    ] {
        let changed = text.replacen(old, new, 1);
        assert_ne!(text, changed);
        std::fs::write(&path, changed).unwrap();
        for ran in [planned.make(0), planned.merge()] {
            assert_eq!(ran.code, 1, "{}", ran.out);
            assert!(ran.err.contains(what), "{}", ran.err);
        }
    }
    std::fs::remove_file(&path).unwrap();
    assert!(planned.merge().err.contains("there is no plan; make one by lpa plan"));
    std::fs::write(&path, &text).unwrap();
    let number = planned.make(2);
    assert_eq!(number.code, 2);
    assert!(number.err.contains("the plan's parts are numbered from 0 to 1"), "{}", number.err);
}

#[test]
fn a_plan_is_not_replaced() {
    let planned = made();
    let fixture = fixture("digits_mlp");
    let again = |steps: &str| -> Ran {
        let mut command = lpa();
        command.args(["plan", fixture.to_str().unwrap(), "--parts", "2", "--steps", steps, "--out"]);
        command.arg(planned.plan()).output().unwrap().into()
    };
    assert_eq!(again("0..9").code, 0);
    let ran = again("0..8");
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("there is another plan"), "{}", ran.err);
    assert_eq!(planned.missing(), "");
    let copy = Copy::of("digits_mlp");
    let args = ["plan", copy.arg(), "--parts", "2", "--out", copy.arg()];
    assert!(run(&args).err.contains("which is no part of a plan"));
}

#[test]
fn a_plan_of_pairs_or_lags_is_of_the_run_and_the_question() {
    for (command, question) in [("pairs", ["--every", "20"]), ("lags", ["--lag", "1,2"])] {
        let copy = Copy::of("digits_mlp");
        let planned = Planned::by(command, &copy.path, 2, &question);
        assert_eq!(planned.make(1).code, 0);
        assert_eq!(planned.missing(), "0");
        check_refused(&planned, 0, "is not there");
        let other = Planned::by(command, &copy.path, 2, &["--steps", "0..200"]);
        other.make_all();
        std::fs::copy(other.part(0), planned.part(0)).unwrap();
        check_refused(&planned, 0, "it is of another plan");
        assert_eq!(planned.make(0).code, 0);
        // The run is packed in another way meanwhile: the same numbers in other bytes.
        let ran = run(&["pack", copy.arg(), "--profile", "fast"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        let ran = planned.merge();
        assert_eq!(ran.code, 1, "{}", ran.out);
        assert!(ran.err.contains("(lpa.inputs_xxh3): the run, a reference"), "{}", ran.err);
        assert!(!planned.table().exists());
    }
}

#[test]
fn two_processes_make_the_same_part_at_once() {
    let planned = Planned::of(&fixture("digits_mlp"), 1, &["--group", "each"]);
    let plan = planned.plan();
    let begin = || {
        let mut command = lpa();
        command.args(["partial", "--part", "0", "--plan"]).arg(&plan);
        command.stdout(Stdio::null()).spawn().unwrap()
    };
    let mut all: Vec<_> = (0..6).map(|_| begin()).collect();
    assert!(all.iter_mut().all(|child| child.wait().unwrap().success()));
    assert_eq!(planned.merge().code, 0);
    assert!(
        std::fs::read(planned.table()).unwrap() == analyzed(&fixture("digits_mlp"), &["--group", "each"])
    );
    let names = std::fs::read_dir(&plan).unwrap().map(|e| e.unwrap().file_name());
    assert_eq!(names.filter(|n| n.to_string_lossy().contains("part-")).count(), 1);
}

#[test]
fn a_part_comes_late() {
    let planned = made();
    std::fs::rename(planned.part(1), planned.plan().join(".late")).unwrap();
    let mut command = lpa();
    command.args(["merge", "--quiet", "--wait", "60", "--out"]).arg(planned.table()).arg(planned.plan());
    let mut merge = command.spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert!(merge.try_wait().unwrap().is_none());
    std::fs::rename(planned.plan().join(".late"), planned.part(1)).unwrap();
    assert!(merge.wait().unwrap().success());
}

#[test]
fn what_has_no_rows_is_not_planned() {
    let dir = tempfile::tempdir().unwrap();
    let (run_path, plan) = (fixture("digits_mlp"), dir.path().join("plan"));
    let asked = [run_path.to_str().unwrap(), "--steps", "220.."];
    let whole = run(&[&["analyze"], &asked[..]].concat());
    assert!(
        whole
            .err
            .contains("steps that were asked for has both this stream and an iterate; there are 0 to 219")
    );
    for question in ["analyze", "lags"] {
        let begin: &[&str] = if question == "analyze" { &["plan"] } else { &["plan", question] };
        let ran = run(&[begin, &asked, &["--parts", "2", "--out", plan.to_str().unwrap()]].concat());
        assert_eq!(ran.code, 1, "{question}: {}{}", ran.out, ran.err);
        assert!(!plan.join("plan.json").exists());
        let alone = run(&[&[question], &asked[..]].concat());
        assert_eq!((alone.code, alone.err), (1, ran.err), "{question}");
    }
}

#[test]
fn what_sbatch_cannot_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let plan = dir.path().join("back\\slash");
    let args =
        ["plan", fixture("digits_mlp").to_str().unwrap(), "--parts", "2", "--out", plan.to_str().unwrap()]
            .map(str::to_owned);
    assert_eq!(run(&args.iter().map(String::as_str).collect::<Vec<_>>()).code, 0);
    let ran = run(&["slurm", plan.to_str().unwrap()]);
    assert_eq!((ran.code, ran.err.lines().count()), (2, 1), "{}", ran.err);
    assert!(ran.err.contains("a directory whose name holds a backslash"), "{}", ran.err);
}
