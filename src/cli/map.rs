//! `lpa map`.

use std::path::PathBuf;

use crate::cli::progress::Progress;
use crate::cli::{millimetres, say};
use crate::figure::{Files, heat};
use crate::grid::{self, Grid, Metric};
use crate::pairs::{Options, tabulate};
use crate::question::Execution;
use crate::run::{Access, Run};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// What to draw of every step t and reference k
    #[arg(value_enum)]
    metric: Metric,
    /// The run, of which all pairs are measured; or a table that lpa pairs has written
    #[arg(value_name = "RUN_OR_PAIRS")]
    path: PathBuf,
    /// Of a run: take every K-th iterate as a reference, and the last [default: so that there are some 200]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    every: Option<u64>,
    /// How wide the figure is: column (84 mm), text (174 mm), or millimetres from 40 to 1000
    #[arg(long, default_value = "column", value_parser = millimetres)]
    width: f64,
    /// Dots an inch of a PNG
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u16).range(30..=2400))]
    dpi: u16,
    /// Write the figure here, and FILE.csv with the numbers drawn in it beside it [default: METRIC.map.svg in the working
    /// directory]
    #[arg(long, value_name = "FILE.svg|FILE.png")]
    out: Option<PathBuf>,
    /// Read shards piece by piece instead of mapping them (for network file systems)
    #[arg(long)]
    no_mmap: bool,
    /// Print neither progress nor what was written
    #[arg(long, short)]
    quiet: bool,
}

/// Draws a heat map.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let usual = PathBuf::from(format!("{}.map.svg", a.metric.name()));
    let files = Files::new(a.out.as_ref().unwrap_or(&usual), grid::HEAD)?;
    let table = if a.path.is_file() {
        a.path.clone()
    } else {
        let run = Run::open(&a.path, Access::from_env(!a.no_mmap)?)?;
        let options = Options { every: a.every, threads: Execution::default().threads, ..Options::default() };
        tabulate(&run, &options, None, &Progress::new(a.quiet))?.path
    };
    let grid = Grid::read(&table, a.metric)?;
    let (svg, cells) = heat(&grid, a.width);
    files.write(&svg, &cells, a.dpi, &grid.csv())?;
    if a.quiet {
        return Ok(());
    }
    say(&format!(
        "wrote {} of {}, and the numbers in it to {}\n",
        files.picture.display(),
        table.display(),
        files.numbers.display()
    ))
}
