//! Which rows of a table the points of curves are made of, and the curves made of them.

use std::ops::Range;

use crate::curve::band::Digest;
use crate::curve::metric::Walk;
use crate::curve::rows::Rows;
use crate::curve::{
    Along, Band, Curve, Curves, Ending, Found, Key, LeftOut, POINTS, Panel, Per, Point, Stand, cut, metric,
    rows,
};
use crate::error::{Error, Result};
use crate::order::Mean;

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
    /// By key, what was left out behind them.
    left: Vec<Option<LeftOut>>,
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
        let end = rows.iter().filter_map(Rows::last).max().map_or(1.0, |t| t as f64 + 1.0);
        let cuts: Vec<Vec<Range<usize>>> = rows.iter().map(|rows| cut::ranges(rows, per)).collect();
        let points = rows.iter().zip(&cuts).map(|(rows, cut)| {
            let mut points: Vec<Point> =
                cut.iter().map(|range| point(rows, range, along, per, end)).collect();
            cut::apart(&mut points, per);
            points
        });
        let points = points.collect();
        let left = rows.iter().map(|rows| {
            let first = rows.epochs.first().copied().unwrap_or(0.0);
            rows.left.map(|left| left.out(along, per, first, end))
        });
        Ok(Layout { found, left: left.collect(), rows, along, per, cuts, points })
    }

    /// Leaves out the end of the path, in a figure.
    pub(super) fn leaving_out(self, ending: Ending, along: Option<Along>) -> Result<Layout<'a>> {
        if ending == Ending::Drawn {
            return Ok(self);
        }
        let mut rows = self.rows;
        for rows in &mut rows {
            let refuse = |what| Error::NotFound { path: self.found.table.clone(), what };
            cut::leave_out(rows, ending).map_err(refuse)?;
        }
        Layout::new(self.found, rows, along, POINTS)
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
            let walks = self.walks(metric)?;
            let values = self.values(metric::column(metric)?)?;
            let panel = self.panel_of(metric, &values, walks.as_deref(), band);
            self.within(panel, &values)
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
        let curves = self.points.iter().map(|points| Curve {
            points: points.clone(),
            not_positive: 0,
            left_out: None,
            within: None,
        });
        Panel { metric: metric.to_owned(), curves: curves.collect() }
    }

    /// A column's values, by key.
    fn values(&self, column: &'static str) -> Result<Vec<Vec<f64>>> {
        rows::values(self.found, column, &self.rows)
    }

    /// What a random walk's values of a metric are, by key; `None` where the table does not say.
    fn walks(&self, metric: &str) -> Result<Option<Vec<Vec<f64>>>> {
        let of = match metric::walk(metric) {
            None => return Ok(None),
            Some(Walk::Column(column)) => return self.values(column).map(Some),
            Some(Walk::Of(of)) => of,
        };
        for column in metric::WALKED {
            if !rows::has(self.found, column)? {
                return Ok(None);
            }
        }
        let [own, g2, cos] = metric::WALKED.map(|column| self.values(column));
        let columns = [own?, g2?, cos?];
        let key = |k: usize| {
            let row = |i: usize| of(std::array::from_fn(|c| columns[c][k][i]));
            (0..columns[0][k].len()).map(row).collect()
        };
        Ok(Some((0..self.rows.len()).map(key).collect()))
    }

    /// A panel with how far off its values are, where they are estimates with intervals.
    fn within(&self, mut panel: Panel, values: &[Vec<f64>]) -> Result<Panel> {
        let Some([low, high]) = metric::ends(&panel.metric) else { return Ok(panel) };
        if !(rows::has(self.found, low)? && rows::has(self.found, high)?) {
            return Ok(panel);
        }
        let ends = self.values(low)?.into_iter().zip(self.values(high)?);
        for ((curve, values), (low, high)) in panel.curves.iter_mut().zip(values).zip(ends) {
            let mut half = Mean::default();
            for (value, (low, high)) in values.iter().zip(low.iter().zip(&high)) {
                half.add(Some((high - low) / 2.0).filter(|half| !half.is_nan() && !value.is_nan()));
            }
            curve.within = half.get();
        }
        Ok(panel)
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
        let not_positive = values.iter().filter(|&&v| v <= 0.0).count();
        Curve { points: points.collect(), not_positive, left_out: self.left[key], within: None }
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
