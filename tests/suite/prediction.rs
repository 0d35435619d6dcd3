//! Predicted iterates: every step can be had by itself, whatever the optimizer did, and a replay goes on
//! where it can.

use std::collections::BTreeMap;
use std::path::Path;

use lpa::internals::{GRAD, Predictor, StreamId, VectorId, from_run};
use lpa::{Access, Optimizer, Run, Step, Vector, Writer, WriterOptions};
use serde_json::json;

use crate::support::{manifest, values};

const SIZES: [u64; 3] = [5000, 70_000, 7];

/// A training in plain float32 arithmetic, which rounds elsewhere than the format's predictors do.
pub struct Training {
    optimizer: &'static str,
    x: Vec<Vec<f32>>,
    m: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
    taken: i32,
    /// What has been recorded, by step.
    iterates: BTreeMap<u64, Vec<Vec<f32>>>,
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn bytes(vector: &[Vec<f32>]) -> Vec<Vec<u8>> {
    vector.iter().map(|v| v.iter().flat_map(|v| v.to_le_bytes()).collect()).collect()
}

fn drawn(step: u64, salt: u64) -> Vec<Vec<f32>> {
    SIZES.iter().enumerate().map(|(i, &n)| floats(&values(n, step, salt + i as u64))).collect()
}

fn zeros() -> Vec<Vec<f32>> {
    SIZES.map(|n| vec![0.0; n as usize]).to_vec()
}

/// What is out of the ordinary at a step.
#[derive(Clone, Copy, Default)]
pub struct Unusual {
    /// The gradient is infinite and the step is not taken.
    pub overflow: bool,
    /// The first tensor has no gradient.
    pub absent: bool,
    /// The gradient is multiplied after it was recorded.
    pub scale: Option<f32>,
    /// The iterate, or the gradient, is not recorded.
    pub no_iterate: bool,
    pub no_gradient: bool,
}

impl Training {
    pub fn new(optimizer: &'static str) -> Training {
        let x = drawn(0, 1);
        Training { optimizer, x, m: zeros(), v: zeros(), taken: 0, iterates: BTreeMap::new() }
    }

    pub fn manifest(&self) -> lpa::Manifest {
        let mut m = manifest(&SIZES);
        let group = json!({"momentum": 0.9, "weight_decay": 0.01, "betas": [0.9, 0.99], "eps": 1e-8});
        let group = group.as_object().unwrap().clone();
        m.optimizer = Optimizer { name: self.optimizer.to_owned(), param_groups: vec![group] };
        m
    }

    fn update(&mut self, g: &[Vec<f32>], lr: f32, skip: Option<usize>) {
        self.taken += 1;
        let (b1, b2) = (0.9f32, 0.99f32);
        for (t, g) in g.iter().enumerate().filter(|(t, _)| Some(*t) != skip) {
            for (i, &g) in g.iter().enumerate() {
                let (x, m, v) = (&mut self.x[t][i], &mut self.m[t][i], &mut self.v[t][i]);
                match self.optimizer {
                    "adamw" => {
                        *m = b1 * *m + (1.0 - b1) * g;
                        *v = b2 * *v + (1.0 - b2) * g * g;
                        let (c1, c2) = (1.0 - b1.powi(self.taken), 1.0 - b2.powi(self.taken));
                        *x = *x * (1.0 - lr * 0.01) - lr * (*m / c1) / ((*v / c2).sqrt() + 1e-8);
                    }
                    _ => {
                        *m = 0.9 * *m + (g + 0.01 * *x);
                        *x -= lr * *m;
                    }
                }
            }
        }
    }

    pub fn step(&mut self, writer: &mut Writer, unusual: Unusual) {
        let t = writer.next_step();
        let lr = 1e-3 / (1.0 + t as f32 / 100.0);
        let mut g = drawn(t, 50);
        if unusual.overflow {
            g[1][12] = f32::INFINITY;
        }
        let (x, gradient) = (bytes(&self.x), bytes(&g));
        let x: Vec<Option<&[u8]>> = x.iter().map(|v| Some(v.as_slice())).collect();
        let mut gradient: Vec<Option<&[u8]>> = gradient.iter().map(|v| Some(v.as_slice())).collect();
        if unusual.absent {
            gradient[0] = None;
        }
        if !unusual.no_iterate {
            self.iterates.insert(t, self.x.clone());
        }
        let streams = [(GRAD, gradient.as_slice())];
        let scalars = [("lr/0", f64::from(lr))];
        let step = Step {
            iterate: (!unusual.no_iterate).then_some(&x),
            streams: if unusual.no_gradient { &[] } else { &streams },
            scalars: &scalars,
            ..Step::default()
        };
        writer.step(&step).unwrap();
        if let Some(scale) = unusual.scale {
            g.iter_mut().flatten().for_each(|g| *g *= scale);
        }
        if !unusual.overflow {
            self.update(&g, lr, unusual.absent.then_some(0));
        }
    }

