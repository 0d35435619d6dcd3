//! What a machine may lack, or take away meanwhile: memory, open files, the directory that is written to. It is said in one
//! line, with the exit code of the machine, and nothing half-written is left.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use lpa::{Manifest, Slice, Step, Writer, WriterOptions};

use crate::support::{Copy, Ran, borrow, copy_dir, files, lpa, manifest, part_of, record, run};

/// A run that takes some time to read.
fn long(folder: &Path) -> PathBuf {
    let path = folder.join("long");
    let ran = run(&["simulate", "random-walk", path.to_str().unwrap(), "--dim", "400000", "--steps", "120"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    path
}

fn limited(limit: &str, args: &[&str]) -> Ran {
    let lpa = env!("CARGO_BIN_EXE_lpa");
    Command::new("prlimit").args([limit, "--", lpa]).args(args).output().unwrap().into()
}

#[test]
fn too_little_memory_to_address() {
    let folder = tempfile::tempdir().unwrap();
    let path = long(folder.path());
    let before = files(folder.path()).len();
    let out = folder.path().join("t.parquet");
    let args =
        ["analyze", path.to_str().unwrap(), "--threads", "2", "--quiet", "--out", out.to_str().unwrap()];
    let mut refused = 0;
    // The program itself needs some 80.
    for mib in (120..=620u64).step_by(50) {
        let ran = limited(&format!("--as={}", mib << 20), &args);
        if ran.code == 0 {
            std::fs::remove_file(&out).unwrap();
        } else {
            refused += 1;
            assert_eq!((ran.code, ran.err.lines().count()), (3, 1), "{mib} MiB: {}", ran.err);
        }
        assert_eq!(files(folder.path()).len(), before, "{mib} MiB");
    }
    assert!(refused > 0);
}

/// Runs a command while `directory` is moved, after ever longer times, until one is caught at work; it writes `result`.
fn moved(directory: &Path, result: &Path, args: &[&str]) -> Ran {
    let elsewhere = directory.with_extension("moved");
    for wait in (0..200).map(|i| 20 + 30 * (i % 40) + i / 5) {
        let child = lpa().args(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        std::fs::rename(directory, &elsewhere).unwrap();
        let ran: Ran = child.wait_with_output().unwrap().into();
        let left: Vec<PathBuf> = files(&elsewhere).into_keys().collect();
        assert!(left.iter().all(|p| !p.to_str().unwrap().ends_with(".tmp")), "{left:?}");
        std::fs::rename(&elsewhere, directory).unwrap();
        match ran.code {
            // It was done before.
            0 => std::fs::remove_file(result).unwrap(),
            // It has looked for the directory only afterwards.
            1 => {}
            _ => return ran,
        }
    }
    panic!("{args:?} was never caught at work");
}

#[test]
fn a_directory_that_is_moved_while_it_is_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = long(folder.path());
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let table = out.join("t.parquet");
    let args =
        ["analyze", path.to_str().unwrap(), "--quiet", "--threads", "1", "--out", table.to_str().unwrap()];
    let check = |ran: Ran, path: &Path| {
        assert_eq!((ran.code, ran.err.lines().count()), (3, 1), "{}", ran.err);
        let what = format!("{}: its directory was moved or removed meanwhile", path.display());
        assert!(ran.err.contains(&what), "{}", ran.err);
    };
    check(moved(&out, &table, &args), &table);
    assert!(files(&out).is_empty());
    // A plan's, while a part is made.
    let plan = out.join("plan");
    let (part, plan) = (plan.join("part-0000.sums"), plan.to_str().unwrap());
    assert_eq!(run(&["plan", path.to_str().unwrap(), "--parts", "1", "--out", plan]).code, 0);
    let args = ["partial", "--quiet", "--threads", "1", "--plan", plan, "--part", "0"];
    check(moved(&out, &part, &args), &part);
    assert_eq!(files(&out).len(), 1);
}

#[test]
fn open_files_do_not_grow_with_shards_or_runs() {
    let folder = tempfile::tempdir().unwrap();
    let analyze = |limit: &str, args: &[&str]| limited(limit, &[&["analyze"], args].concat());
    // Two windows of up to 128 shards are open at a time.
    let shards = folder.path().join("shards");
    record(&shards, &[4], 600, WriterOptions { shard_steps: 1, ..WriterOptions::default() });
    assert_eq!(Copy::shards_of(&shards).len(), 601);
    let references = ["--ref", "final", "--ref", "mean:3..500"];
    let ran = analyze(
        "--nofile=300:300",
        &[&[shards.to_str().unwrap(), "--quiet", "--no-mmap"], &references[..]].concat(),
    );
    assert_eq!(ran.code, 0, "{}", ran.err);
    let runs: Vec<PathBuf> = (0..150).map(|i| folder.path().join(format!("run{i}"))).collect();
    record(&runs[0], &[4], 2, WriterOptions::default());
    runs[1..].iter().for_each(|path| copy_dir(&runs[0], path));
    let paths: Vec<&str> = runs.iter().map(|path| path.to_str().unwrap()).collect();
    let ran = analyze("--nofile=100:100", &[&["--no-mmap"], paths.as_slice()].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.ends_with("150 runs: 150 written\n"), "{}", ran.out);
    // All ranks are read at each step: where shards are not mapped, each is an open file.
    let ranks = folder.path().join("ranks");
    record_by_many(&ranks, 150);
    let ranks = [ranks.to_str().unwrap(), "--quiet"];
    assert_eq!(analyze("--nofile=100:100", &ranks).code, 0);
    std::fs::remove_file(folder.path().join("ranks/metrics.parquet")).unwrap();
    let ran = analyze("--nofile=100:100", &[&ranks[..], &["--no-mmap"]].concat());
    assert_eq!((ran.code, ran.err.lines().count()), (3, 1), "{}", ran.err);
    assert!(ran.err.contains("Too many open files"), "{}", ran.err);
    assert_eq!(analyze("--nofile=256:256", &[&ranks[..], &["--no-mmap"]].concat()).code, 0);
}

/// Records four steps of as many elements as there are ranks, one after the other.
fn record_by_many(path: &Path, world: u32) {
    let elements = u64::from(world);
    let slices = (0..world).map(|rank| {
        let begin = u64::from(rank);
        Slice { tensor: 0, begin, end: begin + 1, rank }
    });
    let described = Manifest { world, slices: slices.collect(), ..manifest(&[elements]) };
    let options = WriterOptions { threads: 1, ..WriterOptions::default() };
    let mut first = Writer::create(path, described.clone(), options).unwrap();
    for rank in 0..world {
        let mut writer = if rank == 0 { None } else { Some(Writer::join(path, rank, options).unwrap()) };
        let writer = writer.as_mut().unwrap_or(&mut first);
        for t in 0..4 {
            let [x, g] = [1, 2].map(|salt| part_of(&described, rank, t, salt));
            let (x, g) = (borrow(&x), borrow(&g));
            let step = Step { iterate: Some(&x), streams: &[("grad", &g)], ..Step::default() };
            writer.step(&step).unwrap();
        }
        writer.finish(&borrow(&part_of(&described, rank, 4, 1))).unwrap();
    }
}

#[test]
fn drafts_that_a_killed_command_has_left_are_removed_by_the_next_one() {
    let copy = Copy::of("digits_mlp");
    let old = SystemTime::now() - Duration::from_secs(7200);
    let draft = |name: &str, modified: SystemTime| {
        let path = copy.path.join(name);
        std::fs::File::create(&path).unwrap().set_modified(modified).unwrap();
        path
    };
    let left = draft(".metrics.parquet.abcdef.tmp", old);
    // Somebody may write this one now; and this is another table's.
    let kept = [
        draft(".metrics.parquet.ghijkl.tmp", SystemTime::now()),
        draft(".metrics.step-3.parquet.abcdef.tmp", old),
    ];
    assert_eq!(run(&["analyze", copy.arg(), "--quiet"]).code, 0);
    assert!(!left.exists() && kept.iter().all(|path| path.exists()));
}
