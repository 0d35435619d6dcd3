//! Paths as they are shown: each alone, or those of trainings that differ by chance alone as one.

use crate::compare::Comparison;
use crate::compare::path::{Cell, METRICS, OfKey, OfTable};
use crate::compare::place::Places;
use crate::curve::Spread;

/// Trainings that are shown as one.
#[derive(Debug)]
pub(super) struct Alike<'a> {
    /// Their tables.
    pub tables: Vec<&'a OfTable>,
}

/// A number at a place.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Stand {
    /// The mean, over runs, of their means.
    pub mean: Option<f64>,
    /// The band around it; `None` of one run.
    pub band: Option<[f64; 2]>,
}

/// What the paths of some trainings are like at a place.
#[derive(Debug)]
pub(super) struct Point<'a> {
    /// The reference, stream and group, as the first path has it.
    pub of: &'a OfKey,
    /// Where it lies.
    pub x: f64,
    /// The first step and the last one.
    pub steps: (u64, u64),
    /// Rows of all runs.
    pub rows: u64,
    /// Runs that have rows here.
    pub runs: u64,
    /// By metric.
    pub stands: [Stand; METRICS.len()],
}

impl Comparison {
    /// The trainings that are shown as one, or each.
    pub(super) fn alike(&self) -> Vec<Alike<'_>> {
        let mut all: Vec<Alike<'_>> = Vec::new();
        for table in &self.tables {
            let with = |alike: &&mut Alike<'_>| alike.tables[0].training.differs_by_chance(&table.training);
            match all.iter_mut().find(with).filter(|_| self.seeds.is_some()) {
                Some(alike) => alike.tables.push(table),
                None => all.push(Alike { tables: vec![table] }),
            }
        }
        all
    }
}

impl<'a> Alike<'a> {
    /// What they are called.
    pub(super) fn name(&self) -> String {
        let names: Vec<&str> = self.tables.iter().map(|t| t.training.name.as_str()).collect();
        names.join(" + ")
    }

    /// What they are like at each place, by reference, stream and group.
    pub(super) fn points(&self, places: Places, spread: Spread) -> Vec<Point<'a>> {
        let mut points = Vec::new();
        for of in &self.tables[0].keys {
            let same = |table: &&'a OfTable| table.keys.iter().find(|k| k.is_like(of));
            let paths: Vec<&OfKey> = self.tables.iter().filter_map(same).collect();
            let mut numbers: Vec<i64> = paths.iter().flat_map(|k| k.cells.keys().copied()).collect();
            numbers.sort_unstable();
            numbers.dedup();
            for number in numbers {
                let cells: Vec<&Cell> = paths.iter().filter_map(|k| k.cells.get(&number)).collect();
                points.push(Point::of(of, places.x(number), &cells, spread));
            }
        }
        points
    }
}

impl<'a> Point<'a> {
    fn of(of: &'a OfKey, x: f64, cells: &[&Cell], spread: Spread) -> Point<'a> {
        let stands = std::array::from_fn(|metric| {
            let means: Vec<f64> = cells.iter().filter_map(|c| c.means[metric].get()).collect();
            let band = spread.band(&means);
            Stand { mean: band.map(|b| b.0), band: band.map(|b| b.1).filter(|_| means.len() > 1) }
        });
        Point {
            of,
            x,
            steps: (
                cells.iter().map(|c| c.steps.0).min().unwrap_or(0),
                cells.iter().map(|c| c.steps.1).max().unwrap_or(0),
            ),
            rows: cells.iter().map(|c| c.rows).sum(),
            runs: cells.len() as u64,
            stands,
        }
    }
}