    pub fn finish(&mut self, writer: &mut Writer) {
        self.iterates.insert(writer.next_step(), self.x.clone());
        let x = bytes(&self.x);
        writer.finish(&x.iter().map(|v| Some(v.as_slice())).collect::<Vec<_>>()).unwrap();
    }

    /// Every recorded iterate is read by itself, and last to first.
    fn is_what_is_read(&self, path: &Path) {
        let run = Run::open(path, Access::default()).unwrap();
        for (&step, expected) in self.iterates.iter().rev() {
            let mut vector = Vector::open(&run, step, "iterate").unwrap();
            for (tensor, expected) in bytes(expected).iter().enumerate() {
                let mut got = Vec::new();
                assert!(vector.tensor(tensor, &mut got).unwrap());
                assert!(got == *expected, "step {step}, tensor {tensor}");
            }
        }
    }
}

/// By step, which predictors the chunks of the iterate have and how many bits a parameter takes.
fn stored(path: &Path) -> BTreeMap<u64, (Vec<Option<Predictor>>, f64)> {
    let run = Run::open(path, Access::default()).unwrap();
    let parameters = SIZES.iter().sum::<u64>() as f64;
    let mut all = BTreeMap::new();
    for segment in run.segments(0) {
        let shard = run.open_shard(&segment.file).unwrap();
        for (v, &VectorId { step, stream }) in shard.vectors().iter().enumerate() {
            if stream == StreamId::Iterate && (segment.first..=segment.last).contains(&step) {
                let predictors = shard.records(v).map(|r| r.coding.predictor()).collect();
                let bits = shard.records(v).map(|r| f64::from(r.len) * 8.0).sum::<f64>() / parameters;
                all.insert(step, (predictors, bits));
            }
        }
    }
    all
}

fn options() -> WriterOptions {
    WriterOptions { shard_steps: 20, ..WriterOptions::default() }
}

/// Every step of `steps` is a keyframe or has this predictor in all chunks but the smallest, whose
/// coefficients are longer than its values.
fn is_replayed(
    stored: &BTreeMap<u64, (Vec<Option<Predictor>>, f64)>,
    steps: std::ops::Range<u64>,
    (by, most): (Predictor, f64),
) {
    for step in steps {
        let (predictors, bits) = &stored[&step];
        let keyframe = predictors.iter().all(|p| p.is_none());
        let replayed = predictors[..3].iter().all(|p| *p == Some(by)) && *bits < most;
        assert!(keyframe || replayed, "step {step}: {predictors:?}, {bits} bits");
    }
}

#[test]
fn the_optimizer_is_replayed_and_any_step_can_be_had_alone() {
    for (optimizer, by) in [("sgd", Predictor::Sgd), ("adamw", Predictor::Adam), ("lion", Predictor::Linear)]
    {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let mut training = Training::new(optimizer);
        let mut writer = Writer::create(&path, training.manifest(), options()).unwrap();
        (0..300).for_each(|_| training.step(&mut writer, Unusual::default()));
        training.finish(&mut writer);
        training.is_what_is_read(&path);
        let stored = stored(&path);
        for keyframe in [0, 128, 256] {
            assert_eq!(stored[&keyframe].0, [None; 4], "{optimizer}");
        }
        assert_eq!(stored.values().filter(|(p, _)| p.iter().all(|p| p.is_none())).count(), 3);
        // After a keyframe the step before is not known, which only the fitted predictor looks at.
        let from = if by == Predictor::Linear { 130 } else { 129 };
        is_replayed(&stored, from..256, (by, 4.0));
    }
}

#[test]
fn what_is_out_of_the_ordinary_costs_bytes_and_no_bit() {
    for optimizer in ["sgd", "adamw"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let mut training = Training::new(optimizer);
        let mut writer = Writer::create(&path, training.manifest(), options()).unwrap();
        for t in 0..200u64 {
            let unusual = Unusual {
                overflow: [0, 1, 30].contains(&t),
                absent: (40..43).contains(&t),
                no_iterate: t == 150,
                no_gradient: t == 170,
                scale: None,
            };
            training.step(&mut writer, unusual);
        }
        training.finish(&mut writer);
        training.is_what_is_read(&path);
        let stored = stored(&path);
        let by = if optimizer == "sgd" { Predictor::Sgd } else { Predictor::Adam };
        // Steps that were not taken, and tensors that did not move, are as before; all else is replayed.
        for step in [1, 2, 31] {
            assert_eq!(stored[&step].0, [Some(Predictor::Previous); 4], "{optimizer} {step}");
        }
        for step in 41..44 {
            assert_eq!(stored[&step].0[0], Some(Predictor::Previous));
            assert_eq!(stored[&step].0[1..], [Some(by); 3]);
        }
        is_replayed(&stored, 3..31, (by, 4.0));
        is_replayed(&stored, 44..128, (by, 4.0));
        // After a gap the iterate is stored by itself.
        assert_eq!(stored[&151].0, [None; 4]);
    }
}

#[test]
fn a_replay_that_was_lost_is_taken_up_at_a_keyframe() {
    for (optimizer, by) in [("sgd", Predictor::Sgd), ("adamw", Predictor::Adam)] {
        for lost in ["gradient", "iterate"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("run");
            let mut training = Training::new(optimizer);
            let mut writer = Writer::create(&path, training.manifest(), options()).unwrap();
            for t in 0..300u64 {
                let (no_gradient, no_iterate) = (t == 20 && lost == "gradient", t == 20 && lost == "iterate");
                training.step(&mut writer, Unusual { no_gradient, no_iterate, ..Unusual::default() });
            }
            training.finish(&mut writer);
            training.is_what_is_read(&path);
            let stored = stored(&path);
            let keyframe = if lost == "iterate" { 21 + 128 } else { 128 };
            // Of Adam's second moment a little of what was missed is left.
            is_replayed(&stored, keyframe..keyframe + 128, (by, 9.0));
        }
    }
}

#[test]
fn a_gradient_that_was_clipped_after_it_was_recorded_is_seen_through() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut training = Training::new("sgd");
    let mut writer = Writer::create(&path, training.manifest(), options()).unwrap();
    for t in 0..100u64 {
        // As clipping by a norm does: another factor at each step.
        let scale = Some(0.25 + (t % 7) as f32 / 16.0);
        training.step(&mut writer, Unusual { scale, ..Unusual::default() });
    }
    training.finish(&mut writer);
    training.is_what_is_read(&path);
    is_replayed(&stored(&path), 3..100, (Predictor::Linear, 4.0));
}

