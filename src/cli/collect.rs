//! `lpa collect`.

use std::path::PathBuf;

use crate::cli::say;
use crate::cli::table::{self, Usual};
use crate::collect::collect;
use crate::summary::counted;
use crate::training::names;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Runs, whose tables are made if they are not there, or tables that lpa analyze has written
    #[arg(value_name = "RUN_OR_TABLE", required = true)]
    paths: Vec<PathBuf>,
    /// Put the rows of each, with what was recorded of its training, into DIR/metrics/run=NAME/, and a table of the runs
    /// into DIR/runs.parquet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Read shards piece by piece instead of mapping them (for network file systems)
    #[arg(long)]
    no_mmap: bool,
    /// Print neither progress nor what was written
    #[arg(long, short)]
    quiet: bool,
}

/// Collects tables.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let mut tables = Vec::with_capacity(a.paths.len());
    for (path, name) in a.paths.iter().zip(names(&a.paths)) {
        let asked = table::Arguments::of(path, Vec::new(), a.no_mmap, a.quiet);
        tables.push((name, asked.open(Usual::Figure)?.0));
    }
    let done = collect(&tables, &a.out)?;
    if a.quiet {
        return Ok(());
    }
    let (all, before) = (done.written + done.before, done.before);
    say(&format!(
        "{} ({before} as before), {}\nwrote {} and {}\n",
        counted(all, "run"),
        counted(done.rows, "row"),
        done.runs.display(),
        done.metrics.display()
    ))
}
