//! `lpa slurm`.

use std::path::PathBuf;

use crate::cli::say;
use crate::parts::Plan;
use crate::parts::shell::as_word;
use crate::parts::slurm::{Slurm, write};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The directory that lpa plan has made
    plan: PathBuf,
    /// The partition, as sbatch has it
    #[arg(long, value_name = "NAME")]
    partition: Option<String>,
    /// The account
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// Time limit of a task and of the merge, as sbatch has it
    #[arg(long, value_name = "TIME")]
    time: Option<String>,
    /// So many tasks run at a time at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    throttle: Option<u32>,
    /// Processors of a task
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    cpus: u16,
    /// Write the Parquet table here [default: as lpa analyze does]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Read shards piece by piece instead of mapping them (for network file systems)
    #[arg(long)]
    no_mmap: bool,
}

/// Writes the script.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let plan = Plan::read(&a.plan)?;
    let slurm = Slurm {
        partition: a.partition.clone(),
        account: a.account.clone(),
        time: a.time.clone(),
        throttle: a.throttle,
        cpus: a.cpus,
        out: a.out.clone(),
        no_mmap: a.no_mmap,
    };
    let script = write(&plan, &slurm)?;
    say(&format!("wrote {0}; run it now, and again at any time:\n  sh {0}\n", as_word(&script)))
}
