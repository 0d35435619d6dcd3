//! One analysis in parts: the table is that of `lpa analyze`, byte for byte, and nothing else is taken for a part.

mod faults;

use std::path::{Path, PathBuf};

use lpa::{Manifest, Slice, WriterOptions};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Copy, Ran, fixture, flip, manifest, record_by_ranks, run, signs};

/// A plan of a run, and where tables of it go.
struct Planned {
    dir: TempDir,
    parts: usize,
}

impl Planned {
    fn of(path: &Path, parts: usize, question: &[&str]) -> Planned {
        Planned::by("analyze", path, parts, question)
    }

    /// Of the question of a command.
    fn by(command: &str, path: &Path, parts: usize, question: &[&str]) -> Planned {
        let dir = tempfile::tempdir().unwrap();
        let plan = dir.path().join("plan");
        let count = parts.to_string();
        let other = Some(command).filter(|c| *c != "analyze");
        let begin: Vec<&str> = ["plan"].into_iter().chain(other).collect();
        let args = [path.to_str().unwrap(), "--parts", &count, "--out", plan.to_str().unwrap()];
        let ran = run(&[&begin[..], &args, question].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        let stored: serde_json::Value =
            serde_json::from_slice(&std::fs::read(plan.join("plan.json")).unwrap()).unwrap();
        let parts = stored["parts"].as_array().unwrap().len();
        Planned { dir, parts }
    }

    fn plan(&self) -> PathBuf {
        self.dir.path().join("plan")
    }

    fn part(&self, number: usize) -> PathBuf {
        self.plan().join(format!("part-{number:04}.sums"))
    }

    fn make(&self, number: usize) -> Ran {
        let number = number.to_string();
        run(&["partial", "--plan", self.plan().to_str().unwrap(), "--part", &number, "--threads", "1"])
    }

    /// Makes all parts, the last first.
    fn make_all(&self) {
        for number in (0..self.parts).rev() {
            let ran = self.make(number);
            assert_eq!(ran.code, 0, "{}", ran.err);
        }
    }

    fn table(&self) -> PathBuf {
        self.dir.path().join("merged.parquet")
    }

    fn merge(&self) -> Ran {
        run(&["merge", self.plan().to_str().unwrap(), "--out", self.table().to_str().unwrap()])
    }

    fn missing(&self) -> String {
        let ran = run(&["missing", self.plan().to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.out.trim_end().to_owned()
    }
}

fn analyzed(path: &Path, question: &[&str]) -> Vec<u8> {
    made_by("analyze", path, question)
}

/// The table of one process.
fn made_by(command: &str, path: &Path, question: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.parquet");
    let args = [command, path.to_str().unwrap(), "--quiet", "--out", out.to_str().unwrap()];
    let ran = run(&[&args, question].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    std::fs::read(out).unwrap()
}

/// Checks that parts of each of some numbers give the table of one analysis; returns how many there were of each.
fn check_same(path: &Path, question: &[&str], counts: &[usize]) -> Vec<usize> {
    check_same_by("analyze", path, question, counts)
}

fn check_same_by(command: &str, path: &Path, question: &[&str], counts: &[usize]) -> Vec<usize> {
    let expected = made_by(command, path, question);
    let made = |count: &usize| {
        let planned = Planned::by(command, path, *count, question);
        planned.make_all();
        let ran = planned.merge();
        assert_eq!(ran.code, 0, "{count} parts, {question:?}: {}", ran.err);
        let table = std::fs::read(planned.table()).unwrap();
        assert!(table == expected, "{command} {} in {count} parts, {question:?}", path.display());
        assert_eq!(planned.missing(), "");
        planned.parts
    };
    counts.iter().map(made).collect()
}

fn simulate(path: &Path, args: &[&str]) {
    let ran = run(&[&["simulate", "quadratic", path.to_str().unwrap()], args].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
}

const EACH: [&str; 4] = ["--group", "*", "--group", "each"];

#[test]
fn a_table_of_parts_is_that_of_one_analysis() {
    let run = fixture("digits_mlp");
    // There are 221 iterates, of which the last has no gradient, and two chunks.
    assert_eq!(check_same(&run, &[], &[1, 2, 7, 64, 1000]), [1, 2, 7, 64, 442]);
    let other = Copy::of("digits_mlp");
    let of_other = format!("{}:step:200", other.arg());
    let file = run.join("ref/final.safetensors");
    let references =
        ["--ref", "step:100", "--ref", "final", "--ref", file.to_str().unwrap(), "--ref", &of_other];
    check_same(&run, &[&references[..], &EACH].concat(), &[3, 64]);
    let averages = ["--ref", "mean:100..200", "--ref", "ema:0.9", "--ref", "mean:50.."];
    check_same(&run, &[&averages[..], &EACH].concat(), &[2, 7]);
    let streams = ["--stream", "grad", "--stream", "update", "--stream", "grad_wd"];
    check_same(&run, &[&streams[..], &["--steps", "3..180:7"]].concat(), &[2, 7, 64]);
    check_same(&run, &["--steps", "10..11"], &[7]);
}

#[test]
fn so_is_that_of_a_run_of_two_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record_by_two_ranks(&path, 24);
    check_same(&path, &EACH, &[1, 2, 7, 64]);
}

#[test]
fn so_is_that_of_parts_of_both_steps_and_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    // A keyframe, from which all iterates are decoded, and four chunks.
    simulate(&path, &["--dim", "200000", "--steps", "40", "--momentum", "0.9"]);
    let question = [&["--ref", "final", "--ref", "step:20", "--ref", "mean:10..30"][..], &EACH].concat();
    assert_eq!(check_same(&path, &question, &[2, 4, 7, 8]), [2, 4, 7, 8]);
    let streams = ["--stream", "grad", "--stream", "update", "--steps", "5..38:3"];
    check_same(&path, &streams, &[2, 8]);
    let planned = Planned::of(&path, 8, &[]);
    let plan: serde_json::Value =
        serde_json::from_slice(&std::fs::read(planned.plan().join("plan.json")).unwrap()).unwrap();
    let of_part = |part: usize| plan["parts"][part]["share"].clone();
    for (part, chunks) in [(0, [0, 1]), (3, [3, 4]), (7, [3, 4])] {
        assert_eq!(of_part(part)["chunks"], json!(chunks), "{plan}");
    }
    assert_eq!(of_part(0)["steps"], of_part(3)["steps"]);
    assert_eq!(of_part(3)["steps"][1], of_part(4)["steps"][0]);
    // What one part leaves out, for one damaged chunk, all do.
    let shard = &Copy::shards_of(&path)[0];
    let size = std::fs::metadata(shard).unwrap().len() as usize;
    flip(shard, size / 4 * 3, 4);
    check_same(&path, &["--skip-damaged", "--group", "*"], &[2, 8]);
}

#[test]
fn each_node_reads_its_own_shards() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record_by_two_ranks(&path, 24);
    let map = dir.path().join("map");
    std::fs::write(&map, "# each rank on a node of its own\nstore2 1\nstore1 0\n").unwrap();
    let by_node = ["--by-node", map.to_str().unwrap()];
    let question = [&EACH[..], &["--ref", "final", "--ref", "mean:5..15"]].concat();
    let expected = analyzed(&path, &question);
    for (count, parts) in [(1, 2), (2, 2), (7, 8), (64, 64)] {
        let planned = Planned::of(&path, count, &[&question[..], &by_node].concat());
        assert_eq!(planned.parts, parts);
        planned.make_all();
        let ran = planned.merge();
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(std::fs::read(planned.table()).unwrap() == expected, "{count} parts by node");
    }
    // What lies in the shards of rank 0 is damaged, but for where in them what lies: its node cannot make its parts, and the
    // other one does not look.
    let planned = Planned::of(&path, 2, &[&EACH[..], &by_node].concat());
    for shard in Copy::shards_of(&path).iter().filter(|s| s.to_str().unwrap().contains(".r0.")) {
        let size = std::fs::metadata(shard).unwrap().len() as usize;
        flip(shard, size / 2, 4);
    }
    let [other, own] = [planned.make(0), planned.make(1)];
    assert_eq!((other.code, own.code), (0, 1), "{}{}", other.err, own.err);
    assert_eq!(planned.missing(), "1");
}

#[test]
fn so_does_each_of_a_run_whose_parts_are_of_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record_by_ranks(
        &path,
        signs(two_ranks()),
        24,
        WriterOptions { shard_steps: 5, ..WriterOptions::default() },
    );
    let map = dir.path().join("map");
    std::fs::write(&map, "n1 0\nn2 1\n").unwrap();
    assert_eq!(check_same(&path, &[], &[7]), [5]);
    let planned = Planned::of(&path, 4, &["--by-node", map.to_str().unwrap()]);
    planned.make_all();
    assert_eq!(planned.merge().code, 0);
    assert!(std::fs::read(planned.table()).unwrap() == analyzed(&path, &[]));
}

#[test]
fn a_map_of_nodes_is_of_the_runs_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record_by_two_ranks(&path, 4);
    let map = dir.path().join("map");
    let plan = |command: &[&str], text: &str| {
        std::fs::write(&map, text).unwrap();
        let out = dir.path().join("plan");
        let args = [path.to_str().unwrap(), "--parts", "2", "--out", out.to_str().unwrap()];
        let ran = run(&[command, &args, &["--by-node", map.to_str().unwrap()]].concat());
        assert!(!out.join("plan.json").exists());
        assert_eq!(ran.code, 2, "{}", ran.err);
        ran.err
    };
    for (text, what) in [
        ("n1 0", "rank 1 is on no node; the run has ranks 0 to 1"),
        ("n1 0-1\nn2 1", "rank 1 is on two nodes"),
        ("n1 0-2", "there is no rank 2"),
        ("n1", "line 1 is no node and its ranks, as n1 0-3,8"),
    ] {
        let said = plan(&["plan"], text);
        assert!(said.contains(what), "{said}");
    }
    assert!(plan(&["plan", "pairs"], "n1 0-1").contains("--by-node"));
}

