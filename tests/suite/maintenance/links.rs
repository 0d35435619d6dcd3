//! Links below a run: they are read through, and nothing is written or removed through them.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use lpa::Writer;
use tempfile::TempDir;

use super::{
    SIZES, analyzed, broken_off, fine, has, names, options, refused, resumed, shard, tree, truncate,
};
use crate::support::{borrow, copy_dir, record, run, vector, write_step};

const IS_A_LINK: &str =
    "it is a link, and below a run lpa reads through links but neither writes nor removes";

/// A directory for a run, and one elsewhere.
fn two() -> (TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (path, elsewhere) = (dir.path().join("run"), dir.path().join("elsewhere"));
    std::fs::create_dir(&elsewhere).unwrap();
    (dir, path, elsewhere)
}

/// Moves a part of a run to `elsewhere`, and puts a link in its place.
fn move_away(run: &Path, part: &str, elsewhere: &Path) -> PathBuf {
    let to = elsewhere.join(Path::new(part).file_name().unwrap());
    std::fs::rename(run.join(part), &to).unwrap();
    symlink(&to, run.join(part)).unwrap();
    to
}

#[test]
fn gc_removes_nothing_of_another_run() {
    let (_dir, path, _) = two();
    let victim = path.with_file_name("victim");
    resumed(&path);
    record(&victim, &SIZES, 4, options(2));
    // The superseded shards, but one, are another run's: by its place, and by what is in it.
    let theirs = shard(&victim, "s0000000000-0000000001.a1");
    let ours = shard(&path, "s0000000006-0000000007.a1");
    std::fs::copy(&theirs, &ours).unwrap();
    for command in [&["gc"][..], &["gc", "--yes"]] {
        let said = fine(command[0], &path, &command[1..]);
        has(
            &said,
            &["1 superseded shard (", "1 superseded shard stays, since the header does not say", "run_id is"],
        );
        assert!(ours.exists());
    }
    assert!(!shard(&path, "s0000000008-0000000009.a1").exists());
    // What is damaged is not known to be this run's.
    truncate(&ours);
    has(&fine("gc", &path, &["--yes"]), &["there is nothing to remove", "the header calls for"]);
    assert!(ours.exists());

    // A run that calls the other one's shards superseded ones of its own.
    let evil = path.with_file_name("evil");
    let mut writer = Writer::create(&evil, crate::support::manifest(&SIZES), options(2)).unwrap();
    writer.stop().unwrap();
    drop(Writer::resume(&evil, 0, 0, options(2)).unwrap());
    symlink("../../victim/steps/000000", evil.join("steps/000000")).unwrap();
    let before = tree(&victim);
    refused(&["gc"], &evil, IS_A_LINK);
    refused(&["gc", "--yes"], &evil, IS_A_LINK);
    refused(&["gc", "--yes"], &evil, "evil/steps/000000: it is a link");
    assert!(tree(&victim) == before);
    // A link to the file, and not to the directory.
    std::fs::remove_file(evil.join("steps/000000")).unwrap();
    std::fs::create_dir(evil.join("steps/000000")).unwrap();
    symlink(&theirs, evil.join("steps/000000").join(theirs.file_name().unwrap())).unwrap();
    refused(&["gc", "--yes"], &evil, IS_A_LINK);
    assert!(tree(&victim) == before);
}

#[test]
fn a_run_whose_shards_lie_on_another_disk_is_read_and_not_changed() {
    let (_dir, path, elsewhere) = two();
    resumed(&path);
    let expected = analyzed(&path, &[]);
    move_away(&path, "steps/000000", &elsewhere);
    move_away(&path, "ref", &elsewhere);
    let before = tree(&elsewhere);
    assert!(analyzed(&path, &[]) == expected);
    for command in ["verify", "inspect", "recover"] {
        fine(command, &path, &[]);
    }
    refused(&["gc", "--yes"], &path, "steps/000000: it is a link");
    refused(&["pack"], &path, "a part of it lies elsewhere (ref is a link). Name a new run by --out");
    let packed = path.with_file_name("packed");
    fine("pack", &path, &["--out", packed.to_str().unwrap()]);
    assert!(analyzed(&packed, &[]).0 == expected.0);
    assert!(!packed.join("steps/000000").is_symlink() && !packed.join("ref").is_symlink());
    assert!(tree(&elsewhere) == before);
    // The run's own path may be a link.
    let link = path.with_file_name("link");
    symlink(&packed, &link).unwrap();
    std::fs::remove_file(packed.join("ref/final.safetensors")).unwrap();
    has(&fine("recover", &link, &[]), &["made ref/final.safetensors again"]);
    has(&fine("gc", &link, &["--yes"]), &["there is nothing to remove"]);
    assert!(analyzed(&link, &[]).0 == expected.0);
}

