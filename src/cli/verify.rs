//! `lpa verify`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::analyze::Observer as _;
use crate::cli::progress::Progress;
use crate::cli::{RunArguments, say};
use crate::error::{ErrorKind, Result, Tried};
use crate::run::{Access, Run};
use crate::summary::counted;
use crate::table::check_seal;
use crate::uninterrupted::list;
use crate::verify::verify_told;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
}

pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    // Each byte is looked at once, so that nothing is won by mapping; and what becomes shorter meanwhile is an error.
    let run = Run::open(&a.run.run, Access { mmap: false, ..a.run.access()? })?;
    let progress = Progress::new(false);
    let chunks = run.table.len() as u64;
    let steps = run.steps();
    progress.begin((steps.end - steps.start) * chunks, chunks);
    let mut found = verify_told(&run, &|cells, read| progress.advance(cells, read));
    progress.end();
    if let Some(at) = found.problems.iter().position(|e| e.kind() == ErrorKind::Stopped) {
        return Err(found.problems.swap_remove(at).into());
    }
    found.problems.extend(tables(&run.path)?.iter().filter_map(|table| check_seal(table).err()));
    if found.problems.is_empty() {
        let state = match run.final_step() {
            Some(step) => format!("complete, final iterate x_{step}"),
            None => format!("not complete, {}", run.reach(run.ranks(), run.steps())?),
        };
        return say(&format!(
            "{}: {}, {}: all as written ({state})\n",
            run.path.display(),
            counted(found.shards, "shard"),
            counted(found.chunks, "chunk")
        ));
    }
    let mut text = String::new();
    for e in &found.problems {
        let _ = writeln!(text, "{e}");
    }
    say(&text)?;
    anyhow::bail!("{}: {}", run.path.display(), counted(found.problems.len() as u64, "problem"))
}

/// The tables that lie in a run, by name.
fn tables(run: &Path) -> Result<Vec<PathBuf>> {
    let paths = list(run).tried("list", run)?.into_iter().map(|entry| entry.path());
    let mut tables: Vec<PathBuf> = paths.filter(|p| p.extension().is_some_and(|e| e == "parquet")).collect();
    tables.sort();
    Ok(tables)
}
