//! `lpa plot`.

use std::path::PathBuf;
use std::str::FromStr;

use crate::cli::table::{self, Usual};
use crate::cli::{millimetres, say};
use crate::curve;
use crate::curve::{Along, Asked, Band};
use crate::error::Usage;
use crate::figure::{Figure, Files, MOST_PANELS, svg};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// What to draw: columns of numbers of the table, such as cos or cos,dist (a panel each, below each other)
    #[arg(value_name = "METRIC[,METRIC..]")]
    metrics: String,
    #[command(flatten)]
    table: table::Arguments,
    /// Along what [default: epoch, a point an epoch, where five or more are recorded; else step]
    #[arg(long, value_enum, value_name = "X")]
    x: Option<Along>,
    /// Draw values on a logarithmic axis, and say how many it cannot show
    #[arg(long)]
    log: bool,
    /// What the band shows of all steps of a point: minmax, or percentages as q10..q90
    #[arg(long, default_value = "minmax", value_parser = Band::from_str)]
    band: Band,
    /// How wide the figure is: column (84 mm), text (174 mm), or millimetres from 40 to 1000
    #[arg(long, default_value = "column", value_parser = millimetres)]
    width: f64,
    /// Dots an inch of a PNG
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u16).range(30..=2400))]
    dpi: u16,
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
    let (table, chosen) = a.table.open(Usual::Figure)?;
    let asked = Asked { metrics, chosen, along: a.x, band: a.band };
    let curves = curve::read(&table, &asked)?;
    if a.log {
        curves.check_log()?;
    }
    let picture = svg(&Figure::new(&curves, a.log), a.width);
    files.write(&picture, &[], a.dpi, &curve::csv(&curves))?;
    if a.table.quiet {
        return Ok(());
    }
    say(&format!(
        "wrote {} of {}, and the numbers in it to {}\n",
        files.picture.display(),
        table.display(),
        files.numbers.display()
    ))
}