#[test]
fn a_final_iterate_is_not_made_behind_a_link() {
    let (_dir, path, elsewhere) = two();
    record(&path, &SIZES, 6, options(2));
    let reference = move_away(&path, "ref", &elsewhere);
    let file = reference.join("final.safetensors");
    let whole = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    refused(&["analyze"], &path, "run/ref: it is a link");
    has(&fine("recover", &path, &[]), &["nothing was to be done", "problem: ", "run/ref: it is a link"]);
    assert_eq!((names(&reference).len(), names(&path.join("tmp")).len()), (0, 0));
    // One that is damaged is not moved.
    std::fs::write(&file, &whole[..5000]).unwrap();
    has(&fine("recover", &path, &[]), &["nothing was to be done", "problem: ", "run/ref: it is a link"]);
    assert!(std::fs::read(&file).unwrap() == whole[..5000]);
}

#[test]
fn recover_removes_moves_and_cuts_nothing_behind_a_link() {
    let (dir, original, _) = two();
    broken_off(&original);
    let mut copies = 0;
    let mut check = |link: &dyn Fn(&Path, &Path), expected: &str| {
        copies += 1;
        let (path, elsewhere) = (dir.path().join(format!("{copies}")), dir.path().join(format!("e{copies}")));
        copy_dir(&original, &path);
        std::fs::create_dir(&elsewhere).unwrap();
        link(&path, &elsewhere);
        let before = tree(&elsewhere);
        refused(&["recover"], &path, expected);
        assert!(tree(&elsewhere) == before, "{expected}");
    };
    check(
        &|path, elsewhere| {
            let tmp = move_away(path, "tmp", elsewhere);
            std::fs::write(tmp.join("r0.txt"), "precious").unwrap();
        },
        "/tmp: it is a link",
    );
    let damage = |path: &Path| truncate(&shard(path, "s0000000008-0000000009.a1"));
    check(
        &|path, elsewhere| {
            damage(path);
            move_away(path, "steps/000000", elsewhere);
        },
        "/steps/000000: it is a link",
    );
    check(
        &|path, elsewhere| {
            damage(path);
            symlink(elsewhere, path.join("bad")).unwrap();
        },
        "/bad: it is a link",
    );
    check(
        &|path, elsewhere| {
            damage(path);
            std::fs::create_dir(path.join("bad")).unwrap();
            std::fs::write(elsewhere.join("precious"), "precious").unwrap();
            symlink(elsewhere.join("precious"), path.join("bad/reasons.txt")).unwrap();
        },
        "/bad/reasons.txt: it is a link",
    );
    check(
        &|path, elsewhere| {
            let journal = move_away(path, "journal.r0.jsonl", elsewhere);
            let mut journal = std::fs::File::options().append(true).open(journal).unwrap();
            journal.write_all(b"{\"event\":").unwrap();
        },
        "/journal.r0.jsonl: it is a link",
    );
    // Where there is nothing to do there, a link is in nobody's way.
    let (path, elsewhere) = (dir.path().join("fine"), dir.path().join("home"));
    copy_dir(&original, &path);
    std::fs::remove_dir_all(path.join("tmp")).unwrap();
    std::fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, path.join("tmp")).unwrap();
    has(&fine("recover", &path, &[]), &["nothing was to be done"]);
}

