//! `lpa check`.

use std::path::PathBuf;

use crate::claims::{Outcome, Path, check, json, summary, write};
use crate::cli::table::{self, Usual};
use crate::cli::{Fine, bytes, say};
use crate::error::Usage;
use crate::question::check_writable;
use crate::table::Contents;

/// What the names of a run's own iterates begin with.
const OWN: [&str; 5] = ["step:", "epoch:", "mean:", "ema:", "checkpoint:"];

/// How findings are printed.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Runs, whose tables are made if they are not there, or tables that lpa analyze has written; several are compared too
    #[arg(value_name = "RUN_OR_TABLE", required = true)]
    paths: Vec<PathBuf>,
    /// Of runs: measure against this reference too, such as a control; repeatable
    #[arg(long = "ref", value_name = "REF")]
    references: Vec<String>,
    /// Check only these claims, such as C1,C4; the exit code, 4 where not all can be decided, is about them
    #[arg(long, value_name = "ID[,ID..]", value_delimiter = ',')]
    claim: Vec<String>,
    /// How to print what was found
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write what was found here too, as a Parquet table
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Read shards piece by piece instead of mapping them (for network file systems)
    #[arg(long)]
    no_mmap: bool,
    /// Print neither progress nor findings
    #[arg(long, short)]
    quiet: bool,
}

/// Checks the claims. Fine if all were decidable.
pub(super) fn run(a: &Arguments) -> anyhow::Result<Fine> {
    a.out.as_deref().map_or(Ok(()), |out| check_writable(out, Contents::Claims))?;
    let mut paths = Vec::new();
    for path in &a.paths {
        if path.is_file() && !a.references.is_empty() {
            let what = "--ref is for runs; a table has the references that it has";
            return Err(Usage(what.to_owned()).into());
        }
        // What another run's end is compared with is this one's, unless an iterate of its own is named.
        let others =
            a.references.iter().all(|r| r.contains(':') && !OWN.iter().any(|own| r.starts_with(own)));
        let end = if others { vec!["final".to_owned()] } else { Vec::new() };
        let references = [end, a.references.clone()].concat();
        let asked = table::Arguments::of(path, references, a.no_mmap, a.quiet);
        let (table, _) = asked.open(Usual::Figure)?;
        paths.push(Path::read(&table, path.display().to_string())?);
    }
    let mut findings = check(&paths);
    if let Some(unknown) = a.claim.iter().find(|id| findings.iter().all(|f| f.claim.id != id.as_str())) {
        return Err(Usage(format!("there is no claim {unknown}; there are C1 to C20")).into());
    }
    findings.retain(|f| a.claim.is_empty() || a.claim.iter().any(|id| id == f.claim.id));
    if !a.quiet {
        say(&match a.format {
            Format::Text => summary(&findings),
            Format::Json => json(&findings),
        })?;
    }
    if let Some(out) = &a.out {
        let (_, size) = write(&findings, out)?;
        if !a.quiet && a.format == Format::Text {
            say(&format!("wrote {} ({})\n", out.display(), bytes(size)))?;
        }
    }
    Ok(if findings.iter().all(|f| f.outcome != Outcome::Undecidable) {
        Fine::Yes
    } else {
        Fine::ButUndecided
    })
}
