//! `lpa report`.

use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

use crate::cli::table::{self, Usual};
use crate::cli::{bytes, say};
use crate::curve::Chosen;
use crate::page;
use crate::page::Subject;
use crate::question::Steps;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    table: table::Arguments,
    /// Show only these steps: A..B (B not included), A.. or ..B; the table and its verdict are of all
    #[arg(long, value_name = "A..B", value_parser = Steps::from_str)]
    steps: Option<Steps>,
    /// Write the page here [default: the run's or the table's name with .html, in the working directory]
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
}

/// Writes the page.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let steps = a.steps.clone().unwrap_or_default();
    let out = page::place(&a.table.path, a.out.as_deref(), &steps)?;
    let (table, chosen) = a.table.open(Usual::Layers)?;
    let chosen = Chosen { steps: steps.range(), ..chosen };
    let size = page::write(&table, &chosen, Subject::new(&a.table.path, &a.options(), &steps), &out)?;
    if page::EMBEDDED.is_none() {
        // A reader of a closed standard error needs no warning.
        let _ = writeln!(std::io::stderr(), "lpa: {} is {}", out.display(), page::WITHOUT);
    }
    if a.table.quiet {
        return Ok(());
    }
    say(&format!("wrote {} ({}) of {}\n", out.display(), bytes(size), table.display()))
}

impl Arguments {
    /// What was asked for, as it would be typed again.
    fn options(&self) -> Vec<String> {
        let named = |option: &str, all: &[String]| -> Vec<String> {
            all.iter().flat_map(|name| [option.to_owned(), name.clone()]).collect()
        };
        let t = &self.table;
        [named("--ref", &t.references), named("--group", &t.groups), named("--stream", &t.streams)].concat()
    }
}
