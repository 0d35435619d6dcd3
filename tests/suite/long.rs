//! Long recordings, large tables of tensors, and many at one run.
//!
//! Here in a short form; with `LPA_TORTURE=1` as long as `docs/reliability.md` says (`make torture`).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lpa::{
    Access, Execution, OwnReference, Question, ReferenceSpec, Row, Run, Step, Writer, WriterOptions, verify,
};
use safetensors::SafeTensors;

use crate::support::{borrow, manifest, run, vector, write_step};

fn is_torture() -> bool {
    std::env::var_os("LPA_TORTURE").is_some()
}

/// A number in a file of `/proc/self`, or 0.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Not a test: records so many steps of ten parameters, and says now and then how it is doing.
#[test]
fn child_of_many_steps() {
    let Some(steps) = std::env::var("LPA_TEST_STEPS").ok().and_then(|n| n.parse::<u64>().ok()) else {
        return;
    };
    let path = PathBuf::from(std::env::var_os("LPA_TEST_RECORD").unwrap());
    let mut writer = Writer::create(&path, manifest(&[10]), WriterOptions::default()).unwrap();
    let (x, g) = (vector(&[10], 0, 1), vector(&[10], 1, 2));
    let (mut x, g) = (x[0].clone(), borrow(&g));
    for tenth in 0..10 {
        let begin = Instant::now();
        for t in 0..steps / 10 {
            x[0] = t as u8;
            let iterate = [Some(x.as_slice())];
            let scalars = [("loss", t as f64), ("lr/0", 0.1)];
            let step = Step {
                iterate: Some(&iterate),
                streams: &[("grad", &g)],
                scalars: &scalars,
                ..Step::default()
            };
            writer.step(&step).unwrap();
        }
        let each = begin.elapsed().as_secs_f64() * 1e6 / (steps / 10) as f64;
        eprintln!("tenth {tenth} {each:.2} {} {}", status("VmRSS:"), descriptors());
    }
    writer.finish(&[Some(x.as_slice())]).unwrap();
}

/// What the tenths of a recording say: microseconds a step, kilobytes of memory, descriptors.
fn tenths(steps: u64, path: &Path) -> Vec<[f64; 3]> {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["long::child_of_many_steps", "--exact", "--nocapture"])
        .env("LPA_TEST_STEPS", steps.to_string())
        .env("LPA_TEST_RECORD", path)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stderr).unwrap();
    let numbers = |line: &str| -> [f64; 3] {
        let all: Vec<f64> = line.split_whitespace().skip(1).map(|n| n.parse().unwrap()).collect();
        all.try_into().unwrap()
    };
    text.lines().filter_map(|l| l.split_once("tenth ").map(|(_, rest)| numbers(rest))).collect()
}

fn timed<T>(what: &str, does: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let done = does();
    eprintln!("{what}: {:.2} s", begin.elapsed().as_secs_f64());
    done
}

/// How many rows an analysis has.
fn rows(path: &Path) -> u64 {
    let run = Run::open(path, Access::default()).unwrap();
    let mut count = 0;
    let keep = |_: &Row<'_>| {
        count += 1;
        Ok(())
    };
    Question::default().analyze(&run, &Execution::default(), || Ok(keep)).unwrap();
    count
}

#[test]
fn many_steps_take_no_more_than_few() {
    let steps: u64 = if is_torture() { 1_000_000 } else { 20_000 };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let tenths = tenths(steps, &path);
    assert_eq!(tenths.len(), 10);
    eprintln!("{steps} steps; us a step, kB, descriptors by tenth: {tenths:?}");
    let (second, last) = (tenths[1], tenths[9]);
    assert!(last[1] < second[1] + 4096.0, "memory grows: {tenths:?}");
    assert!(last[2] < second[2] + 0.5, "descriptors are left open: {tenths:?}");
    // The machine may do something else too; what grows with the steps would be tenfold.
    assert!(!is_torture() || last[0] < 4.0 * second[0], "a step takes longer: {tenths:?}");
    let run = timed("open", || Run::open(&path, Access::default()).unwrap());
    assert_eq!(run.steps(), 0..steps + 1);
    assert!(timed("verify", || verify(&run).problems.is_empty()));
    assert_eq!(timed("analyze", || rows(&path)), steps);
}

