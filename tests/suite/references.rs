//! References, streams and groups, as a user asks for them.

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

use crate::support::{Copy, Row, alone, fixture, number, rows, run};

/// The rows against one reference.
fn against<'a>(rows: &'a [Row], reference: &str) -> Vec<&'a Row> {
    rows.iter().filter(|r| r["reference"] == reference).collect()
}

#[test]
fn one_pass_for_32_references_gives_the_bits_of_32_passes() {
    let path = fixture("digits_mlp");
    let mut names: Vec<String> = (0..20).map(|i| format!("step:{}", 11 * i)).collect();
    names.extend((0..6).map(|i| format!("mean:{}..{}", 30 * i, 30 * i + 25)));
    names.extend(["ema:0.9", "ema:0.99", "epoch:3", "epoch:9", "last", "final"].map(str::to_owned));
    assert_eq!(names.len(), 32);
    let more =
        ["--group", "*", "--group", "each", "--stream", "grad", "--stream", "grad_wd", "--stream", "update"];
    let arguments: Vec<&str> = names.iter().flat_map(|n| ["--ref", n]).chain(more).collect();
    let together = rows(&path, &arguments);
    assert_eq!(together.len(), 220 * 32 * 3 * 5);
    for name in &names {
        let alone = rows(&path, &[&["--ref", name], &more[..]].concat());
        assert!(against(&together, name).into_iter().eq(alone.iter()), "{name}");
    }
}

#[test]
fn rows_come_in_the_order_that_was_asked_for() {
    let path = fixture("digits_mlp");
    let all = rows(
        &path,
        &[
            "--ref",
            "step:5",
            "--ref",
            "final",
            "--stream",
            "update",
            "--stream",
            "grad",
            "--group",
            "fc*.bias",
            "--group",
            "heads=fc2.*",
            "--steps",
            "3..5",
        ],
    );
    let got: Vec<[&str; 4]> =
        all.iter().map(|r| ["step", "reference", "stream", "group"].map(|c| r[c].as_str())).collect();
    let mut expected = Vec::new();
    for step in ["3", "4"] {
        for reference in ["step:5", "final"] {
            for stream in ["update", "grad"] {
                for group in ["fc*.bias", "heads"] {
                    expected.push([step, reference, stream, group]);
                }
            }
        }
    }
    assert_eq!(got, expected);
    assert_eq!((all[0]["n_params"].as_str(), all[1]["n_params"].as_str()), ("30", "210"));
}

#[test]
fn the_same_iterate_by_another_name_is_the_same_reference() {
    let path = fixture("digits_mlp");
    let numbers = |reference: &str| -> Vec<Row> {
        let mut all = rows(&path, &["--ref", reference]);
        all.iter_mut().for_each(|r| drop(r.remove("reference")));
        all
    };
    let expected = numbers("final");
    // epoch 9 is the last; a file that holds x_T is known by its values.
    let file = path.join("ref/final.safetensors");
    for name in ["last", "step:220", "epoch:9", "mean:220..221", file.to_str().unwrap()] {
        assert_eq!(numbers(name), expected, "{name}");
    }
}

/// A safetensors file with the final iterate of the fixture under other names.
fn save(directory: &Path, file: &str, names: &[(&str, &str)], scale: f32) -> PathBuf {
    let bytes = std::fs::read(fixture("digits_mlp").join("ref/final.safetensors")).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values: Vec<(&str, Vec<usize>, Vec<u8>)> = names
        .iter()
        .map(|(from, to)| {
            let t = all.tensor(from).unwrap();
            let scaled = t.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b) * scale);
            (*to, t.shape().to_vec(), scaled.flat_map(f32::to_le_bytes).collect())
        })
        .collect();
    let views = values.iter().map(|(n, s, v)| (*n, TensorView::new(Dtype::F32, s.clone(), v).unwrap()));
    let path = directory.join(file);
    serialize_to_file(views, None, &path).unwrap();
    path
}

const TENSORS: [&str; 4] = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"];

