//! What a path is like by windows of steps: how fast it goes to the reference, what that certifies, and which groups
//! carry it.
//!
//! Owns what is made of the rows of a window. Takes rows of a table, `table` has the
//! columns, `words` what a person reads.

mod table;
mod words;

use std::path::Path;

use crate::certainty::Certainty;
use crate::curve::{Chosen, Found, Key, find};
use crate::error::{Result, Usage};
use crate::group::ALL;
use crate::order::{Mean, Neumaier};
use crate::question::check_writable;
use crate::reading::{Reading, each, extent};
use crate::span::{Spans, Which};
use crate::statistics::Fit;
use crate::table::{Contents, Written};
pub(crate) use crate::windows::words::{facts, summary};

/// Writes the windows of a table as another one, `out`: `window` steps each, or `epoch`. Returns what a person should
/// know of it.
///
/// # Errors
/// As `Windows::of`; or `out` cannot be written, or is another file.
pub fn tabulate(table: &Path, window: Option<&str>, out: &Path) -> Result<Written> {
    write(&find(table, &Chosen::all())?, window.map_or(Ok(Spans::default()), str::parse)?, out)
}

/// Writes the windows of what was found in a table, likewise.
///
/// # Errors
/// As [`tabulate`].
pub(crate) fn write(found: &Found, spans: Spans, out: &Path) -> Result<Written> {
    check_writable(out, Contents::Windows)?;
    let windows = Windows::of(found, spans)?;
    let summary = summary(&windows);
    let (rows, bytes) = table::write(&windows, found.table(), out, &summary)?;
    Ok(Written { path: out.to_owned(), summary, rows, bytes })
}

/// As many windows of all groups as are kept.
const MOST: usize = 2_000_000;

/// A sum that is known if all of its terms are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sum(Option<Neumaier>);

impl Default for Sum {
    fn default() -> Sum {
        Sum(Some(Neumaier::default()))
    }
}

impl Sum {
    fn add(&mut self, term: Option<f64>) {
        match (self.0.as_mut(), term) {
            (Some(sum), Some(term)) => sum.add(term),
            _ => self.0 = None,
        }
    }

    /// It; `None` where a term is not known.
    pub(crate) fn get(self) -> Option<f64> {
        self.0.map(Neumaier::total)
    }
}

/// What of a linear rate the rows of a window certify ("No Wrong Turns", arXiv 2306.11922, equation 7), where they are
/// estimates: for certain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Certificate {
    /// The least RSI, or lower end of one.
    pub mu: f64,
    /// The largest EB, or upper end of one.
    pub l: f64,
}

impl Certificate {
    /// What the squared distance is multiplied by in a step of the learning rate `mu / L^2`, at most; `None` where mu
    /// is not positive.
    pub(crate) fn rate(self) -> Option<f64> {
        let ratio = self.mu / self.l;
        (self.mu > 0.0).then_some((1.0 - ratio) * (1.0 + ratio))
    }

    /// Steps in which the distance halves at that rate.
    pub(crate) fn half_life(self) -> Option<f64> {
        self.rate().map(|rate| 2.0 * std::f64::consts::LN_2 / -rate.ln()).filter(|steps| steps.is_finite())
    }
}

/// Sums over the rows of a window.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    cos: Mean,
    cos_walk: Mean,
    cos_excess: Mean,
    /// Of `ln(1 - cos^2)`.
    best: Mean,
    lr: Mean,
    /// Over rows with a gradient.
    dot: Sum,
    g2: Sum,
    own: Sum,
    d2: Sum,
    /// Of the lengths of steps.
    length: Sum,
}

