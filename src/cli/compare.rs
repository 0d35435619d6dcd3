//! `lpa compare`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use crate::cli::table::{self, Usual};
use crate::cli::{paper, say, told};
use crate::compare::{self, Asked, Comparison};
use crate::curve::{Along, Chosen, Spread};
use crate::error::Usage;
use crate::figure::{self, Files};
use crate::group::ALL;
use crate::question::check_writable;
use crate::run::Access;
use crate::table::Contents;
use crate::training::names;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Runs, whose tables are made if they are not there, or tables that lpa analyze has written; two or more
    #[arg(value_name = "RUN_OR_TABLE", required = true)]
    paths: Vec<PathBuf>,
    /// Of runs: measure each path against the end of every other of the same model too, all in one pass
    #[arg(long)]
    cross: bool,
    /// Put the runs together along this, at the same places and never interpolated [default: epoch, where all runs have
    /// five or more; else step]
    #[arg(long, value_enum, value_name = "X")]
    x: Option<Along>,
    /// Along steps: so many at a place [default: a fiftieth of the longest run]
    #[arg(long, value_name = "STEPS")]
    window: Option<NonZeroU64>,
    /// In the table, take trainings that differ in metadata "seed", "order" or "name" alone as one: the mean of their
    /// means, with this band
    #[arg(long, value_enum, value_name = "BAND")]
    seeds: Option<Spread>,
    /// Of runs: compare this group, as in lpa analyze; repeatable [default: '*'; all of a table]
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// Of runs: compare this stream, as in lpa analyze; repeatable [default: grad; all of a table]
    #[arg(long = "stream", value_name = "NAME")]
    streams: Vec<String>,
    /// Write what the paths are like at each place here, as a Parquet table
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Draw every path against every end here, and FILE.csv with the numbers beside it; measures what --cross does
    #[arg(long, value_name = "FILE.svg|FILE.png")]
    matrix: Option<PathBuf>,
    #[command(flatten)]
    paper: paper::Arguments,
    /// Read shards piece by piece instead of mapping them (for network file systems)
    #[arg(long)]
    no_mmap: bool,
    /// Print neither progress nor what was found
    #[arg(long, short)]
    quiet: bool,
}

/// Compares runs.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    if a.paths.len() < 2 {
        return Err(Usage("name two runs or more, to be compared".to_owned()).into());
    }
    a.out.as_deref().map_or(Ok(()), |out| check_writable(out, Contents::Comparison))?;
    let files = a.matrix.as_deref().map(|out| Files::new(out, compare::HEAD)).transpose()?;
    let ends = a.ends()?;
    let names = names(&a.paths);
    let mut tables: Vec<(String, PathBuf, Chosen)> = Vec::new();
    for ((path, references), name) in a.paths.iter().zip(ends).zip(names) {
        let all = a.groups.is_empty() && !path.is_file();
        let asked = table::Arguments {
            groups: if all { vec![ALL.to_owned()] } else { a.groups.clone() },
            streams: a.streams.clone(),
            ..table::Arguments::of(path, references, a.no_mmap, a.quiet)
        };
        let (table, chosen) = asked.open(Usual::Layers)?;
        tables.push((name, table, chosen));
    }
    let all = Comparison::of(&tables, Asked { along: a.x, window: a.window, seeds: a.seeds })?;
    let written = a.out.as_deref().map(|out| all.write(out)).transpose()?;
    if let Some(files) = &files {
        let Some(matrix) = all.matrix() else {
            let what = "no path is measured against the end of another; name runs of the same model, or tables with \
                        --ref OTHER:final";
            return Err(Usage(what.to_owned()).into());
        };
        files.write(&figure::matrix(&matrix, a.paper.width), &[], a.paper.dpi, &matrix.csv())?;
    }
    if a.quiet {
        return Ok(());
    }
    match written {
        None => say(&all.summary()),
        Some(written) => say(&format!("{}{}", written.summary, told(&written))),
    }?;
    files.map_or(Ok(()), |files| paper::tell(&files, &format!("{} runs", a.paths.len())))
}

impl Arguments {
    /// By path: the references that it is measured against.
    fn ends(&self) -> anyhow::Result<Vec<Vec<String>>> {
        let crossed = self.cross || (self.matrix.is_some() && self.paths.iter().all(|p| !p.is_file()));
        if !crossed {
            return Ok(vec![Vec::new(); self.paths.len()]);
        }
        if let Some(table) = self.paths.iter().find(|p| p.is_file()) {
            let what = format!(
                "--cross is for runs; {} is a table, which has the references that it has (lpa analyze RUN --ref final \
                 --ref OTHER:final)",
                table.display()
            );
            return Err(Usage(what).into());
        }
        Ok(compare::ends(&self.paths, Access::from_env(!self.no_mmap)?)?)
    }
}
