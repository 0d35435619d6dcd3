//! `lpa windows`.

use std::path::PathBuf;
use std::str::FromStr;

use crate::cli::table::TableArguments;
use crate::cli::{bytes, say};
use crate::question::check_writable;
use crate::span::Spans;
use crate::summary::thousands;
use crate::windows::{Windows, summary, write};

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    table: TableArguments,
    /// So many steps a window, or an epoch [default: a fiftieth of the steps]
    #[arg(long, value_name = "STEPS|epoch", value_parser = Spans::from_str)]
    window: Option<Spans>,
    /// Write the windows of all references, streams and groups here, as a Parquet table
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Shows a path by windows.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    a.out.as_deref().map_or(Ok(()), check_writable)?;
    let table = a.table.table()?;
    let windows = Windows::of(&table, a.window.unwrap_or_default())?;
    let text = summary(&windows);
    let quiet = a.table.quiet;
    if !quiet {
        say(&format!("{}: {text}", table.display()))?;
    }
    let Some(out) = &a.out else { return Ok(()) };
    let (rows, size) = write(&windows, &table, out, &text)?;
    if quiet {
        Ok(())
    } else {
        say(&format!("\nwrote {} ({} rows, {})\n", out.display(), thousands(rows), bytes(size)))
    }
}
