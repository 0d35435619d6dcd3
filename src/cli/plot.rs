//! `lpa plot`.

use std::path::PathBuf;
use std::str::FromStr;

use crate::cli::paper;
use crate::cli::table::{self, Usual};
use crate::curve;
use crate::curve::{Along, Asked, Band, Chosen, Curves, Spread};
use crate::error::{Error, Usage};
use crate::figure::{Figure, Files, MOST_PANELS, svg};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// What to draw: columns of numbers of the table, such as cos or cos,dist (a panel each, below each other)
    #[arg(value_name = "METRIC[,METRIC..]")]
    metrics: String,
    #[command(flatten)]
    table: table::Arguments,
    /// More runs or tables, which are drawn beside it
    #[arg(value_name = "MORE")]
    more: Vec<PathBuf>,
    /// Draw the runs, which differ in their seeds, as one curve: the mean of their means, with this band
    #[arg(long, value_enum, value_name = "BAND")]
    seeds: Option<Spread>,
    /// Along what [default: epoch, a point an epoch, where five or more are recorded; else step]
    #[arg(long, value_enum, value_name = "X")]
    x: Option<Along>,
    /// Draw values on a logarithmic axis, and say how many it cannot show
    #[arg(long)]
    log: bool,
    /// What the band shows of all steps of a point: minmax, or percentages as q10..q90
    #[arg(long, default_value = "minmax", value_parser = Band::from_str)]
    band: Band,
    #[command(flatten)]
    paper: paper::Arguments,
    /// Write the figure here, and FILE.csv with the numbers drawn in it beside it [default: METRIC.svg in the working
    /// directory]
    #[arg(long, value_name = "FILE.svg|FILE.png")]
    out: Option<PathBuf>,
}

/// Draws.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let metrics: Vec<String> = a.metrics.split(',').map(|m| m.trim().to_owned()).collect();
    curve::check(&metrics)?;
    if metrics.len() > MOST_PANELS {
        return Err(Usage(format!("a figure has at most {MOST_PANELS} metrics")).into());
    }
    let usual = PathBuf::from(format!("{}.svg", metrics.join("+")));
    let files = Files::new(a.out.as_ref().unwrap_or(&usual), curve::HEAD)?;
    let mut tables = Vec::new();
    for path in std::iter::once(&a.table.path).chain(&a.more) {
        tables.push(table::Arguments { path: path.clone(), ..a.table.clone() }.open(Usual::Figure)?);
    }
    let read = |along: Option<Along>| -> anyhow::Result<Vec<Curves>> {
        let asked =
            |chosen: &Chosen| Asked { metrics: metrics.clone(), chosen: chosen.clone(), along, band: a.band };
        let all: Result<Vec<Curves>, Error> =
            tables.iter().map(|(table, chosen)| curve::read(table, &asked(chosen))).collect();
        Ok(all?)
    };
    let mut all = read(a.x)?;
    if all.iter().any(|curves| curves.along != all[0].along) {
        // Not all have epochs.
        all = read(Some(Along::Step))?;
    }
    let names = curve::names(&std::iter::once(&a.table.path).chain(&a.more).collect::<Vec<_>>());
    let curves = curve::beside(names.into_iter().zip(all).collect())?;
    let curves = a.seeds.map_or(Ok(curves.clone()), |spread| curves.across(spread))?;
    curves.check_most()?;
    if a.log {
        curves.check_log()?;
    }
    let picture = svg(&Figure::new(&curves, a.log), a.paper.width);
    files.write(&picture, &[], a.paper.dpi, &curve::csv(&curves))?;
    if a.table.quiet {
        return Ok(());
    }
    let of: Vec<String> = tables.iter().map(|(table, _)| table.display().to_string()).collect();
    paper::tell(&files, &of.join(", "))
}
