//! Rows of a table of metrics as they are read back, one after the other.
//!
//! Owns which columns later questions ask of a table, and that its rows are those of one run. Knows nothing of what
//! is made of them.

use std::path::Path;

use crate::curve::Key;
use crate::error::{Error, Result};
use crate::row::Kind;
use crate::table::{Field, Piece, metadata, read};

/// A row. What is null is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    /// The step t.
    pub step: u64,
    /// Parameters in the group.
    pub parameters: u64,
    /// The epoch.
    pub epoch: Option<f64>,
    /// The training loss.
    pub loss: Option<f64>,
    /// The learning rate.
    pub lr: Option<f64>,
    /// `<g,d> / ||d||^2`.
    pub rsi: Option<f64>,
    /// `||g|| / ||d||`.
    pub eb: Option<f64>,
    /// The cosine.
    pub cos: Option<f64>,
    /// That of a random walk.
    pub cos_walk: Option<f64>,
    /// What of it is neither the gradient's own part nor beyond what is known.
    pub cos_excess: Option<f64>,
    /// `t_excess` of the step's window.
    pub t_excess: Option<f64>,
    /// What the gradient itself put between the iterate and the reference.
    pub own: Option<f64>,
    /// `<g,d>`.
    pub dot: Option<f64>,
    /// `||g||^2`.
    pub g2: Option<f64>,
    /// `||d||^2`.
    pub d2: Option<f64>,
    /// How many roundings of the iterates the distance is.
    pub ulp_ratio: Option<f64>,
    /// `||x_t - x_{t+1}||^2`.
    pub step2: Option<f64>,
    /// `||x_t - x_0||^2`.
    pub init2: Option<f64>,
    /// The distance is mostly rounding.
    pub rounding: bool,
    /// A sum is infinite or a NaN.
    pub nonfinite: bool,
}

type Set = fn(&mut Reading, Option<f64>);

/// Columns of numbers.
const REALS: [(&str, Set); 16] = [
    ("epoch", |r, v| r.epoch = v),
    ("loss", |r, v| r.loss = v),
    ("lr", |r, v| r.lr = v),
    ("rsi", |r, v| r.rsi = v),
    ("eb", |r, v| r.eb = v),
    ("cos", |r, v| r.cos = v),
    ("cos_walk", |r, v| r.cos_walk = v),
    ("cos_excess", |r, v| r.cos_excess = v),
    ("t_excess", |r, v| r.t_excess = v),
    ("own", |r, v| r.own = v),
    ("dot", |r, v| r.dot = v),
    ("g2", |r, v| r.g2 = v),
    ("d2", |r, v| r.d2 = v),
    ("ulp_ratio", |r, v| r.ulp_ratio = v),
    ("step2", |r, v| r.step2 = v),
    ("init2", |r, v| r.init2 = v),
];

/// Columns that come before them.
const FIRST: [(&str, Kind); 7] = [
    ("step", Kind::Integer),
    ("n_params", Kind::Integer),
    ("reference", Kind::Text),
    ("stream", Kind::Text),
    ("group", Kind::Text),
    ("low_precision", Kind::Flag),
    ("nonfinite", Kind::Flag),
];

/// The keys of a table, in the order in which they first appear.
#[derive(Debug, Default)]
struct Keys {
    all: Vec<Key>,
    /// By key: its last step.
    last: Vec<Option<u64>>,
    /// The one that is expected: rows come in the same order at every step.
    next: usize,
}

impl Keys {
    /// The place of a row's key.
    fn of(&mut self, reference: &str, stream: &str, group: &str) -> usize {
        let is = |k: &Key| k.group == group && k.reference == reference && k.stream == stream;
        let expected = self.all.get(self.next).is_some_and(is).then_some(self.next);
        let place = expected.or_else(|| self.all.iter().position(is)).unwrap_or_else(|| {
            let (reference, stream, group) = (reference.to_owned(), stream.to_owned(), group.to_owned());
            self.all.push(Key { reference, stream, group });
            self.last.push(None);
            self.all.len() - 1
        });
        self.next = (place + 1) % self.all.len();
        place
    }
}

/// Reads a table, and hands each row to `take` with the place of its key. Returns the keys.
///
/// # Errors
/// It is no table of metrics of one run, or damaged, or has no rows; or `take` refuses.
pub(crate) fn each(
    table: &Path,
    mut take: impl FnMut(usize, &Key, &Reading) -> Result<()>,
) -> Result<Vec<Key>> {
    check(table)?;
    let reals = REALS.iter().map(|&(name, _)| Field { name, kind: Kind::Real });
    let fields: Vec<Field> = FIRST.iter().map(|&(name, kind)| Field { name, kind }).chain(reals).collect();
    let mut keys = Keys::default();
    read(table, &fields, |piece| {
        each_of(piece, &mut keys, &mut |place, keys: &mut Keys, reading| {
            if keys.last[place].replace(reading.step).is_some_and(|last| last >= reading.step) {
                let what = "a step comes twice or before an earlier one; name the table of one run";
                return Err(refused(table, what));
            }
            take(place, &keys.all[place], reading)
        })
    })?;
    if keys.all.is_empty() { Err(refused(table, "the table has no rows")) } else { Ok(keys.all) }
}

/// Checks that a table is one of metrics, if it is one at all.
fn check(table: &Path) -> Result<()> {
    match metadata(table) {
        Some(all) if all.iter().all(|(k, _)| k != "lpa.schema") => {
            Err(refused(table, "it is a table, but none that lpa analyze has written"))
        }
        _ => Ok(()),
    }
}

fn refused(table: &Path, what: &str) -> Error {
    Error::NotFound { path: table.to_owned(), what: what.to_owned() }
}

fn each_of(
    piece: &Piece,
    keys: &mut Keys,
    take: &mut dyn FnMut(usize, &mut Keys, &Reading) -> Result<()>,
) -> Result<()> {
    let (steps, parameters) = (piece.integers(0), piece.integers(1));
    let (references, streams, groups) = (piece.texts(2), piece.texts(3), piece.texts(4));
    let (rounding, nonfinite) = (piece.flags(5), piece.flags(6));
    let reals: Vec<Vec<f64>> = (FIRST.len()..FIRST.len() + REALS.len()).map(|i| piece.reals(i)).collect();
    for (row, &step) in steps.iter().enumerate() {
        let mut reading = Reading {
            step,
            parameters: parameters[row],
            rounding: rounding[row],
            nonfinite: nonfinite[row],
            ..Reading::default()
        };
        for ((_, set), values) in REALS.iter().zip(&reals) {
            set(&mut reading, Some(values[row]).filter(|v| !v.is_nan()));
        }
        let place = keys.of(references[row], streams[row], groups[row]);
        take(place, keys, &reading)?;
    }
    Ok(())
}

/// The first step of a table and the last one.
///
/// # Errors
/// It is no table, or damaged, or has no rows.
pub(crate) fn extent(table: &Path) -> Result<(u64, u64)> {
    check(table)?;
    let mut found: Option<(u64, u64)> = None;
    read(table, &[Field { name: "step", kind: Kind::Integer }], |piece| {
        for step in piece.integers(0) {
            let (first, last) = found.unwrap_or((step, step));
            found = Some((first.min(step), last.max(step)));
        }
        Ok(())
    })?;
    found.ok_or_else(|| refused(table, "the table has no rows"))
}
