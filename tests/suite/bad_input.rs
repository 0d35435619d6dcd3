//! Bad input gives one clear line that says what to do, exit code 1, and leaves nothing behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use lpa::{Step, Writer, WriterOptions};

use crate::support::{Copy, Ran, Row, alone, borrow, flip, lpa, manifest, parse, record, rows, run, vector};

/// Every file below a directory with its size.
fn files(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let mut all = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return all };
    for entry in entries.flatten() {
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            all.extend(files(&entry.path()));
        } else {
            all.insert(entry.path(), meta.len());
        }
    }
    all
}

/// Analyzes a damaged copy of the fixture and checks the line, the code and the directory.
fn refused(name: &str, damage: impl FnOnce(&Copy), expected: &[&str]) {
    let copy = Copy::of("digits_mlp");
    damage(&copy);
    let before = files(&copy.path);
    let ran = run(&["analyze", copy.arg()]);
    assert_eq!(ran.code, 1, "{name}: {}{}", ran.out, ran.err);
    assert_eq!(ran.out, "", "{name}");
    assert_eq!(ran.err.trim_end().lines().count(), 1, "{name}: one line, not {}", ran.err);
    for part in expected {
        assert!(ran.err.contains(part), "{name}: no '{part}' in: {}", ran.err);
    }
    assert_eq!(files(&copy.path), before, "{name}: something was left behind or lost");
}

#[test]
fn a_missing_shard() {
    refused(
        "missing",
        |c| std::fs::remove_file(&c.shards()[3]).unwrap(),
        &["the shard of rank 0 with steps 66 to 87 is missing", "--skip-damaged"],
    );
    refused(
        "the last one missing",
        |c| std::fs::remove_file(&c.shards()[10]).unwrap(),
        &["the shard of rank 0 with steps 220 to 220 is missing"],
    );
}

#[test]
fn a_truncated_shard() {
    for keep in [0, 7, 100, 4096, 100_000] {
        let cut = |c: &Copy| {
            let file = std::fs::OpenOptions::new().write(true).open(&c.shards()[2]).unwrap();
            file.set_len(keep).unwrap();
        };
        refused("truncated", cut, &["s0000000044-0000000065.a1.r0.safetensors is damaged", "--skip-damaged"]);
    }
}

#[test]
fn a_flipped_bit() {
    // In the payload of step 44's iterate, in the index at the end, in the header's JSON, in the
    // header's padding, and in the length of the header.
    refused(
        "payload",
        |c| flip(&c.shards()[2], 4096 + 700, 3),
        &["is damaged, step 44, grad of fc1.weight, byte 4288", "(checksum)"],
    );
    let tail = |c: &Copy| {
        let path = &c.shards()[2];
        flip(path, std::fs::metadata(path).unwrap().len() as usize - 9, 0);
    };
    refused("index", tail, &["the index is not what was written (checksum)"]);
    refused("header", |c| flip(&c.shards()[2], 30, 1), &["is damaged"]);
    refused("header padding", |c| flip(&c.shards()[2], 4000, 1), &["is damaged"]);
    refused("header length", |c| flip(&c.shards()[2], 5, 6), &["is damaged", "header"]);
}

#[test]
fn any_flipped_bit_of_a_shard_is_found_by_verify() {
    let copy = Copy::of("digits_mlp");
    let path = &copy.shards()[10];
    let size = std::fs::metadata(path).unwrap().len() as usize;
    let whole = std::fs::read(path).unwrap();
    // Every byte of the parts that differ in kind, and a stride through the payloads.
    let bytes = (0..8).chain((8..4096).step_by(37)).chain((4096..size).step_by(11)).chain(size - 40..size);
    for byte in bytes {
        flip(path, byte, (byte % 8) as u8);
        let ran = run(&["verify", copy.arg()]);
        assert_eq!(ran.code, 1, "byte {byte}: {}", ran.out);
        std::fs::write(path, &whole).unwrap();
    }
}

