//! The writer: ranks, attempts, gaps, absent gradients, and what it refuses.

use lpa::{Access, Run, Slice, Step, Vector, Writer, WriterOptions};

use crate::support::{
    borrow, manifest, record, record_by_ranks, run, two_ranks, vector, without_id, write_step,
};

const SIZES: [u64; 3] = [70_000, 10, 131_072];

fn csv(path: &std::path::Path, extra: &[&str]) -> String {
    let ran = run(&[&["analyze", path.to_str().unwrap(), "--format", "csv"], extra].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    without_id(&ran.out)
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
    record_by_ranks(&two, m, 7, options);
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
            first
                .step(&Step { iterate: Some(&x), streams: &[("grad", &x)], scalars: &[], ..Step::default() })
                .unwrap();
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
    writer
        .step(&Step { iterate: Some(&x), streams: &[("grad", &g)], scalars: &[], ..Step::default() })
        .unwrap();
    writer
        .step(&Step { iterate: Some(&x), streams: &[("grad", &half)], scalars: &[], ..Step::default() })
        .unwrap();
    writer.drop_step(&[("loss", 0.5)], "the queue was full").unwrap();
    writer
        .step(&Step { iterate: Some(&x), streams: &[("grad", &none)], scalars: &[], ..Step::default() })
        .unwrap();
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
    assert!(
        second.err().unwrap().to_string().contains("this process is recording rank 0 here already. Close")
    );
}

#[test]
fn a_rank_that_did_not_resume_is_never_mixed_with_one_that_did() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let options = WriterOptions { shard_steps: 1, ..WriterOptions::default() };
    let write = |writer: &mut Writer, steps: u64| {
        for _ in 0..steps {
            let x = vector(&[4], writer.next_step(), 5);
            let x = borrow(&x);
            writer
                .step(&Step { iterate: Some(&x), streams: &[("grad", &x)], scalars: &[], ..Step::default() })
                .unwrap();
        }
    };
    let mut ranks =
        [Writer::create(&path, two_ranks(), options).unwrap(), Writer::join(&path, 1, options).unwrap()];
    ranks.iter_mut().for_each(|w| write(w, 10));
    assert!(
        Writer::join(&path, 1, options)
            .err()
            .unwrap()
            .to_string()
            .contains("this process is recording rank 1")
    );
    drop(ranks);
    let again = Writer::join(&path, 1, options).err().unwrap().to_string();
    assert!(again.contains("rank 1 has recorded here already; resume it"), "{again}");
    let early = Writer::resume(&path, 1, 6, options).err().unwrap().to_string();
    assert!(early.contains("rank 0 has not resumed at step 6; resume it first"), "{early}");

    let mut first = Writer::resume(&path, 0, 6, options).unwrap();
    write(&mut first, 4);
    first.flush().unwrap();
    // Rank 1 still has its old steps 6 to 9, which do not belong to rank 0's new ones.
    let opened = Run::open(&path, Access::default()).unwrap();
    assert_eq!((opened.end_of_rank(0), opened.end_of_rank(1)), (10, 6));
    assert!(Vector::open(&opened, 8, "iterate").is_err());
    let mut second = Writer::resume(&path, 1, 6, options).unwrap();
    write(&mut second, 4);
    let x = vector(&[4], 10, 5);
    first.finish(&borrow(&x)).unwrap();
    assert_eq!(Run::open(&path, Access::default()).unwrap().final_step(), None);
    second.finish(&borrow(&x)).unwrap();
    assert_eq!(Run::open(&path, Access::default()).unwrap().final_step(), Some(10));
    assert_eq!(run(&["verify", path.to_str().unwrap()]).code, 0);
}

#[test]
fn a_shard_missing_at_the_end_of_a_stopped_run_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let options = WriterOptions { shard_steps: 4, ..WriterOptions::default() };
    let mut writer = Writer::create(&path, manifest(&[4]), options).unwrap();
    (0..8).for_each(|_| write_step(&mut writer, &[4]));
    writer.stop().unwrap();
    assert_eq!(run(&["verify", path.to_str().unwrap()]).code, 0);
    std::fs::remove_file(path.join("steps/000000/s0000000004-0000000007.a1.r0.safetensors")).unwrap();
    let ran = run(&["verify", path.to_str().unwrap()]);
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("with steps 4 to 7 is missing"), "{}", ran.out);
}

#[test]
fn creators_at_once_leave_one_whole_run() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let create = || Writer::create(&path, manifest(&[4]), WriterOptions::default()).is_ok();
        let won: Vec<bool> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..6).map(|_| scope.spawn(create)).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(won.iter().filter(|w| **w).count(), 1);
        assert!(Run::open(&path, Access::default()).is_ok());
        assert_eq!(std::fs::read_dir(path.join("tmp")).unwrap().count(), 0);
    }
}

#[test]
fn finishing_with_elements_that_do_not_fit_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut writer = Writer::create(&path, manifest(&[4]), WriterOptions::default()).unwrap();
    write_step(&mut writer, &[4]);
    assert!(writer.finish(&[None]).is_err());
    let x = vector(&[4], 1, 1);
    writer.finish(&borrow(&x)).unwrap();
    assert!(writer.flush().unwrap_err().to_string().contains("the writer is closed"));
    assert_eq!(Run::open(&path, Access::default()).unwrap().steps(), 0..2);
}
