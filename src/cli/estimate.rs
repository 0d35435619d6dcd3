//! `lpa estimate`.

use std::fmt::Write as _;
use std::num::NonZeroU64;
use std::path::PathBuf;

use crate::cli::{bytes, rate, say};
use crate::codec::Predictor;
use crate::error::Usage;
use crate::estimate::{
    Estimate, Sample, StorageChoice, beside_sketches, from_run, from_tensors, sketched, tensors_of,
};
use crate::optimizer::predictor;
use crate::run::format::manifest::{Precision, Storage, TensorInfo};
use crate::run::format::sketching::{SketchRequest, part};
use crate::run::write::writer::Profile;
use crate::run::{Access, Run};
use crate::sketch::SEED;
use crate::summary::{significant, thousands};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The model, a safetensors file; or, for an estimate from what was measured, a run of a few steps of
    /// the same training
    model: PathBuf,
    /// Steps of the training
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// The optimizer: sgd (if none is given), adam, adamw or other
    #[arg(long, value_name = "NAME", value_parser = parse_optimizer)]
    optimizer: Option<OptimizerName>,
    /// Vectors at N consecutive steps of every M
    #[arg(long, value_name = "N/M", value_parser = parse_sample)]
    sample: Option<Sample>,
    /// Share of the rows of a tensor that have a gradient at a step, as of an embedding
    #[arg(long = "rows", value_name = "NAME=SHARE", value_parser = parse_rows)]
    rows: Vec<(String, f64)>,
    /// As sketches of so many dimensions a vector too, and how far off cosines are then; by tensors as of `lpa sketch --dims`
    #[arg(long, value_name = "N|GLOB=N|GLOB=all", value_parser = part)]
    sketch: Vec<(String, Option<u64>)>,
    /// Of sketches: with the iterate in full each N steps
    #[arg(long, value_name = "N", requires = "sketch")]
    keyframes: Option<NonZeroU64>,
    /// Seconds that a step takes, for the rate at which is written
    #[arg(long, value_name = "SECONDS")]
    step_seconds: Option<f64>,
}

/// How the steps of an optimizer are predicted.
#[derive(Clone, Copy)]
struct OptimizerName(Option<Predictor>);

fn parse_optimizer(name: &str) -> Result<OptimizerName, String> {
    match predictor(name) {
        None if !name.eq_ignore_ascii_case("other") => {
            Err(format!("'{name}' is none of sgd, adam, adamw, other"))
        }
        predicted => Ok(OptimizerName(predicted)),
    }
}

fn parse_sample(text: &str) -> Result<Sample, String> {
    let parsed =
        text.split_once('/').and_then(|(n, m)| Some(Sample { n: n.parse().ok()?, m: m.parse().ok()? }));
    let sample = parsed.filter(|s| s.n > 0 && s.n <= s.m).ok_or("it is N/M with 0 < N <= M, as 51/510")?;
    // All of the steps is all of the steps.
    Ok(if sample.n == sample.m { Sample { n: 1, m: 1 } } else { sample })
}

fn parse_rows(text: &str) -> Result<(String, f64), String> {
    let parsed = text.rsplit_once('=').and_then(|(name, share)| Some((name.to_owned(), share.parse().ok()?)));
    parsed
        .filter(|(_, share)| (0.0..=1.0).contains(share))
        .ok_or_else(|| "it is NAME=SHARE, as wte.weight=0.03".to_owned())
}

pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let mut out = String::new();
    let head = format!(
        "  {:28}{:>14}{:>14}{:>12}{:>14}\n",
        "profile", "bits/parameter", "a step", "a second", "in all"
    );
    if a.model.is_dir() {
        if !a.rows.is_empty() || a.sample.is_some() || a.optimizer.is_some() || !a.sketch.is_empty() {
            let what = "--rows, --sample, --optimizer and --sketch are for an estimate from a model; a run says by itself";
            return Err(Usage(what.to_owned()).into());
        }
        let run = Run::open(&a.model, Access::default())?;
        let e = from_run(&run, a.steps)?;
        let _ = writeln!(
            out,
            "{} parameters, {} steps, as {} recorded ones took",
            thousands(e.parameters),
            thousands(a.steps),
            thousands(run.steps().end)
        );
        out += &head;
        line(&mut out, "as this run", &e, a);
        return say(&out);
    }
    let sample = a.sample.unwrap_or(Sample { n: 1, m: 1 });
    let tensors = tensors_of(&a.model)?;
    if let Some((name, _)) = a.rows.iter().find(|(name, _)| tensors.iter().all(|t| t.name != *name)) {
        return Err(Usage(format!("--rows: the model has no tensor '{name}'")).into());
    }
    let OptimizerName(optimizer) = a.optimizer.unwrap_or(OptimizerName(Some(Predictor::Sgd)));
    let estimate = |how| from_tensors(&tensors, &a.rows, optimizer, how, a.steps, sample);
    let default = StorageChoice { predict: true, ..StorageChoice::default() };
    let lossy = |gradients, iterates| StorageChoice { storage: Storage { gradients, iterates }, ..default };
    let all = [
        ("default", estimate(default)),
        ("fast", estimate(StorageChoice { profile: Profile::Fast, ..default })),
        ("default, predict=False", estimate(StorageChoice { predict: false, ..default })),
        ("gradients bf16", estimate(lossy(Precision::Bf16, Precision::Exact))),
        ("gradients int8", estimate(lossy(Precision::Int8, Precision::Exact))),
        ("gradients and iterates int8", estimate(lossy(Precision::Int8, Precision::Int8))),
    ];
    let _ = writeln!(
        out,
        "{} parameters in {} tensors, {} steps",
        thousands(all[0].1.parameters),
        thousands(tensors.len() as u64),
        thousands(a.steps)
    );
    out += &head;
    all.iter().for_each(|(name, e)| line(&mut out, name, e, a));
    let mut off = None;
    if !a.sketch.is_empty() {
        let request = SketchRequest { parts: a.sketch.clone(), seed: SEED, keyframes: a.keyframes };
        let (of_sketch, error) = sketched(&tensors, &request)?;
        let dimensions: u64 = of_sketch.iter().map(TensorInfo::elements).sum();
        let how = StorageChoice { sketched: true, ..default };
        let predicted = optimizer.filter(|o| *o == Predictor::Sgd);
        let e = from_tensors(&of_sketch, &[], predicted, how, a.steps, sample);
        line(
            &mut out,
            &format!("sketches, {}", thousands(dimensions)),
            &beside_sketches(e, &tensors, a.steps, a.keyframes),
            a,
        );
        off = Some(error);
    }
    let raw: f64 =
        tensors.iter().map(|t| t.shape.iter().product::<u64>() as f64 * t.dtype.size() as f64).sum();
    let share = sample.n as f64 / sample.m as f64;
    let _ = writeln!(
        out,
        "  {:28}{:>14}{:>14}{:>12}{:>14}",
        "plain numbers",
        significant(2.0 * raw * 8.0 / all[0].1.parameters as f64),
        size(2.0 * raw),
        "",
        size(2.0 * raw * share * a.steps as f64)
    );
    if let Some(off) = off {
        let _ = writeln!(
            out,
            "\nA cosine of all parameters is off by some {} (a standard deviation) in sketches, where its parts are as large \
             as their tensors; all metrics have intervals.",
            significant(off)
        );
    }
    say(&out)
}

fn line(out: &mut String, name: &str, e: &Estimate, a: &Arguments) {
    // A rate is shown to three digits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let of = |seconds: f64| rate((e.total / a.steps as f64) as u64, seconds);
    let second = a.step_seconds.filter(|s| *s > 0.0).map_or(String::new(), of);
    let bits = significant(e.step * 8.0 / e.parameters.max(1) as f64);
    let _ = writeln!(out, "  {name:28}{bits:>14}{:>14}{second:>12}{:>14}", size(e.step), size(e.total));
}

/// Bytes with a unit.
fn size(n: f64) -> String {
    // Shown to three digits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    bytes(n as u64)
}