fn two_ranks() -> Manifest {
    let mut m = manifest(&[70_000, 10, 131_072]);
    m.world = 2;
    m.slices = [
        (0, 0, 65_536, 0),
        (0, 65_536, 70_000, 1),
        (1, 0, 10, 1),
        (2, 0, 65_536, 1),
        (2, 65_536, 131_072, 0),
    ]
    .map(|(tensor, begin, end, rank)| Slice { tensor, begin, end, rank })
    .to_vec();
    m
}

fn record_by_two_ranks(path: &Path, steps: u64) {
    let options = WriterOptions { shard_steps: 5, ..WriterOptions::default() };
    record_by_ranks(path, two_ranks(), steps, options);
}

#[test]
fn adams_parts_are_of_chunks() {
    let dir = tempfile::tempdir().unwrap();
    for (name, more) in [("adam", &[][..]), ("decay", &["--weight-decay", "0.01"])] {
        let path = dir.path().join(name);
        let args = ["--adam", "--dim", "300000", "--steps", "280", "--lr", "0.001"];
        simulate(&path, &[&args[..], more].concat());
        let question = ["--ref", "final", "--ref", "step:150", "--ref", "mean:100..200"];
        assert_eq!(check_same(&path, &question, &[1, 2, 7]), [1, 2, 5]);
        let streams =
            ["--stream", "grad", "--stream", "grad_wd", "--stream", "update", "--steps", "20..200:3"];
        check_same(&path, &streams, &[3]);
    }
}