#[test]
fn many_shards() {
    let steps: u64 = if is_torture() { 10_000 } else { 60 };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let options = WriterOptions { shard_steps: 1, ..WriterOptions::default() };
    timed(&format!("{steps} shards: write"), || crate::support::record(&path, &[10], steps, options));
    let run = timed("open", || Run::open(&path, Access::default()).unwrap());
    assert_eq!(run.segments(0).len() as u64, steps + 1);
    assert!(timed("verify", || verify(&run).problems.is_empty()));
    assert_eq!(timed("analyze", || rows(&path)), steps);
    let recovered = timed("recover", || crate::support::run(&["recover", path.to_str().unwrap()]));
    assert_eq!(recovered.code, 0, "{}", recovered.err);
}

#[test]
fn many_tensors_end_in_a_file_that_others_open() {
    let tensors: u64 = if is_torture() { 900_000 } else { 20_000 };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let sizes = vec![1; tensors as usize];
    timed(&format!("{tensors} tensors: write 3 steps"), || {
        crate::support::record(&path, &sizes, 3, WriterOptions::default());
    });
    drop(timed("open", || Run::open(&path, Access::default()).unwrap()));
    let at = path.to_str().unwrap();
    let analyzed = timed("analyze", || run(&["analyze", at, "--format", "csv"]));
    assert_eq!(analyzed.code, 0, "{}", analyzed.err);
    assert_eq!(analyzed.out.lines().count(), 4);
    let verified = timed("verify", || run(&["verify", at]));
    assert_eq!(verified.code, 0, "{}{}", verified.out, verified.err);
    eprintln!("most memory of a command: {} MB", most_memory_of_children() >> 20);
    let bytes = std::fs::read(path.join("ref/final.safetensors")).unwrap();
    let header = u64::from_le_bytes(*bytes.first_chunk().unwrap());
    eprintln!("the final iterate: {} MB, of which the header has {} MB", bytes.len() >> 20, header >> 20);
    let others = timed("safetensors", || SafeTensors::deserialize(&bytes).map(|s| s.len()));
    assert_eq!(others.unwrap() as u64, tensors);
}

fn most_memory_of_children() -> u64 {
    // SAFETY: all zeros are such a structure, which the system fills.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    usage.ru_maxrss.cast_unsigned() << 10
}

/// The newest iterate as a reference, for runs that are not at their end.
fn newest() -> Question {
    Question { references: vec![ReferenceSpec::Own(OwnReference::Last)], ..Question::default() }
}

#[test]
fn readers_beside_a_writer_read_what_is_published() {
    let (readers, time) = if is_torture() { (16, 60) } else { (4, 3) };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let sizes = [3000, 17];
    let options = WriterOptions { shard_steps: 2, ..WriterOptions::default() };
    let mut writer = Writer::create(&path, manifest(&sizes), options).unwrap();
    (0..6).for_each(|_| write_step(&mut writer, &sizes));
    writer.flush().unwrap();
    let (done, read, published) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(6));
    std::thread::scope(|scope| {
        for _ in 0..readers {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let least = published.load(Ordering::Relaxed);
                    let run = Run::open(&path, Access::default()).unwrap();
                    assert!(run.steps().end >= least, "{:?}, where {least} were published", run.steps());
                    assert!(run.missing().is_empty());
                    let keep = |_: &Row<'_>| Ok(());
                    let how = Execution { threads: 1, ..Execution::default() };
                    newest().analyze(&run, &how, || Ok(keep)).unwrap();
                    read.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let end = Instant::now() + Duration::from_secs(time);
        while Instant::now() < end && writer.next_step() < 400 {
            write_step(&mut writer, &sizes);
            write_step(&mut writer, &sizes);
            writer.flush().unwrap();
            published.store(writer.next_step(), Ordering::Relaxed);
        }
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        done.store(true, Ordering::Relaxed);
    });
    let steps = writer.next_step();
    writer.finish(&borrow(&vector(&sizes, steps, 1))).unwrap();
    let analyses = read.into_inner();
    eprintln!("{readers} readers: {analyses} analyses while {steps} steps were written");
    assert!(analyses >= readers);
    assert_eq!(rows(&path), steps);
}

