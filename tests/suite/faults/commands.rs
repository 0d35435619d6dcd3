//! Commands whose operations fail: nothing has its name half-written, and the same command then gives the same files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lpa::{Manifest, Step, Writer, WriterOptions};

use crate::faults::disk::Lost;
use crate::faults::tracer::{Fault, can_trace, trace};
use crate::faults::{place, some_of};
use crate::support::{borrow, copy_dir, files, flip, lpa, manifest, record, run, vector, write_step};

const SIZES: [u64; 2] = [300, 5];

const FAULTS: [Fault; 7] = [
    Fault::Fails,
    Fault::Full,
    Fault::Interrupted,
    Fault::Short,
    Fault::Killed,
    Fault::PowerLost(Lost::All),
    Fault::PowerLost(Lost::Zeros),
];

/// A command, and what is there before it.
pub struct Case {
    pub name: &'static str,
    /// Of what lies in the folder; every argument that begins with `/` is a path below it.
    args: &'static [&'static str],
    pub prepare: fn(&Path),
    /// Of so many operations one has a fault in the short form.
    every: usize,
}

fn options() -> WriterOptions {
    WriterOptions { shard_steps: 2, threads: 1, ..WriterOptions::default() }
}

fn a_run(folder: &Path) {
    record(&folder.join("run"), &SIZES, 8, options());
}

/// Two attempts, the second from step 3 on.
fn resumed(folder: &Path) {
    let path = folder.join("run");
    let mut writer = Writer::create(&path, manifest(&SIZES), options()).unwrap();
    (0..6).for_each(|_| write_step(&mut writer, &SIZES));
    writer.stop().unwrap();
    drop(writer);
    let mut writer = Writer::resume(&path, 0, 3, options()).unwrap();
    (3..8).for_each(|_| write_step(&mut writer, &SIZES));
    writer.finish(&borrow(&vector(&SIZES, 8, 1))).unwrap();
}

/// As a crash leaves it: a torn line, a file under `tmp/`, a damaged shard, and no final iterate.
fn crashed(folder: &Path) {
    resumed(folder);
    let path = folder.join("run");
    std::fs::remove_file(path.join("ref/final.safetensors")).unwrap();
    std::fs::write(path.join("tmp/r0.s0000000009"), b"half a shard").unwrap();
    let journal = path.join("journal.r0.jsonl");
    let text = std::fs::read_to_string(&journal).unwrap();
    std::fs::write(&journal, format!("{text}{{\"event\":\"chec")).unwrap();
}

/// A run that was killed, whose newest shard is damaged.
fn damaged(folder: &Path) {
    let path = folder.join("run");
    let mut writer = Writer::create(&path, manifest(&SIZES), options()).unwrap();
    (0..6).for_each(|_| write_step(&mut writer, &SIZES));
    writer.flush().unwrap();
    drop(writer);
    flip(&path.join("steps/000000/s0000000004-0000000005.a1.r0.safetensors"), 50, 3);
}

/// A run, and one that goes on from it.
fn two_parts(folder: &Path) {
    let first = folder.join("run");
    let mut writer = Writer::create(&first, manifest(&SIZES), options()).unwrap();
    let id = writer.manifest().run_id.clone();
    (0..4).for_each(|_| write_step(&mut writer, &SIZES));
    writer.finish(&borrow(&vector(&SIZES, 4, 1))).unwrap();
    let continues = Some(lpa::Continued { run_id: id, step: 4 });
    let second = Manifest { continues, ..manifest(&SIZES) };
    let mut writer = Writer::create(&folder.join("second"), second, options()).unwrap();
    (4..7).for_each(|_| write_step(&mut writer, &SIZES));
    writer.finish(&borrow(&vector(&SIZES, 7, 1))).unwrap();
}