#[test]
fn so_are_those_of_runs_of_sketches_and_of_runs_with_loss() {
    let dir = tempfile::tempdir().unwrap();
    for (name, adam) in [("sgd", &["--momentum", "0.9"][..]), ("adam", &["--adam"])] {
        let path = dir.path().join(name);
        simulate(&path, &[&["--dim", "20000", "--steps", "300"], adam].concat());
        let (from, sketches) = (path.to_str().unwrap(), dir.path().join(format!("{name}-sketches")));
        let ran = run(&["sketch", from, "--dims", "1024", "--out", sketches.to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        let question = ["--ref", "final", "--ref", "mean:200..250", "--stream", "grad", "--stream", "update"];
        check_same(&sketches, &question, &[1, 2, 7, 64]);
        let lossy = dir.path().join(format!("{name}-lossy"));
        let kinds = ["--gradients", "int8", "--iterates", "int8"];
        let ran = run(&[&["pack", from, "--out", lossy.to_str().unwrap()], &kinds[..]].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        check_same(&lossy, &question, &[1, 2, 7, 64]);
    }
}

#[test]
fn all_pairs_and_lags_of_parts_are_those_of_one_process() {
    let run = fixture("digits_mlp");
    // 128 steps are held together, of which one is the centre of the others.
    assert_eq!(check_same_by("pairs", &run, &["--every", "10"], &[1, 2, 7]), [1, 2, 2]);
    check_same_by("pairs", &run, &["--steps", "3..200:3", "--every", "7"], &[2]);
    // The usual lags; the last step has none that is later, and the one before no gradient.
    assert_eq!(check_same_by("lags", &run, &[], &[1, 2, 7, 64, 1000]), [1, 2, 7, 64, 220]);
    let question = ["--lag", "3,50", "--ref", "mean:100..150", "--steps", "20..190:7", "--group", "each"];
    assert_eq!(check_same_by("lags", &run, &question, &[2, 64]), [2, 25]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    simulate(&path, &["--dim", "20", "--steps", "8300", "--momentum", "0.9"]);
    assert_eq!(check_same_by("pairs", &path, &["--every", "1000"], &[1, 2, 7, 64]), [1, 2, 7, 64]);
    check_same_by("lags", &path, &["--lag", "1,300"], &[7, 64]);
}

#[test]
fn so_are_those_of_a_run_of_two_ranks_and_of_several_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record_by_two_ranks(&path, 150);
    assert_eq!(check_same_by("pairs", &path, &["--every", "20"], &[2]), [2]);
    check_same_by("lags", &path, &["--lag", "1,7", "--group", "*", "--group", "each"], &[2, 7]);
}

#[test]
fn steps_are_left_out_of_parts_as_of_the_whole() {
    let copy = Copy::of("digits_mlp");
    let shards = copy.shards();
    for place in [1, shards.len() / 2] {
        let size = std::fs::metadata(&shards[place]).unwrap().len() as usize;
        flip(&shards[place], size / 3, 4);
    }
    let whole = run(&["analyze", copy.arg(), "--format", "csv"]);
    assert_eq!(whole.code, 1, "{}", whole.err);
    check_same(&copy.path, &["--skip-damaged"], &[1, 2, 7, 64]);
    // Where steps meet later iterates it would depend on the parts what is left out.
    let dir = tempfile::tempdir().unwrap();
    let plan = dir.path().join("plan");
    let sketches = dir.path().join("sketches");
    let made = run(&[
        "sketch",
        fixture("digits_mlp").to_str().unwrap(),
        "--dims",
        "256",
        "--out",
        sketches.to_str().unwrap(),
    ]);
    assert_eq!(made.code, 0, "{}", made.err);
    let args = ["--parts", "2", "--skip-damaged", "--out", plan.to_str().unwrap()];
    let refused = run(&[&["plan", sketches.to_str().unwrap()], &args[..]].concat());
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains("--skip-damaged: what damage spoils"), "{}", refused.err);
}
