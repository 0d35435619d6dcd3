//! `lpa lags`.

use std::path::PathBuf;
use std::str::FromStr;

use crate::cli::progress::Progress;
use crate::cli::{RunArguments, threads};
use crate::lags::{Options, tabulate};
use crate::question::Steps;
use crate::reference::ReferenceSpec;
use crate::run::Run;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
    #[command(flatten)]
    question: Question,
    /// Write the Parquet table here [default: RUN/lags.parquet; for another question RUN/lags.THESE.parquet; in the
    /// working directory where RUN cannot be written]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    threads: threads::Arguments,
    /// Print neither progress nor summary
    #[arg(long, short)]
    quiet: bool,
}

/// Which lags.
#[derive(clap::Args)]
pub(super) struct Question {
    /// Compare steps that lie K apart; several as K,K,... or by repeating it [default: 1,2,5,10,20,50]
    #[arg(long = "lag", value_name = "K", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..))]
    lags: Vec<u64>,
    /// Measure distances to this iterate, named as for `lpa analyze`
    #[arg(long = "ref", value_name = "REF", default_value = "final")]
    reference: ReferenceSpec,
    /// Rows of this group: '*' (all tensors), 'each' (every tensor), a tensor's name, a glob, NAME=GLOB; may be repeated
    #[arg(long = "group", value_name = "GROUP", default_value = "*")]
    groups: Vec<String>,
    /// Only these steps, each with later ones, which may lie beyond: A..B (B not included), A.., ..B, or every K-th of
    /// them by A..B:K
    #[arg(long, value_name = "A..B[:K]", value_parser = Steps::from_str)]
    steps: Option<Steps>,
}

impl Question {
    pub(super) fn options(&self, threads: usize) -> Options {
        Options {
            lags: self.lags.clone(),
            reference: self.reference.clone(),
            groups: self.groups.clone(),
            steps: self.steps.clone().unwrap_or_default(),
            threads,
        }
    }
}

/// Measures steps against later ones.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let run = Run::open(&a.run.run, a.run.access()?)?;
    let progress = Progress::new(a.quiet);
    let options = a.question.options(a.threads.count(&progress));
    let table = tabulate(&run, &options, a.out.as_deref(), &progress)?;
    progress.tell(&run, &table)
}