#[test]
fn of_two_that_record_at_once_one_wins_and_the_other_says_so() {
    let rounds = if is_torture() { 500 } else { 20 };
    let folder = tempfile::tempdir().unwrap();
    let options = WriterOptions { shard_steps: 2, ..WriterOptions::default() };
    for round in 0..rounds {
        let path = folder.path().join(format!("run{round}"));
        let together = Barrier::new(4);
        let create = || {
            together.wait();
            Writer::create(&path, manifest(&[7]), options)
        };
        let made: Vec<_> = std::thread::scope(|scope| {
            let all = [(); 4].map(|()| scope.spawn(create));
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let mut won: Vec<Writer> = Vec::new();
        for result in made {
            match result {
                Ok(writer) => won.push(writer),
                Err(e) => {
                    let text = e.to_string();
                    assert!(
                        text.contains("there is a run already") || text.contains("is recording"),
                        "{text}"
                    );
                    assert_eq!(text.lines().count(), 1);
                }
            }
        }
        assert_eq!(won.len(), 1, "round {round}");
        (0..3).for_each(|_| write_step(&mut won[0], &[7]));
        won[0].finish(&borrow(&vector(&[7], 3, 1))).unwrap();
        assert!(verify(&Run::open(&path, Access::default()).unwrap()).problems.is_empty());
    }
}

/// What lets a program see another time, where it is installed.
fn faketime() -> Option<PathBuf> {
    let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let found =
        places.map(|p| Path::new(p).join("faketime/libfaketimeMT.so.1")).into_iter().find(|p| p.exists());
    if found.is_none() {
        eprintln!("not tested: there is no libfaketime");
    }
    found
}

/// Not a test: records steps while its clock is changed, to the end or until it is told to stop.
#[test]
fn child_with_a_clock() {
    let Some(path) = std::env::var_os("LPA_TEST_CLOCK").map(PathBuf::from) else { return };
    let end: u64 = std::env::var("LPA_TEST_STEPS").unwrap().parse().unwrap();
    let options = WriterOptions { shard_age: Duration::from_millis(20), ..WriterOptions::default() };
    let mut writer = if path.join("manifest.json").exists() {
        let from = Run::open(&path, Access::default()).unwrap().end_of_rank(0);
        Writer::resume(&path, 0, from, options).unwrap()
    } else {
        Writer::create(&path, manifest(&[50]), options).unwrap()
    };
    while writer.next_step() < end {
        write_step(&mut writer, &[50]);
        std::thread::yield_now();
    }
    if end == 600 {
        writer.finish(&borrow(&vector(&[50], end, 1))).unwrap();
    } else {
        writer.stop().unwrap();
    }
}

#[test]
fn jumps_of_the_clock_are_no_matter() {
    let Some(library) = faketime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (path, clock) = (folder.path().join("run"), folder.path().join("clock"));
    // Forward, back before 1970, far ahead; each part is resumed in another century.
    for (part, end) in [(0, 200), (1, 400), (2, 600)] {
        let jumps =
            [["+0", "+36500d", "-20000d"], ["-20000d", "+1d", "-1d"], ["+80000d", "+0", "-3650d"]][part];
        std::fs::write(&clock, jumps[0]).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["long::child_with_a_clock", "--exact", "--nocapture"])
            .env("LD_PRELOAD", &library)
            .env("FAKETIME_TIMESTAMP_FILE", &clock)
            .env("FAKETIME_NO_CACHE", "1")
            .env("LPA_TEST_CLOCK", &path)
            .env("LPA_TEST_STEPS", end.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let has_begun = || {
            let journal = std::fs::read_to_string(path.join("journal.r0.jsonl"));
            journal.is_ok_and(|j| j.matches("\"event\":\"attempt\"").count() > part)
        };
        let mut jump = 0;
        while child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(15));
            if has_begun() {
                jump += 1;
                std::fs::write(&clock, jumps[jump % 3]).unwrap();
            }
        }
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    let at = path.to_str().unwrap();
    let verified = run(&["verify", at]);
    assert_eq!(verified.code, 0, "{}{}", verified.out, verified.err);
    assert_eq!(rows(&path), 600);
    // The attempts began in three centuries.
    let journal = std::fs::read_to_string(path.join("journal.r0.jsonl")).unwrap();
    let times = journal.split("time_unix_s\":").skip(1);
    let times: Vec<u64> = times.map(|t| t.split([',', '}']).next().unwrap().parse().unwrap()).collect();
    let century = 100 * 365 * 86_400;
    assert_eq!(times.len(), 3);
    assert!(times[2] > times[0] + century && times[1] < times[0], "{times:?}");
}
