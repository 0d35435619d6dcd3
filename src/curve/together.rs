//! Curves of several runs, beside each other or as one.
//!
//! Nothing is interpolated: runs are put together where their points lie at the same place.

use std::collections::BTreeMap;

use crate::curve::{Curve, Curves, Key, MOST, Panel, Per, Point, Stand};
use crate::error::Usage;
use crate::order::Mean;

/// The band around the mean of several runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Spread {
    /// From the least run to the largest
    Minmax,
    /// The standard deviation of the runs to both sides
    Sd,
    /// The standard error of their mean to both sides
    Se,
}

impl Spread {
    /// The mean of one number a run, and the band around it; `None` where there is none.
    pub(crate) fn band(self, values: &[f64]) -> Option<(f64, [f64; 2])> {
        let least = values.iter().copied().reduce(f64::min)?;
        let most = values.iter().copied().reduce(f64::max)?;
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let deviation = if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 };
        let band = match self {
            Spread::Minmax => [least, most],
            Spread::Sd => [mean - deviation, mean + deviation],
            Spread::Se => [mean - deviation / n.sqrt(), mean + deviation / n.sqrt()],
        };
        Some((mean, band))
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Spread::Minmax => "minimum to maximum",
            Spread::Sd => "± standard deviation",
            Spread::Se => "± standard error",
        })
    }
}

/// That curves are of several runs each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Across {
    /// How many.
    pub runs: usize,
    /// The band.
    pub spread: Spread,
    /// Points that are of fewer runs, and all points.
    pub partial: (usize, usize),
    /// What a point of one run stands for: fewest and most rows.
    pub a_point: (usize, usize),
}

impl std::fmt::Display for Across {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} runs", self.spread, self.runs)
    }
}

/// The curves of runs beside each other. All lie along the same.
///
/// # Errors
/// There is none.
pub(crate) fn beside(runs: Vec<Curves>) -> Result<Curves, Usage> {
    let mut all: Option<Curves> = None;
    for mut curves in runs {
        let Some(all) = &mut all else {
            all = Some(curves);
            continue;
        };
        let is_alike = all.per == curves.per;
        all.keys.append(&mut curves.keys);
        for (panel, mut more) in all.panels.iter_mut().zip(curves.panels) {
            panel.curves.append(&mut more.curves);
        }
        if !is_alike {
            all.per = Per::Steps(all.rows_a_point().1 as u64);
        }
    }
    all.ok_or_else(|| Usage("there is no run".to_owned()))
}

impl Curves {
    /// Refuses more curves than can be told apart.
    ///
    /// # Errors
    /// There are more.
    pub(crate) fn check_most(&self) -> Result<(), Usage> {
        if self.keys.len() <= MOST {
            return Ok(());
        }
        Err(Usage(format!(
            "these are {} curves, and a figure has at most {MOST}: name fewer runs, or draw those that differ in their \
             seeds as one by --seeds minmax",
            self.keys.len()
        )))
    }

    /// One curve of all runs for each reference, stream and group: at each place the mean of their means.
    ///
    /// # Errors
    /// There is one run alone, or runs have no place in common.
    pub(crate) fn across(self, spread: Spread) -> Result<Curves, Usage> {
        let mut keys: Vec<Key> = Vec::new();
        let alone = |key: &Key| Key { run: String::new(), ..key.clone() };
        for key in self.keys.iter().map(alone) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let of_key =
            |k: &Key| (0..self.keys.len()).filter(|&i| alone(&self.keys[i]) == *k).collect::<Vec<_>>();
        let places: Vec<Vec<usize>> = keys.iter().map(of_key).collect();
        let runs = places.iter().map(Vec::len).max().unwrap_or(0);
        if runs < 2 {
            return Err(Usage(
                "--seeds is for several runs of one label, reference, stream and group".to_owned(),
            ));
        }
        let (a_point, mut partial) = (self.rows_a_point(), (0, 0));
        let panels: Vec<Panel> = (self.panels.iter())
            .map(|panel| {
                let curves = places.iter().map(|places| {
                    let curves: Vec<&Curve> = places.iter().filter_map(|&i| panel.curves.get(i)).collect();
                    one(&curves, spread, runs, &mut partial)
                });
                Panel { metric: panel.metric.clone(), curves: curves.collect() }
            })
            .collect();
        if partial.0 == partial.1 {
            let what = "no point of one run lies where one of each other does, and nothing is interpolated: take \
                        another --x, or runs of the same length";
            return Err(Usage(what.to_owned()));
        }
        Ok(Curves { keys, panels, across: Some(Across { runs, spread, partial, a_point }), ..self })
    }
}

/// One curve of several.
fn one(curves: &[&Curve], spread: Spread, runs: usize, partial: &mut (usize, usize)) -> Curve {
    // In the order of x, which is that of its bits where no number is negative.
    let mut at: BTreeMap<u64, Vec<&Point>> = BTreeMap::new();
    for point in curves.iter().flat_map(|c| &c.points).filter(|p| p.x.is_finite()) {
        at.entry((point.x + 0.0).to_bits()).or_default().push(point);
    }
    let points: Vec<Point> = at.into_values().filter_map(|points| merged(&points, spread)).collect();
    partial.0 += points.iter().filter(|p| p.count < runs).count();
    partial.1 += points.len();
    let left_out = curves.iter().filter_map(|c| c.left_out).min_by(|a, b| a.x.total_cmp(&b.x));
    let not_positive = points.iter().filter(|p| p.stand.is_some_and(|s| s.mean <= 0.0)).count();
    let mut within = Mean::default();
    curves.iter().for_each(|c| within.add(c.within));
    Curve { points, not_positive, left_out, within: within.get() }
}

/// The point of several runs' at one place.
fn merged(points: &[&Point], spread: Spread) -> Option<Point> {
    let first = *points.first()?;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let means: Vec<f64> = points.iter().filter_map(|p| p.stand).map(|s| s.mean).collect();
    let walks: Vec<f64> = points.iter().filter_map(|p| p.walk).collect();
    let stand = spread.band(&means).map(|(mean, [lo, hi])| Stand {
        mean,
        lo,
        hi,
        least: first.steps.0,
        most: first.steps.1,
    });
    Some(Point {
        x: first.x,
        steps: (points.iter().map(|p| p.steps.0).min()?, points.iter().map(|p| p.steps.1).max()?),
        epoch: first.epoch,
        rows: points.len(),
        count: means.len(),
        rounding: points.iter().filter(|p| p.rounding > 0).count(),
        infinite: points.iter().filter(|p| p.infinite > 0).count(),
        stand,
        walk: (!walks.is_empty()).then(|| mean(&walks)),
        apart: points.iter().any(|p| p.apart),
    })
}
