//! Simulated paths, recorded as runs: what metrics look like where the truth is known.
//!
//! A [`Problem`] gives gradients, a [`Stepper`] makes steps of them in
//! float32 as PyTorch does, and all of it is a function of the seed.

pub(crate) mod optimizer;
pub(crate) mod problem;

use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use serde_json::json;

use crate::dtype::DType;
use crate::error::Result;
use crate::run::format::manifest::{GRAD, Manifest, Optimizer, StreamInfo, TensorInfo};
use crate::run::write::elements::Elements;
use crate::run::write::step::Step;
use crate::run::write::writer::{Writer, WriterOptions};
use crate::simulate::optimizer::{Settings, Stepper};
use crate::simulate::problem::Problem;

/// A generator for one purpose: streams of the same seed are independent.
pub(crate) fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(stream);
    generator
}

/// Standard normal values.
pub(crate) fn normal(generator: &mut ChaCha8Rng, n: usize) -> Vec<f64> {
    StandardNormal.sample_iter(generator).take(n).collect()
}

/// Rounds to float32.
#[allow(clippy::cast_possible_truncation)]
fn round(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

/// The learning rate over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub(crate) enum Schedule {
    /// Always the same.
    Constant,
    /// From the learning rate to 0 along half a cosine.
    Cosine,
    /// Up to the learning rate over a tenth of the steps, then as cosine.
    WarmupCosine,
}

impl Schedule {
    /// The factor at `step` of `steps`.
    fn factor(self, step: u64, steps: u64) -> f64 {
        let cosine = |at: u64, of: u64| 0.5 * (1.0 + (std::f64::consts::PI * at as f64 / of as f64).cos());
        let warm = steps.div_ceil(10);
        match self {
            Schedule::Constant => 1.0,
            Schedule::Cosine => cosine(step, steps),
            Schedule::WarmupCosine if step < warm => (step + 1) as f64 / warm as f64,
            Schedule::WarmupCosine => cosine(step - warm, steps - warm),
        }
    }
}

/// Records `steps` steps of `problem` from x_0 ~ N(0, I) to `path`. `told` hears of each.
///
/// # Errors
/// There is a run already, or the disk refuses.
pub(crate) fn simulate(
    path: &Path,
    problem: &mut dyn Problem,
    settings: &Settings,
    schedule: Schedule,
    steps: u64,
    seed: u64,
    told: &dyn Fn(),
) -> Result<()> {
    let dim = problem.dim();
    let tensor = TensorInfo::new("x", &[dim as u64], DType::F32);
    let stream = StreamInfo { name: GRAD.to_owned(), stage: "as the optimizer receives it".to_owned() };
    let mut manifest = Manifest::new(vec![tensor], vec![stream])?;
    manifest.optimizer =
        Optimizer { name: settings.name().to_owned(), param_groups: vec![settings.recorded()] };
    manifest.metadata.insert("simulated".to_owned(), json!(problem.name()));
    manifest.metadata.insert("seed".to_owned(), json!(seed));
    let mut writer = Writer::create(path, manifest, WriterOptions::default())?;
    let mut x = round(&normal(&mut generator(seed, 0), dim));
    let mut optimizer = Stepper::new(*settings, dim);
    let bytes = |v: &[f32]| -> Vec<u8> { v.iter().flat_map(|v| v.to_le_bytes()).collect() };
    for step in 0..steps {
        let (gradient, loss) = problem.gradient(step, &x);
        let gradient = round(&gradient);
        let lr = settings.lr * schedule.factor(step, steps);
        let mut scalars = vec![("lr/0", lr)];
        scalars.extend(loss.map(|l| ("loss", l)));
        scalars.extend(problem.epoch(step).map(|e| ("epoch", e)));
        let (iterate, g) = (bytes(&x), bytes(&gradient));
        let streams = [(GRAD, &[Some(g.as_slice())][..])];
        let iterate: Option<&Elements<'_>> = Some(&[Some(&iterate)]);
        writer.step(&Step { iterate, streams: &streams, scalars: &scalars, ..Step::default() })?;
        optimizer.step(&mut x, &gradient, lr);
        told();
    }
    writer.finish(&[Some(&bytes(&x))])
}