#[test]
fn wrapped_and_sharded_checkpoints_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let run_path = fixture("digits_mlp");
    let plain: Vec<(&str, &str)> = TENSORS.iter().map(|t| (*t, *t)).collect();
    let plain = save(dir.path(), "plain.safetensors", &plain, 0.5);
    let expected = rows(&run_path, &["--ref", plain.to_str().unwrap()]);

    let wrapped: Vec<String> = TENSORS.iter().map(|t| format!("module._orig_mod.{t}")).collect();
    let pairs: Vec<(&str, &str)> = TENSORS.iter().copied().zip(wrapped.iter().map(String::as_str)).collect();
    let wrapped = save(dir.path(), "wrapped.safetensors", &pairs, 0.5);
    let ran =
        run(&["analyze", run_path.to_str().unwrap(), "--format", "csv", "--ref", wrapped.to_str().unwrap()]);
    assert_eq!(ran.err.lines().count(), 1, "one note: {}", ran.err);
    assert!(
        ran.err.contains("'module._orig_mod.fc1.weight' in ")
            && ran.err.contains("is taken for 'fc1.weight', and so on for 4 tensors"),
        "{}",
        ran.err
    );

    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    let pair = |t: &'static str| (t, t);
    save(&model, "model-1.safetensors", &[pair("fc1.weight"), pair("fc2.bias")], 0.5);
    save(&model, "model-2.safetensors", &[pair("fc1.bias"), pair("fc2.weight")], 0.5);
    let index = r#"{"metadata": {}, "weight_map": {"fc1.weight": "model-1.safetensors", "fc2.bias":
        "model-1.safetensors", "fc1.bias": "model-2.safetensors", "fc2.weight": "model-2.safetensors"}}"#;
    std::fs::write(model.join("model.safetensors.index.json"), index).unwrap();
    for path in [&model, &model.join("model.safetensors.index.json"), &wrapped] {
        let got = rows(&run_path, &["--ref", path.to_str().unwrap()]);
        assert_eq!(got.len(), 220);
        for (a, b) in got.iter().zip(&expected) {
            assert_eq!(a["dot"], b["dot"], "{}", path.display());
        }
    }
    // A file that is not made of this path's gradients has nothing of its own to take off.
    assert!(
        expected.iter().all(|r| r["own"] == "0.0" && r["cos_excess"] == r["cos"] && r["cos_walk"] == "0.0")
    );
}

#[test]
fn a_partial_file_serves_the_groups_that_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let file = save(dir.path(), "half.safetensors", &[("fc1.weight", "fc1.weight")], 0.5);
    let (path, file) = (fixture("digits_mlp"), file.to_str().unwrap());
    let path = path.to_str().unwrap();
    let ran = run(&["analyze", path, "--format", "csv", "--ref", file]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("'half.safetensors' lacks 3 of the tensors asked for, first 'fc1.bias'. Name those that it has by --group"),
        "{}",
        ran.err
    );
    let ran = run(&["analyze", path, "--format", "csv", "--ref", file, "--group", "fc1.weight"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
}

#[test]
fn what_is_no_reference_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = fixture("digits_mlp");
    let torch = dir.path().join("best.pt");
    std::fs::write(&torch, b"PK").unwrap();
    let text = dir.path().join("notes.safetensors");
    std::fs::write(&text, b"no tensors here").unwrap();
    let other = save(dir.path(), "other.safetensors", &[("fc1.bias", "encoder.bias")], 1.0);
    let shape = save(dir.path(), "shape.safetensors", &[("fc1.bias", "fc2.bias")], 1.0);
    for (reference, expected) in [
        (torch.to_str().unwrap(), "Convert it: python -c 'import lpa; lpa.reference(\""),
        (text.to_str().unwrap(), "header"),
        (
            other.to_str().unwrap(),
            "it has none of the run's tensors ('fc1.weight', 'fc1.bias', 'fc2.weight', ...); it has 'encoder.bias'",
        ),
        (shape.to_str().unwrap(), "tensor 'fc2.bias' is F32 [20] here, but has the shape [10] in the run"),
        ("nowhere.safetensors", "there is no such file. A reference is final, last, step:N"),
        ("step:900", "the iterate x_900 is not recorded; the nearest is x_220"),
        ("epoch:44", "the last one is epoch 9"),
        ("mean:200..400", "iterates are recorded up to x_220"),
    ] {
        let ran = run(&["analyze", path.to_str().unwrap(), "--format", "csv", "--ref", reference]);
        assert_eq!((ran.code, ran.err.lines().count()), (1, 1), "{reference}: {}", ran.err);
        assert!(ran.err.contains(expected), "{reference}: {}", ran.err);
    }
    let ran = run(&["analyze", path.to_str().unwrap(), "--stream", "momentum"]);
    assert!(
        ran.err.contains("no stream is named 'momentum'. There is 'grad', 'grad_wd', 'update'"),
        "{}",
        ran.err
    );
    let ran = run(&["analyze", path.to_str().unwrap(), "--stream", "grad_preclip"]);
    assert!(ran.err.contains("needs the scalar clip_coef, which was not recorded"), "{}", ran.err);
    let ran = run(&["analyze", path.to_str().unwrap(), "--group", "conv*"]);
    assert!(ran.err.contains("no tensor is named, or matches, 'conv*'"), "{}", ran.err);
    assert_eq!(run(&["analyze", path.to_str().unwrap(), "--ref", "ema:2"]).code, 2);
}

