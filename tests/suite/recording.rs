//! The writer: ranks, attempts, gaps, absent gradients, and what it refuses.

use lpa::export::Vector;
use lpa::run::manifest::Slice;
use lpa::run::writer::{Step, Writer, WriterOptions};
use lpa::run::{Access, Run};

use crate::support::{borrow, manifest, record, run, vector, write_step};

const SIZES: [u64; 3] = [70_000, 10, 131_072];

fn csv(path: &std::path::Path, extra: &[&str]) -> String {
    let ran = run(&[&["analyze", path.to_str().unwrap(), "--format", "csv"], extra].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    ran.out
}

#[test]
fn two_ranks_that_split_at_chunks_give_the_bits_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let options = WriterOptions { shard_steps: 3, ..WriterOptions::default() };
    record(&dir.path().join("one"), &SIZES, 7, options);

    let two = dir.path().join("two");
    let mut m = manifest(&SIZES);
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
    let slices = m.slices.clone();
    let part = |rank: u32, t: u64, salt: u64| -> Vec<Vec<u8>> {
        let whole = vector(&SIZES, t, salt);
        (0..SIZES.len())
            .map(|i| {
                let own = slices.iter().filter(|s| s.tensor == i && s.rank == rank);
                own.flat_map(|s| whole[i][s.begin as usize * 4..s.end as usize * 4].to_vec()).collect()
            })
            .collect()
    };
    let mut writers =
        vec![Writer::create(&two, m, options).unwrap(), Writer::join(&two, 1, options).unwrap()];
    for t in 0..7u64 {
        for (rank, writer) in writers.iter_mut().enumerate() {
            let (x, g) = (part(rank as u32, t, 1), part(rank as u32, t, 2));
            let (x, g) = (borrow(&x), borrow(&g));
            let scalars = [("loss", 1.0 / (t + 1) as f64), ("lr/0", 0.1)];
            let step = Step { iterate: Some(&x), streams: &[("grad", &g)], scalars: &scalars };
            writer.step(&step).unwrap();
        }
    }
    for (rank, writer) in writers.into_iter().enumerate() {
        assert!(!two.join("ref/final.safetensors").exists(), "only the last rank writes it");
        let x = part(rank as u32, 7, 1);
        writer.finish(&borrow(&x)).unwrap();
    }
    let groups = ["--group", "*", "--group", "each"];
    assert_eq!(csv(&two, &groups), csv(&dir.path().join("one"), &groups));
    assert_eq!(run(&["verify", two.to_str().unwrap()]).code, 0);
}

#[test]
fn a_resumed_run_reads_as_if_it_had_never_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, resumed) = (dir.path().join("whole"), dir.path().join("resumed"));
    let options = WriterOptions { shard_steps: 4, ..WriterOptions::default() };
    record(&whole, &SIZES, 12, options);

    let mut first = Writer::create(&resumed, manifest(&SIZES), options).unwrap();
    for t in 0..10u64 {
        // Steps from 6 on come from a training that went elsewhere, and are superseded.
        if t < 6 {
            write_step(&mut first, &SIZES);
        } else {
            let x = vector(&SIZES, t, 77);
            let x = borrow(&x);
            first.step(&Step { iterate: Some(&x), streams: &[("grad", &x)], scalars: &[] }).unwrap();
        }
    }
    first.stop().unwrap();
    assert!(Writer::resume(&resumed, 0, 11, options).is_err(), "step 10 is not there");
    let mut second = Writer::resume(&resumed, 0, 6, options).unwrap();
    while second.next_step() < 12 {
        write_step(&mut second, &SIZES);
    }
    let last = vector(&SIZES, 12, 1);
    second.finish(&borrow(&last)).unwrap();
    assert_eq!(csv(&resumed, &[]), csv(&whole, &[]));
    let shown = run(&["inspect", resumed.to_str().unwrap()]).out;
    assert!(shown.contains("1 from step 0 (stopped), 2 from step 6 (closed)"), "{shown}");
}

#[test]
fn steps_without_vectors_and_absent_gradients_are_told_apart_from_zero() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let sizes = [4, 2];
    let mut writer = Writer::create(&path, manifest(&sizes), WriterOptions::default()).unwrap();
    let zeros = [vec![0u8; 16], vec![0u8; 8]];
    let x = vector(&sizes, 0, 1);
    let (x, g) = (borrow(&x), borrow(&zeros));
    let half = [g[0], None];
    let none = [None, None];
    writer.step(&Step { iterate: Some(&x), streams: &[("grad", &g)], scalars: &[] }).unwrap();
    writer.step(&Step { iterate: Some(&x), streams: &[("grad", &half)], scalars: &[] }).unwrap();
    writer.drop_step(&[("loss", 0.5)], "the queue was full").unwrap();
    writer.step(&Step { iterate: Some(&x), streams: &[("grad", &none)], scalars: &[] }).unwrap();
    let end = vector(&sizes, 9, 1);
    writer.finish(&borrow(&end)).unwrap();

    let opened = Run::open(&path, Access::default()).unwrap();
    let mut bytes = Vec::new();
    assert!(!Vector::open(&opened, 1, "grad").unwrap().tensor(1, &mut bytes).unwrap());
    let text = csv(&path, &["--group", "t1", "--group", "*"]);
    let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split(',').collect()).collect();
    let column = |name: &str| rows[0].iter().position(|c| *c == name).unwrap();
    let cells = |name: &str| -> Vec<&str> { rows[1..].iter().map(|r| r[column(name)]).collect() };
    assert_eq!(cells("step"), ["0", "0", "1", "1", "3", "3"]);
    assert_eq!(cells("g2"), ["0.0", "0.0", "", "0.0", "", ""]);
    assert_eq!(cells("zero_grad"), ["true", "true", "false", "true", "false", "false"]);
    assert_eq!(cells("absent_grad"), ["false", "false", "true", "true", "true", "true"]);
    assert_eq!(cells("gap"), ["false", "false", "true", "true", "false", "false"]);
    assert_eq!(cells("step2")[2..4], ["", ""]);
}

#[test]
fn what_does_not_fit_the_manifest_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let sizes = [4, 2];
    let mut writer = Writer::create(&path, manifest(&sizes), WriterOptions::default()).unwrap();
    let short = [vec![0u8; 16], vec![0u8; 4]];
    let refused = writer.step(&Step { iterate: Some(&borrow(&short)), ..Step::default() });
    assert!(refused.unwrap_err().to_string().contains("'t1' (F32 [2]) has 4 bytes, where 8"));
    let refused = writer.step(&Step { iterate: Some(&[None, None]), ..Step::default() });
    assert!(refused.unwrap_err().to_string().contains("only streams can be absent"));
    let refused = writer.step(&Step { streams: &[("full", &[None, None])], ..Step::default() });
    assert!(refused.unwrap_err().to_string().contains("no stream 'full'"));
    assert_eq!(writer.next_step(), 0);
    let again = Writer::create(&path, manifest(&sizes), WriterOptions::default());
    assert!(again.err().unwrap().to_string().contains("there is a run already"));
    let second = Writer::join(&path, 0, WriterOptions::default());
    assert!(second.err().unwrap().to_string().contains("another process is recording rank 0"));
}
