//! What a user types and sees.

use std::path::Path;
use std::process::Stdio;

use crate::support::{Copy, Ran, Row, alone, fixture, lpa, rows, run};

#[test]
fn analyze_writes_the_table_and_a_summary() {
    let copy = Copy::of("digits_mlp");
    let ran = run(&["analyze", copy.arg()]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.err, "", "quiet in a pipe");
    for part in [
        "220 steps measured, 1,510 parameters in 4 tensors (F32), optimizer sgd",
        "against reference final (x_220), stream grad, group *",
        "mean of         early     middle       late",
        "cos_walk ",
        "Verdict: early and middle, the gradients point to the reference more",
        "Trust: at every step",
        "The cosine is ",
        "times the learning rate",
        "metrics.parquet (220 rows",
    ] {
        assert!(ran.out.contains(part), "no '{part}' in: {}", ran.out);
    }
    assert!(copy.path.join("metrics.parquet").exists());
    let bytes = std::fs::read(copy.path.join("metrics.parquet")).unwrap();
    assert_eq!((&bytes[..4], &bytes[bytes.len() - 4..]), (&b"PAR1"[..], &b"PAR1"[..]));
}

#[test]
fn steps_and_groups_select_rows() {
    let path = fixture("digits_mlp");
    let steps = |extra: &[&str]| -> Vec<(String, String)> {
        rows(&path, extra).iter().map(|r| (r["step"].clone(), r["group"].clone())).collect()
    };
    let only = |range: &[u64], group: &str| -> Vec<(String, String)> {
        range.iter().map(|s| (s.to_string(), group.to_owned())).collect()
    };
    assert_eq!(steps(&["--steps", "3..6"]), only(&[3, 4, 5], "*"));
    assert_eq!(steps(&["--steps", "10..31:10", "--group", "fc2.bias"]), only(&[10, 20, 30], "fc2.bias"));
    assert_eq!(steps(&["--steps", "218.."]), only(&[218, 219], "*"));
    assert_eq!(steps(&["--steps", "..220:100"]), only(&[0, 100, 200], "*"));
    let each = steps(&["--steps", "7..8", "--group", "each"]);
    let names: Vec<&str> = each.iter().map(|(_, g)| g.as_str()).collect();
    assert_eq!(names, ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]);
}

#[test]
fn a_selected_step_has_the_numbers_that_it_has_among_all() {
    let path = fixture("digits_mlp");
    let all: Vec<Row> = rows(&path, &[]).iter().map(alone).collect();
    let some = rows(&path, &["--steps", "101..200:7"]);
    assert_eq!(some.len(), 15);
    assert!(some.iter().all(|row| all.contains(&alone(row))));
    // The steps in between enter the walk by interpolated norms, which is said; those after the last
    // are more than the sampling leaves out, so there the walk is not known.
    assert!(some.iter().all(|row| row["sampled"] == "true" && row["cos_walk"].is_empty()));
}

#[test]
fn the_command_line_at_fault_is_exit_code_2() {
    let path = fixture("digits_mlp");
    let path = path.to_str().unwrap();
    for (args, expected) in [
        (&["analyze"][..], "<RUN>"),
        (&["analize", path], "analyze"),
        (&["analyze", path, "--steps", "5"], "write A..B"),
        (&["analyze", path, "--steps", "5..5"], "holds no step"),
        (&["analyze", path, "--steps", "0..9:0"], "K starts at 1"),
        (&["analyze", path, "--threads", "0"], "0 is not in 1..=1024"),
        (&["analyze", path, "--format", "csv", "--out", "x"], "--out names a Parquet table"),
        (&["analyze", path, "--backend", "cpu", "--device", "0"], "--backend cpu does not use"),
        (&["analyze", path, "--ref", "ema:2"], "'ema:2'"),
        (&["export", path], "--step"),
    ] {
        let ran = run(args);
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(expected), "{args:?}: no '{expected}' in: {}", ran.err);
    }
    let ran: Ran = lpa().env("LPA_ISA", "sse9").args(["analyze", path]).output().unwrap().into();
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("LPA_ISA=sse9: this processor offers scalar, portable"), "{}", ran.err);
}

