//! Curves of metrics: points that each stand for some steps, made of all of them.
//!
//! Owns how steps are put together and where a curve has gaps. Knows nothing of how curves are drawn.

mod band;
mod cut;
mod numbers;
mod rows;

use std::ops::Range;
use std::path::Path;

pub(crate) use crate::curve::band::Band;
pub(crate) use crate::curve::cut::Per;
pub(crate) use crate::curve::numbers::{HEAD, csv};
pub(crate) use crate::curve::rows::{Key, MOST, check};

use crate::curve::band::mean;
use crate::curve::rows::Rows;
use crate::error::{Error, Result, Usage};

/// What curves are asked for; a list without a name stands for all that the table has.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Columns of the table.
    pub metrics: Vec<String>,
    /// Names of references.
    pub references: Vec<String>,
    /// Names of streams.
    pub streams: Vec<String>,
    /// Names of groups.
    pub groups: Vec<String>,
    /// What the points lie along; `None`: epochs where they serve, else steps.
    pub along: Option<Along>,
    /// The band.
    pub band: Band,
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
}

/// Some steps that follow each other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Point {
    /// Where it lies: the mean of the steps, fractions or distances, or the (first) epoch.
    pub x: f64,
    /// First and last step.
    pub steps: (u64, u64),
    /// Rows of the table.
    pub rows: usize,
    /// Those that have a value.
    pub count: usize,
    /// Those that are flagged as mostly rounding.
    pub rounding: usize,
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
}

/// Reads the curves of a table.
///
/// # Errors
/// The table has not what is asked for, or too much of it.
pub(crate) fn read(table: &Path, asked: &Asked) -> Result<Curves> {
    let all = rows::of(table, asked)?;
    let per = cut::per(&all, asked.along).map_err(|what| Error::NotFound { path: table.to_owned(), what })?;
    let along = asked.along.unwrap_or(if matches!(per, Per::Epochs(_)) { Along::Epoch } else { Along::Step });
    let end = all.iter().filter_map(|r| r.steps.last()).max().map_or(1.0, |&t| t as f64 + 1.0);
    let cuts: Vec<Vec<Range<usize>>> = all.iter().map(|rows| cut::ranges(rows, per)).collect();
    let mut panels = Vec::new();
    for (m, metric) in asked.metrics.iter().enumerate() {
        let of = |rows, cut| curve(rows, cut, m, along, per, end, asked.band);
        let curves: Vec<Curve> = all.iter().zip(&cuts).map(|(rows, cut)| of(rows, cut)).collect();
        if curves.iter().flat_map(|c| &c.points).all(|p| p.stand.is_none() || p.x.is_nan()) {
            let what =
                format!("{metric} is null at every step; docs/schema.md and docs/metrics.md say when it is");
            return Err(Error::Nothing { path: table.to_owned(), what });
        }
        panels.push(Panel { metric: metric.clone(), curves });
    }
    Ok(Curves { along, per, band: asked.band, keys: all.into_iter().map(|r| r.key).collect(), panels })
}

fn curve(
    rows: &Rows,
    cut: &[Range<usize>],
    metric: usize,
    along: Along,
    per: Per,
    end: f64,
    band: Band,
) -> Curve {
    let number = |all: &[f64], range: &Range<usize>| -> Vec<f64> {
        let values = all.get(range.clone()).unwrap_or(&[]);
        values.iter().copied().filter(|v| !v.is_nan()).collect()
    };
    let some = |values: Vec<f64>| if values.is_empty() { f64::NAN } else { mean(&values) };
    let point = |range: &Range<usize>| {
        let steps: Vec<f64> = rows.steps[range.clone()].iter().map(|&t| t as f64).collect();
        let x = match (along, per) {
            (Along::Epoch, Per::Epochs(n)) => cut::epoch(rows.epochs[range.start], rows.epochs[0], n),
            (Along::Fraction, _) => mean(&steps) / end,
            (Along::Dist, _) => some(number(&rows.distances, range)),
            (Along::Step | Along::Epoch, _) => mean(&steps),
        };
        let mut values = number(&rows.values[metric], range);
        let walk = number(&rows.walks[metric], range);
        let stand = (!values.is_empty()).then(|| {
            let mean = mean(&values);
            let (lo, hi) = band.ends(&mut values);
            Stand { mean, lo, hi }
        });
        Point {
            x,
            steps: (rows.steps[range.start], rows.steps[range.end - 1]),
            rows: range.len(),
            count: values.len(),
            rounding: rows.rounding[range.clone()].iter().filter(|&&r| r).count(),
            stand,
            walk: (!walk.is_empty()).then(|| mean(&walk)),
            apart: false,
        }
    };
    let mut points: Vec<Point> = cut.iter().map(point).collect();
    cut::apart(&mut points, per);
    Curve { points, not_positive: rows.values[metric].iter().filter(|&&v| v <= 0.0).count() }
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

    /// Rows that are mostly rounding.
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