#[test]
fn another_version() {
    refused(
        "newer",
        |c| c.edit("manifest.json", |t| t.replace("\"version\": 1", "\"version\": 2")),
        &["version 2 of the run format; this lpa reads version 1. Install a newer lpa."],
    );
    refused(
        "a feature",
        |c| c.edit("manifest.json", |t| t.replace("\"requires\": []", "\"requires\": [\"x9\"]")),
        &["requires the feature 'x9'"],
    );
    refused("another format", |c| c.edit("manifest.json", |t| t.replace("lpa-run", "zarr")), &["'zarr'"]);
}

#[test]
fn a_tensor_table_that_disagrees() {
    let other = |t: String| t.replacen("20,\n        64", "64,\n        20", 1);
    refused(
        "shape",
        |c| c.edit("manifest.json", other),
        &["tensor 'fc1.weight' is F32 [20, 64] here, but F32 [64, 20] in the manifest"],
    );
    refused(
        "name",
        |c| c.edit("manifest.json", |t| t.replace("fc2.bias", "fc3.bias")),
        &["tensor 'fc2.bias'"],
    );
    refused(
        "type",
        |c| c.edit("manifest.json", |t| t.replacen("F32", "F16", 1)),
        &["'fc1.weight' is F32 [20, 64] here, but F16 [20, 64] in the manifest"],
    );
    refused(
        "a note",
        |c| c.edit("manifest.json", |t| t.replace("\"batch\": 64", "\"batch\": 65")),
        &["manifest.json is damaged: it is not what the run was created with (checksum)"],
    );
    refused(
        "no JSON",
        |c| c.edit("manifest.json", |t| t[..t.len() / 2].to_owned()),
        &["manifest.json: not a manifest"],
    );
    refused("huge", |c| c.edit("manifest.json", |t| t.replacen("20,", "99999999999999,", 1)), &["2^40"]);
}

#[test]
fn a_damaged_journal() {
    let change = |t: String| t.replacen("\"from_step\":0", "\"from_step\":9", 1);
    refused("journal", |c| c.edit("journal.r0.jsonl", change), &["journal.r0.jsonl is damaged: line 1"]);
    let lost = |t: String| t.lines().skip(1).map(|l| format!("{l}\n")).collect();
    refused("lost line", |c| c.edit("journal.r0.jsonl", lost), &["does not know attempt 1"]);
}

#[test]
fn no_final_iterate() {
    refused(
        "flipped",
        |c| flip(&c.path.join("ref/final.safetensors"), 5000, 0),
        &["its values are not what was written (checksum). Restore the file from a copy.\n"],
    );

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut writer = Writer::create(&path, manifest(&[4]), WriterOptions::default()).unwrap();
    let x = vector(&[4], 0, 1);
    let x = borrow(&x);
    writer
        .step(&Step { iterate: Some(&x), streams: &[("grad", &x)], scalars: &[], ..Step::default() })
        .unwrap();
    writer.flush().unwrap();
    let ran = run(&["analyze", path.to_str().unwrap()]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("it is still being written, step 0 so far; wait"), "{}", ran.err);
    drop(writer);
    let ran = run(&["analyze", path.to_str().unwrap()]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("the recording ended without one, with step 0; resume the training"),
        "{}",
        ran.err
    );
}

#[test]
fn a_lost_final_iterate_is_made_again_from_the_shards() {
    let copy = Copy::of("digits_mlp");
    let path = copy.path.join("ref/final.safetensors");
    let before = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(run(&["analyze", copy.arg(), "--quiet"]).code, 0);
    assert!(std::fs::read(&path).unwrap() == before);
}

