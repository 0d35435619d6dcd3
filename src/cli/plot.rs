//! `lpa plot`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::cli::paper;
use crate::cli::table::{self, Usual};
use crate::curve::{Along, Band, Ending, MARK, Spread};
use crate::figure::Files;
use crate::plot::{Panels, RECIPES, Request, Source};
use crate::training::names;

#[derive(clap::Args)]
#[command(after_help = figures())]
pub(super) struct Arguments {
    /// What to draw: columns of numbers of the table, such as cos or cos,dist (a panel each, below each other); or a
    /// figure of the paper, fig1 to fig14, which are sets of the options below
    #[arg(value_name = "METRIC[,METRIC..]|figN")]
    metrics: String,
    #[command(flatten)]
    table: table::Arguments,
    /// More runs or tables, which are drawn beside it
    #[arg(value_name = "MORE")]
    more: Vec<PathBuf>,
    /// Draw runs that differ in their seeds as one curve, those of each label: the mean of their means, with this band
    #[arg(long, value_enum, value_name = "BAND")]
    seeds: Option<Spread>,
    /// Deal the runs to panels: one for each value of what was recorded under this name, in metadata= of the recording
    /// or as a number of the optimizer
    #[arg(long, value_name = "NAME", conflicts_with = "vary")]
    panels: Option<String>,
    /// Deal them to a panel for each of these names: the runs that differ in it and agree in the others
    #[arg(long, value_name = "NAME[,NAME..]", value_delimiter = ',')]
    vary: Vec<String>,
    /// Call runs by what was recorded under these names, as far as they differ in it [default: by their own names]
    #[arg(long, value_name = "NAME[,NAME..]", value_delimiter = ',')]
    label: Vec<String>,
    /// Leave out the end of each path, and mark where: trust (the last steps, if the distance is below 1,000 roundings at
    /// each), epoch (the last one), a part of the steps as 5%, or none [default: trust; none of what has no reference]
    #[arg(long, value_name = "END", value_parser = Ending::from_str)]
    drop_last: Option<Ending>,
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
    let request = a.request();
    request.check()?;
    let usual = PathBuf::from(format!("{}.svg", request.name()));
    let files = Files::new(a.out.as_ref().unwrap_or(&usual), MARK)?;
    let paths: Vec<&Path> = std::iter::once(&a.table.path).chain(&a.more).map(PathBuf::as_path).collect();
    let mut sources = Vec::new();
    for (path, name) in paths.iter().zip(names(&paths)) {
        let asked = table::Arguments { path: path.to_path_buf(), ..a.table.clone() };
        let (table, chosen) = asked.open(Usual::Figure)?;
        sources.push(Source { name, table, chosen });
    }
    let drawn = request.draw(&sources, a.paper.width)?;
    files.write(&drawn.svg, &[], a.paper.dpi, &drawn.csv)?;
    if a.table.quiet {
        return Ok(());
    }
    let of: Vec<String> = sources.iter().map(|s| s.table.display().to_string()).collect();
    paper::tell(&files, &of.join(", "))
}

impl Arguments {
    fn request(&self) -> Request {
        let some = |names: &[String]| (!names.is_empty()).then(|| names.to_vec());
        let varying = some(&self.vary).map(Panels::Varying);
        Request {
            metrics: self.metrics.clone(),
            panels: self.panels.clone().map(Panels::Of).or(varying),
            label: some(&self.label),
            along: self.x,
            ending: self.drop_last,
            band: Some(self.band),
            seeds: self.seeds,
            log: self.log,
        }
    }
}

/// The paper's figures, and the options that each is.
fn figures() -> String {
    let mut text =
        "The paper's figures (--width text is for most of them), and the options that each stands for:\n"
            .to_owned();
    for recipe in &RECIPES {
        text += &format!("  {:<5}  {}\n         lpa plot {}\n", recipe.name, recipe.shows, recipe.options());
    }
    text + "Options that are given with a name take the place of its own: lpa plot fig6 RUN.. --drop-last none"
}
