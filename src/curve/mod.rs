//! Curves of metrics: points that each stand for some steps, made of all of them.
//!
//! Owns how steps are put together and where a curve has gaps. Knows nothing of how curves are drawn.

mod band;
mod cut;
mod ending;
mod key;
mod layout;
mod metric;
mod numbers;
mod rows;
mod together;

use std::path::Path;

pub(crate) use crate::curve::band::Band;
pub(crate) use crate::curve::cut::Per;
pub(crate) use crate::curve::ending::{Ending, LeftOut};
pub(crate) use crate::curve::key::{Chosen, Found, Key, MOST, find};
pub(crate) use crate::curve::layout::Layout;
pub(crate) use crate::curve::metric::{check, is_of_reference, is_without_interval, metrics};
pub(crate) use crate::curve::numbers::{MARK, csv};
pub(crate) use crate::curve::together::{Across, Spread, beside};

use crate::error::{Error, Result, Usage};

/// The value that a word stands for, of an option that programs name.
///
/// # Errors
/// There is no such value; the text has all.
pub(crate) fn word<T: clap::ValueEnum>(option: &str, text: Option<&str>) -> Result<Option<T>> {
    let known = || {
        let values = T::value_variants().iter().filter_map(T::to_possible_value);
        values.map(|v| v.get_name().to_owned()).collect::<Vec<_>>().join(", ")
    };
    let parsed = text.map(|text| {
        T::from_str(text, false).map_err(|_| Usage(format!("{option}={text:?} is none of {}", known())))
    });
    Ok(parsed.transpose()?)
}

/// Points of a curve of a figure, at most.
const POINTS: u64 = 400;

/// What curves are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Columns of the table.
    pub metrics: Vec<String>,
    /// Of which rows.
    pub chosen: Chosen,
    /// What the points lie along; `None`: epochs where they serve, else steps.
    pub along: Option<Along>,
    /// The band.
    pub band: Band,
    /// What of the end is left out.
    pub ending: Ending,
}

/// What the points of a curve lie along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Along {
    /// Steps
    Step,
    /// Epochs: a point is one epoch
    Epoch,
    /// The part of the path, from 0 to 1
    Fraction,
    /// The distance to the reference
    Dist,
}

/// Curves of one table.
#[derive(Clone, Debug)]
pub(crate) struct Curves {
    /// What they lie along.
    pub along: Along,
    /// What a point stands for.
    pub per: Per,
    /// The band.
    pub band: Band,
    /// Where each is of several runs.
    pub across: Option<Across>,
    /// What they are of.
    pub keys: Vec<Key>,
    /// By metric.
    pub panels: Vec<Panel>,
}

/// The curves of a metric.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    /// Its column.
    pub metric: String,
    /// By key.
    pub curves: Vec<Curve>,
}

/// A metric by step.
#[derive(Clone, Debug)]
pub(crate) struct Curve {
    /// In the order of steps.
    pub points: Vec<Point>,
    /// Steps with a value at or below 0.
    pub not_positive: usize,
    /// What was left out behind the last point.
    pub left_out: Option<LeftOut>,
    /// Half of the interval of a value, on the average, where values are estimates that have some.
    pub within: Option<f64>,
}

/// Curves that are drawn in one column of a figure.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    /// What its curves have in common, and those of other columns have not; nothing where there is one column.
    pub title: String,
    /// A panel each metric.
    pub curves: Curves,
}

/// Some steps that follow each other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Point {
    /// Where it lies: the mean of the steps, fractions or distances, or the (first) epoch.
    pub x: f64,
    /// First and last step.
    pub steps: (u64, u64),
    /// The epoch of the first step; `None` where it was not recorded.
    pub epoch: Option<f64>,
    /// Rows of the table.
    pub rows: usize,
    /// Those that have a value.
    pub count: usize,
    /// Those whose distance is flagged as below 1,000 roundings.
    pub rounding: usize,
    /// Those that are flagged as infinite or NaN.
    pub infinite: usize,
    /// What the values are; `None` where there is none.
    pub stand: Option<Stand>,
    /// The mean of the random walk's values.
    pub walk: Option<f64>,
    /// True if more steps were left out before it than between its neighbours: no line leads here.
    pub apart: bool,
}

/// Where values lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stand {
    /// The mean.
    pub mean: f64,
    /// Lower end of the band.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
    /// The (first) step of the smallest value.
    pub least: u64,
    /// The (first) step of the largest.
    pub most: u64,
}

/// Reads the curves of a table for a figure.
///
/// # Errors
/// The table has not what is asked for, or too much of it.
pub(crate) fn read(table: &Path, asked: &Asked) -> Result<Curves> {
    let found = find(table, &asked.chosen)?;
    found.check_most()?;
    let layout = Layout::of(&found, &found.chosen(), asked.along, POINTS)?;
    let layout = layout.leaving_out(asked.ending, asked.along)?;
    let curves = layout.curves(&asked.metrics, asked.band)?;
    match curves.panels.iter().find(|panel| panel.is_empty()) {
        None => Ok(curves),
        Some(panel) => {
            let metric = &panel.metric;
            let what =
                format!("{metric} is null at every step; docs/schema.md and docs/metrics.md say when it is");
            Err(Error::Nothing { path: table.to_owned(), what })
        }
    }
}

impl Panel {
    /// True if nothing of it can be drawn.
    pub(crate) fn is_empty(&self) -> bool {
        self.curves.iter().flat_map(|c| &c.points).all(|p| p.stand.is_none() || p.x.is_nan())
    }
}

impl Curve {
    /// Rows that it is made of.
    pub(crate) fn rows(&self) -> usize {
        self.points.iter().map(|p| p.rows).sum()
    }

    /// Rows without a value.
    pub(crate) fn nulls(&self) -> usize {
        self.points.iter().map(|p| p.rows - p.count).sum()
    }

    /// Rows whose distance is below 1,000 roundings.
    pub(crate) fn rounding(&self) -> usize {
        self.points.iter().map(|p| p.rounding).sum()
    }
}

impl Curves {
    /// The largest number of rows that a point stands for, and the smallest but for the ends of curves.
    pub(crate) fn rows_a_point(&self) -> (usize, usize) {
        let all = || self.panels.iter().take(1).flat_map(|p| &p.curves);
        let most = all().flat_map(|c| &c.points).map(|p| p.rows).max().unwrap_or(1);
        let inner = all().flat_map(|c| c.points.iter().rev().skip(1)).map(|p| p.rows);
        (inner.min().unwrap_or(most), most)
    }

    /// Reads again what the axis of values can show: on a logarithmic one, nothing at or below 0.
    ///
    /// # Errors
    /// That is nothing.
    pub(crate) fn check_log(&self) -> Result<()> {
        for panel in &self.panels {
            let mut shown = panel.curves.iter().flat_map(|c| &c.points).filter_map(|p| p.stand);
            if !shown.any(|s| s.mean > 0.0) {
                let what = format!("{} has no value above 0, so --log shows nothing of it", panel.metric);
                return Err(Usage(what).into());
            }
        }
        Ok(())
    }
}