/// Some steps of one reference, stream and group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    which: Which,
    /// Its number, from 0, among those of all groups.
    pub number: u64,
    /// The first step and the last one.
    pub steps: (u64, u64),
    /// Rows.
    pub rows: u64,
    /// The epoch of the first one.
    pub epoch: Option<f64>,
    /// Parameters of the group.
    pub parameters: u64,
    /// Rows with a cosine that is negative for certain.
    pub negative: u64,
    /// Rows whose distance is below 1,000 roundings.
    pub rounding: u64,
    /// Rows with a sum that is not finite.
    pub nonfinite: u64,
    /// How well the cosines are known.
    pub certainty: Certainty,
    sums: Sums,
    /// Rows with RSI and EB, the least of the one and the largest of the other.
    certified: (u64, Certificate),
    /// `||d||^2` at the first row.
    d2: Option<f64>,
    /// The same behind the window, or at its last row where nothing follows, with its step.
    d2_end: Option<(u64, f64)>,
    /// `||x - x_0||^2` at the first row.
    init2: Option<f64>,
    /// `ln ||g||` along `ln ||d||`.
    fit: Fit,
}

impl Window {
    fn new(which: Which, number: u64, row: &Reading) -> Window {
        Window {
            which,
            number,
            steps: (row.step, row.step),
            rows: 0,
            epoch: row.epoch,
            parameters: row.parameters,
            negative: 0,
            rounding: 0,
            nonfinite: 0,
            certainty: Certainty::default(),
            sums: Sums::default(),
            certified: (0, Certificate { mu: f64::INFINITY, l: f64::NEG_INFINITY }),
            d2: row.d2,
            d2_end: None,
            init2: row.init2,
            fit: Fit::default(),
        }
    }

    fn add(&mut self, row: &Reading) {
        self.steps.1 = row.step;
        self.rows += 1;
        self.negative += u64::from(row.is_negative());
        self.certainty.add(row);
        self.rounding += u64::from(row.rounding);
        self.nonfinite += u64::from(row.nonfinite);
        let s = &mut self.sums;
        s.cos.add(row.cos);
        s.cos_walk.add(row.cos_walk);
        s.cos_excess.add(row.cos_excess);
        s.best.add(row.cos.map(|c| (-c * c).ln_1p()));
        s.lr.add(row.lr);
        if row.dot.is_some() {
            s.dot.add(row.dot);
            s.g2.add(row.g2);
            s.own.add(row.own);
        }
        s.d2.add(row.d2);
        s.length.add(row.step2.map(f64::sqrt));
        if let (Some(rsi), Some(eb)) = (row.least_rsi(), row.most_eb()) {
            let (count, Certificate { mu, l }) = self.certified;
            self.certified = (count + 1, Certificate { mu: mu.min(rsi), l: l.max(eb) });
        }
        self.d2_end = row.d2.map(|d2| (row.step, d2));
        self.fit.add(logarithms(row));
    }

    /// The mean of the cosines.
    pub(crate) fn cos(&self) -> Option<f64> {
        self.sums.cos.get()
    }

    /// That of a walk's.
    pub(crate) fn cos_walk(&self) -> Option<f64> {
        self.sums.cos_walk.get()
    }

    /// That of what is beyond it.
    pub(crate) fn cos_excess(&self) -> Option<f64> {
        self.sums.cos_excess.get()
    }

    /// That of the learning rates.
    pub(crate) fn lr(&self) -> Option<f64> {
        self.sums.lr.get()
    }

    /// `sum <g,d> / sum ||g||^2`, as in a schedule.
    pub(crate) fn lolr(&self) -> Option<f64> {
        self.rate_of(self.sums.dot)
    }

    /// What of it a walk has: `sum own / sum ||g||^2`.
    pub(crate) fn lolr_walk(&self) -> Option<f64> {
        self.rate_of(self.sums.own)
    }

    fn rate_of(&self, sum: Sum) -> Option<f64> {
        ratio(sum.get(), self.sums.g2.get())
    }

    /// The distance at the first row.
    pub(crate) fn dist(&self) -> Option<f64> {
        self.d2.map(f64::sqrt)
    }

    /// The least RSI and the largest EB; `None` where a row has none, or nothing bounds it.
    pub(crate) fn certificate(&self) -> Option<Certificate> {
        let (count, certificate) = self.certified;
        (count == self.rows).then_some(certificate)
    }

    /// What the squared distance was really multiplied by in a step, as the geometric mean up to the next window.
    pub(crate) fn contraction(&self) -> Option<f64> {
        let (end, after) = self.d2_end?;
        let steps = end - self.steps.0;
        ratio(Some(after), self.d2).filter(|_| steps > 0).map(|r| r.powf(1.0 / steps as f64))
    }

