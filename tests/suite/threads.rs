//! What is recorded does not depend on how many threads encode it, nor on who holds the vectors meanwhile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lpa::internals::{Background, Filled, GRAD, Job, Packing};
use lpa::{DType, Manifest, Optimizer, Precision, Profile, Run, Step, Storage, Writer, WriterOptions};
use serde_json::json;

use crate::support::{borrow, files, manifest, values, without_attempt_id};

const SIZES: [u64; 6] = [200_000, 70_000, 5000, 7, 300, 131_072];
const STEPS: u64 = 9;

/// A step of a training: x_t, and g_t, of which tensors may be absent.
struct Recorded {
    x: Vec<Vec<u8>>,
    g: Vec<Vec<u8>>,
    absent: Vec<bool>,
}

/// SGD with momentum on drawn gradients. Of one tensor nothing but the upper half of each word is kept: bfloat16. At the
/// fourth step something else changes a tensor, and some gradients are absent.
fn training() -> Vec<Recorded> {
    let float = |b: &[u8]| b.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>();
    let drawn =
        |t, salt| SIZES.iter().zip(salt..).map(|(&n, salt)| float(&values(n, t, salt))).collect::<Vec<_>>();
    let mut x: Vec<Vec<f32>> = drawn(0, 1);
    let mut buffer: Vec<Vec<f32>> = SIZES.map(|n| vec![0.0; n as usize]).to_vec();
    let bytes = |v: &[Vec<f32>]| {
        let of = |(i, v): (usize, &Vec<f32>)| match i {
            5 => v.iter().flat_map(|v| v.to_le_bytes()[2..].to_vec()).collect(),
            _ => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        v.iter().enumerate().map(of).collect::<Vec<Vec<u8>>>()
    };
    let mut steps = Vec::new();
    for t in 0..STEPS {
        let g = drawn(t, 100);
        let absent: Vec<bool> = (0..SIZES.len()).map(|i| t == 3 && (i == 0 || i == 4)).collect();
        steps.push(Recorded { x: bytes(&x), g: bytes(&g), absent: absent.clone() });
        for (i, g) in g.iter().enumerate().filter(|(i, _)| !absent[*i]) {
            for (k, g) in g.iter().enumerate() {
                buffer[i][k] = 0.9 * buffer[i][k] + g;
                x[i][k] -= 0.01 * buffer[i][k];
                if t == 4 && i == 1 {
                    x[i][k] *= 0.5;
                }
            }
        }
    }
    steps
}

fn described(storage: Storage) -> Manifest {
    let mut m = manifest(&SIZES);
    m.tensors[5].dtype = DType::BF16;
    let group = json!({"lr": 0.01, "momentum": 0.9, "weight_decay": 0.0, "dampening": 0.0});
    m.optimizer =
        Optimizer { name: "SGD".to_owned(), param_groups: vec![group.as_object().unwrap().clone()] };
    m.storage = storage;
    m
}

fn shards(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = files(&run.join("steps"));
    assert!(!all.is_empty());
    let own = |path: PathBuf| path.strip_prefix(run).unwrap().to_owned();
    all.into_iter().map(|(path, bytes)| (own(path), without_attempt_id(bytes))).collect()
}

/// The shards of the training as a writer makes them of what it is lent for each step.
fn written(m: &Manifest, steps: &[Recorded], options: WriterOptions) -> BTreeMap<PathBuf, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut writer = Writer::create(&path, m.clone(), options).unwrap();
    for step in steps {
        let x = borrow(&step.x);
        let g: Vec<Option<&[u8]>> =
            step.g.iter().zip(&step.absent).map(|(g, absent)| (!absent).then_some(g.as_slice())).collect();
        let streams: [(&str, &[Option<&[u8]>]); 1] = [(GRAD, &g)];
        writer.step(&Step { iterate: Some(&x), streams: &streams, ..Step::default() }).unwrap();
    }
    writer.finish(&borrow(&steps[0].x)).unwrap();
    shards(&path)
}

/// The same by a thread of its own, which holds some of the buffers, or makes copies.
fn behind(
    m: &Manifest,
    steps: &[Recorded],
    options: WriterOptions,
    lent: usize,
) -> BTreeMap<PathBuf, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let writer = Writer::create(&path, m.clone(), options).unwrap();
    let packing = Packing::new(writer.slice_bytes());
    assert!(writer.holds() <= 3);
    let background =
        Background::start(Box::new(writer), vec![vec![0u8; packing.len]; 2 + lent], lent).unwrap();
    let filled = |vector: &[Vec<u8>], absent: &[bool]| {
        let mut buffer = background.take(true).unwrap();
        // What was there before is gone: a vector that is held too long would be seen to change.
        buffer.fill(0xa5);
        for (range, bytes) in packing.ranges.iter().zip(vector) {
            buffer[range.clone()].copy_from_slice(bytes);
        }
        Filled { buffer, absent: absent.to_vec() }
    };
    for step in steps {
        let (x, g) = (filled(&step.x, &[]), filled(&step.g, &step.absent));
        let streams = vec![(GRAD.to_owned(), g)];
        background.submit(Job::Step { iterate: Some(x), streams, scalars: Vec::new(), moments: Vec::new() });
    }
    background.submit(Job::Finish(filled(&steps[0].x, &[]), Vec::new()));
    background.join().unwrap();
    assert_eq!(background.free(), 2 + lent);
    shards(&path)
}

#[test]
fn any_number_of_threads_writes_the_same_bytes() {
    let steps = training();
    for (profile, gradients, iterates) in [
        (Profile::Default, Precision::Exact, Precision::Exact),
        (Profile::Fast, Precision::Exact, Precision::Exact),
        (Profile::Default, Precision::Int8, Precision::Int8),
        (Profile::Fast, Precision::Bf16, Precision::Exact),
    ] {
        let m = described(Storage { gradients, iterates });
        let options =
            |threads| WriterOptions { profile, threads, shard_steps: 4, ..WriterOptions::default() };
        let one = written(&m, &steps, options(1));
        for threads in [2, 5] {
            assert!(
                written(&m, &steps, options(threads)) == one,
                "{threads} threads, {profile:?}, {gradients:?}"
            );
            for lent in [0, 3] {
                let other = behind(&m, &steps, options(threads), lent);
                assert!(other == one, "{threads} threads, {lent} lent, {profile:?}, {gradients:?}");
            }
        }
    }
}

#[test]
fn what_threads_have_written_is_what_was_given() {
    let steps = training();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let options = WriterOptions { threads: 3, ..WriterOptions::default() };
    let mut writer = Writer::create(&path, described(Storage::default()), options).unwrap();
    for step in &steps {
        let x = borrow(&step.x);
        writer.step(&Step { iterate: Some(&x), ..Step::default() }).unwrap();
    }
    writer.finish(&borrow(&steps[0].x)).unwrap();
    let run = Run::open(&path, lpa::Access::default()).unwrap();
    for (t, step) in steps.iter().enumerate() {
        let mut vector = lpa::Vector::open(&run, t as u64, "iterate").unwrap();
        for (i, expected) in step.x.iter().enumerate() {
            let mut bytes = Vec::new();
            vector.tensor(i, &mut bytes).unwrap();
            assert!(bytes == *expected, "step {t}, tensor {i}");
        }
    }
}
