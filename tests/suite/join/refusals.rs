//! What is refused, and that nothing is written then.

use std::path::Path;

use lpa::{Manifest, Precision, StreamInfo, Writer, WriterOptions};

use super::{End, join, joined, of_world, paths, record, write};
use crate::support::{files, flip};

/// Expects one line, exit code 1, and that nothing has changed.
fn refused(runs: &[&Path], out: &Path, expected: &[&str]) {
    let around = runs[0].parent().unwrap();
    let before = files(around);
    let ran = join(runs, out, &[]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{expected:?}: {}", ran.err);
    assert_eq!(ran.err.trim_end().lines().count(), 1, "{expected:?}: {}", ran.err);
    for part in expected {
        assert!(ran.err.contains(part), "no '{part}' in: {}", ran.err);
    }
    assert!(files(around) == before, "{expected:?}: something was changed");
}

#[test]
fn runs_that_are_not_one_path() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c, new, _] = paths(dir.path());
    let id = record(&a, 2, 0..14, End::Stop, 1, None);
    record(&b, 3, 10..12, End::Stop, 1, Some(&id));
    // Another path, whatever its manifest says.
    record(&c, 3, 10..12, End::Stop, 5, Some(&id));
    refused(&[&a, &c], &new, &["run-3: t0 of its x_10 is not that of ", "run: these are two paths"]);
    refused(&[&a, &a], &new, &["run: it is named twice"]);
    refused(
        &[&b, &a],
        &new,
        &["run: it begins with step 0", "with step 10; name runs in the order of their steps"],
    );
    refused(&[&b, &c], &new, &["run-3: it begins with step 10", "run-2 with step 10"]);
    refused(&[&a, &b], &a, &["run: there is something already"]);
    refused(&[&a, &b], &b.join("new"), &["this lies in the run itself"]);
    refused(&[&a, &dir.path().join("none")], &new, &["there is nothing at this path"]);
    assert_eq!(join(&[&a], &new, &[]).code, 2);
    joined(&[&a, &b], &new, &[]);
}

#[test]
fn runs_with_something_missing() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c, new, _] = paths(dir.path());
    let id = record(&a, 2, 0..9, End::Checkpoint, 1, None);
    record(&b, 3, 10..12, End::Stop, 1, Some(&id));
    refused(
        &[&a, &b],
        &new,
        &["run-2: it begins with step 10", "ends with x_9: what lies between is in neither"],
    );
    record(&c, 1, 9..9, End::Stop, 1, Some(&id));
    refused(&[&a, &c], &new, &["run-3: no step of it is published"]);
    std::fs::remove_dir_all(&c).unwrap();
    record(&c, 1, 9..12, End::Stop, 5, Some(&id));
    refused(&[&a, &c], &new, &["run-3: its x_9 is not that of the checkpoint in ", "two paths"]);
    // Behind the final iterate.
    std::fs::remove_dir_all(&a).unwrap();
    let id = record(&a, 2, 0..9, End::Close, 1, None);
    refused(&[&a, &b], &new, &["ends with x_9"]);
    std::fs::remove_dir_all(&c).unwrap();
    record(&c, 1, 9..12, End::Stop, 1, Some(&id));
    joined(&[&a, &c], &new, &[]);
    std::fs::remove_dir_all(&new).unwrap();
    std::fs::remove_dir_all(&a).unwrap();
    record(&a, 2, 0..9, End::Stop, 1, None);
    refused(&[&a, &c], &new, &["run-3: nothing says that it goes on from ", "x_9 is not recorded in both"]);
    std::fs::remove_file(a.join("steps/000000/s0000000004-0000000007.a1.r1.safetensors")).unwrap();
    std::fs::remove_dir_all(&c).unwrap();
    record(&c, 1, 9..12, End::Stop, 1, Some(&id));
    refused(&[&a, &c], &new, &["the shard of rank 1 with steps 4 to 7 is missing"]);
}

#[test]
fn damage() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, new, ..] = paths::<5>(dir.path());
    let id = record(&a, 2, 0..14, End::Stop, 1, None);
    record(&b, 3, 10..12, End::Stop, 1, Some(&id));
    // Behind step 10 nothing is read.
    flip(&a.join("steps/000000/s0000000012-0000000013.a1.r0.safetensors"), 4096 + 10, 3);
    joined(&[&a, &b], &new, &[]);
    std::fs::remove_dir_all(&new).unwrap();
    flip(&a.join("steps/000000/s0000000000-0000000003.a1.r1.safetensors"), 4096 + 10, 3);
    refused(
        &[&a, &b],
        &new,
        &["nothing was changed, because steps/000000/s0000000000", "r1.safetensors is damaged"],
    );
}

#[test]
fn runs_of_different_models() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, new, ..] = paths::<5>(dir.path());
    let id = record(&a, 2, 0..14, End::Stop, 1, None);
    let other = |change: &dyn Fn(&mut Manifest), expected: &[&str]| {
        let mut m = of_world(1);
        m.continues = Some(lpa::Continued { run_id: id.clone(), step: 10 });
        change(&mut m);
        drop(Writer::create(&b, m, WriterOptions::default()).unwrap());
        refused(&[&a, &b], &new, expected);
        std::fs::remove_dir_all(&b).unwrap();
    };
    other(
        &|m| m.tensors[3].shape = vec![30, 30],
        &["tensor 3 is t3 F32 [30, 30]", "F32 [900]", "different models"],
    );
    other(&|m| m.tensors[3].name = "w".to_owned(), &["tensor 3 is w F32 [900]"]);
    other(&|m| m.tensors[3].param_group = 1, &["t3 F32 [900] of parameter group 1"]);
    other(&|m| drop(m.tensors.pop()), &["tensor 4 is none"]);
    other(&|m| m.streams.push(StreamInfo::new("b")), &[r#"streams: ["grad", "probe/a", "b"] here"#]);
    other(&|m| m.optimizer.name = "adam".to_owned(), &[r#"optimizers: ["adam"] here, ["sgd"] in "#]);
    let nesterov =
        |m: &mut Manifest| drop(m.optimizer.param_groups[0].insert("nesterov".to_owned(), true.into()));
    other(&nesterov, &["nesterov of group 0: true here, false in "]);
    other(&|m| m.storage.gradients = Precision::Bf16, &["run-2: it is stored with loss"]);
    other(&|_| {}, &["run-2: no step of it is published"]);
}

#[test]
fn while_a_process_records() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, new, ..] = paths::<5>(dir.path());
    let id = record(&a, 1, 0..14, End::Stop, 1, None);
    let mut m = of_world(1);
    m.continues = Some(lpa::Continued { run_id: id, step: 10 });
    let mut writer = Writer::create(&b, m, WriterOptions::default()).unwrap();
    write(&mut writer, 0, &[], 1);
    writer.flush().unwrap();
    refused(&[&a, &b], &new, &["run-2: a process is recording here; nothing was changed"]);
    writer.stop().unwrap();
    joined(&[&a, &b], &new, &[]);
}
