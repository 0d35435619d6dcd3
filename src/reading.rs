//! Rows of a table of metrics as they are read back, one after the other.
//!
//! Owns which columns later questions ask of a table, and that its rows are those of one run. Knows nothing of what
//! is made of them.

use crate::curve::{Found, Key};
use crate::error::{Error, Result};
use crate::group::ALL;
use crate::row::Kind;
use crate::table::{Field, Piece, names, read};

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
    /// The lower end of the interval of the cosine; `None` where it is no estimate.
    pub cos_lo: Option<f64>,
    /// The upper one.
    pub cos_hi: Option<f64>,
    /// The lower end of RSI's; `None` where nothing bounds it, too.
    pub rsi_lo: Option<f64>,
    /// The upper one.
    pub rsi_hi: Option<f64>,
    /// The lower end of EB's, likewise.
    pub eb_lo: Option<f64>,
    /// The upper one.
    pub eb_hi: Option<f64>,
    /// The lower end of loLR's, likewise.
    pub lolr_lo: Option<f64>,
    /// The upper one.
    pub lolr_hi: Option<f64>,
    /// The lower end of that of `||d||`, likewise.
    pub dist_lo: Option<f64>,
    /// The upper one.
    pub dist_hi: Option<f64>,
    /// The distance is below 1,000 roundings of the iterates.
    pub rounding: bool,
    /// A sum is infinite or a NaN.
    pub nonfinite: bool,
    /// The cosine may have either sign for what was lost.
    pub unresolved: bool,
    /// The numbers are estimates from sketches.
    pub sketched: bool,
}

impl Reading {
    /// Whether the cosine is an estimate, with an interval.
    pub(crate) fn is_estimate(&self) -> bool {
        self.cos_lo.is_some()
    }

    /// Whether the cosine is negative for certain.
    pub(crate) fn is_negative(&self) -> bool {
        self.cos.is_some_and(|c| c < 0.0) && !self.unresolved
    }

    fn ends(&self, value: Option<f64>, (lo, hi): (Option<f64>, Option<f64>)) -> Option<Ends> {
        let value = value?;
        Some(match self.is_estimate() {
            false => Ends { lo: value, hi: value },
            true => Ends { lo: lo.unwrap_or(f64::NEG_INFINITY), hi: hi.unwrap_or(f64::INFINITY) },
        })
    }

    /// Between what the cosine lies; `None` where there is none.
    pub(crate) fn cos_ends(&self) -> Option<Ends> {
        self.ends(self.cos, (self.cos_lo, self.cos_hi))
    }

    /// The same of RSI.
    pub(crate) fn rsi_ends(&self) -> Option<Ends> {
        self.ends(self.rsi, (self.rsi_lo, self.rsi_hi))
    }

    /// The same of EB.
    pub(crate) fn eb_ends(&self) -> Option<Ends> {
        self.ends(self.eb, (self.eb_lo, self.eb_hi))
    }

    /// The same of loLR.
    pub(crate) fn lolr_ends(&self) -> Option<Ends> {
        self.ends(Some(self.dot? / self.g2?), (self.lolr_lo, self.lolr_hi))
    }

    /// The same of `||d||`.
    pub(crate) fn dist_ends(&self) -> Option<Ends> {
        self.ends(self.d2.map(f64::sqrt), (self.dist_lo, self.dist_hi))
    }

    /// What RSI is at least; `None` where that is not known.
    pub(crate) fn least_rsi(&self) -> Option<f64> {
        if self.is_estimate() { self.rsi_lo } else { self.rsi }
    }

    /// What EB is at most, likewise.
    pub(crate) fn most_eb(&self) -> Option<f64> {
        if self.is_estimate() { self.eb_hi } else { self.eb }
    }
}

/// Between what a value lies: both are the value where nothing was lost, and infinite where nothing bounds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ends {
    /// The lower end.
    pub lo: f64,
    /// The upper one.
    pub hi: f64,
}

type Set = fn(&mut Reading, Option<f64>);

