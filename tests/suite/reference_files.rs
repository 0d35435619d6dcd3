//! Checkpoints as they lie on disks: their names, their parts, and the tables that are made with them.

use std::path::{Path, PathBuf};

use lpa::{DType, Manifest, Step, StreamInfo, TensorInfo, Writer, WriterOptions};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

use crate::support::{Copy, Ran, Row, flip, number, rows, run, values};

/// Tensors by name, in the order of a run's.
type Vectors<'a> = [(&'a str, Vec<f32>)];

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A safetensors file.
fn save(path: &Path, tensors: &Vectors<'_>) -> PathBuf {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let all: Vec<(&str, Vec<u8>)> = tensors.iter().map(|(n, v)| (*n, bytes(v))).collect();
    let views = all.iter().map(|(n, b)| (*n, TensorView::new(Dtype::F32, vec![b.len() / 4], b).unwrap()));
    serialize_to_file(views, None, path).unwrap();
    path.to_owned()
}

fn index(path: &Path, places: &[(&str, &str)]) {
    let map: serde_json::Map<String, serde_json::Value> =
        places.iter().map(|(tensor, file)| ((*tensor).to_owned(), (*file).into())).collect();
    let text = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    std::fs::write(path.join("model.safetensors.index.json"), text).unwrap();
}

