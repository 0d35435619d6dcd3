//! What is read is what was written, by this run; and what stands in the way of reading is said.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lpa::{Writer, WriterOptions};

use crate::bad_input::unprivileged;
use crate::support::{Copy, Ran, borrow, copy_dir, files, flip, lpa, manifest, run, vector, write_step};

const SIZES: [u64; 2] = [300, 5];

fn options() -> WriterOptions {
    WriterOptions { shard_steps: 4, ..WriterOptions::default() }
}

/// Goes on with a run that stopped at step 8, to its end.
fn go_on(path: &Path, salt: u64) {
    let mut writer = Writer::resume(path, 0, 8, options()).unwrap();
    for t in 8..12 {
        let (x, g) = (vector(&SIZES, t, salt), vector(&SIZES, t, salt + 1));
        let (x, g) = (borrow(&x), borrow(&g));
        let scalars = [("lr/0", 0.1)];
        let step = lpa::Step {
            iterate: Some(&x),
            streams: &[("grad", &g)],
            scalars: &scalars,
            ..lpa::Step::default()
        };
        writer.step(&step).unwrap();
    }
    writer.finish(&borrow(&vector(&SIZES, 12, salt))).unwrap();
}

/// Two copies of a run that stopped, each continued: the same id, and attempts of the same numbers.
fn siblings(folder: &Path) -> [PathBuf; 2] {
    let [a, b] = ["a", "b"].map(|name| folder.join(name));
    let mut writer = Writer::create(&a, manifest(&SIZES), options()).unwrap();
    (0..8).for_each(|_| write_step(&mut writer, &SIZES));
    writer.stop().unwrap();
    drop(writer);
    copy_dir(&a, &b);
    go_on(&a, 5);
    go_on(&b, 7);
    [a, b]
}

fn one_line(ran: &Ran, expected: &str) {
    assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
    assert_eq!(ran.err.trim_end().lines().count(), 1, "{}", ran.err);
    assert!(ran.err.contains(expected), "no '{expected}' in {}", ran.err);
}

#[test]
fn files_of_a_copy_that_was_continued_elsewhere_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = siblings(folder.path());
    let at = |path: &Path| path.to_str().unwrap().to_owned();
    for path in [&a, &b] {
        assert_eq!(run(&["verify", &at(path)]).code, 0);
    }
    let shard = "steps/000000/s0000000008-0000000011.a2.r0.safetensors";
    for file in [shard, "ref/final.safetensors"] {
        let whole = std::fs::read(a.join(file)).unwrap();
        std::fs::copy(b.join(file), a.join(file)).unwrap();
        let verified = run(&["verify", &at(&a)]);
        assert_eq!(verified.code, 1, "{file}");
        assert!(verified.out.contains("its attempt_id is"), "{}", verified.out);
        one_line(&run(&["analyze", &at(&a), "--format", "csv"]), "its attempt_id is");
        std::fs::write(a.join(file), whole).unwrap();
    }
    assert_eq!(run(&["verify", &at(&a)]).code, 0);
    // Of the final iterate, `recover` makes the right one again.
    let right = std::fs::read(a.join("ref/final.safetensors")).unwrap();
    std::fs::copy(b.join("ref/final.safetensors"), a.join("ref/final.safetensors")).unwrap();
    assert_eq!(run(&["recover", &at(&a)]).code, 0);
    assert!(std::fs::read(a.join("ref/final.safetensors")).unwrap() == right);
}

#[test]
fn a_final_iterate_that_is_not_what_the_shards_hold_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    crate::support::record(&path, &SIZES, 6, options());
    let file = path.join("ref/final.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    // Another value, and the hash that goes with it: by the definition of xxh3 over the data, from outside of lpa.
    let data = bytes.len() - 4 * SIZES.iter().sum::<u64>() as usize;
    bytes[data] ^= 1;
    let old = lpa::internals::xxh3_64(&std::fs::read(&file).unwrap()[data..]);
    let new = lpa::internals::xxh3_64(&bytes[data..]);
    let text = |hash: u64| format!("{hash:016x}").into_bytes();
    let at = bytes.windows(16).position(|w| w == text(old)).expect("the hash is in the header");
    bytes[at..at + 16].copy_from_slice(&text(new));
    std::fs::write(&file, &bytes).unwrap();
    let verified = run(&["verify", path.to_str().unwrap()]);
    assert_eq!(verified.code, 1);
    assert!(verified.out.contains("its values are not those of x_6 in the shards"), "{}", verified.out);
}

