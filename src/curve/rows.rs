//! What is read of a table of metrics: the numbers of chosen keys, by step.
//!
//! Owns where in the table the rows of a key lie. Knows nothing of points.

use crate::curve::ending::Ending;
use crate::curve::key::{Found, Key};
use crate::error::{Error, Result};
use crate::row::Kind;
use crate::table::{Field, Piece, names, read};

/// The rows of one key, in the order of steps. What is not there is NaN.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub(crate) key: Key,
    /// Where in the table they lie.
    pub(crate) at: Vec<usize>,
    pub(crate) steps: Vec<u64>,
    pub(crate) epochs: Vec<f64>,
    pub(crate) distances: Vec<f64>,
    /// `low_precision`.
    pub(crate) rounding: Vec<bool>,
    /// `nonfinite`.
    pub(crate) infinite: Vec<bool>,
    /// What was left out behind them.
    pub(crate) left: Option<Left>,
}

/// Rows that were left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Left {
    /// The first and the last step.
    pub(super) steps: (u64, u64),
    /// The epoch of the first; NaN where it was not recorded.
    pub(super) epoch: f64,
    /// The distance there.
    pub(super) distance: f64,
    /// How many rows.
    pub(super) rows: usize,
    /// What they are.
    pub(super) ending: Ending,
}

/// What is read of every row, in this order.
const FIRST: [(&str, Kind); 4] =
    [("step", Kind::Integer), ("low_precision", Kind::Flag), ("epoch", Kind::Real), ("dist", Kind::Real)];
const INFINITE: &str = "nonfinite";

impl Rows {
    fn new(key: Key) -> Rows {
        Rows {
            key,
            at: Vec::new(),
            steps: Vec::new(),
            epochs: Vec::new(),
            distances: Vec::new(),
            rounding: Vec::new(),
            infinite: Vec::new(),
            left: None,
        }
    }

    /// Keeps the first rows.
    pub(super) fn truncate(&mut self, keep: usize) {
        self.at.truncate(keep);
        self.steps.truncate(keep);
        self.epochs.truncate(keep);
        self.distances.truncate(keep);
        self.rounding.truncate(keep);
        self.infinite.truncate(keep);
    }

    /// The last step, of those that were left out too.
    pub(super) fn last(&self) -> Option<u64> {
        self.left.map(|left| left.steps.1).or_else(|| self.steps.last().copied())
    }
}

/// Reads the rows of some keys, named by their places among those that were found.
///
/// # Errors
/// The table is damaged, lacks a column, or its steps do not rise.
pub(super) fn of(found: &Found, keys: &[usize]) -> Result<Vec<Rows>> {
    let mut fields: Vec<Field> = FIRST.iter().map(|&(name, kind)| Field { name, kind }).collect();
    if has(found, INFINITE)? {
        fields.push(Field { name: INFINITE, kind: Kind::Flag });
    }
    let mut all: Vec<Rows> = keys.iter().map(|&k| Rows::new(found.known()[k].key.clone())).collect();
    let mut slots = vec![None; found.known().len()];
    for (slot, &key) in keys.iter().enumerate() {
        slots[key] = Some(slot);
    }
    let mut first = 0;
    read(&found.table, &fields, |piece| {
        first = take(piece, found, &slots, first, &mut all);
        Ok(())
    })?;
    if all.iter().any(|rows| rows.steps.windows(2).any(|pair| pair[0] >= pair[1])) {
        let what = "a step comes twice or before an earlier one; name the table of one run".to_owned();
        return Err(Error::NotFound { path: found.table.clone(), what });
    }
    Ok(all)
}

/// Adds the rows of a piece, whose first is the table's row `first`. Returns the row behind it.
fn take(piece: &Piece, found: &Found, slots: &[Option<usize>], first: usize, all: &mut [Rows]) -> usize {
    let (steps, rounding) = (piece.integers(0), piece.flags(1));
    let (epochs, distances, infinite) = (piece.reals(2), piece.reals(3), piece.flags(4));
    let end = first + steps.len();
    for (i, key) in found.of(first..end).enumerate() {
        let rows = slots[key].and_then(|slot| all.get_mut(slot)).filter(|_| found.steps.contains(&steps[i]));
        if let Some(rows) = rows {
            rows.at.push(first + i);
            rows.steps.push(steps[i]);
            rows.epochs.push(epochs[i]);
            rows.distances.push(distances[i]);
            rows.rounding.push(rounding[i]);
            rows.infinite.push(infinite.get(i).copied().unwrap_or(false));
        }
    }
    end
}

/// Whether the table has a column.
///
/// # Errors
/// It cannot be read.
pub(super) fn has(found: &Found, column: &str) -> Result<bool> {
    Ok(names(&found.table)?.iter().any(|name| name == column))
}

/// Reads a column of numbers, as values of each of `all`.
///
/// # Errors
/// The table is damaged, or lacks it.
pub(super) fn values(found: &Found, column: &'static str, all: &[Rows]) -> Result<Vec<Vec<f64>>> {
    let mut values: Vec<Vec<f64>> = all.iter().map(|rows| Vec::with_capacity(rows.at.len())).collect();
    let mut first = 0;
    read(&found.table, &[Field { name: column, kind: Kind::Real }], |piece| {
        let numbers = piece.reals(0);
        let end = first + numbers.len();
        for (rows, values) in all.iter().zip(&mut values) {
            let here = rows.at[values.len()..].iter().take_while(|&&at| at < end);
            values.extend(here.map(|&at| numbers[at - first]));
        }
        first = end;
        Ok(())
    })?;
    Ok(values)
}