/// A run of the given iterates, the last being the final one, with gradients where there are some.
fn record(path: &Path, iterates: &[&Vectors<'_>], gradients: &[Vec<Vec<f32>>], lr: impl Fn(u64) -> f64) {
    let tensors = iterates[0].iter().map(|(n, v)| TensorInfo::new(n, &[v.len() as u64], DType::F32));
    let stream = || StreamInfo { name: "grad".to_owned(), stage: String::new() };
    let streams = if gradients.is_empty() { Vec::new() } else { vec![stream()] };
    let mut manifest = Manifest::new(tensors.collect(), streams).unwrap();
    manifest.optimizer.name = "sgd".to_owned();
    let mut writer = Writer::create(path, manifest, WriterOptions::default()).unwrap();
    let (last, before) = iterates.split_last().unwrap();
    for (t, x) in before.iter().enumerate() {
        let x: Vec<Vec<u8>> = x.iter().map(|(_, v)| bytes(v)).collect();
        let x: Vec<Option<&[u8]>> = x.iter().map(|b| Some(b.as_slice())).collect();
        let g: Vec<Vec<u8>> = gradients.get(t).into_iter().flatten().map(|v| bytes(v)).collect();
        let g: Vec<Option<&[u8]>> = g.iter().map(|b| Some(b.as_slice())).collect();
        let streams = [("grad", &g[..])];
        let streams = if gradients.is_empty() { &[][..] } else { &streams[..] };
        let scalars = [("lr/0", lr(t as u64))];
        writer.step(&Step { iterate: Some(&x), streams, scalars: &scalars, ..Step::default() }).unwrap();
    }
    let x: Vec<Vec<u8>> = last.iter().map(|(_, v)| bytes(v)).collect();
    let x: Vec<Option<&[u8]>> = x.iter().map(|b| Some(b.as_slice())).collect();
    writer.finish(&x).unwrap();
}

/// `n` values that depend on all arguments.
fn some(n: u64, step: u64, salt: u64) -> Vec<f32> {
    values(n, step, salt).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// A run of two tensors that go here and there.
fn small(path: &Path) {
    let all: Vec<_> = (0..6).map(|t| [("a", some(20, t, 1)), ("b", some(30, t, 2))]).collect();
    let iterates: Vec<&Vectors<'_>> = all.iter().map(|x| &x[..]).collect();
    let gradients: Vec<_> = (0..5).map(|t| vec![some(20, t, 3), some(30, t, 4)]).collect();
    record(path, &iterates, &gradients, |_| 0.1);
}

fn analyze(path: &Path, references: &[&Path]) -> Ran {
    let mut arguments = vec!["analyze", path.to_str().unwrap()];
    arguments.extend(references.iter().flat_map(|r| ["--ref", r.to_str().unwrap()]));
    run(&arguments)
}

fn column(rows: &[Row], name: &str) -> Vec<f64> {
    rows.iter().map(|r| number(r, name).unwrap()).collect()
}

#[test]
fn files_of_one_name_have_tables_and_rows_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    small(&path);
    let file = |folder: &str, name: &str, salt| {
        save(&dir.path().join(folder).join(name), &[("a", some(20, 9, salt)), ("b", some(30, 9, salt))])
    };
    let tables = || -> Vec<String> {
        let names = std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut all: Vec<String> = names.filter(|n| n.ends_with(".parquet")).collect();
        all.sort();
        all
    };
    let models = [file("ck-1", "model.safetensors", 11), file("ck-2", "model.safetensors", 12)];
    for model in &models {
        assert_eq!(analyze(&path, &[model]).code, 0);
    }
    assert_eq!(tables(), ["metrics.ck-1-model.parquet", "metrics.ck-2-model.parquet"]);
    let best = [file("one", "best.safetensors", 13), file("two", "best.safetensors", 14)];
    let first = std::fs::metadata(path.join("metrics.ck-1-model.parquet")).unwrap().modified().unwrap();
    assert!(analyze(&path, &[&best[0]]).out.contains("metrics.best.parquet"));
    let kept = std::fs::read(path.join("metrics.best.parquet")).unwrap();
    let ran = analyze(&path, &[&best[1]]);
    assert!(std::fs::read(path.join("metrics.best.parquet")).unwrap() == kept);
    let other =
        tables().into_iter().find(|n| n.starts_with("metrics.best.") && n != "metrics.best.parquet").unwrap();
    assert!(ran.out.contains(&other) && other.len() == "metrics.best.01234567.parquet".len(), "{other}");
    // Asked again, each is found.
    for (file, table) in [(&best[0], "metrics.best.parquet"), (&best[1], other.as_str())] {
        assert!(analyze(&path, &[file]).out.contains(&format!("{table} is up to date")), "{table}");
    }
    let again = std::fs::metadata(path.join("metrics.ck-1-model.parquet")).unwrap().modified().unwrap();
    assert_eq!(first, again);

    let both = rows(&path, &["--ref", best[0].to_str().unwrap(), "--ref", best[1].to_str().unwrap()]);
    let names: Vec<&str> = both.iter().take(2).map(|r| r["reference"].as_str()).collect();
    assert_eq!(names, ["one/best.safetensors", "two/best.safetensors"]);
    let models = rows(&path, &["--ref", models[0].to_str().unwrap(), "--ref", models[1].to_str().unwrap()]);
    let names: Vec<&str> = models.iter().take(2).map(|r| r["reference"].as_str()).collect();
    assert_eq!(names, ["ck-1/model.safetensors", "ck-2/model.safetensors"]);
    assert_ne!(both[0]["dist"], both[1]["dist"]);
    // A cache of downloads has links to blobs.
    let link = dir.path().join("snapshot");
    std::fs::create_dir(&link).unwrap();
    std::os::unix::fs::symlink(&best[0], link.join("model.safetensors")).unwrap();
    let linked = rows(&path, &["--ref", link.join("model.safetensors").to_str().unwrap()]);
    assert_eq!(linked[0]["reference"], "snapshot/model.safetensors");
}

#[test]
fn a_group_that_is_spelled_alike_does_not_take_anothers_table() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    small(&path);
    let ask = |group: &str| run(&["analyze", path.to_str().unwrap(), "--group", group]).out;
    // Both would be metrics.-b-.parquet.
    assert!(
        ask("[b]").contains("wrote ") && ask("*b*").contains("wrote ") && ask("[b]").contains("up to date")
    );
}

/// A run of the tensors a and b, and a file of others beside it.
struct Beside {
    dir: tempfile::TempDir,
    path: PathBuf,
    a: Vec<f32>,
    b: Vec<f32>,
    whole: PathBuf,
}

impl Beside {
    fn new() -> Beside {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        small(&path);
        let (a, b) = (some(20, 9, 11), some(30, 9, 11));
        let whole = save(&dir.path().join("whole.safetensors"), &[("a", a.clone()), ("b", b.clone())]);
        Beside { dir, path, a, b, whole }
    }
}