#[test]
fn verify_changes_nothing() {
    let copy = Copy::of("digits_mlp");
    std::fs::remove_file(copy.path.join("ref/final.safetensors")).unwrap();
    let before = files(&copy.path);
    let verified = run(&["verify", copy.arg()]);
    assert_eq!((verified.code, verified.err.as_str()), (0, ""));
    assert!(files(&copy.path) == before);
}

#[test]
fn a_table_that_was_changed_is_made_again() {
    let copy = Copy::of("digits_mlp");
    let first = run(&["analyze", copy.arg()]);
    assert_eq!(first.code, 0, "{}", first.err);
    let table = copy.path.join("metrics.parquet");
    let whole = std::fs::read(&table).unwrap();
    assert!(run(&["analyze", copy.arg()]).out.contains("is up to date"));
    // Data pages, the footer with the texts, and the last bytes, by which a Parquet file is known.
    let footer =
        whole.len() - 8 - u32::from_le_bytes(whole[whole.len() - 8..][..4].try_into().unwrap()) as usize;
    let some =
        (0..footer).step_by(footer / 30).chain((footer..whole.len()).step_by((whole.len() - footer) / 60));
    for byte in some.chain(whole.len() - 8..whole.len()) {
        flip(&table, byte, (byte % 8) as u8);
        let verified = run(&["verify", copy.arg()]);
        let is_seen = verified.code == 1 && verified.out.contains("it is not as lpa wrote it (checksum)");
        let again = run(&["analyze", copy.arg()]);
        assert_eq!(again.code, 0, "byte {byte}: {}", again.err);
        assert!(!again.out.contains("is up to date"), "byte {byte}");
        // What is no Parquet file any more has no hash.
        assert!(is_seen || byte >= whole.len() - 8 || byte >= footer, "byte {byte}: {}", verified.out);
        assert!(std::fs::read(&table).unwrap() == whole, "byte {byte}");
    }
    // Other commands do not draw or list what was changed.
    flip(&table, 5000, 1);
    for command in ["events", "windows"] {
        one_line(&run(&[command, table.to_str().unwrap()]), "it is not as lpa wrote it (checksum)");
    }
}

#[test]
fn kept_references_are_told_apart() {
    let copy = Copy::of("digits_mlp");
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("t.parquet");
    let asked =
        ["analyze", copy.arg(), "--ref", "step:30", "--ref", "step:60", "--out", table.to_str().unwrap()];
    let right = run(&asked);
    assert_eq!(right.code, 0, "{}", right.err);
    let whole = std::fs::read(&table).unwrap();
    std::fs::remove_file(&table).unwrap();
    let kept = folder.path().join("lpa-references");
    let mut names: Vec<PathBuf> = std::fs::read_dir(&kept).unwrap().map(|f| f.unwrap().path()).collect();
    names.sort();
    let [one, other] = names.as_slice() else { panic!("{names:?}") };
    let between = kept.join("between");
    std::fs::rename(one, &between).unwrap();
    std::fs::rename(other, one).unwrap();
    std::fs::rename(&between, other).unwrap();
    let again = run(&asked);
    assert_eq!(again.code, 0, "{}", again.err);
    assert!(std::fs::read(&table).unwrap() == whole);
}

