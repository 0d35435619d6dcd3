//! `lpa events`.

use std::path::PathBuf;

use crate::cli::table::{self, Usual};
use crate::cli::{say, told};
use crate::curve::find;
use crate::events::{Events, summary, write};
use crate::question::check_writable;
use crate::reading::wholes;
use crate::table::Contents;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    table: table::Arguments,
    /// Write all events here, as a Parquet table
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Lists events.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    a.out.as_deref().map_or(Ok(()), |out| check_writable(out, Contents::Events))?;
    let (table, chosen) = a.table.open(Usual::Layers)?;
    let found = find(&table, &chosen)?;
    let written = a.out.as_deref().map(|out| write(&found, out)).transpose()?;
    if a.table.quiet {
        return Ok(());
    }
    match written {
        None => say(&format!("{}: {}", table.display(), summary(&Events::of(&wholes(&found)?, &found)?))),
        Some(written) => say(&format!("{}: {}{}", table.display(), written.summary, told(&written))),
    }
}
