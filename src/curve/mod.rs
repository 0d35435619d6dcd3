//! Curves of metrics: points that each stand for some steps, made of all of them.
//!
//! Owns how steps are put together and where a curve has gaps. Knows nothing of how curves are drawn.

mod band;
mod cut;
mod key;
mod metric;
mod numbers;
mod rows;
mod together;

use std::ops::Range;
use std::path::Path;

pub(crate) use crate::curve::band::Band;
pub(crate) use crate::curve::cut::Per;
pub(crate) use crate::curve::key::{Chosen, Found, Key, MOST, find};
pub(crate) use crate::curve::metric::{check, metrics};
pub(crate) use crate::curve::numbers::{HEAD, csv};
pub(crate) use crate::curve::together::{Across, Spread, beside, names};

use crate::curve::band::Digest;
use crate::curve::rows::Rows;
use crate::error::{Error, Result, Usage};

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

/// Rows of a table, and which of them each point stands for.
pub(crate) struct Layout<'a> {
    found: &'a Found,
    rows: Vec<Rows>,
    along: Along,
    per: Per,
    /// By key, the rows of each point.
    cuts: Vec<Vec<Range<usize>>>,
    /// By key, the points without values, which are the same for all metrics.
    points: Vec<Vec<Point>>,
}

/// Reads the curves of a table for a figure.
///
/// # Errors
/// The table has not what is asked for, or too much of it.
pub(crate) fn read(table: &Path, asked: &Asked) -> Result<Curves> {
    let found = find(table, &asked.chosen)?;
    found.check_most()?;
    let layout = Layout::of(&found, &found.chosen(), asked.along, POINTS)?;
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

impl<'a> Layout<'a> {
    /// Lays out some keys, by their places among those that were found, in at most so many `points` each.
    ///
    /// # Errors
    /// None of their steps was asked for, there are no epochs to lie along, or the table cannot be read.
    pub(crate) fn of(
        found: &'a Found,
        keys: &[usize],
        along: Option<Along>,
        points: u64,
    ) -> Result<Layout<'a>> {
        let rows = rows::of(found, keys)?;
        if rows.iter().all(|r| r.steps.is_empty()) {
            let Range { start, end } = found.steps;
            let end = if end == u64::MAX { String::new() } else { end.to_string() };
            let what = format!("the table has no row of steps {start}..{end}");
            return Err(Error::NotFound { path: found.table.clone(), what });
        }
        Layout::new(found, rows, along, points)
    }

    fn new(found: &'a Found, rows: Vec<Rows>, along: Option<Along>, points: u64) -> Result<Layout<'a>> {
        let refuse = |what| Error::NotFound { path: found.table.clone(), what };
        let per = cut::per(&rows, along, points).map_err(refuse)?;
        let along = along.unwrap_or(if matches!(per, Per::Epochs(_)) { Along::Epoch } else { Along::Step });
        let end = rows.iter().filter_map(|r| r.steps.last()).max().map_or(1.0, |&t| t as f64 + 1.0);
        let cuts: Vec<Vec<Range<usize>>> = rows.iter().map(|rows| cut::ranges(rows, per)).collect();
        let points = rows.iter().zip(&cuts).map(|(rows, cut)| {
            let mut points: Vec<Point> =
                cut.iter().map(|range| point(rows, range, along, per, end)).collect();
            cut::apart(&mut points, per);
            points
        });
        let points = points.collect();
        Ok(Layout { found, rows, along, per, cuts, points })
    }

    /// The rows of some of its keys, by their places, laid out as in a figure.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub(crate) fn figure(&self, keys: &[usize], along: Option<Along>) -> Result<Layout<'a>> {
        let rows = keys.iter().filter_map(|&k| self.rows.get(k)).cloned().collect();
        Layout::new(self.found, rows, along, POINTS)
    }

    /// What its points lie along.
    pub(crate) fn along(&self) -> Along {
        self.along
    }

    /// What the curves are of.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.rows.iter().map(|r| r.key.clone()).collect()
    }

    /// Steps of the longest curve.
    pub(crate) fn steps(&self) -> usize {
        self.rows.iter().map(|r| r.steps.len()).max().unwrap_or(0)
    }

    /// The curves of some metrics, with their walks.
    ///
    /// # Errors
    /// The table is damaged, or lacks one.
    pub(crate) fn curves(&self, metrics: &[String], band: Band) -> Result<Curves> {
        let panel = |metric: &String| -> Result<Panel> {
            let walks = metric::walk(metric).map(|walk| self.values(walk)).transpose()?;
            Ok(self.panel_of(metric, &self.values(metric::column(metric)?)?, walks.as_deref(), band))
        };
        let panels = metrics.iter().map(panel).collect::<Result<Vec<Panel>>>()?;
        Ok(Curves { along: self.along, per: self.per, band, across: None, keys: self.keys(), panels })
    }

    /// The curves of one metric, without walks.
    ///
    /// # Errors
    /// As [`Self::curves`].
    pub(crate) fn panel(&self, metric: &str, band: Band) -> Result<Panel> {
        Ok(self.panel_of(metric, &self.values(metric::column(metric)?)?, None, band))
    }

    /// The curves of a metric that the table has no column for: points without a value.
    pub(crate) fn without(&self, metric: &str) -> Panel {
        let curves = self.points.iter().map(|points| Curve { points: points.clone(), not_positive: 0 });
        Panel { metric: metric.to_owned(), curves: curves.collect() }
    }

    /// A column's values, by key.
    fn values(&self, column: &'static str) -> Result<Vec<Vec<f64>>> {
        rows::values(self.found, column, &self.rows)
    }

    fn panel_of(&self, metric: &str, values: &[Vec<f64>], walks: Option<&[Vec<f64>]>, band: Band) -> Panel {
        let curves = values.iter().enumerate().map(|(k, values)| {
            let walks = walks.map_or(&[][..], |all| &all[k]);
            self.curve(k, values, walks, band)
        });
        Panel { metric: metric.to_owned(), curves: curves.collect() }
    }

    fn curve(&self, key: usize, values: &[f64], walks: &[f64], band: Band) -> Curve {
        let steps = &self.rows[key].steps;
        let points = self.points[key].iter().zip(&self.cuts[key]).map(|(point, range)| {
            let of = |all: &[f64]| Digest::of(all.get(range.clone()).unwrap_or_default());
            let digest = of(values);
            let stand = digest.map(|d| {
                let (lo, hi) = band.ends(&values[range.clone()], &d);
                let at = |i: usize| steps[range.start + i];
                Stand { mean: d.mean, lo, hi, least: at(d.least), most: at(d.most) }
            });
            let walk = of(walks).map(|d| d.mean);
            Point { count: digest.map_or(0, |d| d.count), stand, walk, ..point.clone() }
        });
        Curve { points: points.collect(), not_positive: values.iter().filter(|&&v| v <= 0.0).count() }
    }
}

/// What a point stands for, without values.
fn point(rows: &Rows, range: &Range<usize>, along: Along, per: Per, end: f64) -> Point {
    let steps: Vec<f64> = rows.steps[range.clone()].iter().map(|&t| t as f64).collect();
    let mean = |all: &[f64]| Digest::of(all).map_or(f64::NAN, |d| d.mean);
    let x = match (along, per) {
        (Along::Epoch, Per::Epochs(n)) => cut::epoch(rows.epochs[range.start], rows.epochs[0], n),
        (Along::Fraction, _) => mean(&steps) / end,
        (Along::Dist, _) => mean(&rows.distances[range.clone()]),
        (Along::Step | Along::Epoch, _) => mean(&steps),
    };
    let flagged = |flags: &[bool]| flags[range.clone()].iter().filter(|&&f| f).count();
    Point {
        x,
        steps: (rows.steps[range.start], rows.steps[range.end - 1]),
        epoch: Some(rows.epochs[range.start]).filter(|e| !e.is_nan()),
        rows: range.len(),
        count: 0,
        rounding: flagged(&rows.rounding),
        infinite: flagged(&rows.infinite),
        stand: None,
        walk: None,
        apart: false,
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
