//! `lpa join`: several runs of one training give the run that one rank would have written.

mod refusals;

use std::path::{Path, PathBuf};

use lpa::internals::{Journal, State, Xxh3};
use lpa::{
    Access, Continued, DType, Elements, Error, Manifest, Run, Slice, Step, StreamInfo, Vector, Writer,
    WriterOptions,
};

use crate::support::{Ran, borrow, manifest, run, values, without_id};

const SIZES: [u64; 5] = [70_000, 0, 17, 900, 1025];
/// The third is stored in two bytes an element.
const BYTES: [usize; 5] = [4, 4, 2, 4, 4];

/// How a recording ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// Stopped, after the note of a checkpoint.
    Checkpoint,
    /// Stopped.
    Stop,
    /// With the final iterate.
    Close,
}

/// The tensors of a vector, made of nothing but the arguments.
fn vector(step: u64, salt: u64) -> Vec<Vec<u8>> {
    let of = |(i, &n): (usize, &u64)| {
        let mut bytes = values(n, step, salt + 100 * i as u64);
        bytes.truncate(n as usize * BYTES[i]);
        bytes
    };
    SIZES.iter().enumerate().map(of).collect()
}

/// Who writes what, in three ways.
fn slices(world: u32) -> Vec<Slice> {
    let all: &[(usize, u64, u64, u32)] = match world {
        1 => &[],
        2 => &[
            (0, 0, 65_600, 1),
            (0, 65_600, 70_000, 0),
            (1, 0, 0, 1),
            (2, 0, 17, 0),
            (3, 0, 450, 0),
            (3, 450, 900, 1),
            (4, 0, 1025, 1),
        ],
        _ => &[
            (0, 0, 10, 0),
            (0, 10, 30_000, 2),
            (0, 30_000, 70_000, 1),
            (1, 0, 0, 0),
            (2, 0, 5, 1),
            (2, 5, 9, 0),
            (2, 9, 17, 1),
            (3, 0, 900, 2),
            (4, 0, 1, 0),
            (4, 1, 1025, 2),
        ],
    };
    all.iter().map(|&(tensor, begin, end, rank)| Slice { tensor, begin, end, rank }).collect()
}

fn part(slices: &[Slice], rank: u32, whole: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if slices.is_empty() {
        return whole.to_vec();
    }
    let own = |tensor: usize| {
        let own = slices.iter().filter(move |s| s.tensor == tensor && s.rank == rank);
        let range = |s: &Slice| s.begin as usize * BYTES[tensor]..s.end as usize * BYTES[tensor];
        own.flat_map(|s| whole[tensor][range(s)].to_vec()).collect()
    };
    (0..SIZES.len()).map(own).collect()
}

fn of_world(world: u32) -> Manifest {
    let mut m = manifest(&SIZES);
    m.tensors[2].dtype = DType::BF16;
    m.streams.push(StreamInfo::new("probe/a"));
    m.optimizer.name = "sgd".to_owned();
    let group = serde_json::json!([{"lr": 0.1, "momentum": 0.9, "nesterov": false}]);
    m.optimizer.param_groups = serde_json::from_value(group).unwrap();
    (m.world, m.slices) = (world, slices(world));
    m
}

/// Whether a step has vectors: bursts of five of every eight.
fn is_sampled(step: u64) -> bool {
    step % 8 < 5
}