#[test]
fn an_index_says_which_file_has_a_tensor() {
    let Beside { dir, path, a, b, whole } = Beside::new();
    let expected = column(&rows(&path, &["--ref", whole.to_str().unwrap()]), "dist");

    // An old copy of each tensor lies in the other part.
    let model = dir.path().join("model");
    save(&model.join("1.safetensors"), &[("a", a.clone()), ("b", some(30, 1, 99))]);
    save(&model.join("2.safetensors"), &[("a", some(20, 1, 99)), ("b", b.clone())]);
    index(&model, &[("a", "1.safetensors"), ("b", "2.safetensors")]);
    assert_eq!(column(&rows(&path, &["--ref", model.to_str().unwrap()]), "dist"), expected);

    // What the index does not name is not known where two have it.
    index(&model, &[("a", "1.safetensors"), ("c", "2.safetensors")]);
    let ran = analyze(&path, &[&model]);
    assert!(
        ran.err.contains("2.safetensors: 'b' is in ") && ran.err.contains("the index does not name it"),
        "{}",
        ran.err
    );
    std::fs::remove_file(model.join("1.safetensors")).unwrap();
    save(&model.join("1.safetensors"), &[("a", a.clone())]);
    let ran = analyze(&path, &[&model]);
    assert!(
        ran.err.contains("the index says that 'c' is in ") && ran.err.contains("do not belong together"),
        "{}",
        ran.err
    );

    // It is left from an older checkpoint.
    index(&model, &[("a", "model-00001-of-00002.safetensors"), ("b", "model-00002-of-00002.safetensors")]);
    let ran = analyze(&path, &[&model]);
    assert_eq!((ran.code, ran.err.lines().count()), (1, 1));
    assert!(
        ran.err.contains("lists files that are not there: 'model-00001-of-00002.safetensors', 'model-00002"),
        "{}",
        ran.err
    );
    // A single file is what from_pretrained loads.
    save(&model.join("model.safetensors"), &[("a", a), ("b", b)]);
    assert_eq!(column(&rows(&path, &["--ref", model.to_str().unwrap()]), "dist"), expected);
}

#[test]
fn a_directory_has_its_only_file_or_says_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    small(&path);
    let folder = dir.path().join("adapter");
    let tensors = [("a", some(20, 9, 11)), ("b", some(30, 9, 11))];
    save(&folder.join("adapter_model.safetensors"), &tensors);
    std::fs::write(folder.join("adapter_config.json"), "{}").unwrap();
    assert_eq!(analyze(&path, &[&folder]).code, 0);
    save(&folder.join("model.fp16.safetensors"), &tensors);
    let ran = analyze(&path, &[&folder]);
    assert!(
        ran.err.contains(
            "but 'adapter_model.safetensors', 'model.fp16.safetensors'. Name the file that is meant"
        ),
        "{}",
        ran.err
    );
    let old = dir.path().join("old");
    std::fs::create_dir(&old).unwrap();
    std::fs::write(old.join("pytorch_model.bin"), b"PK").unwrap();
    let ran = analyze(&path, &[&old]);
    let call = format!("lpa.reference(\"{}\", \"reference.safetensors\")", old.display());
    assert!(ran.err.contains(&call), "{}", ran.err);
}

#[test]
fn names_of_trainers_are_found_and_said() {
    let Beside { dir, path, a, b, whole: plain } = Beside::new();
    let expected = column(&rows(&path, &["--ref", plain.to_str().unwrap()]), "dot");
    for (i, names) in [["model.a", "model.b"], ["model._orig_mod.a", "model._orig_mod.b"]].iter().enumerate()
    {
        let file = dir.path().join(format!("{i}.safetensors"));
        save(&file, &[(names[0], a.clone()), (names[1], b.clone()), ("loss.weight", vec![1.0])]);
        assert_eq!(column(&rows(&path, &["--ref", file.to_str().unwrap()]), "dot"), expected);
        let ran = analyze(&path, &[&file]);
        assert!(ran.err.contains(&format!("'{}' in ", names[0])), "{}", ran.err);
    }
    // A part, and several ways to read it.
    let part = save(&dir.path().join("part.safetensors"), &[("a", a.clone()), ("bb", b.clone())]);
    let ran = analyze(&path, &[&part]);
    assert!(
        ran.err.contains("lacks 1 of the tensors asked for, first 'b'; it has 'bb'. Name those"),
        "{}",
        ran.err
    );
    let two = save(&dir.path().join("two.safetensors"), &[("ema.a", a.clone()), ("model.a", a)]);
    let ran = analyze(&path, &[&two]);
    assert!(
        ran.err.contains("could be meant in several ways: 'ema.' before the run's, or 'model.'"),
        "{}",
        ran.err
    );
}

