//! `lpa map`.

use std::path::PathBuf;

use crate::cli::paper;
use crate::cli::progress::Progress;
use crate::error::Usage;
use crate::figure::{self, Files, heat};
use crate::grid::{self, Grid, Metric};
use crate::pairs::{Options, tabulate};
use crate::plane::{self, Planes};
use crate::question::Execution;
use crate::run::{Access, Run};

/// What can be drawn of all pairs.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Cosine of the gradient and the way from the reference
    Cos,
    /// Distance of the step's iterate to the reference
    Dist,
    /// Cosine of both ways from the first iterate
    #[value(name = "cos_first")]
    CosFirst,
    /// Cosine of both ways to the last iterate
    #[value(name = "cos_last")]
    CosLast,
    /// The references in the plane of their first two principal components, and a random walk in its own
    Plane,
}

impl What {
    /// Its name, and what a heat map of it is of.
    fn told(self) -> (&'static str, Option<Metric>) {
        let metric = match self {
            What::Cos => Metric::Cos,
            What::Dist => Metric::Dist,
            What::CosFirst => Metric::CosFirst,
            What::CosLast => Metric::CosLast,
            What::Plane => return ("plane", None),
        };
        (metric.name(), Some(metric))
    }
}

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// What to draw of every step t and reference k; or the path in its own plane
    #[arg(value_enum)]
    what: What,
    /// The run, of which all pairs are measured; or a table that lpa pairs has written
    #[arg(value_name = "RUN_OR_PAIRS")]
    path: PathBuf,
    /// Of a run: take every K-th iterate as a reference, and the last [default: so that there are some 200]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    every: Option<u64>,
    #[command(flatten)]
    paper: paper::Arguments,
    /// Write the figure here, and FILE.csv with the numbers drawn in it beside it [default: WHAT.map.svg in the working
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

/// Draws a heat map, or a plane.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let (name, metric) = a.what.told();
    let usual = PathBuf::from(format!("{name}.map.svg"));
    let head = metric.map_or(plane::HEAD, |_| grid::HEAD);
    let files = Files::new(a.out.as_ref().unwrap_or(&usual), head)?;
    let table = if a.path.is_file() {
        if a.every.is_some() {
            return Err(
                Usage("--every is for runs; a table has the references that it has".to_owned()).into()
            );
        }
        a.path.clone()
    } else {
        let run = Run::open(&a.path, Access::from_env(!a.no_mmap)?)?;
        let options = Options { every: a.every, threads: Execution::default().threads, ..Options::default() };
        tabulate(&run, &options, None, &Progress::new(a.quiet))?.path
    };
    let ((svg, cells), numbers) = match metric {
        Some(metric) => {
            let grid = Grid::read(&table, metric)?;
            (heat(&grid, a.paper.width), grid.csv())
        }
        None => {
            let planes = Planes::read(&table)?;
            (figure::plane(&planes, a.paper.width), planes.csv())
        }
    };
    files.write(&svg, &cells, a.paper.dpi, &numbers)?;
    if a.quiet {
        return Ok(());
    }
    paper::tell(&files, &table.display().to_string())
}
