//! A grid of a table of all pairs: cells that each stand for some steps and some references, made of all of their pairs.
//!
//! Owns how pairs are put together. Knows nothing of how a grid is drawn.

use std::path::Path;

use crate::error::{Error, Result};
use crate::order::Neumaier;
use crate::row::Kind;
use crate::table::{Contents, Field, read};

/// As many cells as can be told apart along a side.
const MOST: u64 = 400;

/// What is shown of pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Cosine of the gradient and the way from the reference.
    Cos,
    /// Distance of the step's iterate to the reference.
    Dist,
    /// Cosine of both ways from the first iterate.
    CosFirst,
    /// Cosine of both ways to the last iterate.
    CosLast,
}

impl Metric {
    /// Its column.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Metric::Cos => "cos",
            Metric::Dist => "dist",
            Metric::CosFirst => "cos_first",
            Metric::CosLast => "cos_last",
        }
    }
}

/// Steps along a side, cut into equal parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Side {
    /// The first step.
    pub first: u64,
    /// How many steps there are to the last, and one more.
    pub length: u64,
    /// Parts.
    pub cells: usize,
}

impl Side {
    fn of(steps: &[u64]) -> Side {
        let (first, last) = (steps.first().copied().unwrap_or(0), steps.last().copied().unwrap_or(0));
        let mut apart: Vec<u64> = steps.windows(2).map(|p| p[1] - p[0]).collect();
        apart.sort_unstable();
        let usual = apart.get(apart.len() / 2).copied().unwrap_or(1);
        let length = last - first + 1;
        // Parts are no narrower than steps lie apart, so that none is empty between two.
        let cells = (length / usual).clamp(1, MOST);
        Side { first, length, cells: usize::try_from(cells).unwrap_or(1) }
    }

    fn cell(&self, step: u64) -> usize {
        let cell = u128::from(step - self.first) * self.cells as u128 / u128::from(self.length);
        usize::try_from(cell).unwrap_or(0)
    }

    /// The steps of a cell.
    pub(crate) fn steps(&self, cell: usize) -> (u64, u64) {
        let begin = |cell: usize| {
            let at = (cell as u128 * u128::from(self.length)).div_ceil(self.cells as u128);
            self.first + u64::try_from(at).unwrap_or(0)
        };
        (begin(cell), begin(cell + 1) - 1)
    }
}

/// A grid.
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    /// What it is of.
    pub metric: Metric,
    /// The steps t.
    pub steps: Side,
    /// The steps k of the references.
    pub references: Side,
    /// By reference, then step: the mean; `None` where no pair has a value.
    pub means: Vec<Option<f64>>,
    /// Likewise: how many pairs have a value.
    pub counts: Vec<u64>,
    /// Pairs without a value.
    pub nulls: u64,
}

impl Grid {
    /// Reads a table of all pairs.
    ///
    /// # Errors
    /// It is none, or damaged, or has no value of the metric.
    pub(crate) fn read(table: &Path, metric: Metric) -> Result<Grid> {
        Contents::Pairs.check(table)?;
        let step = |name| Field { name, kind: Kind::Integer };
        let places = [step("step"), step("reference_step")];
        let (mut steps, mut references) = (Vec::new(), Vec::new());
        read(table, &places, |piece| {
            for (all, i) in [(&mut steps, 0), (&mut references, 1)] {
                all.extend(piece.integers(i));
                all.sort_unstable();
                all.dedup();
            }
            Ok(())
        })?;
        let (steps, references) = (Side::of(&steps), Side::of(&references));
        let mut sums = vec![(Neumaier::default(), 0u64); steps.cells * references.cells];
        let mut nulls = 0;
        let value = Field { name: metric.name(), kind: Kind::Real };
        read(table, &[places[0], places[1], value], |piece| {
            let (t, k, values) = (piece.integers(0), piece.integers(1), piece.reals(2));
            for ((t, k), value) in t.into_iter().zip(k).zip(values) {
                if value.is_nan() {
                    nulls += 1;
                } else if let Some((sum, count)) =
                    sums.get_mut(references.cell(k) * steps.cells + steps.cell(t))
                {
                    sum.add(value);
                    *count += 1;
                }
            }
            Ok(())
        })?;
        let means: Vec<Option<f64>> =
            sums.iter().map(|(sum, count)| (*count > 0).then(|| sum.total() / *count as f64)).collect();
        if means.iter().all(Option::is_none) {
            let what = format!("{} is null at every pair; docs/schema.md says when it is", metric.name());
            return Err(Error::Nothing { path: table.to_owned(), what });
        }
        let counts = sums.into_iter().map(|(_, count)| count).collect();
        Ok(Grid { metric, steps, references, means, counts, nulls })
    }

    /// The grid as CSV, a line a cell. What a cell has not is empty.
    pub(crate) fn csv(&self) -> Vec<u8> {
        let mut out = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
        // Memory does not refuse.
        let _ = out.write_record(HEAD.split(','));
        for (at, (mean, count)) in self.means.iter().zip(&self.counts).enumerate() {
            let (t, k) =
                (self.steps.steps(at % self.steps.cells), self.references.steps(at / self.steps.cells));
            let mean = mean.map_or_else(String::new, |v| serde_json::json!(v).to_string());
            let places = [t.0, t.1, k.0, k.1].map(|v| v.to_string());
            let _ = out.write_record(
                std::iter::once(self.metric.name().to_owned()).chain(places).chain([mean, count.to_string()]),
            );
        }
        out.into_inner().unwrap_or_default()
    }
}

/// The header line.
pub(crate) const HEAD: &str = "metric,first_step,last_step,first_reference,last_reference,mean,count";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_cut_into_equal_parts() {
        let side = Side::of(&(10..1011).collect::<Vec<u64>>());
        assert_eq!((side.cells, side.steps(0), side.steps(399)), (400, (10, 12), (1009, 1010)));
        for step in 10..1011 {
            let (from, to) = side.steps(side.cell(step));
            assert!((from..=to).contains(&step), "{step}");
        }
        let every = Side::of(&[0, 7, 14, 21, 24]);
        assert_eq!((every.cells, [0, 7, 14, 21, 24].map(|t| every.cell(t))), (3, [0, 0, 1, 2, 2]));
        let every = Side::of(&(0..=700).step_by(7).collect::<Vec<u64>>());
        assert_eq!(
            (0..100).map(|i| every.cell(7 * i)).collect::<Vec<_>>(),
            (0..100).map(|i| usize::try_from(i * 700 / 701).unwrap()).collect::<Vec<_>>()
        );
        assert_eq!(Side::of(&[3]).steps(0), (3, 3));
    }
}