#[test]
fn an_analysis_that_is_there_is_not_made_again() {
    let copy = Copy::of("digits_mlp");
    let first = run(&["analyze", copy.arg()]);
    let table = copy.path.join("metrics.parquet");
    let written = std::fs::metadata(&table).unwrap().modified().unwrap();
    let second = run(&["analyze", copy.arg()]);
    assert!(second.out.ends_with("metrics.parquet is up to date\n"), "{}", second.out);
    let summary = |text: &str| text.rsplit_once("\n\n").unwrap().0.to_owned();
    assert_eq!(summary(&second.out), summary(&first.out));
    assert_eq!(std::fs::metadata(&table).unwrap().modified().unwrap(), written);

    // Another reference adds a file; the first is still there.
    let other = run(&["analyze", copy.arg(), "--ref", "mean:150..200"]);
    assert!(other.out.contains("metrics.mean-150..200.parquet (220 rows"), "{}", other.out);
    assert!(run(&["analyze", copy.arg()]).out.ends_with("is up to date\n"));
    assert!(run(&["analyze", copy.arg(), "--ref", "mean:150..200"]).out.ends_with("is up to date\n"));

    // Another question, or another run, is another answer.
    for extra in
        [&["--group", "each"][..], &["--steps", "5.."], &["--stream", "update"], &["--group", "a=fc1*"]]
    {
        let ran = run(&[&["analyze", copy.arg()], extra].concat());
        assert!(ran.out.contains("wrote "), "{extra:?}: {}", ran.out);
    }
    assert!(run(&["analyze", copy.arg(), "--group", "a=fc2*"]).out.contains("wrote "));
}

#[test]
fn a_damaged_average_is_made_again() {
    let copy = Copy::of("digits_mlp");
    let ask = |out: &str| {
        let out = copy.path.join(out);
        let ran = run(&["analyze", copy.arg(), "--ref", "mean:0..50", "--out", out.to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        std::fs::read(out).unwrap()
    };
    let first = ask("a.parquet");
    let cached: Vec<PathBuf> =
        std::fs::read_dir(copy.path.join("lpa-references")).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(cached.len(), 1);
    crate::support::flip(&cached[0], 5000, 3);
    assert!(first == ask("b.parquet"));
}

#[test]
fn references_of_a_path_that_has_grown_are_not_left_behind() {
    use crate::support::write_step;
    use lpa::{Writer, WriterOptions};
    const SIZES: [u64; 1] = [50];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let options = WriterOptions { shard_steps: 5, ..WriterOptions::default() };
    let mut writer = Writer::create(&path, crate::support::manifest(&SIZES), options).unwrap();
    let kept = || {
        let mut all: Vec<PathBuf> =
            std::fs::read_dir(path.join("lpa-references")).unwrap().map(|f| f.unwrap().path()).collect();
        all.sort();
        all
    };
    let asked = ["analyze", path.to_str().unwrap(), "--ref", "last", "--ref", "mean:0..3"];
    let mut grow = || {
        (0..5).for_each(|_| write_step(&mut writer, &SIZES));
        writer.flush().unwrap();
        let ran = run(&asked);
        assert_eq!(ran.code, 0, "{}", ran.err);
        kept()
    };
    let first = grow();
    assert_eq!(first.len(), 2);
    // What was made just now may be about to be opened.
    let second = grow();
    assert_eq!(second.len(), 3);
    let age = |path: &Path| {
        let file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(7200)).unwrap();
    };
    // Another run's, and what is no file of lpa's, are not its business.
    let last = first.iter().find(|p| p.file_name().unwrap().to_str().unwrap().starts_with("last-")).unwrap();
    let beside = |name: &str| path.join("lpa-references").join(name);
    let (other, text) =
        (beside("last-0123456789abcdef.safetensors"), beside("last-0123456789abcde0.safetensors"));
    let copy = Copy::of("digits_mlp");
    assert_eq!(run(&["analyze", copy.arg(), "--ref", "step:9"]).code, 0);
    let of_other =
        std::fs::read_dir(copy.path.join("lpa-references")).unwrap().next().unwrap().unwrap().path();
    std::fs::copy(of_other, &other).unwrap();
    std::fs::write(&text, b"text").unwrap();
    [&second[..], &[other.clone(), text.clone()]].concat().iter().for_each(|p| age(p));
    let third = grow();
    assert!(!third.contains(last) && third.contains(&other) && third.contains(&text), "{third:?}");
    // The mean's, which is found again, the newest iterate's, and those two.
    assert_eq!(third.len(), 4, "{third:?}");
}

/// Records a path of two parameters from `start` with the given gradients, by SGD of lr 0.5.
fn record(path: &Path, start: [f32; 2], gradients: &[[f32; 2]], finish: bool) {
    use lpa::{Step, Writer, WriterOptions};
    let mut manifest = crate::support::manifest(&[2]);
    manifest.optimizer.name = "sgd".to_owned();
    let bytes = |v: [f32; 2]| v.map(f32::to_le_bytes).concat();
    let mut writer = Writer::create(path, manifest, WriterOptions::default()).unwrap();
    let mut x = start;
    for g in gradients {
        let (xb, gb) = (bytes(x), bytes(*g));
        let streams = [("grad", &[Some(gb.as_slice())][..])];
        let scalars = [("lr/0", 0.5)];
        writer
            .step(&Step {
                iterate: Some(&[Some(&xb)]),
                streams: &streams,
                scalars: &scalars,
                ..Step::default()
            })
            .unwrap();
        x = [x[0] - 0.5 * g[0], x[1] - 0.5 * g[1]];
    }
    if finish {
        writer.finish(&[Some(&bytes(x))]).unwrap();
    } else {
        writer.stop().unwrap();
    }
}

#[test]
fn a_run_from_the_same_start_is_a_control() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    record(&path("a"), [1.0, 1.0], &[[1.0, 0.0], [0.0, 1.0]], true);
    record(&path("b"), [1.0, 1.0], &[[0.0, 1.0], [1.0, 0.0]], true);
    record(&path("c"), [1.0, 2.0], &[[0.0, 1.0], [1.0, 0.0]], true);
    let reference = |name: &str, what: &str| format!("{}{what}", path(name).display());
    let ran = run(&[
        "analyze",
        path("a").to_str().unwrap(),
        "--ref",
        "final",
        "--ref",
        &reference("b", ":final"),
        "--ref",
        &reference("c", ":step:1"),
        "--out",
        path("t.parquet").to_str().unwrap(),
    ]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("b:final (same x_0: a control)"), "{}", ran.out);
    assert!(ran.out.contains("c:step:1,"), "{}", ran.out);
    // By hand: x_0 - b's end = (0.5, 0.5), so <g_0, d> = 0.5, nothing of it its own.
    let rows = rows(&path("a"), &["--ref", &reference("b", "")]);
    assert_eq!((number(&rows[0], "dot"), number(&rows[0], "own")), (Some(0.5), Some(0.0)));
    // Against its own end: own = lr ||g||^2 = 0.5 = <g, d>; the walk is exact here.
    let own = crate::support::rows(&path("a"), &[]);
    let of = |c: &str| number(&own[0], c).unwrap();
    assert_eq!((of("dot"), of("own"), of("lolr_ratio"), of("cos_excess")), (0.5, 0.5, 1.0, 0.0));
    assert!((of("cos_walk") - 0.5f64.sqrt()).abs() < 1e-15);
    // The run itself by its path is not another run.
    let same = crate::support::rows(&path("a"), &["--ref", &reference("a", ":step:2")]);
    assert_eq!(same[0]["own"], own[0]["own"]);
}