/// What a command gave that should not take long.
fn soon(args: &[&str]) -> Ran {
    let mut child = lpa().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("{args:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap().into()
}

fn pipe(path: &Path) {
    let _ = std::fs::remove_file(path);
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();
}

#[test]
fn pipes_and_devices_in_the_place_of_files_are_said() {
    let shard = "steps/000000/s0000000044-0000000065.a1.r0.safetensors";
    for name in ["manifest.json", "journal.r0.jsonl", shard, "ref/final.safetensors"] {
        let copy = Copy::of("digits_mlp");
        let place = copy.path.join(name);
        pipe(&place);
        for command in ["verify", "analyze", "inspect", "recover"] {
            let ran = soon(&[command, copy.arg()]);
            let said = ran.out + &ran.err;
            // What needs the file says so; `recover` puts a shard aside, and makes the final iterate again.
            let does_without = ran.code == 0 && (command == "inspect" || command == "recover");
            assert!(
                does_without || said.contains("it is a pipe, where a file is expected"),
                "{command} {name}: {said}"
            );
        }
        std::fs::remove_file(&place).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &place).unwrap();
        let ran = soon(&["verify", copy.arg()]);
        assert_eq!(ran.code, 1);
        assert!((ran.out + &ran.err).contains("it is a device"), "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    let copy = Copy::of("digits_mlp");
    let at = folder.path().join("model.safetensors");
    pipe(&at);
    let at = at.to_str().unwrap();
    one_line(&soon(&["analyze", copy.arg(), "--ref", at]), "it is a pipe");
    one_line(&soon(&["estimate", at]), "it is a pipe");
    one_line(
        &soon(&["plot", "cos", at, "--out", folder.path().join("f.svg").to_str().unwrap()]),
        "model.safetensors",
    );
    let table = copy.path.join("metrics.parquet");
    pipe(&table);
    one_line(&soon(&["analyze", copy.arg()]), "metrics.parquet");
}

/// A run that takes some time to read.
fn long(folder: &Path) -> PathBuf {
    let path = folder.join("long");
    let ran = run(&["simulate", "random-walk", path.to_str().unwrap(), "--dim", "200000", "--steps", "120"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    path
}

#[test]
fn an_interrupted_command_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = long(folder.path());
    let out = folder.path().join("packed");
    let before = files(folder.path());
    let commands: [&[&str]; 3] = [
        &["analyze", path.to_str().unwrap(), "--threads", "1", "--ref", "mean:0..", "--ref", "step:3"],
        &["pack", path.to_str().unwrap(), "--profile", "fast", "--out", out.to_str().unwrap()],
        &["verify", path.to_str().unwrap()],
    ];
    let mut ended = 0;
    for args in commands {
        for wait in [20, 60, 120] {
            let mut child = lpa().args(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(wait));
            let id = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
            let status = child.wait().unwrap();
            if status.signal() == Some(15) {
                ended += 1;
                let left: Vec<_> = files(folder.path()).into_keys().collect();
                let kept = |p: &PathBuf| p.components().any(|c| c.as_os_str() == "lpa-references");
                // A reference that is whole serves the next time.
                let left: Vec<_> = left.iter().filter(|p| !before.contains_key(*p) && !kept(p)).collect();
                assert!(left.is_empty(), "{args:?}: {left:?}");
                assert!(!out.exists());
            } else {
                assert!(status.success(), "{args:?}: {status:?}");
                let _ = std::fs::remove_dir_all(&out);
                let _ = std::fs::remove_file(path.join("metrics.mean-0-.+step-3.parquet"));
                for entry in std::fs::read_dir(&path).unwrap() {
                    let file = entry.unwrap().path();
                    if file.extension().is_some_and(|e| e == "parquet") {
                        std::fs::remove_file(file).unwrap();
                    }
                }
            }
        }
    }
    assert!(ended > 0, "every command was done before it was interrupted");
}

#[test]
fn a_killed_analysis_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = long(folder.path());
    let before = files(&path);
    for wait in [5, 15, 30, 60] {
        let mut child =
            lpa().args(["analyze", path.to_str().unwrap()]).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
        let after = files(&path);
        let left: Vec<_> = after.keys().filter(|p| !before.contains_key(*p)).collect();
        let whole = |p: &&&PathBuf| p.file_name().is_some_and(|n| n == "metrics.parquet");
        assert!(left.iter().all(|p| whole(&p)), "{left:?}");
    }
}

/// What a pipe holds that nobody reads.
const PIPE: usize = 65536;

#[test]
fn a_shard_that_becomes_shorter_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let whole = long(folder.path());
    let path = folder.path().join("copy");
    let names: Vec<PathBuf> =
        files(&whole.join("steps")).into_keys().map(|p| path.join(p.strip_prefix(&whole).unwrap())).collect();
    // Until one is caught while it reads.
    let is_said = (0..12u64).any(|attempt| {
        let _ = std::fs::remove_dir_all(&path);
        copy_dir(&whole, &path);
        let mut args = vec!["analyze", path.to_str().unwrap(), "--threads", "1", "--format", "csv"];
        let references: Vec<String> = (1..40).map(|step| format!("step:{step}")).collect();
        references.iter().for_each(|r| args.extend(["--ref", r]));
        let child = lpa().args(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + 30 * attempt));
        for shard in &names {
            std::fs::OpenOptions::new().write(true).open(shard).unwrap().set_len(5000).unwrap();
        }
        let ran: Ran = child.wait_with_output().unwrap().into();
        assert!([0, 1, 3].contains(&ran.code), "{} {}", ran.code, ran.err);
        if ran.code > 0 {
            assert_eq!(ran.err.trim_end().lines().count(), 1, "{}", ran.err);
            assert!(ran.err.contains("safetensors"), "{}", ran.err);
        }
        ran.err.contains("became shorter while it was read")
    });
    assert!(is_said, "no analysis was caught while it read");
}

