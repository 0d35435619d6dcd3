//! `lpa events`.

use std::path::PathBuf;

use crate::cli::table::TableArguments;
use crate::cli::{bytes, say};
use crate::events::{Events, summary, write};
use crate::question::check_writable;
use crate::summary::thousands;

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
    let events = Events::of(&table)?;
    let text = summary(&events);
    let quiet = a.table.quiet;
    if !quiet {
        say(&format!("{}: {text}", table.display()))?;
    }
    let Some(out) = &a.out else { return Ok(()) };
    let (rows, size) = write(&events, &table, out, &text)?;
    if quiet {
        Ok(())
    } else {
        say(&format!("\nwrote {} ({} events, {})\n", out.display(), thousands(rows), bytes(size)))
    }
}