#[test]
fn an_unfinished_run_has_a_provisional_reference() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record(&path, [1.0, 1.0], &[[1.0, 0.0]; 5], false);
    let ran = run(&["analyze", path.to_str().unwrap()]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("take the newest iterate by --ref last"), "{}", ran.err);
    let rows = rows(&path, &["--ref", "last", "--ref", "step:3", "--ref", "ema:0.5"]);
    for (reference, provisional) in [("last", "true"), ("step:3", "false"), ("ema:0.5", "true")] {
        assert!(against(&rows, reference).iter().all(|r| r["provisional"] == provisional), "{reference}");
    }
    // x_4 is the newest iterate; the gradient of step 4 does not lead to it.
    let last = against(&rows, "last");
    assert_eq!(
        (last[3]["own"].as_str(), last[4]["own"].as_str(), last[4]["x_eq_ref"].as_str()),
        ("0.5", "0.0", "true")
    );
}

#[test]
fn streams_do_not_change_each_other() {
    let path = fixture("digits_mlp");
    let together = rows(&path, &["--stream", "grad", "--stream", "update", "--stream", "grad_wd"]);
    for stream in ["grad", "update", "grad_wd"] {
        let own: Vec<Row> = together.iter().filter(|r| r["stream"] == stream).map(alone).collect();
        // A stream alone is not measured against later iterates where it need not be.
        let drop_lag = |r: &Row| -> Row {
            let mut r = alone(r);
            r.remove("dot_lag");
            r
        };
        let single: Vec<Row> = rows(&path, &["--stream", stream]).iter().map(drop_lag).collect();
        assert_eq!(own.iter().map(drop_lag).collect::<Vec<_>>(), single, "{stream}");
    }
}
