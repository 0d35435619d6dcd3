//! `lpa partial`.

use std::path::PathBuf;

use crate::cli::progress::Progress;
use crate::cli::{bytes, rate, say, threads};
use crate::parts::{Partial, Plan, make};
use crate::question::Execution;
use crate::run::Access;
use crate::summary::significant;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The directory that lpa plan has made
    #[arg(long, value_name = "PLAN")]
    plan: PathBuf,
    /// The part, by number from 0 on
    #[arg(long, value_name = "I")]
    part: u32,
    #[command(flatten)]
    threads: threads::Arguments,
    /// Read shards piece by piece instead of mapping them (for network file systems)
    #[arg(long)]
    no_mmap: bool,
    /// Print nothing
    #[arg(long, short)]
    quiet: bool,
}

/// Makes a part.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let plan = Plan::read(&a.plan)?;
    let progress = Progress::new(a.quiet);
    let how = Execution { threads: a.threads.count(&progress), observer: &progress, ..Execution::default() };
    let done = make(&plan, a.part as usize, Access::from_env(!a.no_mmap)?, &how)?;
    if a.quiet {
        return Ok(());
    }
    let of = format!("part {} of {}", a.part, plan.count());
    match done {
        Partial::Before => say(&format!("{of} is there\n")),
        Partial::Now(size) => {
            let (elapsed, read) = progress.measured();
            let seconds = elapsed.as_secs_f64().max(1e-6);
            let (size, rate) = (bytes(size), rate(read, seconds));
            say(&format!("{of} was made ({size}) in {} s ({rate})\n", significant(seconds)))
        }
    }
}
