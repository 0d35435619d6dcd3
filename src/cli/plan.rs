//! `lpa plan`.

use std::path::PathBuf;

use crate::cli::progress::Progress;
use crate::cli::{RunArguments, bytes, question, say, threads};
use crate::parts::Plan;
use crate::parts::shell::as_word;
use crate::question::Execution;
use crate::run::Run;
use crate::summary::counted;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
    /// Share it out into so many parts, of about equal size; fewer where there are not as many steps
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    parts: u32,
    /// Put the plan into this directory, which all machines see and parts go to
    #[arg(long, value_name = "PLAN")]
    out: PathBuf,
    #[command(flatten)]
    question: question::Arguments,
    #[command(flatten)]
    threads: threads::Arguments,
    /// Print nothing
    #[arg(long, short)]
    quiet: bool,
}

/// Makes a plan.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let progress = Progress::new(a.quiet);
    let how = Execution { threads: a.threads.count(&progress), observer: &progress, ..Execution::default() };
    let run = Run::open(&a.run.run, a.run.access()?)?;
    let plan = Plan::make(&a.question.question(), &run, &how, (a.parts as usize, &a.out))?;
    if a.quiet {
        return Ok(());
    }
    let count = plan.count();
    let largest = (0..count).map(|part| plan.bytes(part)).max().unwrap_or(0);
    let of = as_word(&a.out);
    let last = count - 1;
    say(&format!(
        "{of}: {} of {}, of {} at most\nmake them, on any machine and in any order:\n  seq 0 {last} | xargs -P 8 -I{{}} lpa partial \
         --plan {of} --part {{}} --threads 1\nor by Slurm:\n  lpa slurm {of}\nand then the table:\n  lpa merge {of}\n",
        counted(count as u64, "part"),
        run.path.display(),
        bytes(largest),
    ))
}
