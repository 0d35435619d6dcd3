//! `lpa pairs`.

use std::path::PathBuf;
use std::str::FromStr;

use crate::cli::progress::Progress;
use crate::cli::{RunArguments, threads};
use crate::pairs::{Options, tabulate};
use crate::question::Steps;
use crate::run::Run;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
    #[command(flatten)]
    question: Question,
    /// Write the Parquet table here [default: RUN/pairs.parquet; for other K or steps RUN/pairs.THESE.parquet; in the
    /// working directory where RUN cannot be written]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    threads: threads::Arguments,
    /// Print neither progress nor summary
    #[arg(long, short)]
    quiet: bool,
}

/// Which pairs.
#[derive(clap::Args)]
pub(super) struct Question {
    /// Take every K-th iterate as a reference, and the last [default: so that there are some 200]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    every: Option<u64>,
    /// Only these steps: A..B (B not included), A.., ..B, or every K-th of them by A..B:K
    #[arg(long, value_name = "A..B[:K]", value_parser = Steps::from_str)]
    steps: Option<Steps>,
}

impl Question {
    pub(super) fn options(&self, threads: usize) -> Options {
        Options { every: self.every, steps: self.steps.clone().unwrap_or_default(), threads }
    }
}

/// Measures all pairs.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let run = Run::open(&a.run.run, a.run.access()?)?;
    let progress = Progress::new(a.quiet);
    let options = a.question.options(a.threads.count(&progress));
    let table = tabulate(&run, &options, a.out.as_deref(), &progress)?;
    progress.tell(&run, &table)
}