/// Columns of numbers.
const REALS: [(&str, Set); 26] = [
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
    ("cos_lo", |r, v| r.cos_lo = v),
    ("cos_hi", |r, v| r.cos_hi = v),
    ("rsi_lo", |r, v| r.rsi_lo = v),
    ("rsi_hi", |r, v| r.rsi_hi = v),
    ("eb_lo", |r, v| r.eb_lo = v),
    ("eb_hi", |r, v| r.eb_hi = v),
    ("lolr_lo", |r, v| r.lolr_lo = v),
    ("lolr_hi", |r, v| r.lolr_hi = v),
    ("dist_lo", |r, v| r.dist_lo = v),
    ("dist_hi", |r, v| r.dist_hi = v),
];

/// Columns of numbers that are null where nothing was lost, and flags that are false: tables of before have none.
const OF_LOSS: [&str; 12] = [
    "cos_lo", "cos_hi", "rsi_lo", "rsi_hi", "eb_lo", "eb_hi", "lolr_lo", "lolr_hi", "dist_lo", "dist_hi",
    UNRESOLVED, SKETCHED,
];
const UNRESOLVED: &str = "sign_unresolved";
const SKETCHED: &str = "sketched";

/// Columns that come before them.
const FIRST: [(&str, Kind); 4] = [
    ("step", Kind::Integer),
    ("n_params", Kind::Integer),
    ("low_precision", Kind::Flag),
    ("nonfinite", Kind::Flag),
];

/// Reads the rows that were asked for, and hands each to `take` with its key and the place of that among those that
/// come: they are numbered as they first appear.
///
/// # Errors
/// The table is damaged, lacks a column, or its steps do not rise; or `take` refuses.
pub(crate) fn each(found: &Found, take: impl FnMut(usize, &Key, &Reading) -> Result<()>) -> Result<()> {
    each_with(found, &REALS.map(|(name, _)| name), take)
}

