//! `lpa report`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::cli::progress::Progress;
use crate::cli::table::{self, Usual};
use crate::cli::{bytes, say};
use crate::curve::Chosen;
use crate::error::{Error, Usage};
use crate::lags;
use crate::page;
use crate::page::Subject;
use crate::pairs;
use crate::question::{Execution, Steps};
use crate::run::{Access, Run};

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    table: table::Arguments,
    /// More runs or tables, which are shown beside it on the same page
    #[arg(value_name = "MORE")]
    more: Vec<PathBuf>,
    /// Of runs: measure all pairs and lags too, as lpa pairs and lpa lags do, for the sections Trajectory and Memory
    #[arg(long)]
    all: bool,
    /// Show only these steps: A..B (B not included), A.. or ..B; the table and its verdict are of all
    #[arg(long, value_name = "A..B", value_parser = Steps::from_str)]
    steps: Option<Steps>,
    /// Write the page here [default: the run's or the table's name with .html, of several report.html, in the working
    /// directory]
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
}

/// Writes the page.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let steps = a.steps.clone().unwrap_or_default();
    let paths: Vec<PathBuf> = std::iter::once(&a.table.path).chain(&a.more).cloned().collect();
    let out = page::place(&paths, a.out.as_deref(), &steps)?;
    if let Some(table) = paths.iter().find(|path| a.all && path.is_file()) {
        let what = format!("--all is for runs, and {} is a table", table.display());
        return Err(Error::from(Usage(what)).into());
    }
    let mut tables = Vec::new();
    for path in &paths {
        let (table, chosen) =
            table::Arguments { path: path.clone(), ..a.table.clone() }.open(Usual::Layers)?;
        tables.push((table, Chosen { steps: steps.range(), ..chosen }));
        if a.all {
            a.measure(path)?;
        }
    }
    let size = page::write(&tables, Subject::new(&paths, &a.options(), &steps), &out)?;
    if page::EMBEDDED.is_none() {
        // A reader of a closed standard error needs no warning.
        let _ = writeln!(std::io::stderr(), "lpa: {} is {}", out.display(), page::WITHOUT);
    }
    if a.table.quiet {
        return Ok(());
    }
    let of: Vec<String> = tables.iter().map(|(table, _)| table.display().to_string()).collect();
    say(&format!("wrote {} ({}) of {}\n", out.display(), bytes(size), of.join(", ")))
}

impl Arguments {
    /// Measures all pairs of a run, and its lags.
    fn measure(&self, run: &Path) -> anyhow::Result<()> {
        let run = Run::open(run, Access::from_env(!self.table.no_mmap)?)?;
        let threads = Execution::default().threads;
        let progress = || Progress::new(self.table.quiet);
        pairs::tabulate(&run, &pairs::Options { threads, ..pairs::Options::default() }, None, &progress())?;
        lags::tabulate(&run, &lags::Options { threads, ..lags::Options::default() }, None, &progress())?;
        Ok(())
    }

    /// What was asked for, as it would be typed again.
    fn options(&self) -> Vec<String> {
        let named = |option: &str, all: &[String]| -> Vec<String> {
            all.iter().flat_map(|name| [option.to_owned(), name.clone()]).collect()
        };
        let t = &self.table;
        [named("--ref", &t.references), named("--group", &t.groups), named("--stream", &t.streams)].concat()
    }
}