#[test]
fn nothing_to_analyze() {
    let dir = tempfile::tempdir().unwrap();
    let check = |path: &Path, expected: &str| {
        let ran = run(&["analyze", path.to_str().unwrap()]);
        assert_eq!(ran.code, 1, "{expected}: {}", ran.err);
        assert!(ran.err.contains(expected), "no '{expected}' in: {}", ran.err);
        assert_eq!(ran.err.trim_end().lines().count(), 1);
    };
    check(&dir.path().join("nowhere"), "there is nothing at this path");
    check(dir.path(), "it has no manifest.json");
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    check(&file, "it is a file; give the directory");
    check(&Copy::of("digits_mlp").path.join("steps"), "it is a part of one; give the directory above");

    // Closed at once: there is x_0 = x_T and no gradient.
    let path = dir.path().join("empty");
    record(&path, &[4], 0, WriterOptions::default());
    let ran = run(&["analyze", path.to_str().unwrap()]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("none of the steps has both this stream and an iterate"), "{}", ran.err);
    let ran = run(&["analyze", Copy::of("digits_mlp").arg(), "--steps", "500.."]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("there are 0 to 219"), "{}", ran.err);
}

#[test]
fn non_finite_gradients_and_the_reference_itself_are_flagged_not_fatal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut writer = Writer::create(&path, manifest(&[3]), WriterOptions::default()).unwrap();
    let float = |v: [f32; 3]| -> Vec<Vec<u8>> { vec![v.iter().flat_map(|f| f.to_le_bytes()).collect()] };
    let (x, end) = (float([1.0, 2.0, 3.0]), float([4.0, 5.0, 6.0]));
    for g in [[f32::NAN, 0.0, 0.0], [f32::INFINITY, 1.0, 1.0]] {
        let g = float(g);
        let step = Step {
            iterate: Some(&borrow(&x)),
            streams: &[("grad", &borrow(&g))],
            scalars: &[],
            ..Step::default()
        };
        writer.step(&step).unwrap();
    }
    let g = float([1.0, 0.0, 0.0]);
    let step = Step {
        iterate: Some(&borrow(&end)),
        streams: &[("grad", &borrow(&g))],
        scalars: &[],
        ..Step::default()
    };
    writer.step(&step).unwrap();
    writer.finish(&borrow(&end)).unwrap();
    let ran = run(&["analyze", path.to_str().unwrap(), "--format", "jsonl"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let rows: Vec<serde_json::Value> = ran.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(rows[0]["nonfinite"], true);
    assert_eq!(rows[1]["nonfinite"], true);
    let null = serde_json::Value::Null;
    for row in &rows[..2] {
        assert_eq!((&row["g2"], &row["dot"], &row["cos"]), (&null, &null, &null));
        assert!(row["d2"].is_number(), "what does not hold the gradient is there");
    }
    assert_eq!(rows[2]["x_eq_ref"], true);
    assert_eq!((&rows[2]["rsi"], &rows[2]["eb"], &rows[2]["cos"]), (&().into(), &().into(), &().into()));
    assert_eq!(rows[2]["lolr"], 0.0);
}

#[test]
fn skip_damaged_goes_on_and_reports() {
    let whole: Vec<Row> = rows(&Copy::of("digits_mlp").path, &[]).iter().map(alone).collect();
    let step = |row: &Row| row["step"].parse::<u64>().unwrap();

    // Two damaged shards of three kinds, and one flipped bit in the gradient of one step.
    let copy = Copy::of("digits_mlp");
    let shards = copy.shards();
    std::fs::remove_file(&shards[1]).unwrap();
    std::fs::OpenOptions::new().write(true).open(&shards[2]).unwrap().set_len(5000).unwrap();
    flip(&shards[8], 4096 + 8000, 0);
    assert_eq!(run(&["analyze", copy.arg()]).code, 1);
    let ran = run(&["analyze", copy.arg(), "--format", "csv", "--skip-damaged"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let kept = parse(&ran.out);
    let left: Vec<u64> = kept.iter().map(step).collect();
    let lost: Vec<u64> = (0..220).filter(|s| !left.contains(s)).collect();
    // An iterate is decoded from those before and their gradients, from a keyframe on: what is lost is
    // lost up to the next one, which is at step 128, or beyond the end.
    let hit = lost[106];
    assert!((176..198).contains(&hit), "{lost:?}");
    assert_eq!(lost, (22..128).chain(hit..220).collect::<Vec<u64>>());
    let said = format!("left out {} damaged or missing steps", lost.len());
    assert!(ran.err.contains(&said), "no '{said}' in: {}", ran.err);
    assert!(ran.err.contains("with steps 22 to 43 is missing"), "{}", ran.err);
    for row in &kept {
        // x_22 is lost, so step 21 knows no next iterate and says so; all else is as in the whole run.
        let same = whole.contains(&alone(row));
        assert_eq!(same, step(row) != 21, "step {}", step(row));
        assert!(same || row["gap"] == "true", "step {} is not marked as a gap", step(row));
        // Lost norms are put in between the others.
        assert_eq!(row["sampled"], "true", "step {}", step(row));
    }
    assert!(run(&["verify", copy.arg()]).out.contains(&format!("step {hit}, ")));
}

/// Runs `lpa` as a user without rights, where the test itself has them all.
pub fn unprivileged() -> Option<Command> {
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout == b"0\n");
    if !root {
        return Some(lpa());
    }
    let there = Command::new("setpriv").arg("--version").output().is_ok_and(|o| o.status.success());
    if !there {
        eprintln!("skipped: this test runs as root and there is no setpriv");
        return None;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_lpa")]);
    Some(command)
}

#[test]
fn no_permission() {
    use std::os::unix::fs::PermissionsExt;
    let Some(mut command) = unprivileged() else { return };
    let copy = Copy::of("digits_mlp");
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(copy.path.parent().unwrap(), 0o755);
    mode(&copy.shards()[0], 0o000);
    let ran: Ran = command.args(["analyze", copy.arg()]).output().unwrap().into();
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("cannot open") && ran.err.contains("Permission denied"), "{}", ran.err);
}

#[test]
fn a_run_that_cannot_be_written_gets_its_table_in_the_working_directory() {
    use std::os::unix::fs::PermissionsExt;
    let Some(mut command) = unprivileged() else { return };
    let copy = Copy::of("digits_mlp");
    let dir = copy.path.parent().unwrap();
    let work = dir.join("work");
    std::fs::create_dir(&work).unwrap();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(dir, 0o755);
    mode(&work, 0o777);
    mode(&copy.path, 0o555);
    let ran: Ran = command.args(["analyze", copy.arg()]).current_dir(&work).output().unwrap().into();
    mode(&copy.path, 0o755);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let wrote = ran.out.split("wrote ./").nth(1).unwrap().split(' ').next().unwrap();
    assert!(wrote.starts_with("run.") && wrote.ends_with(".metrics.parquet"), "{wrote}");
    assert!(work.join(wrote).exists());
}

#[test]
fn read_only_runs_of_the_same_name_have_tables_of_their_own() {
    use std::os::unix::fs::PermissionsExt;
    if unprivileged().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    std::fs::create_dir(&work).unwrap();
    // Two runs, and a copy of the first, which has its id.
    let runs = ["a", "b", "c"].map(|parent| dir.path().join(parent).join("seed0"));
    record(&runs[0], &[4], 5, WriterOptions::default());
    record(&runs[1], &[4], 7, WriterOptions::default());
    crate::support::copy_dir(&runs[0], &runs[2]);
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(dir.path(), 0o755);
    mode(&work, 0o777);
    runs.iter().for_each(|run| mode(run, 0o555));
    let analyze = |run: &Path, extra: &[&str]| {
        let mut command = unprivileged().unwrap();
        let ran: Ran =
            command.arg("analyze").arg(run).args(extra).current_dir(&work).output().unwrap().into();
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.out
    };
    for rows in [5, 7, 5].iter().zip(&runs).map(|(rows, run)| (rows, analyze(run, &[]))) {
        assert!(rows.1.contains(&format!("({} rows, ", rows.0)), "{}", rows.1);
    }
    let tables = files(&work);
    assert_eq!(tables.len(), 3, "{tables:?}");
    for run in &runs {
        assert!(analyze(run, &[]).contains("is up to date"));
        analyze(run, &["--quiet", "--steps", "..2"]);
        // By another name it is the same one.
        let link = work.with_extension("link");
        std::os::unix::fs::symlink(run, &link).unwrap();
        assert!(analyze(&link, &[]).contains("is up to date"));
        std::fs::remove_file(link).unwrap();
    }
    assert_eq!(files(&work).len(), 6);
    assert!(tables.iter().all(|(path, size)| files(&work)[path] == *size));
    runs.iter().for_each(|run| mode(run, 0o755));
}

#[test]
fn what_is_left_of_a_damaged_run_takes_the_place_of_no_table_that_holds_more() {
    let copy = Copy::of("digits_mlp");
    let table = copy.path.join("metrics.parquet");
    let skipping = |extra: &[&str]| run(&[&["analyze", copy.arg(), "--skip-damaged"], extra].concat());
    let kept = |ran: &Ran, steps: &str, before: &[u8]| {
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{}", ran.err);
        let said =
            format!("metrics.parquet: it is kept: it was made with {steps}, which cannot be read any more");
        assert!(ran.err.contains(&said), "no '{said}' in: {}", ran.err);
        assert!(std::fs::read(&table).unwrap() == before, "the table was replaced");
        let names = files(&copy.path);
        assert!(!names.keys().any(|f| f.to_str().unwrap().ends_with(".tmp")), "{names:?}");
    };
    assert_eq!(run(&["analyze", copy.arg(), "--quiet"]).code, 0);
    let whole = std::fs::read(&table).unwrap();
    // A shard whose end is lost, which is seen at once, and one bit, which is seen while measuring.
    let shards = copy.shards();
    let bytes = std::fs::read(&shards[2]).unwrap();
    flip(&shards[2], 4096 + 8000, 0);
    let ran = skipping(&[]);
    let first: u64 = ran.err.split("  step ").nth(1).unwrap().split(':').next().unwrap().parse().unwrap();
    assert!((44..66).contains(&first) && ran.err.contains("left out "), "{}", ran.err);
    kept(&ran, &format!("steps {first} to 127"), &whole);
    std::fs::write(&shards[2], &bytes[..5000]).unwrap();
    kept(&skipping(&["--quiet"]), "steps 44 to 127", &whole);

    // Another question, another file, or text.
    assert_eq!(skipping(&["--quiet", "--group", "each"]).code, 0);
    let other = copy.path.parent().unwrap().join("other.parquet");
    assert_eq!(skipping(&["--quiet", "--out", other.to_str().unwrap()]).code, 0);
    assert_eq!(skipping(&["--format", "csv"]).code, 0);
    // More damage, less, and none.
    let some = std::fs::read(&other).unwrap();
    let sixth = std::fs::read(&shards[6]).unwrap();
    std::fs::remove_file(&shards[6]).unwrap();
    let ran = skipping(&["--out", other.to_str().unwrap()]);
    assert!(ran.code == 1 && ran.err.contains("it was made with steps 132 to 219, which"), "{}", ran.err);
    assert!(std::fs::read(&other).unwrap() == some);
    std::fs::write(&shards[6], sixth).unwrap();
    assert_eq!(skipping(&["--quiet", "--out", other.to_str().unwrap()]).code, 0);
    assert!(std::fs::read(&other).unwrap() == some);
    std::fs::write(&shards[2], bytes).unwrap();
    assert_eq!(skipping(&["--quiet", "--out", other.to_str().unwrap()]).code, 0);
    assert!(std::fs::read(&other).unwrap() != some);
    assert_eq!(run(&["analyze", copy.arg(), "--quiet"]).code, 0);
    assert!(std::fs::read(&table).unwrap() == whole);
}

#[test]
fn a_last_shard_that_is_lost_is_less() {
    let copy = Copy::of("digits_mlp");
    assert_eq!(run(&["analyze", copy.arg(), "--quiet"]).code, 0);
    let whole = std::fs::read(copy.path.join("metrics.parquet")).unwrap();
    for shard in copy.shards().iter().rev().take(2) {
        std::fs::remove_file(shard).unwrap();
        let ran = run(&["analyze", copy.arg(), "--skip-damaged"]);
        assert!(
            ran.code == 1 && ran.err.contains("it is kept: it was made with step"),
            "{}{}",
            ran.out,
            ran.err
        );
        assert!(std::fs::read(copy.path.join("metrics.parquet")).unwrap() == whole);
    }
}

#[test]
fn a_full_disk_leaves_the_old_table_and_nothing_else() {
    let copy = Copy::of("digits_mlp");
    assert_eq!(run(&["analyze", copy.arg(), "--quiet"]).code, 0);
    let before = files(&copy.path);
    // A file-size limit stands in for the full disk: writes fail in the middle of the table.
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" analyze \"$1\" --group each";
    let ran: Ran = Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_lpa"), copy.arg()])
        .output()
        .unwrap()
        .into();
    assert_eq!(ran.code, 3, "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("cannot write") && ran.err.contains("too large"), "{}", ran.err);
    assert_eq!(files(&copy.path), before);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran: Ran =
        lpa().args(["analyze", copy.arg(), "--format", "csv"]).stdout(full).output().unwrap().into();
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("cannot write standard output: No space left on device"), "{}", ran.err);
}

/// Not a test: what runs under a file-size limit that stands in for a full disk.
#[test]
fn child_that_fills_the_disk() {
    let Some(path) = std::env::var_os("LPA_TEST_FULL") else { return };
    let options = WriterOptions { shard_steps: 3, ..WriterOptions::default() };
    let sizes = [500];
    let mut writer = Writer::create(Path::new(&path), manifest(&sizes), options).unwrap();
    (0..4).for_each(|_| crate::support::write_step(&mut writer, &sizes));
    // Too large for the limit.
    let large: Vec<(String, f64)> = (0..20_000).map(|i| (format!("scalar {i}"), 0.0)).collect();
    let large: Vec<(&str, f64)> = large.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    writer.step(&Step { scalars: &large, ..Step::default() }).unwrap();
    let full = writer.flush().unwrap_err().to_string();
    assert!(full.contains("too large"), "{full}");
    let after = writer.step(&Step::default()).unwrap_err().to_string();
    assert!(after.contains("Resume at step 3."), "{after}");
    assert!(writer.stop().is_err());
    eprintln!("the child did all of it");
}

#[test]
fn a_full_disk_while_recording_ends_the_recording_without_a_hole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let script =
        "trap '' XFSZ; ulimit -f 64; exec \"$0\" bad_input::child_that_fills_the_disk --exact --nocapture";
    let ran: Ran = Command::new("bash")
        .args(["-c", script, std::env::current_exe().unwrap().to_str().unwrap()])
        .env("LPA_TEST_FULL", &path)
        .output()
        .unwrap()
        .into();
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("the child did all of it"));
    assert_eq!(std::fs::read_dir(path.join("tmp")).unwrap().count(), 0, "the space is given back");
    assert_eq!(run(&["verify", path.to_str().unwrap()]).code, 0);
    let mut writer = Writer::resume(&path, 0, 3, WriterOptions::default()).unwrap();
    crate::support::write_step(&mut writer, &[500]);
}

#[test]
fn a_shard_name_with_huge_steps_is_no_shard() {
    let copy = Copy::of("digits_mlp");
    for name in ["s0000000221-9999999999", "s0000000221-18446744073709551615"] {
        std::fs::write(copy.path.join(format!("steps/000000/{name}.a1.r0.safetensors")), "").unwrap();
    }
    assert_eq!(run(&["analyze", copy.arg(), "--quiet"]).code, 0);
    crate::support::copy_dir(&copy.path.join("steps/000000"), &copy.path.join("steps/000000.bak"));
    assert_eq!(run(&["verify", copy.arg()]).code, 0);
    refused(
        "world",
        |c| c.edit("manifest.json", |t| t.replace("\"world\": 1", "\"world\": 4294967295")),
        &["a world of 4294967295 ranks"],
    );
}