    /// What a step of the locally optimal learning rate multiplies it by, likewise: `1 - cos^2` (equation 6).
    pub(crate) fn best(&self) -> Option<f64> {
        self.sums.best.get().map(f64::exp)
    }

    /// The length of its steps.
    pub(crate) fn length(&self) -> Option<f64> {
        self.sums.length.get()
    }

    /// The distance to x_0 at the first row.
    pub(crate) fn start_dist(&self) -> Option<f64> {
        self.init2.map(f64::sqrt)
    }

    /// The slope of `ln ||g||` along `ln ||d||`.
    pub(crate) fn slope(&self) -> Option<f64> {
        self.fit.slope()
    }
}

impl Window {
    fn shares(&self, whole: &Window) -> Shares {
        let share = |get: fn(&Sums) -> Sum| ratio(get(&self.sums).get(), get(&whole.sums).get());
        Shares { dot: share(|s| s.dot), g2: share(|s| s.g2), d2: share(|s| s.d2), own: share(|s| s.own) }
    }
}

fn ratio(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    Some(a? / b?).filter(|r| r.is_finite())
}

fn logarithms(row: &Reading) -> Option<(f64, f64)> {
    let log = |v: Option<f64>| v.filter(|&v| v > 0.0).map(|v| v.ln() / 2.0);
    Some((log(row.d2)?, log(row.g2)?))
}

/// The parts that a group has in the sums over all parameters. Those of all tensors add up to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Shares {
    /// Of `sum <g,d>`.
    pub dot: Option<f64>,
    /// Of `sum ||g||^2`.
    pub g2: Option<f64>,
    /// Of `sum ||d||^2`.
    pub d2: Option<f64>,
    /// Of `sum own`.
    pub own: Option<f64>,
}

/// The windows of one reference, stream and group, in the order of steps.
#[derive(Debug)]
pub(crate) struct OfKey {
    /// What they are of.
    pub key: Key,
    /// The windows.
    pub windows: Vec<Window>,
    /// All rows as one.
    pub total: Window,
    /// `ln ||g||` along `ln ||d||` over the last fifth of the path.
    pub late: Fit,
    /// The step from which on the distance is below 1,000 roundings at every row.
    pub cut: Option<u64>,
    /// The length of the steps before the last row.
    travelled: Sum,
    /// The last row.
    end: Reading,
    /// The place of what is of all parameters, with the same reference and stream.
    whole: Option<usize>,
}

/// The windows of a table.
#[derive(Debug)]
pub(crate) struct Windows {
    /// In the order of the table.
    pub keys: Vec<OfKey>,
    /// The first step of the table, and the last.
    pub steps: (u64, u64),
}

/// Takes rows, and cuts them into windows.
#[derive(Debug)]
pub(crate) struct Cutter {
    spans: Spans,
    /// The first step, and the last.
    steps: (u64, u64),
    keys: Vec<OfKey>,
    /// The window of the last row, and its number.
    now: Option<Which>,
    number: u64,
    count: usize,
}

impl Cutter {
    /// For rows of the steps from the first to the last.
    pub(crate) fn new(steps: (u64, u64), spans: Spans) -> Cutter {
        Cutter { spans, steps, keys: Vec::new(), now: None, number: 0, count: 0 }
    }

    /// Takes a row, as [`each`] hands it.
    ///
    /// # Errors
    /// It has no epoch, and windows are epochs; or there are too many.
    pub(crate) fn take(&mut self, place: usize, key: &Key, row: &Reading) -> Result<()> {
        let (first, length) = (self.steps.0, self.steps.1 - self.steps.0 + 1);
        let which = self.spans.which(row.step, row.epoch, first, length)?;
        self.number += u64::from(self.now.replace(which).is_some_and(|before| before != which));
        if place == self.keys.len() {
            self.keys.push(OfKey::new(key.clone(), row));
        }
        let of = &mut self.keys[place];
        self.count += usize::from(of.take(which, self.number, row));
        if (row.step - first) * 5 >= 4 * length {
            of.late.add(logarithms(row));
        }
        if self.count > MOST {
            let what = "there are more windows of all groups than are kept; make them longer by --window";
            return Err(Usage(what.to_owned()).into());
        }
        Ok(())
    }