#[test]
fn so_it_is_where_several_threads_meet_it() {
    let folder = tempfile::tempdir().unwrap();
    let whole = long(folder.path());
    let path = folder.path().join("copy");
    let references: Vec<String> = (1..40).map(|step| format!("step:{step}")).collect();
    let is_caught = |attempt: &u64| {
        let _ = std::fs::remove_dir_all(&path);
        copy_dir(&whole, &path);
        // Who says it first waits for a reader of what is said, and the others come meanwhile.
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&[b'.'; PIPE]).unwrap();
        let mut args =
            vec!["analyze", path.to_str().unwrap(), "--threads", "2", "--format", "csv", "--quiet"];
        references.iter().for_each(|r| args.extend(["--ref", r]));
        let mut child = lpa().args(args).stdout(Stdio::null()).stderr(writer).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + 30 * attempt));
        for shard in files(&path.join("steps")).keys() {
            std::fs::OpenOptions::new().write(true).open(shard).unwrap().set_len(5000).unwrap();
        }
        std::thread::sleep(Duration::from_millis(300));
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        let said = &said[PIPE..];
        let status = child.wait().unwrap();
        assert!(matches!(status.code(), Some(0 | 1 | 3)), "{status}: {said}");
        assert_eq!(said.lines().count(), usize::from(!status.success()), "{said}");
        said.contains("became shorter while it was read")
    };
    // The first ones are caught where one thread looks at what there is.
    let caught = (0..10).filter(is_caught).count();
    assert!(caught > 1, "no analysis was caught while it read");
}

#[test]
fn where_no_thread_can_be_started_a_command_goes_on_or_says_so() {
    let Some(lpa) = unprivileged() else { return };
    // With rights a limit of processes does not count, so it is set for who has none.
    let words: Vec<_> = std::iter::once(lpa.get_program()).chain(lpa.get_args()).collect();
    let (program, before) = words.split_last().unwrap();
    let limit = ["prlimit", "--nproc=1:1"].map(OsStr::new);
    let line = [before, &limit, &[*program]].concat();
    let copy = Copy::of("digits_mlp");
    let folder = copy.path.parent().unwrap();
    assert!(Command::new("chmod").arg("-R").arg("a+rwX").arg(folder).status().unwrap().success());
    let out = folder.join("packed");
    let commands: [(&[&str], bool); 5] = [
        (&["verify", copy.arg()], true),
        (&["pack", copy.arg(), "--profile", "fast", "--out", out.to_str().unwrap()], false),
        (&["analyze", copy.arg(), "--format", "csv"], false),
        (&["analyze", copy.arg(), "--format", "csv", "--ref", "step:30", "--ref", "mean:0.."], false),
        (&["recover", copy.arg()], true),
    ];
    for (args, does) in commands {
        let ran = Command::new(line[0]).args(&line[1..]).args(args).current_dir(folder).output();
        let ran: Ran = ran.unwrap().into();
        assert!(ran.code == 0 || ran.code == 3 && !does, "{args:?}: {} {}", ran.code, ran.err);
        if ran.code == 3 {
            assert_eq!(ran.err.trim_end().lines().count(), 1, "{args:?}: {}", ran.err);
            assert!(ran.err.contains("thread"), "{}", ran.err);
        }
    }
}

#[test]
fn a_table_that_is_replaced_is_the_one_or_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let copy = Copy::of("digits_mlp");
    let tables = ["..220", "..12"].map(|steps| {
        let out = dir.path().join(format!("{steps}.parquet"));
        let ran = run(&["analyze", copy.arg(), "--steps", steps, "--out", out.to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        out
    });
    let (live, next) = (dir.path().join("live.parquet"), dir.path().join("next.parquet"));
    let put = |table: &Path| {
        std::fs::copy(table, &next).unwrap();
        std::fs::rename(&next, &live).unwrap();
    };
    let (path, page) = (live.to_str().unwrap(), dir.path().join("page.html"));
    let commands: [&[&str]; 4] = [
        &["check", path, "--format", "json"],
        &["events", path],
        &["windows", path],
        &["report", path, "--out", page.to_str().unwrap()],
    ];
    for command in commands {
        let said = || {
            let ran = run(command);
            (ran.code, ran.out, ran.err, std::fs::read(&page).ok())
        };
        let expected = [&tables[0], &tables[1]].map(|table| {
            put(table);
            said()
        });
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    tables.iter().for_each(|table| put(table));
                }
            });
            let found: Vec<_> = (0..15).map(|_| said()).collect();
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            for one in found {
                let what = format!("{command:?}: {} {} {}", one.0, one.1, one.2);
                assert!(expected.contains(&one), "{what}");
            }
        });
    }
}