#[test]
fn the_readme_shows_what_make_demo_prints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (readme, makefile) = (root.join("README.md"), root.join("Makefile"));
    let (readme, makefile) =
        (std::fs::read_to_string(readme).unwrap(), std::fs::read_to_string(makefile).unwrap());
    let shown = readme.split("```text\n$ lpa ").nth(1).unwrap().split("```").next().unwrap();
    let (command, shown) = shown.split_once('\n').unwrap();
    assert!(
        makefile.contains(&format!("demo: build\n\t$(BIN) {command}\n")),
        "make demo is not lpa {command}"
    );
    let (run_path, table) =
        command.strip_prefix("analyze ").unwrap().split_once(" --out ").expect("it names where it writes");
    assert!(table.starts_with("target/"), "{table}");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo.parquet");
    let path = fixture(run_path.strip_prefix("fixtures/").unwrap());
    let ran = run(&["analyze", path.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    // All but how long it took.
    let told = |text: &str| text.split(") in ").next().unwrap().to_owned();
    let printed = ran.out.replace(path.to_str().unwrap(), run_path).replace(out.to_str().unwrap(), table);
    assert_eq!(told(&printed), told(shown));
}

#[test]
fn an_unknown_tensor_is_answered_with_close_names() {
    let ran = run(&["analyze", fixture("digits_mlp").to_str().unwrap(), "--group", "fc2"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains(
            "no tensor is named, or matches, 'fc2'. There is '*', 'each', 'fc2.weight', 'fc2.bias'"
        ),
        "{}",
        ran.err
    );
}

#[test]
fn a_closed_pipe_is_fine() {
    let mut child = lpa()
        .args(["analyze", fixture("digits_mlp").to_str().unwrap(), "--format", "jsonl", "--group", "each"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn export_gives_the_recorded_values() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.safetensors");
    let path = fixture("digits_mlp");
    let args = ["export", path.to_str().unwrap(), "--step", "220", "--out", out.to_str().unwrap()];
    let ran = run(&args);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let exported = std::fs::read(&out).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&exported).unwrap();
    // By which transformers 4 tells that it can open a file.
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    let exported = safetensors::SafeTensors::deserialize(&exported).unwrap();
    let last = std::fs::read(path.join("ref/final.safetensors")).unwrap();
    let last = safetensors::SafeTensors::deserialize(&last).unwrap();
    assert_eq!(exported.len(), 4);
    for (name, tensor) in last.iter() {
        assert_eq!(exported.tensor(name).unwrap(), tensor, "{name}");
    }
    let ran =
        run(&["export", path.to_str().unwrap(), "--step", "220", "--stream", "grad", "--out", "/tmp/none"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("the grad of step 220 was not recorded"), "{}", ran.err);
    let ran =
        run(&["export", path.to_str().unwrap(), "--step", "1", "--stream", "full", "--out", "/tmp/none"]);
    assert!(ran.err.contains("no stream is named 'full'. There is 'iterate', 'grad'"), "{}", ran.err);
}

#[test]
fn inspect_and_verify_say_what_is_there() {
    let path = fixture("digits_mlp");
    let ran = run(&["inspect", path.to_str().unwrap()]);
    assert_eq!(ran.code, 0);
    for part in [
        "complete, final iterate x_220",
        "steps 0 to 219 and x_220",
        "lr/0",
        "sklearn.datasets.load_digits",
        "F32 [20, 64]",
    ] {
        assert!(ran.out.contains(part), "no '{part}' in: {}", ran.out);
    }
    let ran = run(&["verify", path.to_str().unwrap()]);
    assert_eq!(ran.code, 0);
    assert!(ran.out.contains("11 shards, 884 chunks: all as written"), "{}", ran.out);
}

#[test]
fn completions_and_help_are_there() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(&["completions", shell]);
        assert_eq!(ran.code, 0);
        assert!(ran.out.contains("analyze"), "{shell}");
    }
    assert!(run(&["--help"]).out.contains("Measure every step of a run"));
    assert!(run(&["--version"]).out.starts_with("lpa 0."));
}
