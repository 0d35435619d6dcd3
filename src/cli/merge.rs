//! `lpa merge` and `lpa missing`.

use std::num::ParseIntError;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::progress::Progress;
use crate::cli::{bytes, say};
use crate::parts::{Plan, State, merge};
use crate::question::Execution;
use crate::run::Access;
use crate::summary::counted;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The directory that lpa plan has made
    plan: PathBuf,
    /// Write the Parquet table here [default: as lpa analyze does]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Wait so many seconds for parts that are not there: network file systems show new files late
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u32,
    /// Read shards piece by piece instead of mapping them (for network file systems)
    #[arg(long)]
    no_mmap: bool,
    /// Print no summary
    #[arg(long, short)]
    quiet: bool,
}

#[derive(clap::Args)]
pub(super) struct MissingArguments {
    /// The directory that lpa plan has made
    plan: PathBuf,
    /// Only the parts A to before B; numbers are counted from A on
    #[arg(long, value_name = "A..B", value_parser = range)]
    parts: Option<Range<usize>>,
    /// Numbers of tasks that make K parts each, instead of parts
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    each: u32,
    /// Leave out these numbers, such as those that are being made: N,N,...
    #[arg(long, value_name = "N,..", default_value = "", hide_default_value = true, value_parser = numbers)]
    without: Numbers,
}

/// Numbers, of which there may be none.
#[derive(Clone, Debug)]
struct Numbers(Vec<usize>);

fn range(text: &str) -> Result<Range<usize>, String> {
    let ends: Option<Range<usize>> =
        text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    ends.filter(|range| range.start <= range.end).ok_or_else(|| "this is no range, as 0..16".to_owned())
}

fn numbers(text: &str) -> Result<Numbers, ParseIntError> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.map(str::parse).collect::<Result<_, _>>().map(Numbers)
}

/// Makes the table of all parts.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let plan = Plan::read(&a.plan)?;
    let progress = Progress::new(a.quiet);
    let how = Execution { observer: &progress, ..Execution::default() };
    let wait = Duration::from_secs(a.wait.into());
    let table = merge(&plan, Access::from_env(!a.no_mmap)?, &how, (a.out.as_deref(), wait))?;
    if a.quiet {
        return Ok(());
    }
    let (summary, path) = (table.summary, table.path.display());
    match table.written {
        None => say(&format!("{summary}\n{path} is up to date\n")),
        Some((rows, size)) => say(&format!(
            "{summary}\nwrote {path} ({}, {}) of {}\n",
            counted(rows, "row"),
            bytes(size),
            counted(plan.count() as u64, "part")
        )),
    }
}

/// Says which parts are to be made, as sbatch --array takes it; nothing where all are there.
pub(super) fn missing(a: &MissingArguments) -> anyhow::Result<()> {
    let plan = Plan::read(&a.plan)?;
    let parts = a.parts.clone().unwrap_or(0..plan.count());
    let mut missing = State::look(&plan, Duration::ZERO)?.missing(&parts, a.each as usize);
    missing.retain(|number| !a.without.0.contains(number));
    let range = |run: &[usize]| match run {
        [first, .., last] => format!("{first}-{last}"),
        one => one.iter().map(usize::to_string).collect(),
    };
    let ranges: Vec<String> = missing.chunk_by(|a, b| a + 1 == *b).map(range).collect();
    if ranges.is_empty() { Ok(()) } else { say(&(ranges.join(",") + "\n")) }
}