/// Writes one rank's part of a step: what is out of the ordinary at some steps is so for all ranks, but for step 11, of
/// which rank 1 gives the vectors up.
fn write(writer: &mut Writer, rank: u32, slices: &[Slice], salt: u64) {
    let t = writer.next_step();
    let [x, g, p, m] = [0, 1, 2, 3].map(|k| part(slices, rank, &vector(t, salt + k)));
    let [x, g, p, m] = [&x, &g, &p, &m].map(|v| borrow(v));
    // Ranks differ in what they say; rank 0 counts.
    let scalars = [("loss", t as f64 + 0.5 * f64::from(rank)), ("lr/0", 0.1), ("momentum/0", 0.9)];
    let scalars = &scalars[..if t % 7 == 3 { 1 } else { 3 }];
    let lacking: Vec<_> = g
        .iter()
        .enumerate()
        .map(|(i, e)| e.filter(|_| i == 1 || !(i + t as usize).is_multiple_of(3)))
        .collect();
    let streams: &[(&str, &Elements<'_>)] = match t % 3 {
        0 => &[("grad", &g)],
        1 => &[("grad", &lacking), ("probe/a", &p)],
        _ => &[("probe/a", &p)],
    };
    let moments: &[&Elements<'_>] = if t.is_multiple_of(8) { &[&m] } else { &[] };
    if t == 11 && rank == 1 {
        writer.drop_step(scalars, "the queue was full").unwrap();
    } else if is_sampled(t) {
        let iterate = (t != 18).then_some(x.as_slice());
        writer.step(&Step { iterate, streams, scalars, moments, ..Step::default() }).unwrap();
    } else {
        writer.step(&Step { scalars, ..Step::default() }).unwrap();
    }
}

/// Records steps of the path `salt` by so many ranks; returns the id.
fn record(
    path: &Path,
    world: u32,
    steps: std::ops::Range<u64>,
    end: End,
    salt: u64,
    before: Option<&str>,
) -> String {
    let mut m = of_world(world);
    m.continues = before.map(|id| Continued { run_id: id.to_owned(), step: steps.start });
    let options = WriterOptions { shard_steps: 4, ..WriterOptions::default() };
    let (id, world, slices) = (m.run_id.clone(), m.world, m.slices.clone());
    let mut writers = vec![Writer::create(path, m, options).unwrap()];
    writers.extend((1..world).map(|rank| Writer::join(path, rank, options).unwrap()));
    for (rank, writer) in (0..).zip(&mut writers) {
        assert_eq!(writer.next_step(), steps.start);
        steps.clone().for_each(|_| write(writer, rank, &slices, salt));
        let last = part(&slices, rank, &vector(steps.end, salt));
        match end {
            End::Close => writer.finish(&borrow(&last)).unwrap(),
            End::Checkpoint => writer.checkpoint(&borrow(&last)).and_then(|()| writer.stop()).unwrap(),
            End::Stop => writer.stop().unwrap(),
        }
    }
    id
}

fn join(runs: &[&Path], out: &Path, extra: &[&str]) -> Ran {
    let mut args = vec!["join"];
    args.extend(runs.iter().map(|p| p.to_str().unwrap()));
    run(&[&args[..], &["--out", out.to_str().unwrap()], extra].concat())
}

/// Expects that runs are joined; returns what is said.
fn joined(runs: &[&Path], out: &Path, extra: &[&str]) -> String {
    let ran = join(runs, out, extra);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(ran.out.contains("every vector verified"), "{}", ran.out);
    ran.out
}

/// Checks every vector and scalar of a joined run against what the steps were made of.
fn check(path: &Path, steps: std::ops::Range<u64>, is_closed: bool) {
    let opened = Run::open(path, Access::default()).unwrap();
    assert_eq!(opened.steps(), steps.start..steps.end + u64::from(is_closed));
    assert_eq!(opened.final_step(), is_closed.then_some(steps.end));
    assert_eq!((opened.manifest().world, opened.manifest().slices.len()), (1, 0));
    for t in steps.clone() {
        let there = is_sampled(t) && t != 11;
        expect(&opened, t, "iterate", (there && t != 18).then(|| vector(t, 1)), |_| true);
        let lacks = |i: usize| t % 3 == 1 && i != 1 && (i + t as usize).is_multiple_of(3);
        expect(&opened, t, "grad", (there && t % 3 < 2).then(|| vector(t, 2)), |i| !lacks(i));
        expect(&opened, t, "probe/a", (there && t % 3 > 0).then(|| vector(t, 3)), |_| true);
    }
    if is_closed {
        expect(&opened, steps.end, "iterate", Some(vector(steps.end, 1)), |_| true);
    }
    for segment in opened.segments(0) {
        let shard = opened.open_shard(&segment.file).unwrap();
        for t in (segment.first..=segment.last).filter(|t| steps.contains(t)) {
            assert_eq!(shard.scalar(t, "loss"), Some(t as f64));
            assert_eq!(shard.scalar(t, "lr/0"), (t % 7 != 3).then_some(0.1));
        }
    }
    let verified = run(&["verify", path.to_str().unwrap()]);
    assert_eq!(verified.code, 0, "{}", verified.out);
}

fn expect(run: &Run, step: u64, stream: &str, expected: Option<Vec<Vec<u8>>>, has: impl Fn(usize) -> bool) {
    let mut found = match (Vector::open(run, step, stream), &expected) {
        (Err(Error::NotFound { .. }), None) => return,
        (found, _) => found.unwrap_or_else(|e| panic!("{stream} of {step}: {e}")),
    };
    let expected = expected.unwrap_or_else(|| panic!("{stream} of {step} is there"));
    for (i, expected) in expected.into_iter().enumerate() {
        let mut bytes = Vec::new();
        let there = found.tensor(i, &mut bytes).unwrap();
        assert!(there == has(i) && (!there || bytes == expected), "{stream} of {step}, tensor {i}");
    }
}

fn paths<const N: usize>(dir: &Path) -> [PathBuf; N] {
    std::array::from_fn(|i| dir.join(["run", "run-2", "run-3", "new", "one"][i]))
}

#[test]
fn two_three_and_one_ranks_give_the_run_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c, new, one] = paths(dir.path());
    // The first two went further than where they are gone on from.
    let id = record(&a, 2, 0..14, End::Stop, 1, None);
    let id = record(&b, 3, 10..23, End::Checkpoint, 1, Some(&id));
    record(&c, 1, 19..29, End::Close, 1, Some(&id));
    for extra in [&[][..], &["--profile", "fast"], &["--no-predict", "--no-mmap"]] {
        let said = joined(&[&a, &b, &c], &new, extra);
        assert!(said.contains("run: steps 0 to 9\n"), "{said}");
        assert!(said.contains("run-2: steps 10 to 18; x_10 is the same in both\n"), "{said}");
        assert!(said.contains("run-3: steps 19 to 29; x_19 is the same in both\n"), "{said}");
        check(&new, 0..29, true);
        let journal = Journal::read(&new, 0).unwrap();
        assert_eq!(journal.dropped(), [(11, "the queue was full".to_owned())]);
        assert_eq!(journal.attempts()[0].state, State::Closed(29));
        std::fs::remove_dir_all(&new).unwrap();
    }
    joined(&[&a, &b, &c], &new, &[]);
    // The same steps, written by one rank at once; but step 11, of which it has the vectors.
    record(&one, 1, 0..29, End::Close, 1, None);
    let records = |path: &Path| {
        let run = Run::open(path, Access::default()).unwrap();
        let mut all = std::collections::BTreeMap::new();
        for segment in run.segments(0) {
            let shard = run.open_shard(&segment.file).unwrap();
            for (v, id) in shard.vectors().iter().enumerate().filter(|(_, id)| id.step != 11) {
                let stored: Vec<_> = shard.records(v).map(|r| (r.coding, r.len)).collect();
                all.insert((id.step, id.stream), stored);
            }
        }
        all
    };
    let (here, there) = (records(&new), records(&one));
    // Before what step 11 has changed, moments at the beginning of bursts included.
    let before = |all: &std::collections::BTreeMap<_, _>| {
        all.clone().into_iter().filter(|((t, _), _)| *t < 11).collect::<Vec<_>>()
    };
    assert!(before(&here) == before(&there));
    assert_eq!(
        here.keys().filter(|(_, stream)| stream.is_moment()).map(|k| k.0).collect::<Vec<_>>(),
        [0, 8, 16, 24]
    );
    let rows = |path: &Path| {
        let ran = run(&[
            "analyze",
            path.to_str().unwrap(),
            "--format",
            "csv",
            "--steps",
            "0..10",
            "--group",
            "each",
        ]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        without_id(&ran.out)
    };
    assert_eq!(rows(&new), rows(&one));
}

#[test]
fn of_an_iterate_that_is_not_recorded_the_checkpoint_knows_the_hash() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c, new, _] = paths(dir.path());
    let id = record(&a, 2, 0..9, End::Checkpoint, 1, None);
    record(&b, 3, 9..12, End::Stop, 1, Some("of another run"));
    let said = joined(&[&a, &b], &new, &[]);
    assert!(said.contains("run-2: steps 9 to 11; x_9 is that of the checkpoint before\n"), "{said}");
    check(&new, 0..12, false);
    // It goes on, and a checkpoint of one rank's is kept.
    let mut writer = Writer::resume(&new, 0, 12, WriterOptions::default()).unwrap();
    write(&mut writer, 0, &[], 1);
    let x = vector(13, 1);
    writer.checkpoint(&borrow(&x)).unwrap();
    writer.stop().unwrap();
    record(&c, 2, 13..14, End::Close, 1, Some(&id));
    let all = dir.path().join("all");
    let ran = join(&[&new, &c], &all, &[]);
    assert_eq!(ran.code, 1, "x_13 of the third is not recorded: {}", ran.out);
    std::fs::remove_dir_all(&c).unwrap();
    record(
        &c,
        2,
        13..14,
        End::Close,
        1,
        Some(&Run::open(&new, Access::default()).unwrap().manifest().run_id),
    );
    let said = joined(&[&new, &c], &all, &[]);
    assert!(said.contains("x_13 is not recorded in both, and was not compared"), "{said}");
    let mut hash = Xxh3::default();
    x.iter().for_each(|tensor| hash.update(tensor));
    assert_eq!(Journal::read(&all, 0).unwrap().checkpoints(), [(13, format!("{:016x}", hash.digest()))]);
}

#[test]
fn what_an_interrupted_join_left_is_removed_and_the_same_runs_give_the_same_run() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, new, draft, _] = paths(dir.path());
    record(&a, 2, 0..9, End::Checkpoint, 1, None);
    record(&b, 1, 9..12, End::Close, 1, Some("of another run"));
    joined(&[&a, &b], &new, &[]);
    let manifest = || std::fs::read_to_string(new.join("manifest.json")).unwrap();
    let before = manifest();
    std::fs::rename(&new, draft.with_file_name(format!(".{}.lpa-packing", "run-3"))).unwrap();
    joined(&[&a, &b], &new, &[]);
    assert_eq!(manifest(), before);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    let value: serde_json::Value = serde_json::from_str(&before).unwrap();
    let steps: Vec<_> =
        value["metadata"]["joined"].as_array().unwrap().iter().map(|p| &p["from_step"]).collect();
    assert_eq!(steps, [0, 9]);
}
