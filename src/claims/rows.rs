//! What claims on single paths take of rows: which are looked at, and their cosines.

use crate::certainty::Certainty;
use crate::claims::Answer;
use crate::claims::path::Path;
use crate::reading::{Reading, Series};
use crate::summary::{significant, thousands};

pub(super) const NO_ROWS: &str =
    "there are no rows of gradients over all parameters against an iterate of the path itself";
pub(super) const NO_EPOCHS: &str = "epochs were not recorded, go back, or there is only one";

pub(super) fn own(path: &Path) -> Result<&Series, Answer> {
    path.own.as_ref().ok_or_else(|| Answer::undecidable(NO_ROWS))
}

pub(super) fn answer(found: Result<Answer, Answer>) -> Answer {
    found.unwrap_or_else(|undecidable| undecidable)
}

pub(super) fn known(value: Option<f64>) -> String {
    value.map_or_else(|| "not known".to_owned(), significant)
}

/// A number after a word, or that it is not known.
pub(super) fn or_unknown(word: &str, value: Option<f64>) -> String {
    value.map_or_else(|| "is not known".to_owned(), |value| format!("{word} {}", significant(value)))
}

pub(super) fn epoch(row: &Reading) -> f64 {
    row.epoch.map_or(0.0, f64::floor)
}

/// The rows before the last epoch, where there are several, else all, and which these are.
pub(super) fn before_the_last_epoch(series: &Series) -> (&[Reading], &'static str) {
    let rows = &series.rows;
    if !series.has_epochs() {
        return (rows, "of the whole path (epochs were not recorded, go back, or there is only one)");
    }
    let last = rows.last().map_or(0.0, epoch);
    let end = rows.iter().position(|r| epoch(r) >= last).unwrap_or(rows.len());
    (&rows[..end], "before the last epoch")
}

pub(super) fn cosines(rows: &[Reading]) -> impl Iterator<Item = f64> {
    rows.iter().filter_map(|r| r.cos)
}

/// Rows whose cosine is negative for certain.
pub(super) fn negatives(rows: &[Reading]) -> usize {
    rows.iter().filter(|r| r.is_negative()).count()
}

/// Rows whose cosine may have either sign, since something was lost.
pub(super) fn open(rows: &[Reading]) -> usize {
    rows.iter().filter(|r| r.unresolved).count()
}

/// The same as a sentence; nothing where there are none.
pub(super) fn of_open(open: usize) -> String {
    match open {
        0 => String::new(),
        n => format!(" At {} steps its sign is not certain (sign_unresolved).", thousands(n as u64)),
    }
}

/// That numbers are of estimates, as a sentence; nothing where they are not.
pub(super) fn of_estimates(rows: &[Reading]) -> String {
    Certainty::of(rows).half().map_or_else(String::new, |half| {
        format!(
            " Of a path stored with loss or as sketches these are estimates, of cosines to within {} on the average.",
            significant(half)
        )
    })
}

pub(super) fn walks(rows: &[Reading]) -> impl Iterator<Item = f64> {
    rows.iter().filter_map(|r| r.cos_walk)
}

pub(super) fn least(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.min_by(f64::total_cmp)
}
