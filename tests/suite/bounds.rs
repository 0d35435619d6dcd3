//! Files of a few bytes take no memory to speak of, whatever they say.

use std::path::Path;
use std::process::Command;

use lpa::internals::xxh3_64;
use lpa::{Step, Writer, WriterOptions};

use crate::support::{Ran, borrow, manifest, vector, write_step};

/// Runs the command with 256 MiB to address.
fn within(args: &[&str]) -> Ran {
    let limit = format!("--as={}", 256 << 20);
    let lpa = env!("CARGO_BIN_EXE_lpa");
    Command::new("prlimit").args([&limit, "--", lpa]).args(args).output().unwrap().into()
}

/// Writes a run of no shard, of which somebody says that it is complete.
fn told(path: &Path, tensors: &str, rest: &str) {
    std::fs::create_dir_all(path.join("steps")).unwrap();
    let manifest = format!(
        r#"{{"format": "lpa-run", "version": 1, "run_id": "{}", "tensors": {tensors}, "streams": [{{"name": "grad"}}]{rest}}}"#,
        "0".repeat(32)
    );
    std::fs::write(path.join("manifest.json"), &manifest).unwrap();
    let hash = xxh3_64(manifest.as_bytes());
    let begin = r#"{"event":"attempt","attempt":1,"from_step":0,"time_unix_s":1,"manifest_xxh3":""#;
    let events =
        [format!("{begin}{hash:016x}\"}}"), r#"{"event":"closed","attempt":1,"final_step":1}"#.to_owned()];
    let line = |event: &String| {
        let hash = xxh3_64(event.as_bytes());
        format!("{},\"xxh3\":\"{hash:016x}\"}}\n", event.strip_suffix('}').unwrap())
    };
    let journal: String = events.iter().map(line).collect();
    std::fs::write(path.join("journal.r0.jsonl"), journal).unwrap();
}

#[test]
fn a_manifest_of_a_trillion_parameters_takes_no_memory_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    told(&path, r#"[{"name": "w", "shape": [1099511627776], "dtype": "F32"}]"#, "");
    let run = path.to_str().unwrap();
    let new = folder.path().join("new");
    let commands: [(&[&str], i32, &str); 6] = [
        (&["inspect", run], 0, "1,099,511,627,776 in 1 tensor"),
        (&["verify", run], 1, "the shard of rank 0 with steps 0 to 1 is missing"),
        (&["analyze", run], 1, "the shard of rank 0 with steps 0 to 1 is missing"),
        (&["analyze", run, "--skip-damaged"], 1, "the shard of rank 0 with steps 1 to 1 is missing"),
        (&["recover", run], 0, "steps 0 to 1"),
        (
            &["pack", run, "--out", new.to_str().unwrap()],
            1,
            "the shard of rank 0 with steps 0 to 1 is missing",
        ),
    ];
    for (args, code, said) in commands {
        let ran = within(args);
        assert_eq!(ran.code, code, "{args:?}: {}{}", ran.out, ran.err);
        assert!(ran.out.contains(said) || ran.err.contains(said), "{args:?}: {}{}", ran.out, ran.err);
    }
}

#[test]
fn metadata_that_every_table_would_repeat_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let (tensors, zeros) = (r#"[{"name": "w", "shape": [3], "dtype": "F32"}]"#, "0,".repeat(4 << 20));
    let said = "and 4194304 are the most that a run takes";
    for rest in [
        format!(r#", "metadata": {{"a": [{zeros}0]}}"#),
        format!(r#", "optimizer": {{"name": "sgd", "param_groups": [{{"a": [{zeros}0]}}]}}"#),
    ] {
        told(&path, tensors, &rest);
        for command in ["inspect", "analyze", "recover"] {
            let ran = within(&[command, path.to_str().unwrap()]);
            assert_eq!((ran.code, ran.err.trim_end().lines().count()), (1, 1), "{}", ran.err);
            assert!(ran.err.contains(said), "{command}: {}", ran.err);
        }
    }
    let mut large = manifest(&[3]);
    large.metadata.insert("a".to_owned(), "x".repeat(5 << 20).into());
    let refused = Writer::create(&folder.path().join("new"), large, WriterOptions::default());
    assert!(refused.unwrap_err().to_string().contains(said));
}

#[test]
fn steps_at_which_nothing_was_recorded_take_nothing() {
    const SIZES: [u64; 1] = [3];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let options = WriterOptions { shard_steps: 1_000_000, ..WriterOptions::default() };
    let mut writer = Writer::create(&path, manifest(&SIZES), options).unwrap();
    (0..4).for_each(|_| write_step(&mut writer, &SIZES));
    for _ in 4..10_000_000 {
        writer.step(&Step::default()).unwrap();
    }
    write_step(&mut writer, &SIZES);
    writer.finish(&borrow(&vector(&SIZES, 9, 9))).unwrap();
    let ran = within(&["analyze", path.to_str().unwrap(), "--format", "csv"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let steps: Vec<&str> = ran.out.lines().skip(1).map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(steps, ["0", "1", "2", "3", "10000000"]);
}

#[test]
fn one_long_name_is_not_paid_for_in_every_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let short = (0..20_000).map(|i| format!(r#"{{"name": "t{i}", "shape": [1], "dtype": "F32"}}"#));
    let long = format!(r#"{{"name": "{}", "shape": [1], "dtype": "F32"}}"#, "n".repeat(60_000));
    told(&path, &format!("[{}]", short.chain([long]).collect::<Vec<_>>().join(",")), "");
    let ran = within(&["inspect", path.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.len() < 5_000_000, "{} bytes", ran.out.len());
}