#[test]
fn a_recording_writes_nothing_behind_a_link() {
    let (dir, original, _) = two();
    let mut writer = Writer::create(&original, crate::support::manifest(&SIZES), options(2)).unwrap();
    (0..4).for_each(|_| write_step(&mut writer, &SIZES));
    writer.stop().unwrap();
    for (i, part) in ["steps", "steps/000000", "tmp", "ref", "journal.r0.jsonl"].into_iter().enumerate() {
        let (path, elsewhere) = (dir.path().join(format!("{i}")), dir.path().join(format!("e{i}")));
        copy_dir(&original, &path);
        std::fs::create_dir(&elsewhere).unwrap();
        let moved = move_away(&path, part, &elsewhere);
        if part == "tmp" {
            std::fs::write(moved.join("r0.mine"), "precious").unwrap();
        }
        let before = tree(&elsewhere);
        let goes_on = || -> lpa::Result<()> {
            let mut writer = Writer::resume(&path, 0, 4, options(2))?;
            let x = vector(&SIZES, 4, 1);
            writer.finish(&borrow(&x))
        };
        let said = goes_on().unwrap_err().to_string();
        assert!(said.contains(&format!("{part}: it is a link")), "{said}");
        assert!(tree(&elsewhere) == before, "{part}");
    }
    // A name under tmp/ that a shard is to have.
    let precious = dir.path().join("precious");
    std::fs::write(&precious, "precious").unwrap();
    let mut writer = Writer::resume(&original, 0, 4, options(2)).unwrap();
    let journal = std::fs::read_to_string(original.join("journal.r0.jsonl")).unwrap();
    let attempt: serde_json::Value = serde_json::from_str(journal.lines().last().unwrap()).unwrap();
    let name = format!("tmp/r0.s0000000004.{}", attempt["id"].as_str().unwrap());
    symlink(&precious, original.join(name)).unwrap();
    let x = vector(&SIZES, 4, 1);
    assert!(writer.finish(&borrow(&x)).unwrap_err().to_string().contains(IS_A_LINK));
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
    // A new run in a directory with a link.
    let (path, elsewhere) = (dir.path().join("new"), dir.path().join("steps"));
    std::fs::create_dir(&path).unwrap();
    std::fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, path.join("steps")).unwrap();
    let said = Writer::create(&path, crate::support::manifest(&SIZES), options(2)).err().unwrap();
    assert!(said.to_string().contains("new/steps: it is a link"), "{said}");
}

#[test]
fn results_are_not_written_behind_a_link() {
    let (_dir, path, elsewhere) = two();
    record(&path, &SIZES, 6, options(2));
    let argument = path.to_str().unwrap();
    // A table, by its own name and by --out, whatever it leads to.
    for to in ["nothing", "precious"] {
        if to == "precious" {
            std::fs::write(elsewhere.join(to), "precious").unwrap();
        }
        let table = path.join("metrics.parquet");
        symlink(elsewhere.join(to), &table).unwrap();
        let before = tree(&elsewhere);
        for extra in [&[][..], &["--out", table.to_str().unwrap()]] {
            let ran = run(&[&["analyze", argument], extra].concat());
            assert!(ran.code == 1 && ran.err.contains("it is a link; name the file itself"), "{}", ran.err);
        }
        assert!(tree(&elsewhere) == before && table.is_symlink());
        std::fs::remove_file(table).unwrap();
    }
    // Averages: what is there is read.
    std::fs::remove_file(elsewhere.join("precious")).unwrap();
    fine("analyze", &path, &["--quiet", "--ref", "mean:1..3"]);
    let moved = move_away(&path, "lpa-references", &elsewhere);
    std::fs::remove_file(path.join("metrics.mean-1..3.parquet")).unwrap();
    let before = tree(&elsewhere);
    fine("analyze", &path, &["--quiet", "--ref", "mean:1..3"]);
    let ran = run(&["analyze", argument, "--ref", "mean:2..3"]);
    assert!(
        ran.code == 1 && ran.err.contains("run/lpa-references: it is a link, through which"),
        "{}",
        ran.err
    );
    assert_eq!(ran.err.lines().count(), 1);
    assert!(tree(&elsewhere) == before && names(&moved).len() == 1);
}
