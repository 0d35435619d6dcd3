//! How well the numbers of rows are known, where vectors were stored with loss or as sketches.
//!
//! Owns what is counted of rows with intervals, and the sentence about them. Takes rows of a table, of one reference,
//! stream and group.

use crate::order::Mean;
use crate::reading::Reading;
use crate::summary::{significant, thousands};

/// What is known of the cosines of some rows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Certainty {
    /// Half of their intervals.
    half: Mean,
    /// Rows of sketches, and those whose sign is not known.
    sketched: u64,
    unresolved: u64,
    /// Rows with a cosine.
    cosines: u64,
}

impl Certainty {
    /// Of some rows.
    pub(crate) fn of(rows: &[Reading]) -> Certainty {
        let mut all = Certainty::default();
        rows.iter().for_each(|row| all.add(row));
        all
    }

    /// Takes a row.
    pub(crate) fn add(&mut self, row: &Reading) {
        self.half.add(row.cos_hi.zip(row.cos_lo).map(|(hi, lo)| (hi - lo) / 2.0));
        self.sketched += u64::from(row.sketched);
        self.unresolved += u64::from(row.unresolved);
        self.cosines += u64::from(row.cos.is_some());
    }

    /// Half of the intervals of cosines, on the average; `None` where none is an estimate.
    pub(crate) fn half(&self) -> Option<f64> {
        self.half.get()
    }

    /// What is to be said beside the numbers; `None` where none is an estimate.
    pub(crate) fn note(&self) -> Option<String> {
        let half = self.half()?;
        let from = if self.sketched > 0 { "estimates from sketches" } else { "of vectors stored with loss" };
        let sign = match self.unresolved {
            0 => "its sign is certain at every step".to_owned(),
            n => format!(
                "its sign is not certain at {} of {} steps (sign_unresolved), which are not counted as negative",
                thousands(n),
                thousands(self.cosines)
            ),
        };
        Some(format!(
            "the numbers are {from}: on the average the cosine lies within {} of what is given (cos_lo to cos_hi of the \
             table), and {sign}",
            significant(half)
        ))
    }
}
