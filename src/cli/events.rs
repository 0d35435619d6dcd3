//! `lpa events`.

use std::path::PathBuf;

use crate::cli::table::TableArguments;
use crate::cli::{say, told};
use crate::events::{Events, summary, tabulate};
use crate::question::check_writable;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    table: TableArguments,
    /// Write all events here, as a Parquet table
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Lists events.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    a.out.as_deref().map_or(Ok(()), check_writable)?;
    let table = a.table.table()?;
    let written = a.out.as_deref().map(|out| tabulate(&table, out)).transpose()?;
    if a.table.quiet {
        return Ok(());
    }
    match written {
        None => say(&format!("{}: {}", table.display(), summary(&Events::of(&table)?))),
        Some(written) => say(&format!("{}: {}{}", table.display(), written.summary, told(&written))),
    }
}
