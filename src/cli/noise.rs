//! `lpa noise`.

use std::path::PathBuf;
use std::str::FromStr;

use crate::claims::{Batches, Path};
use crate::cli::progress::Progress;
use crate::cli::table::{self, Usual};
use crate::cli::{say, threads, told};
use crate::error::Usage;
use crate::noise::{Options, summary, tabulate, write};
use crate::question::{Steps, check_writable};
use crate::reference::ReferenceSpec;
use crate::run::{Access, Run};
use crate::table::Contents;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// A run with probes; or several runs, or tables that lpa analyze has written, that differ in their batch size
    #[arg(value_name = "RUN", required = true)]
    paths: Vec<PathBuf>,
    /// Of one run: compare with this probe, as rec.probe named it; repeatable [default: all, and all together]
    #[arg(long = "probe", value_name = "NAME")]
    probes: Vec<String>,
    /// Of one run: examples in a minibatch [default: metadata batch or batch_size of the recording]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    batch: Option<u64>,
    /// Of one run: so many steps a window, or an epoch [default: a tenth of the steps, but 20 at least]
    #[arg(long, value_name = "STEPS|epoch")]
    window: Option<String>,
    /// Of one run: the reference r of the direction x - r, named as for `lpa analyze`
    #[arg(long = "ref", value_name = "REF", default_value = "final")]
    reference: ReferenceSpec,
    /// Of one run: rows of this group, named as for `lpa analyze`; may be repeated
    #[arg(long = "group", value_name = "GROUP", default_value = "*")]
    groups: Vec<String>,
    /// Of one run: only these steps: A..B (B not included), A.., ..B, or every K-th of them by A..B:K
    #[arg(long, value_name = "A..B[:K]", value_parser = Steps::from_str)]
    steps: Option<Steps>,
    /// Write a Parquet table here [default: of one run RUN/noise.parquet, or RUN/noise.THESE.parquet; in the working
    /// directory where RUN cannot be written; of several none]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    threads: threads::Arguments,
    /// Read shards piece by piece instead of mapping them (for network file systems)
    #[arg(long)]
    no_mmap: bool,
    /// Print neither progress nor summary
    #[arg(long, short)]
    quiet: bool,
}

/// Measures the noise of a run, or compares several.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    match a.paths.as_slice() {
        [path] => one(a, path),
        _ => several(a),
    }
}

fn one(a: &Arguments, path: &std::path::Path) -> anyhow::Result<()> {
    let run = Run::open(path, Access::from_env(!a.no_mmap)?)?;
    let progress = Progress::new(a.quiet);
    let options = Options {
        probes: a.probes.clone(),
        batch: a.batch.map(|b| b as f64),
        window: a.window.clone(),
        reference: a.reference.clone(),
        groups: a.groups.clone(),
        steps: a.steps.clone().unwrap_or_default(),
        threads: a.threads.count(&progress),
    };
    let table = tabulate(&run, &options, a.out.as_deref(), &progress)?;
    progress.tell(&run, &table)
}

fn several(a: &Arguments) -> anyhow::Result<()> {
    let of_one = [
        (!a.probes.is_empty(), "--probe"),
        (a.batch.is_some(), "--batch"),
        (a.window.is_some(), "--window"),
        (a.reference != Options::default().reference, "--ref"),
        (a.groups != Options::default().groups, "--group"),
        (a.steps.is_some(), "--steps"),
    ];
    if let Some((_, option)) = of_one.into_iter().find(|(is_given, _)| *is_given) {
        return Err(Usage(format!("{option} is for one run; several are compared as a whole")).into());
    }
    a.out.as_deref().map_or(Ok(()), |out| check_writable(out, Contents::Batches))?;
    let mut paths = Vec::new();
    for path in &a.paths {
        let asked = table::Arguments::of(path, Vec::new(), a.no_mmap, a.quiet);
        let (table, _) = asked.open(Usual::Figure)?;
        paths.push(Path::read(&table, path.display().to_string())?);
    }
    let batches = Batches::of(&paths);
    let written = a.out.as_deref().map(|out| write(&batches, out)).transpose()?;
    if a.quiet {
        return Ok(());
    }
    match written {
        None => say(&summary(&batches)),
        Some(written) => say(&format!("{}{}", written.summary, told(&written))),
    }
}