/// A run with its table.
fn analyzed(folder: &Path) {
    a_run(folder);
    let ran = run(&["analyze", folder.join("run").to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{}", ran.err);
}

/// Gradients that are absent, and a run that has none at some steps, so that averages have something to look for.
fn with_gaps(folder: &Path) {
    let mut writer = Writer::create(&folder.join("run"), manifest(&SIZES), options()).unwrap();
    for t in 0..8 {
        let (x, g) = (vector(&SIZES, t, 1), vector(&SIZES, t, 2));
        let (x, mut g) = (borrow(&x), borrow(&g));
        g[1] = (t % 3 != 0).then(|| g[1]).flatten();
        let step = Step {
            iterate: Some(&x),
            streams: &[("grad", &g)],
            scalars: &[("lr/0", 0.1)],
            ..Step::default()
        };
        writer.step(&step).unwrap();
    }
    writer.finish(&borrow(&vector(&SIZES, 8, 1))).unwrap();
}

pub const CASES: [Case; 12] = [
    Case { name: "analyze", args: &["analyze", "/run", "--threads", "1"], prepare: a_run, every: 61 },
    Case {
        name: "analyze with averages",
        args: &[
            "analyze",
            "/run",
            "--ref",
            "mean:0..",
            "--ref",
            "ema:0.9",
            "--ref",
            "final",
            "--threads",
            "1",
            "--out",
            "/t.parquet",
        ],
        prepare: with_gaps,
        every: 97,
    },
    Case {
        name: "analyze a crashed run",
        args: &["analyze", "/run", "--threads", "1"],
        prepare: crashed,
        every: 83,
    },
    Case { name: "pack", args: &["pack", "/run", "--profile", "fast"], prepare: resumed, every: 89 },
    Case {
        name: "pack --out",
        args: &["pack", "/run", "--gradients", "int8", "--out", "/packed"],
        prepare: a_run,
        every: 79,
    },
    Case {
        name: "sketch",
        args: &["sketch", "/run", "--dims", "100", "--keyframes", "4", "--out", "/sketched"],
        prepare: a_run,
        every: 73,
    },
    Case {
        name: "join",
        args: &["join", "/run", "/second", "--out", "/joined"],
        prepare: two_parts,
        every: 79,
    },
    Case { name: "gc", args: &["gc", "/run", "--yes"], prepare: resumed, every: 19 },
    Case { name: "recover", args: &["recover", "/run"], prepare: crashed, every: 31 },
    Case { name: "recover what is damaged", args: &["recover", "/run"], prepare: damaged, every: 23 },
    Case {
        name: "export",
        args: &["export", "/run", "--step", "5", "--out", "/x.safetensors"],
        prepare: a_run,
        every: 29,
    },
    Case {
        name: "report",
        args: &["report", "/run/metrics.parquet", "--out", "/r.html"],
        prepare: analyzed,
        every: 37,
    },
];

pub type Tree = BTreeMap<PathBuf, Vec<u8>>;

/// What has a name, below a folder: what is under `tmp/` or hidden has none yet.
pub fn named(folder: &Path) -> Tree {
    let is_named = |path: &PathBuf| {
        let below = path.strip_prefix(folder).unwrap();
        !below
            .components()
            .any(|c| c.as_os_str() == "tmp" || c.as_os_str().to_string_lossy().starts_with('.'))
    };
    files(folder)
        .into_iter()
        .filter(|(path, _)| is_named(path))
        .map(
            |(path, data)| {
                if path.ends_with("reasons.txt") { (path, last_line(data)) } else { (path, timeless(data)) }
            },
        )
        .collect()
}

/// The last line of a list: one that was begun before it may be there twice, and in part.
fn last_line(data: Vec<u8>) -> Vec<u8> {
    let mut lines = data.split_inclusive(|&b| b == b'\n');
    lines.next_back().unwrap_or_default().iter().copied().skip_while(|&b| b == 0).collect()
}

/// A file without what depends on when it was written: the times in manifests and journals, and the hashes of these.
fn timeless(mut data: Vec<u8>) -> Vec<u8> {
    for (key, is_of_it) in [
        (&b"time_unix_s\":"[..], u8::is_ascii_digit as fn(&u8) -> bool),
        (b"created_unix_s\": ", u8::is_ascii_digit),
        (b"xxh3\":\"", u8::is_ascii_hexdigit),
        (b"after\":\"", u8::is_ascii_hexdigit),
    ] {
        let places: Vec<usize> = data
            .windows(key.len())
            .enumerate()
            .filter(|(_, w)| *w == key)
            .map(|(at, _)| at + key.len())
            .collect();
        for at in places {
            data[at..].iter_mut().take_while(|b| is_of_it(b)).for_each(|b| *b = b'0');
        }
    }
    data
}

pub fn arguments(case: &Case, folder: &Path) -> Vec<String> {
    let path = |a: &&str| match a.strip_prefix('/') {
        Some(name) => folder.join(name).to_str().unwrap().to_owned(),
        None => (*a).to_owned(),
    };
    case.args.iter().map(path).collect()
}

/// Whether a file may be so while a command is under way: as before, as after, or a journal or a list of reasons of which
/// a line was begun.
pub fn may_be(path: &Path, data: &[u8], before: &Tree, after: &Tree) -> bool {
    let grows = path.extension().is_some_and(|e| e == "jsonl") || path.ends_with("reasons.txt");
    [before, after]
        .into_iter()
        .filter_map(|tree| tree.get(path))
        .any(|whole| whole == data || grows && (whole.starts_with(data) || data.starts_with(whole)))
}

/// The files of which one has another content, or none.
fn differences<'a>(one: &'a Tree, other: &'a Tree) -> Vec<&'a PathBuf> {
    one.keys().chain(other.keys()).filter(|f| one.get(*f) != other.get(*f)).collect()
}

fn all_operations(case: &Case) {
    if !can_trace() {
        return;
    }
    let (start, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    (case.prepare)(start.path());
    // Always the same path, since tables name it.
    let path = folder.path().join("folder");
    let fresh = || {
        let _ = std::fs::remove_dir_all(&path);
        copy_dir(start.path(), &path);
    };
    let args = arguments(case, &path);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    fresh();
    let before = named(&path);
    let ran = run(&args);
    assert_eq!(ran.code, 0, "{}: {}{}", case.name, ran.out, ran.err);
    let after = named(&path);
    let (mut tried, mut left) = (Vec::new(), 0);
    for (i, fault) in FAULTS.into_iter().enumerate() {
        let every = some_of(case.every);
        let mut at = 1 + i % every;
        loop {
            fresh();
            let mut command = lpa();
            command.args(&args);
            let traced = trace(command, &path, fault, at).unwrap();
            let Some(hit) = &traced.hit else {
                tried.push((fault, traced.operations));
                break;
            };
            let here = at;
            at += every;
            let place = || place(case.name, fault, here, hit);
            let dies = matches!(fault, Fault::Killed | Fault::PowerLost(_));
            assert!(!traced.err.contains("panicked"), "{}: {}", place(), traced.err);
            match traced.code {
                None => assert!(dies, "{}", place()),
                Some(0) => {}
                // Of a fault of the machine; where it is not told from one of the files, of these.
                Some(1 | 3) => assert!(
                    !matches!(fault, Fault::Interrupted | Fault::Short),
                    "{}: {}",
                    place(),
                    traced.err
                ),
                Some(other) => panic!("{}: code {other}, {}", place(), traced.err),
            }
            if traced.code.is_some_and(|code| code > 0) {
                let lines = traced.err.trim_end().lines().filter(|l| l.starts_with("lpa:")).count();
                assert_eq!(lines, 1, "{}: {}", place(), traced.err);
            }
            let now = named(&path);
            if traced.code == Some(0) {
                let differ = differences(&now, &after);
                // A page may say what could not be read for it; a reference that cannot be kept is made again.
                let told = |d: &Vec<u8>| d.windows(8).any(|w| w == b"os error" || w == b"damaged.");
                let says_so = |f: &Path| now.get(f).is_some_and(told);
                let is_spare = |f: &Path| f.parent().is_some_and(|p| p.ends_with("lpa-references"));
                // Whether a name is that of a file says no more than how it is shown.
                let is_shown = |f: &Path| hit.call == "statx" && f.extension().is_some_and(|e| e == "html");
                let may_differ =
                    |f: &&PathBuf| says_so(f) || is_shown(f) || is_spare(f) && !now.contains_key(*f);
                assert!(differ.iter().all(may_differ), "{}: done, but not {differ:?}", place());
                continue;
            }
            for (file, data) in &now {
                assert!(may_be(file, data, &before, &after), "{}: half of {}", place(), file.display());
            }
            // Something failed after all was done, so there is nothing to do again.
            if differences(&now, &after).is_empty() {
                continue;
            }
            let again = run(&args);
            assert_eq!(again.code, 0, "{}: again: {}{}", place(), again.out, again.err);
            let now = named(&path);
            let differ = differences(&now, &after);
            // A file that was moved has both names where only the new one was flushed, and is moved once more.
            let is_spare = |f: &&PathBuf| f.parent().is_some_and(|p| p.ends_with("bad"));
            let lost = matches!(fault, Fault::PowerLost(_));
            assert!(differ.iter().all(|f| lost && is_spare(f)), "{}: {differ:?}", place());
            left += files(&path).len() - now.len();
        }
    }
    eprintln!("{}: operations by fault {tried:?}; {left} hidden files left", case.name);
}

macro_rules! cases {
    ($($name:ident $number:literal),*) => { $(#[test] fn $name() { all_operations(&CASES[$number]); })* };
}
cases!(
    analyze 0, analyze_with_averages 1, analyze_a_crashed_run 2, pack 3, pack_out 4, sketch 5, join 6, gc 7, recover 8,
    recover_what_is_damaged 9, export 10, report 11
);