    /// The windows.
    pub(crate) fn finish(self) -> Windows {
        let Cutter { mut keys, steps, .. } = self;
        let alike = |a: &Key, b: &Key| a.reference == b.reference && a.stream == b.stream;
        let wholes: Vec<usize> = (0..keys.len()).filter(|&k| keys[k].key.group == ALL).collect();
        for k in 0..keys.len() {
            keys[k].whole = wholes.iter().copied().find(|&w| alike(&keys[w].key, &keys[k].key));
        }
        Windows { keys, steps }
    }
}

impl Windows {
    /// Cuts the rows that were found in a table.
    ///
    /// # Errors
    /// It is damaged; steps have no epoch, and windows are epochs; or there are too many.
    pub(crate) fn of(found: &Found, spans: Spans) -> Result<Windows> {
        let mut cutter = Cutter::new(extent(found)?, spans);
        each(found, |place, key, row| cutter.take(place, key, row))?;
        Ok(cutter.finish())
    }

    /// What is of all parameters, with the reference and stream of `of`; `None` where the table has no such rows.
    fn whole(&self, of: &OfKey) -> Option<&OfKey> {
        self.keys.get(of.whole?)
    }

    /// What is of all parameters, else of the first group.
    pub(crate) fn main(&self) -> Option<&OfKey> {
        self.keys.iter().find(|of| of.key.group == ALL).or(self.keys.first())
    }

    /// All groups with the reference and stream of `of`.
    pub(crate) fn beside(&self, of: &OfKey) -> Vec<&OfKey> {
        let alike = |k: &Key| k.reference == of.key.reference && k.stream == of.key.stream;
        self.keys.iter().filter(|other| alike(&other.key)).collect()
    }

    /// The shares of a group in a window.
    pub(crate) fn shares(&self, of: &OfKey, window: &Window) -> Shares {
        let windows = self.whole(of).map_or(&[][..], |whole| &whole.windows);
        let at = windows.binary_search_by_key(&window.number, |w| w.number);
        at.map_or(Shares::default(), |at| window.shares(&windows[at]))
    }

    /// The shares of a group over the whole path.
    pub(crate) fn total_shares(&self, of: &OfKey) -> Shares {
        self.whole(of).map_or(Shares::default(), |whole| of.total.shares(&whole.total))
    }
}

impl OfKey {
    fn new(key: Key, row: &Reading) -> OfKey {
        let total = Window::new(Which::Number(0), 0, row);
        let (late, travelled) = Default::default();
        OfKey { key, windows: Vec::new(), total, late, cut: None, travelled, end: *row, whole: None }
    }

    /// Takes a row; true if it begins a window.
    fn take(&mut self, which: Which, number: u64, row: &Reading) -> bool {
        match (row.rounding, self.cut) {
            (true, None) => self.cut = Some(row.step),
            (false, _) => self.cut = None,
            (true, Some(_)) => {}
        }
        if self.total.rows > 0 {
            // A step whose next row is another one's next iterate is not all of the way.
            let next = self.end.step2.filter(|_| self.end.step + 1 == row.step);
            self.travelled.add(next.map(f64::sqrt));
        }
        self.end = *row;
        let begins = self.windows.last().is_none_or(|w| w.which != which);
        if begins {
            if let Some(before) = self.windows.last_mut() {
                before.d2_end = row.d2.map(|d2| (row.step, d2));
            }
            self.windows.push(Window::new(which, number, row));
        }
        self.windows.iter_mut().last().into_iter().chain([&mut self.total]).for_each(|w| w.add(row));
        begins
    }

    /// The length of the path up to its last row; `None` where steps are left out.
    pub(crate) fn travelled(&self) -> Option<f64> {
        self.travelled.get()
    }

    /// The step of the last row.
    pub(crate) fn last(&self) -> u64 {
        self.end.step
    }

    /// The distance of x_0 to the iterate of the last row.
    pub(crate) fn net(&self) -> Option<f64> {
        self.end.init2.map(f64::sqrt)
    }
}
