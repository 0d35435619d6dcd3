//! Paths that are not, or not everywhere, what the optimizer made of the gradients.

use std::path::{Path, PathBuf};

use lpa::internals::GRAD;
use lpa::{Optimizer, Step, Writer, WriterOptions};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Row, borrow, manifest, number, rows, run, values};

/// Two chunks, a small tensor, and one of a single element.
const SIZES: [u64; 3] = [70_000, 300, 1];
const LR: f32 = 0.01;
const MOMENTUM: f32 = 0.9;

/// How a path is made.
#[derive(Clone, Copy)]
pub struct Making {
    pub steps: u64,
    pub lr: f32,
    pub weight_decay: f32,
    pub nesterov: bool,
    pub predict: bool,
    /// By how much the arithmetic is off, in units of the last place, as that of another processor.
    pub inexact: bool,
}

impl Default for Making {
    fn default() -> Making {
        Making { steps: 140, lr: LR, weight_decay: 0.0, nesterov: false, predict: true, inexact: false }
    }
}

/// What is in the hands of a training between two steps.
pub struct State {
    pub x: Vec<Vec<f32>>,
    pub buffer: Vec<Vec<f32>>,
}

fn floats(n: u64, step: u64, salt: u64) -> Vec<f32> {
    values(n, step, salt).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Records a path of SGD with momentum on noise, with `change` done after each step.
pub fn recorded(path: &Path, making: Making, mut change: impl FnMut(u64, &mut State)) {
    let group = json!({"lr": making.lr, "momentum": MOMENTUM, "weight_decay": making.weight_decay, "nesterov": making.nesterov});
    let mut m = manifest(&SIZES);
    m.optimizer =
        Optimizer { name: "sgd".to_owned(), param_groups: vec![group.as_object().unwrap().clone()] };
    let options = WriterOptions { predict: making.predict, ..WriterOptions::default() };
    let mut writer = Writer::create(path, m, options).unwrap();
    let draw = |step: u64, salt: u64| -> Vec<Vec<f32>> {
        SIZES.iter().enumerate().map(|(i, &n)| floats(n, step, salt + i as u64)).collect()
    };
    let bytes = |v: &[Vec<f32>]| -> Vec<Vec<u8>> {
        v.iter().map(|v| v.iter().flat_map(|v| v.to_le_bytes()).collect()).collect()
    };
    let mut state = State { x: draw(0, 900), buffer: SIZES.map(|n| vec![0.0; n as usize]).to_vec() };
    for t in 0..making.steps {
        let g = draw(t, 50);
        let (x, gradient) = (bytes(&state.x), bytes(&g));
        let step = Step {
            iterate: Some(&borrow(&x)),
            streams: &[(GRAD, &borrow(&gradient))],
            scalars: &[("lr/0", f64::from(making.lr))],
            ..Step::default()
        };
        writer.step(&step).unwrap();
        for (tensor, g) in g.iter().enumerate() {
            for (i, &g) in g.iter().enumerate() {
                let (x, v) = (&mut state.x[tensor][i], &mut state.buffer[tensor][i]);
                let u = making.weight_decay.mul_add(*x, g);
                *v = MOMENTUM.mul_add(*v, u);
                let s = if making.nesterov { MOMENTUM.mul_add(*v, u) } else { *v };
                *x = if making.inexact { *x - making.lr * s } else { (-making.lr).mul_add(s, *x) };
            }
        }
        change(t, &mut state);
    }
    let x = bytes(&state.x);
    writer.finish(&borrow(&x)).unwrap();
}

struct Recorded {
    _dir: TempDir,
    path: PathBuf,
}

impl Recorded {
    fn new(making: Making, change: impl FnMut(u64, &mut State)) -> Recorded {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        recorded(&path, making, change);
        Recorded { _dir: dir, path }
    }

    /// The rows of each group by step.
    fn rows(&self, extra: &[&str]) -> [Vec<Row>; 4] {
        let all = rows(&self.path, &[&["--group", "*", "--group", "each"], extra].concat());
        ["*", "t0", "t1", "t2"].map(|g| all.iter().filter(|r| r["group"] == g).cloned().collect())
    }

    fn summary(&self) -> String {
        let table = self.path.with_extension("parquet");
        let _ = std::fs::remove_file(&table);
        let args = ["analyze", self.path.to_str().unwrap(), "--out", table.to_str().unwrap()];
        let ran = run(&args);
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.out.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// The steps at which `own` is null.
fn unknown(rows: &[Row]) -> Vec<u64> {
    let null = rows.iter().filter(|r| number(r, "own").is_none());
    for row in rows {
        let all = ["own", "cos_own", "lolr_ratio"].map(|c| number(row, c).is_none());
        let excess = row["excess_beyond"] == "true" || number(row, "cos_excess").is_none() == all[0];
        assert!(all.iter().all(|n| *n == all[0]) && excess, "{row:?}");
    }
    null.map(|r| r["step"].parse().unwrap()).collect()
}

/// The steps up to `last`.
fn up_to(last: u64) -> Vec<u64> {
    (0..=last).collect()
}

fn all_makings() -> Vec<Making> {
    let plain = Making::default();
    let mut all = Vec::new();
    for predict in [true, false] {
        for inexact in [false, true] {
            all.push(Making { predict, inexact, ..plain });
            all.push(Making { predict, inexact, weight_decay: 0.1, ..plain });
            all.push(Making { predict, inexact, nesterov: true, ..plain });
        }
    }
    all
}

fn named(m: Making) -> String {
    let Making { predict, inexact, weight_decay, nesterov, .. } = m;
    format!("predict {predict}, inexact {inexact}, weight decay {weight_decay}, nesterov {nesterov}")
}

#[test]
fn a_path_that_is_the_optimizers_is_taken_for_it() {
    for making in all_makings() {
        let recorded = Recorded::new(making, |_, _| {});
        for rows in recorded.rows(&[]) {
            assert_eq!(unknown(&rows), [] as [u64; 0], "{}", named(making));
        }
        let text = recorded.summary();
        assert!(!text.contains("note:"), "{}: {text}", named(making));
    }
}

#[test]
fn what_is_before_a_change_is_not_known_and_what_is_after_it_is() {
    for making in all_makings() {
        // Once in the middle of an interval between keyframes, once to a keyframe.
        for at in [60, 127] {
            let recorded = Recorded::new(making, |t, state| {
                if t == at {
                    state.x[1].iter_mut().for_each(|x| *x *= 0.5);
                }
            });
            let [whole, large, small, one] = recorded.rows(&[]);
            for (rows, changed) in [(whole, true), (large, false), (small, true), (one, false)] {
                let null = unknown(&rows);
                let expected = if changed { up_to(at) } else { Vec::new() };
                // With momentum the step after a change may tell nothing.
                let or = if changed { up_to(at + 1) } else { Vec::new() };
                assert!(null == expected || null == or, "{} at {at}: {null:?}", named(making));
                // What weight decay has taken off before a change is not known after it.
                let walks = rows.iter().filter(|r| number(r, "cos_walk").is_some()).count();
                let known = if changed && making.weight_decay != 0.0 { 0 } else { rows.len() - null.len() };
                assert_eq!(walks, known, "{}", named(making));
            }
            // It does not concern what came before it.
            let before = recorded.rows(&["--ref", "step:50"]);
            assert_eq!(unknown(&before[0][..50]), [] as [u64; 0]);
            let text = recorded.summary();
            let note = format!("note: step {at} is not what the optimizer makes of the gradients ('t1')");
            assert!(text.contains(&note), "{text}");
        }
    }
}

#[test]
fn own_after_a_change_is_what_the_gradients_put_there() {
    let recorded = Recorded::new(Making::default(), |t, state| {
        if t == 70 {
            state.x.iter_mut().flatten().for_each(|x| *x = x.clamp(-0.2, 0.2));
        }
    });
    let [whole, ..] = recorded.rows(&[]);
    for row in &whole[72..] {
        let t: i32 = row["step"].parse().unwrap();
        let h: f64 = (0..140 - t).map(|k| f64::from(LR) * f64::from(MOMENTUM).powi(k)).sum();
        let expected = h * number(row, "g2").unwrap();
        // The learning rate and the momentum of the manifest are binary32's.
        assert!((number(row, "own").unwrap() / expected - 1.0).abs() < 1e-6, "step {t}");
    }
    let text = recorded.summary();
    assert!(
        text.contains("Nothing is said of early and middle, since step 70 is not what the optimizer"),
        "{text}"
    );
}

#[test]
fn another_final_iterate_leaves_no_verdict() {
    // x_T is a keyframe where the number of steps is a multiple of 128.
    for steps in [100, 128] {
        for predict in [true, false] {
            let making = Making { steps, predict, ..Making::default() };
            let mut average: Vec<Vec<f32>> = Vec::new();
            let recorded = Recorded::new(making, |t, state| {
                if t == 0 {
                    average = state.x.clone();
                }
                for (average, x) in average.iter_mut().flatten().zip(state.x.iter_mut().flatten()) {
                    *average += 0.01 * (*x - *average);
                    if t == steps - 1 {
                        *x = *average;
                    }
                }
            });
            let [whole, ..] = recorded.rows(&[]);
            assert_eq!(unknown(&whole), up_to(steps - 1));
            let text = recorded.summary();
            let expected = format!("Verdict: none, since step {} is not what the optimizer made", steps - 1);
            assert!(text.contains(&expected), "{text}");
        }
    }
}

/// Records a path of small steps, after some of which 40 of the 70,000 values of a tensor are put back, which no
/// length tells; returns after which.
pub fn with_a_few_values_put_back(path: &Path, making: Making) -> Vec<u64> {
    let making = Making { lr: 1e-5, ..making };
    let mut before: Vec<f32> = Vec::new();
    let is_changed = |t: u64| t % 20 == 9 && t < 100;
    recorded(path, making, |t, state| {
        if is_changed(t) {
            state.x[0][..40].copy_from_slice(&before);
        }
        before = state.x[0][..40].to_vec();
    });
    (0..making.steps).filter(|t| is_changed(*t)).collect()
}

#[test]
fn a_replay_shows_what_lengths_do_not() {
    for (predict, inexact) in [(true, false), (true, true), (false, false)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let changed = with_a_few_values_put_back(&path, Making { predict, inexact, ..Making::default() });
        let recorded = Recorded { _dir: dir, path };
        let [_, large, small, _] = recorded.rows(&[]);
        let expected = if predict { up_to(changed[changed.len() - 1]) } else { Vec::new() };
        assert_eq!((unknown(&large), unknown(&small)), (expected, Vec::new()), "{predict} {inexact}");
        let text = recorded.summary();
        let note = format!("note: at least {} steps are not", changed.len());
        assert_eq!(text.contains(&note), predict, "{text}");
    }
}

#[test]
fn an_optimizer_that_lost_its_state_is_found() {
    for making in all_makings() {
        let recorded = Recorded::new(making, |t, state| {
            if t == 90 {
                state.buffer.iter_mut().flatten().for_each(|v| *v = 0.0);
            }
        });
        for rows in recorded.rows(&[]) {
            let null = unknown(&rows);
            assert!(null == up_to(91) || null == up_to(92), "{}: {null:?}", named(making));
        }
    }
}

#[test]
fn a_tensor_that_is_small_is_seen_and_does_not_spoil_the_rest() {
    let mut held = None;
    let recorded = Recorded::new(Making::default(), |t, state| {
        if t >= 30 {
            state.x[2][0] = *held.get_or_insert(state.x[2][0]);
        }
    });
    let [whole, large, small, one] = recorded.rows(&[]);
    for rows in [whole, large, small] {
        assert_eq!(unknown(&rows), [] as [u64; 0]);
    }
    assert!(!unknown(&one).is_empty());
    let text = recorded.summary();
    assert!(text.contains("note: 't2': up to"), "{text}");
    assert!(text.contains("too small a part of the steps of this group to matter"), "{text}");
}

#[test]
fn a_parameter_that_is_clamped_at_every_step_leaves_nothing_before_the_last() {
    for predict in [true, false] {
        let making = Making { predict, ..Making::default() };
        let recorded = Recorded::new(making, |t, state| {
            if t >= 50 {
                state.x[0].iter_mut().for_each(|x| *x = x.clamp(-0.9, 0.9));
            }
        });
        let [whole, large, small, _] = recorded.rows(&[]);
        for rows in [whole, large] {
            let null = unknown(&rows);
            assert!(null.len() as u64 >= making.steps - 2, "predict {predict}: {null:?}");
        }
        assert_eq!(unknown(&small), [] as [u64; 0]);
    }
}

#[test]
fn only_some_steps_can_be_compared_where_only_some_are_measured() {
    let recorded = Recorded::new(Making { predict: false, ..Making::default() }, |_, _| {});
    let table = recorded.path.with_extension("parquet");
    let args = [
        "analyze",
        recorded.path.to_str().unwrap(),
        "--steps",
        "0..140:10",
        "--out",
        table.to_str().unwrap(),
    ];
    let ran = run(&args);
    assert!(
        ran.out.contains("139 of the 140 steps up to the reference could not be compared"),
        "{}",
        ran.out
    );
}
