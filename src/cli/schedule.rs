//! `lpa schedule`.

use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

use crate::analyze::Observer;
use crate::cli::progress::Progress;
use crate::cli::{RunArguments, backend, say, threads};
use crate::error::{Tried, Usage};
use crate::question::{Execution, Question, Steps};
use crate::reference::ReferenceSpec;
use crate::run::{Draft, Run};
use crate::schedule::{self, Rates, WARNING, snippet};
use crate::span::Spans;
use crate::summary::counted;

/// How a schedule is written.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Csv,
    Torch,
}

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
    /// Measure against this iterate, named as for `lpa analyze`
    #[arg(long = "ref", value_name = "REF", default_value = "final")]
    reference: ReferenceSpec,
    /// Smooth over so many steps, or over each epoch [default: a fiftieth of the steps]
    #[arg(long, value_name = "STEPS|epoch", value_parser = Spans::from_str)]
    window: Option<Spans>,
    /// A table of all rates, or a scheduler for PyTorch
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Write here [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The parameters: '*' (all tensors), a tensor's name, or a glob
    #[arg(long = "group", value_name = "GROUP", default_value = "*")]
    group: String,
    /// Only these steps: A..B (B not included), A.., ..B, or every K-th of them by A..B:K
    #[arg(long, value_name = "A..B[:K]", value_parser = Steps::from_str)]
    steps: Option<Steps>,
    #[command(flatten)]
    threads: threads::Arguments,
    #[command(flatten)]
    backend: backend::Arguments,
    /// Print neither progress nor the warning
    #[arg(long, short)]
    quiet: bool,
}

/// Writes a schedule.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    if a.group == "each" {
        return Err(Usage("a schedule is for one group of parameters; 'each' is many".to_owned()).into());
    }
    let run = Run::open(&a.run.run, a.run.access()?)?;
    let progress = Progress::new(a.quiet);
    let (threads, backend) = (a.threads.count(&progress), a.backend.backend()?);
    let how = Execution { threads, backend, observer: &progress };
    let question = Question {
        references: vec![a.reference.clone()],
        groups: vec![a.group.clone()],
        steps: a.steps.clone().unwrap_or_default(),
        ..Question::default()
    };
    let steps = question.analyze(&run, &how, || Ok(schedule::Steps::default()))?.sink;
    let rates = steps.rates(a.window.unwrap_or_default())?;
    let text = match a.format {
        Format::Csv => csv(&rates),
        Format::Torch => {
            let (id, reference) = (&run.manifest.run_id, steps.reference());
            let subject =
                format!("Rates of run {id} against {reference}, by lpa {}.", env!("CARGO_PKG_VERSION"));
            snippet(&rates, &subject)?
        }
    };
    if !a.quiet {
        let _ = writeln!(std::io::stderr().lock(), "note: {}", WARNING.replace('\n', "\n  "));
    }
    if rates.iter().any(|r| r.interval.is_some()) {
        progress.note(&unsure(&rates));
    }
    let Some(out) = &a.out else { return say(&text) };
    let draft = Draft::create(out)?;
    draft.file().write_all(text.as_bytes()).tried("write", out)?;
    draft.commit()?;
    Ok(())
}

/// How well rates are known.
fn unsure(rates: &[Rates]) -> String {
    let is_beyond = |r: &&Rates| {
        let (Some(interval), Some(walk)) = (r.interval, r.walk) else { return false };
        interval.lo.is_some_and(|lo| lo > walk) || interval.hi.is_some_and(|hi| hi < walk)
    };
    format!(
        "the rates are estimates, of vectors that were stored with loss or as sketches: loLR lies between lolr_lo and \
         lolr_hi of the CSV. In {} it is certainly not that of a walk",
        counted(rates.iter().filter(is_beyond).count() as u64, "window")
    )
}

fn csv(rates: &[Rates]) -> String {
    let mut text = String::from(
        "first_step,last_step,steps,epoch,lr,lolr,lolr_lo,lolr_hi,lolr_walk,lolr_excess,lr_equivalent\n",
    );
    let number = |value: Option<f64>| value.map(|v| v.to_string()).unwrap_or_default();
    for r in rates {
        let (lo, hi) = (r.interval.and_then(|i| i.lo), r.interval.and_then(|i| i.hi));
        let reals = [r.epoch, r.lr, r.lolr, lo, hi, r.walk, r.excess(), r.equivalent].map(number);
        text += &format!("{},{},{},{}\n", r.steps.0, r.steps.1, r.count, reals.join(","));
    }
    text
}
