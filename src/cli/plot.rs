//! `lpa plot`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::cli::progress::Progress;
use crate::cli::{millimetres, say};
use crate::curve;
use crate::curve::{Along, Asked, Band, MOST};
use crate::error::{Error, Usage};
use crate::figure::{Figure, Files, MOST_PANELS, svg};
use crate::group;
use crate::question::{Execution, Question};
use crate::reference::ReferenceSpec;
use crate::run::{Access, Run};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// What to draw: columns of numbers of the table, such as cos or cos,dist (a panel each, below each other)
    #[arg(value_name = "METRIC[,METRIC..]")]
    metrics: String,
    /// The run, whose table is made if it is not there; or a table that lpa analyze has written
    #[arg(value_name = "RUN_OR_TABLE")]
    path: PathBuf,
    /// Draw this reference, as in lpa analyze; of a table by its name there; repeatable [default: final; all of a table]
    #[arg(long = "ref", value_name = "REF")]
    references: Vec<String>,
    /// Draw this group, as in lpa analyze; of a table by its name there; repeatable [default: '*'; all of a table]
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// Draw this stream, as in lpa analyze; repeatable [default: grad; all of a table]
    #[arg(long = "stream", value_name = "NAME")]
    streams: Vec<String>,
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
    /// Read shards piece by piece instead of mapping them (for network file systems)
    #[arg(long)]
    no_mmap: bool,
    /// Print neither progress nor what was written
    #[arg(long, short)]
    quiet: bool,
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
    let mut asked = Asked {
        metrics,
        references: a.references.clone(),
        streams: a.streams.clone(),
        groups: a.groups.clone(),
        along: a.x,
        band: a.band,
    };
    let table = if a.path.is_file() {
        a.path.clone()
    } else {
        // All that its table holds was asked for, and has the names that it has there.
        (asked.references, asked.streams, asked.groups) = Default::default();
        tabulate(a)?
    };
    let curves = curve::read(&table, &asked)?;
    if a.log {
        curves.check_log()?;
    }
    let picture = svg(&Figure::new(&curves, a.log), a.width);
    files.write(&picture, &[], a.dpi, &curve::csv(&curves))?;
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

/// The table of the run.
fn tabulate(a: &Arguments) -> anyhow::Result<PathBuf> {
    let run = Run::open(Path::new(&a.path), Access::from_env(!a.no_mmap)?)?;
    let mut question = Question::default();
    if !a.references.is_empty() {
        let specs: Result<Vec<ReferenceSpec>, Usage> = a.references.iter().map(|r| r.parse()).collect();
        question.references = specs?;
    }
    if !a.streams.is_empty() {
        question.streams.clone_from(&a.streams);
    }
    if !a.groups.is_empty() {
        question.groups.clone_from(&a.groups);
    }
    // Before hours of work.
    let groups = group::select(&run, &question.groups)?.len();
    let curves = question.references.len() * question.streams.len() * groups;
    if curves > MOST {
        let what = format!(
            "{} references, {} streams and {groups} groups are {curves} curves, and a figure has at most {MOST}: \
             choose by --ref, --stream and --group",
            question.references.len(),
            question.streams.len()
        );
        return Err(Error::from(Usage(what)).into());
    }
    let progress = Progress::new(a.quiet);
    let how = Execution { observer: &progress, ..Execution::default() };
    Ok(question.tabulate(&run, &how, None)?.path)
}
