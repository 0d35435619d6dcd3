//! `lpa report`.

use std::path::PathBuf;
use std::str::FromStr;

use crate::cli::{bytes, say, table};
use crate::error::Usage;
use crate::page;
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
    if a.steps.as_ref().is_some_and(|steps| steps.every() > 1) {
        return Err(Usage("--steps of a report is A..B; of every K-th step lpa analyze makes a table".to_owned()).into());
    }
    let name = page::name(&a.table.path);
    let out = a.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.html")));
    page::check(&out)?;
    let (table, mut chosen) = a.table.open(None)?;
    chosen.steps = a.steps.clone().unwrap_or_default().range();
    let steps = a.steps.as_ref().map(|steps| steps.text().to_owned());
    let size = page::write(&table, &chosen, page::Subject { name, command: a.command(), steps }, &out)?;
    if page::EMBEDDED.is_none() {
        eprintln!("lpa: {} is {}", out.display(), page::WITHOUT);
    }
    if a.table.quiet {
        return Ok(());
    }
    say(&format!("wrote {} ({}) of {}\n", out.display(), bytes(size), table.display()))
}

impl Arguments {
    /// As it would be typed again, but for where to write and which steps.
    fn command(&self) -> String {
        let table = &self.table;
        let named = |option: &'static str, all: &[String]| -> Vec<String> {
            all.iter().flat_map(|name| [option.to_owned(), name.clone()]).collect()
        };
        page::command(&table.path, &[
            named("--ref", &table.references),
            named("--group", &table.groups),
            named("--stream", &table.streams),
        ].concat())
    }
}