#[test]
fn names_are_renamed_as_the_user_says() {
    let Beside { dir, path, a, b, whole: plain } = Beside::new();
    let expected = column(&rows(&path, &["--ref", plain.to_str().unwrap()]), "dot");
    let other = [("ema.a", b[..20].to_vec()), ("model.first", a.clone()), ("model.second", b.clone())];
    let other = save(&dir.path().join("other.safetensors"), &other);
    let named = |renames: &[&'static str]| {
        let renames = renames.iter().flat_map(|r| ["--rename", r]);
        [&["--ref", other.to_str().unwrap()][..], &renames.collect::<Vec<_>>()].concat()
    };
    let both = named(&["model.first=a", "model.second=b"]);
    assert_eq!(column(&rows(&path, &both), "dot"), expected);
    // What is not renamed is found as ever; another rename is another reference.
    let ran = analyze(&path, &[&other]);
    assert!(ran.err.contains("lacks 1 of the tensors asked for, first 'b'"), "{}", ran.err);
    let refused = |arguments: &[&str], code, text: &str| {
        let ran = run(&[&["analyze", path.to_str().unwrap()], arguments].concat());
        assert!(ran.code == code && ran.err.contains(text), "{} {}", ran.code, ran.err);
    };
    refused(
        &named(&["none=a"]),
        1,
        "no name in it is left to begin with 'none'; it has 'ema.a', 'model.first'",
    );
    refused(
        &named(&["model.=", "ema.a=first"]),
        1,
        "'model.first' would both be called 'first'; rename fewer",
    );
    refused(&named(&["model.first"]), 2, "write OLD=NEW");
    refused(&["--rename", "a=b"], 2, "'a=b' renames tensors of files and of other runs");
    // Where a prefix could be meant in several ways, the message says which.
    let two = [("ema.a", b[..20].to_vec()), ("model.a", a), ("ema.b", b.clone()), ("model.b", b)];
    let two = save(&dir.path().join("two.safetensors"), &two);
    refused(&["--ref", two.to_str().unwrap()], 1, "Say which: --rename ema.=, or --rename model.=");
    let meant = rows(&path, &["--ref", two.to_str().unwrap(), "--rename", "model.="]);
    assert_eq!(column(&meant, "dot"), expected);
    // Another run's tensors too.
    let run = dir.path().join("other run");
    let all: Vec<_> = (0..3).map(|t| [("net.a", some(20, t, 1)), ("net.b", some(30, t, 2))]).collect();
    let iterates: Vec<&Vectors<'_>> = all.iter().map(|x| &x[..]).collect();
    record(&run, &iterates, &[], |_| 0.1);
    let same = column(&rows(&path, &["--ref", "step:2"]), "d2");
    assert_eq!(column(&rows(&path, &["--ref", run.to_str().unwrap(), "--rename", "net.="]), "d2"), same);
}

#[test]
fn checkpoints_of_other_kinds_are_named_with_what_converts_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    small(&path);
    let kinds = [
        ("x.npz", "it is an archive of NumPy. Convert it"),
        ("x.weights.h5", "it is a file of Keras. Convert it"),
        ("x.pth.tar", "it is a PyTorch file"),
        ("dcp/.metadata", "it is a checkpoint of torch.distributed.checkpoint. Convert it"),
        (
            "hf/pytorch_model_fsdp_0/.metadata",
            "it is a checkpoint of torch.distributed.checkpoint. Convert it",
        ),
        ("100/default/manifest.ocdbt", "it is a checkpoint of Orbax. Convert it"),
        ("ds/mp_rank_00_model_states.pt", "it is a checkpoint of DeepSpeed. Convert it"),
        ("x.gguf", "it is a GGUF file, which is made for inference. Name the checkpoint"),
        ("x.distcp", "Name its directory"),
        ("x.pkl", "it is a pickle, which is a program"),
    ];
    for (name, text) in kinds {
        let file = dir.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, b"PK").unwrap();
        let named = name.split_once('/').map_or(name, |(folder, _)| folder);
        let named = dir.path().join(named);
        let ran = analyze(&path, &[&named]);
        let call = format!("lpa.reference(\"{}\", \"reference.safetensors\")", named.display());
        assert!(ran.code == 1 && ran.err.contains(text), "{name}: {}", ran.err);
        assert_eq!(
            ran.err.contains(&call),
            text.ends_with("Convert it") || name.contains("pth"),
            "{}",
            ran.err
        );
    }
}