#[test]
fn a_resumed_recording_goes_on_with_the_replay() {
    for (optimizer, by) in [("sgd", Predictor::Sgd), ("adamw", Predictor::Adam)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let mut training = Training::new(optimizer);
        let mut writer = Writer::create(&path, training.manifest(), options()).unwrap();
        // A step that is not taken, so that the optimizer's count is not the step's.
        training.step(&mut writer, Unusual { overflow: true, ..Unusual::default() });
        (1..150).for_each(|_| training.step(&mut writer, Unusual::default()));
        writer.stop().unwrap();
        let mut writer = Writer::resume(&path, 0, 150, options()).unwrap();
        (150..200).for_each(|_| training.step(&mut writer, Unusual::default()));
        training.finish(&mut writer);
        training.is_what_is_read(&path);
        let stored = stored(&path);
        assert_eq!(stored[&150].0, [None; 4]);
        is_replayed(&stored, 151..200, (by, 4.0));
    }
}

#[test]
fn a_packed_recording_is_resumed_with_the_replay() {
    for (optimizer, by) in [("sgd", Predictor::Sgd), ("adamw", Predictor::Adam)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let mut training = Training::new(optimizer);
        let plain = WriterOptions { predict: false, ..options() };
        let mut writer = Writer::create(&path, training.manifest(), plain).unwrap();
        (0..100).for_each(|_| training.step(&mut writer, Unusual::default()));
        writer.stop().unwrap();
        let packed = crate::support::run(&["pack", path.to_str().unwrap()]);
        assert_eq!(packed.code, 0, "{}", packed.err);
        let mut writer = Writer::resume(&path, 0, 100, options()).unwrap();
        (100..150).for_each(|_| training.step(&mut writer, Unusual::default()));
        training.finish(&mut writer);
        training.is_what_is_read(&path);
        is_replayed(&stored(&path), 3..100, (by, 4.0));
        is_replayed(&stored(&path), 101..150, (by, 4.0));
    }
}

#[test]
fn without_prediction_every_iterate_is_a_keyframe() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut training = Training::new("sgd");
    let options = WriterOptions { predict: false, ..options() };
    let mut writer = Writer::create(&path, training.manifest(), options).unwrap();
    (0..30).for_each(|_| training.step(&mut writer, Unusual::default()));
    training.finish(&mut writer);
    training.is_what_is_read(&path);
    assert!(stored(&path).values().all(|(p, _)| p.iter().all(|p| p.is_none())));
    assert_eq!(Run::open(&path, Access::default()).unwrap().keyframes().unwrap().len(), 31);
}

fn size_of(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).unwrap().map(|e| e.unwrap());
    entries.map(|e| if e.path().is_dir() { size_of(&e.path()) } else { e.metadata().unwrap().len() }).sum()
}

#[test]
fn a_few_steps_tell_what_a_training_will_write() {
    for optimizer in ["sgd", "adamw"] {
        let dir = tempfile::tempdir().unwrap();
        let size = |steps: u64| {
            let path = dir.path().join(steps.to_string());
            let mut training = Training::new(optimizer);
            let mut writer = Writer::create(&path, training.manifest(), options()).unwrap();
            (0..steps).for_each(|_| training.step(&mut writer, Unusual::default()));
            training.finish(&mut writer);
            size_of(&path) as f64
        };
        let (_, written) = (size(20), size(400));
        let run = Run::open(&dir.path().join("20"), Access::default()).unwrap();
        let estimated = from_run(&run, 400).unwrap().total;
        assert!((estimated / written - 1.0).abs() < 0.05, "{optimizer}: {estimated} for {written}");
    }
}
