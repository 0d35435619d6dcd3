//! `lpa windows`.

use std::path::PathBuf;

use crate::cli::table::{self, Usual};
use crate::cli::{say, told};
use crate::curve::find;
use crate::question::check_writable;
use crate::span::Spans;
use crate::table::Contents;
use crate::windows::{Windows, summary, write};

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    table: table::Arguments,
    /// So many steps a window, or an epoch [default: a fiftieth of the steps]
    #[arg(long, value_name = "STEPS|epoch")]
    window: Option<String>,
    /// Write the windows of all references, streams and groups here, as a Parquet table
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Shows a path by windows.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let spans = a.window.as_deref().map_or(Ok(Spans::default()), str::parse)?;
    a.out.as_deref().map_or(Ok(()), |out| check_writable(out, Contents::Windows))?;
    let (table, chosen) = a.table.open(Usual::Layers)?;
    let found = find(&table, &chosen)?;
    let written = a.out.as_deref().map(|out| write(&found, spans, out)).transpose()?;
    if a.table.quiet {
        return Ok(());
    }
    match written {
        None => say(&format!("{}: {}", table.display(), summary(&Windows::of(&found, spans)?))),
        Some(written) => say(&format!("{}: {}{}", table.display(), written.summary, told(&written))),
    }
}