/// SGD from a common x_0 with learning rates `lr`, and noise that depends on `salt`; with `still`, a step without a
/// gradient comes first.
fn train(path: &Path, salt: u64, still: bool, lr: impl Fn(u64) -> f64) {
    const N: u64 = 50;
    let (mut x, mut all, mut gradients, mut rates) = (some(N, 0, 1), Vec::new(), Vec::new(), Vec::new());
    for t in 0..30 {
        if still && t == 0 {
            all.push([("w", x.clone())]);
            gradients.push(vec![vec![0.0; N as usize]]);
            rates.push(0.0);
        }
        all.push([("w", x.clone())]);
        let g = some(N, t, salt);
        x.iter_mut().zip(&g).for_each(|(x, g)| *x -= lr(t) as f32 * g);
        gradients.push(vec![g]);
        rates.push(lr(t));
    }
    all.push([("w", x)]);
    let iterates: Vec<&Vectors<'_>> = all.iter().map(|x| &x[..]).collect();
    record(path, &iterates, &gradients, |t| rates[t as usize]);
}

#[test]
fn a_start_is_shared_only_where_the_iterate_moves() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let warm = |t: u64| 0.01 * t as f64;
    let late = |t: u64| if t < 3 { 0.0 } else { 0.1 };
    train(&path("warm"), 5, false, warm);
    train(&path("control"), 6, false, warm);
    train(&path("late"), 5, false, late);
    train(&path("later"), 6, true, late);
    train(&path("plain"), 5, false, |_| 0.1);
    train(&path("phantom"), 6, true, |_| 0.1);
    train(&path("same"), 5, true, |_| 0.1);
    let ask = |run: &str, other: &str| analyze(&path(run), &[&path(other)]);
    for (run, other) in [
        ("warm", "control"),
        ("late", "later"),
        ("plain", "phantom"),
        ("phantom", "plain"),
        ("late", "phantom"),
    ] {
        let ran = ask(run, other);
        assert!(
            ran.out.contains(&format!("{other}:final (same x_0: a control)")),
            "{run} {other}: {}{}",
            ran.err,
            ran.out
        );
        assert!(ran.err.is_empty(), "{}", ran.err);
    }
    // The same training once more, a step later or earlier.
    for (run, other, end) in [("plain", "same", 30), ("same", "plain", 31)] {
        let ran = ask(run, other);
        let expected = format!(
            "{other}:final: that run holds the updates of this one up to step {end}, so it is no control"
        );
        assert!(ran.err.contains(&expected), "{run} {other}: {}", ran.err);
    }
}