/// The same with these columns of numbers alone; others are as if they were null.
///
/// # Errors
/// As [`each`].
pub(crate) fn each_with(
    found: &Found,
    columns: &[&str],
    mut take: impl FnMut(usize, &Key, &Reading) -> Result<()>,
) -> Result<()> {
    let there = names(found.table())?;
    let is_there = |name: &str| !OF_LOSS.contains(&name) || there.iter().any(|other| other == name);
    let reals: Vec<(&'static str, Set)> =
        REALS.iter().copied().filter(|(name, _)| columns.contains(name) && is_there(name)).collect();
    let numbers = reals.iter().map(|&(name, _)| Field { name, kind: Kind::Real });
    let flags = [UNRESOLVED, SKETCHED].into_iter().filter(|name| is_there(name));
    let flags = flags.map(|name| Field { name, kind: Kind::Flag });
    let first = FIRST.iter().map(|&(name, kind)| Field { name, kind });
    let fields: Vec<Field> = first.chain(numbers).chain(flags).collect();
    let flag = |name: &str| fields.iter().position(|field| field.name == name);
    let flags = [UNRESOLVED, SKETCHED].map(flag);
    // By key of the table: its place, and its last step.
    let mut seen: Vec<Option<(usize, u64)>> = vec![None; found.known().len()];
    let (mut first, mut count) = (0, 0);
    read(found.table(), &fields, |piece| {
        let rows = first..first + piece.integers(0).len();
        first = rows.end;
        for (key, reading) in found.of(rows).zip(readings(piece, &reals, flags)) {
            let known = &found.known()[key];
            if !(known.chosen && found.steps().contains(&reading.step)) {
                continue;
            }
            let place = match seen[key] {
                Some((_, last)) if last >= reading.step => {
                    let what = "a step comes twice or before an earlier one; name the table of one run";
                    return Err(Error::NotFound { path: found.table().to_owned(), what: what.to_owned() });
                }
                Some((place, _)) => place,
                None => {
                    count += 1;
                    count - 1
                }
            };
            seen[key] = Some((place, reading.step));
            take(place, &known.key, &reading)?;
        }
        Ok(())
    })
}

fn readings(
    piece: &Piece,
    columns: &[(&'static str, Set)],
    flags: [Option<usize>; 2],
) -> impl Iterator<Item = Reading> {
    let (steps, parameters) = (piece.integers(0), piece.integers(1));
    let (rounding, nonfinite) = (piece.flags(2), piece.flags(3));
    let [unresolved, sketched] = flags.map(|at| at.map(|at| piece.flags(at)));
    let is = move |flags: &Option<Vec<bool>>, row: usize| flags.as_ref().is_some_and(|all| all[row]);
    let reals: Vec<(Set, Vec<f64>)> =
        columns.iter().enumerate().map(|(i, &(_, set))| (set, piece.reals(FIRST.len() + i))).collect();
    steps.into_iter().enumerate().map(move |(row, step)| {
        let mut reading = Reading {
            step,
            parameters: parameters[row],
            rounding: rounding[row],
            nonfinite: nonfinite[row],
            unresolved: is(&unresolved, row),
            sketched: is(&sketched, row),
            ..Reading::default()
        };
        for (set, values) in &reals {
            set(&mut reading, Some(values[row]).filter(|v| !v.is_nan()));
        }
        reading
    })
}

/// The rows of one reference, stream and group.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// What they are of.
    pub key: Key,
    /// In the order of steps.
    pub rows: Vec<Reading>,
}

impl Series {
    fn is_alike(&self, key: &Key) -> bool {
        self.key.reference == key.reference && self.key.stream == key.stream
    }
}

/// Takes the rows of all parameters by reference and stream; where there are none, those of the first group.
#[derive(Debug, Default)]
pub(crate) struct Wholes {
    wholes: Vec<Series>,
    /// The first groups.
    first: Vec<Series>,
    /// By place of a key: where its rows go, if they are kept.
    places: Vec<Option<Kept>>,
}

#[derive(Clone, Copy, Debug)]
enum Kept {
    Whole(usize),
    First(usize),
}

impl Wholes {
    /// Takes a row, as [`each`] hands it.
    pub(crate) fn take(&mut self, place: usize, key: &Key, row: &Reading) {
        if place == self.places.len() {
            let (list, kept): (_, fn(usize) -> Kept) = if key.group == ALL {
                (&mut self.wholes, Kept::Whole)
            } else {
                (&mut self.first, Kept::First)
            };
            let is_new = !list.iter().any(|s| s.is_alike(key));
            self.places.push(is_new.then(|| kept(list.len())));
            if is_new {
                list.push(Series { key: key.clone(), rows: Vec::new() });
            }
        }
        let series = match self.places[place] {
            Some(Kept::Whole(at)) => &mut self.wholes[at],
            Some(Kept::First(at)) => &mut self.first[at],
            None => return,
        };
        series.rows.push(*row);
    }

    /// What was taken.
    pub(crate) fn finish(mut self) -> Vec<Series> {
        self.first.retain(|s| !self.wholes.iter().any(|whole| whole.is_alike(&s.key)));
        self.wholes.append(&mut self.first);
        self.wholes
    }
}

/// The rows of all parameters, or the first group, that were found.
///
/// # Errors
/// As [`each`].
pub(crate) fn wholes(found: &Found) -> Result<Vec<Series>> {
    let mut wholes = Wholes::default();
    each(found, |place, key, row| {
        wholes.take(place, key, row);
        Ok(())
    })?;
    Ok(wholes.finish())
}

/// The first step of the rows and the last one.
///
/// # Errors
/// The table is damaged.
pub(crate) fn extent(found: &Found) -> Result<(u64, u64)> {
    let mut ends: Option<(u64, u64)> = None;
    read(found.table(), &[Field { name: "step", kind: Kind::Integer }], |piece| {
        for step in piece.integers(0) {
            let (first, last) = ends.unwrap_or((step, step));
            ends = Some((first.min(step), last.max(step)));
        }
        Ok(())
    })?;
    // What was found has rows.
    Ok(ends.unwrap_or_default())
}
