//! What is kept of the rows of a table: numbers by place, and by thirds of the path.

use std::collections::BTreeMap;

use crate::certainty::Certainty;
use crate::compare::place::Places;
use crate::curve::{Found, Key};
use crate::error::Result;
use crate::group::ALL;
use crate::order::Mean;
use crate::reading::{Reading, each};
use crate::statistics::median;
use crate::training::{FINAL, Role, Training};

/// Epochs from which on paths are compared by epochs.
pub(super) const EPOCHS: usize = 5;

/// A number of a row, by its column.
type Metric = (&'static str, fn(&Reading) -> Option<f64>);

/// What is compared.
pub(super) const METRICS: [Metric; 9] = [
    ("cos", |r| r.cos),
    ("cos_walk", |r| r.cos_walk),
    ("cos_excess", |r| r.cos_excess),
    ("t_excess", |r| r.t_excess),
    ("rsi", |r| r.rsi),
    ("eb", |r| r.eb),
    ("dist", |r| r.d2.map(f64::sqrt)),
    ("loss", |r| r.loss),
    ("lr", |r| r.lr),
];

/// The rows of one place.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    /// The first step and the last one.
    pub steps: (u64, u64),
    /// How many there are.
    pub rows: u64,
    /// The mean of each metric.
    pub means: [Mean; METRICS.len()],
}

/// A part of a path.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    /// The mean of the cosines.
    pub cos: Mean,
    /// That of a walk's.
    pub walk: Mean,
    /// That of what is beyond.
    pub excess: Mean,
    /// Rows with a cosine, and with one that is negative for certain.
    cosines: u64,
    negative: u64,
    /// The values of what is beyond.
    excesses: Vec<f64>,
    /// Those of `t_excess`.
    t: Vec<f64>,
}

/// One reference, stream and group of a table.
#[derive(Clone, Debug)]
pub(super) struct OfKey {
    /// What it is of.
    pub key: Key,
    /// Whose iterate the reference is.
    pub role: Role,
    /// Parameters of the group.
    pub parameters: u64,
    /// By the number of the place.
    pub cells: BTreeMap<i64, Cell>,
    /// Rows that have no place.
    pub unplaced: u64,
    /// Early, middle and late.
    pub thirds: [Part; 3],
    /// The distance to x_0 at the last row.
    pub travelled: Option<f64>,
    /// Rows whose distance is below 1,000 roundings of the iterates.
    pub rounding: u64,
    /// Rows with a sum that is infinite or a NaN.
    pub nonfinite: u64,
    /// How well the cosines are known.
    pub certainty: Certainty,
}

/// The paths of a table.
#[derive(Clone, Debug)]
pub(super) struct OfTable {
    /// What it is of.
    pub training: Training,
    /// In the order of the table.
    pub keys: Vec<OfKey>,
}

impl OfTable {
    /// Reads the rows that were found, whose steps have such ends.
    ///
    /// # Errors
    /// The table is damaged, or a row has no epoch where places are epochs.
    pub(super) fn read(
        found: &Found,
        training: Training,
        ends: (u64, u64),
        places: Places,
    ) -> Result<OfTable> {
        let mut keys: Vec<OfKey> = Vec::new();
        each(found, |at, key, row| {
            if at == keys.len() {
                keys.push(OfKey::new(key, row, training.role(&key.reference)));
            }
            keys[at].take(places.of(row, ends)?, ends, row);
            Ok(())
        })?;
        Ok(OfTable { training, keys })
    }

    /// Places of what the table begins with.
    pub(super) fn places(&self) -> usize {
        self.main().map_or(0, |of| of.cells.len())
    }

    /// All parameters against the path's own end, else what the table begins with.
    pub(super) fn main(&self) -> Option<&OfKey> {
        let all = |of: &&OfKey| of.role == Role::Own && of.key.group == ALL;
        let end = |of: &&OfKey| all(of) && of.key.reference == FINAL;
        self.keys.iter().find(end).or(self.keys.iter().find(all)).or(self.keys.first())
    }
}

impl OfKey {
    fn new(key: &Key, row: &Reading, role: Role) -> OfKey {
        OfKey {
            key: key.clone(),
            role,
            parameters: row.parameters,
            cells: BTreeMap::new(),
            unplaced: 0,
            thirds: Default::default(),
            travelled: None,
            rounding: 0,
            nonfinite: 0,
            certainty: Certainty::default(),
        }
    }

    fn take(&mut self, place: Option<i64>, (first, last): (u64, u64), row: &Reading) {
        match place {
            None => self.unplaced += 1,
            Some(place) => {
                let new = || Cell { steps: (row.step, row.step), rows: 0, means: Default::default() };
                let cell = self.cells.entry(place).or_insert_with(new);
                cell.steps.1 = row.step;
                cell.rows += 1;
                cell.means.iter_mut().zip(METRICS).for_each(|(mean, (_, of))| mean.add(of(row)));
            }
        }
        // A product of counts of steps may be larger than 64 bits; the quotient is below 3.
        let third = u128::from(row.step - first) * 3 / u128::from(last - first + 1);
        self.thirds[usize::try_from(third).unwrap_or(2).min(2)].take(row);
        self.travelled = row.init2.map(f64::sqrt);
        self.rounding += u64::from(row.rounding);
        self.nonfinite += u64::from(row.nonfinite);
        self.certainty.add(row);
    }

    /// The median of `cos_excess` over the whole path.
    pub(super) fn median_excess(&self) -> Option<f64> {
        median(self.thirds.iter().flat_map(|part| &part.excesses).copied())
    }

    /// That of `t_excess`.
    pub(super) fn median_t(&self) -> Option<f64> {
        median(self.thirds.iter().flat_map(|part| &part.t).copied())
    }

    /// Rows with a cosine that is negative for certain, and with any.
    pub(super) fn negative(&self) -> (u64, u64) {
        let add = |(a, b), part: &Part| (a + part.negative, b + part.cosines);
        self.thirds.iter().fold((0, 0), add)
    }

    /// Whether another path's rows are of the same: the same reference, or each of its own.
    pub(super) fn is_like(&self, other: &OfKey) -> bool {
        let Key { reference, stream, group, .. } = &self.key;
        let of = &other.key;
        self.role == other.role && *reference == of.reference && *stream == of.stream && *group == of.group
    }
}

impl Part {
    fn take(&mut self, row: &Reading) {
        self.cos.add(row.cos);
        self.walk.add(row.cos_walk);
        self.excess.add(row.cos_excess);
        self.cosines += u64::from(row.cos.is_some());
        self.negative += u64::from(row.is_negative());
        self.excesses.extend(row.cos_excess);
        self.t.extend(row.t_excess);
    }

    /// The median of `t_excess`.
    pub(super) fn median_t(&self) -> Option<f64> {
        median(self.t.iter().copied())
    }
}