#[test]
fn checkpoints_that_are_mixed_up_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let at = |t: u64| [("emb", some(40, t, 1)), ("head", some(40, t, 2)), ("mask", vec![-1e9; 20])];
    let mut all: Vec<_> = (0..20).map(at).collect();
    // One part of step 7 is the end's, and step 12 is step 11 once more.
    all[7][0].1 = all[19][0].1.clone();
    all[12] = all[11].clone();
    let iterates: Vec<&Vectors<'_>> = all.iter().map(|x| &x[..]).collect();
    record(&path, &iterates, &[], |_| 0.1);
    let ran = run(&["analyze", path.to_str().unwrap(), "--stream", "update"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let text = ran.out.split_whitespace().collect::<Vec<_>>().join(" ");
    for note in [
        "note: 'mask' does not move in the measured steps",
        "note: 'emb', 'head' are the same in the next checkpoint as at step 11: is one of them a copy of the other?",
        "note: 'emb' is already what x_19 has, the reference 'final', at step 7, and not so later: were checkpoints mixed up?",
    ] {
        assert!(text.contains(note), "{text}");
    }
    // The mask is nearly all of ||x||, and says nothing of how exact the rest is.
    assert!(text.contains("Trust: at every step"), "{text}");
    let unit = 2f64.powi(-24);
    for (row, x) in rows(&path, &["--stream", "update"]).iter().zip(&all) {
        let parts = x.iter().zip(&all[19]).filter(|((_, x), (_, r))| x != r);
        let square: f64 = parts.flat_map(|((_, x), _)| x).map(|v| f64::from(*v).powi(2)).sum();
        let expected = number(row, "dist").unwrap() / (unit * square.sqrt());
        assert!((number(row, "ulp_ratio").unwrap() / expected - 1.0).abs() < 1e-12);
    }
    // A file that has one tensor of the path, though not the other.
    let file = save(
        &dir.path().join("part.safetensors"),
        &[("emb", all[3][0].1.clone()), ("head", some(40, 99, 2)), ("mask", vec![-1e9; 20])],
    );
    let ran =
        run(&["analyze", path.to_str().unwrap(), "--stream", "update", "--ref", file.to_str().unwrap()]);
    let text = ran.out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("'emb' is in 'part.safetensors' what this path has at step 3: the file is made of this run in part"), "{text}");
}

#[test]
fn a_mask_of_infinities_is_left_out_of_groups() {
    let dir = tempfile::tempdir().unwrap();
    let at = |t: u64, mask: bool| {
        let mut all = vec![("head", some(40, t, 2))];
        if mask {
            all.push(("mask", vec![f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY]));
        }
        all
    };
    let [with, without] = [true, false].map(|mask| {
        let path = dir.path().join(mask.to_string());
        let all: Vec<_> = (0..12).map(|t| at(t, mask)).collect();
        let iterates: Vec<&Vectors<'_>> = all.iter().map(|x| &x[..]).collect();
        record(&path, &iterates, &[], |_| 0.1);
        path
    });
    // They are two runs.
    let same = |mut row: Row| {
        row.remove("run_id");
        row
    };
    let rows_of = |path: &std::path::PathBuf| {
        rows(path, &["--stream", "update"]).into_iter().map(same).collect::<Vec<_>>()
    };
    let [a, b] = [&with, &without].map(rows_of);
    assert!(a == b && a.iter().all(|r| r["n_params"] == "40" && !r["cos"].is_empty()));
    let ran = run(&["analyze", with.to_str().unwrap(), "--stream", "update"]);
    let text = ran.out.split_whitespace().collect::<Vec<_>>().join(" ");
    let note = "note: 'mask' is the same in all iterates and not finite; left out of groups of other tensors";
    assert!(text.contains(note), "{text}");
    // Who asks for it gets it.
    let alone = rows(&with, &["--stream", "update", "--group", "mask"]);
    assert!(alone.iter().all(|r| r["n_params"] == "3" && r["nonfinite"] == "true"));
}

#[test]
fn damage_on_the_way_is_said_as_ever_and_hides_no_iterate_beside_it() {
    let copy = Copy::of("digits_mlp");
    let bytes = std::fs::read(copy.path.join("ref/final.safetensors")).unwrap();
    let end = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let name = |(n, t): (String, TensorView<'_>)| (n, t.data().to_vec(), t.shape().to_vec());
    let values: Vec<_> = end.tensors().into_iter().map(name).collect();
    let views = values.iter().map(|(n, b, s)| (n, TensorView::new(Dtype::F32, s.clone(), b).unwrap()));
    let file = copy.path.with_file_name("end.safetensors");
    serialize_to_file(views, None, &file).unwrap();
    // In the payloads.
    let size = usize::try_from(std::fs::metadata(&copy.shards()[4]).unwrap().len()).unwrap();
    flip(&copy.shards()[4], size / 2, 2);
    let ran = analyze(&copy.path, &[&file]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.lines().last().unwrap().contains(" is damaged, step "), "{}", ran.err);
    let ran = run(&["analyze", copy.arg(), "--ref", file.to_str().unwrap(), "--skip-damaged"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("end.safetensors is x_220 of this run"), "{}", ran.err);
}
