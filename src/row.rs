//! One row of the result: a step x reference x stream x group.
//!
//! Owns the column table, which is the one place that knows names and types; tables and text output follow it. Units
//! and meanings are stated in `docs/schema.md`.

use crate::error::Result;
use crate::group::Group;
use crate::metrics::bias::Bias;
use crate::metrics::geometry::{Geometry, geometry};
use crate::metrics::interval::{Interval, Intervals};
use crate::metrics::trust::{Trust, trust};
use crate::sums::Sums;

/// A row.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// The step t.
    pub step: u64,
    /// Recorded scalars of the step.
    pub scalars: Scalars,
    /// Which reference, stream and group.
    pub names: Names<'a>,
    /// Parameters in the group.
    pub parameters: u64,
    /// The sums.
    pub sums: Sums,
    /// The metrics.
    pub geometry: Geometry,
    /// Signal against bias.
    pub bias: Bias,
    /// `mean(cos_excess) sqrt(m) / sd(cos_excess)` over the window (epoch) of the step.
    pub t_excess: Option<f64>,
    /// Bounds of the metrics that would have been measured had nothing been lost; `None` where nothing was.
    pub intervals: Option<Intervals>,
    /// The same of `t_excess`.
    pub t_interval: Interval,
    /// Trust.
    pub trust: Trust,
    /// Why it is not known what the reference holds of the gradients, where that is the path's fault.
    pub doubt: Option<Doubt>,
    /// True if `own` is measured on shadows of the run.
    pub shadowed: bool,
    /// Steps that were not recorded as vectors have entered by interpolated norms.
    pub sampled: bool,
    /// The reference changes when the training goes on.
    pub provisional: bool,
    /// The sums are estimates from sketches.
    pub sketched: bool,
}

/// Why it is not known what the reference holds of the gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// A step from here to the reference is not the optimizer's.
    Departed,
    /// The step is mostly rounding.
    Short,
}

/// What a row speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names<'a> {
    /// The run's id.
    pub run_id: &'a str,
    /// Name of the reference.
    pub reference: &'a str,
    /// Name of the stream.
    pub stream: &'a str,
    /// Name of the group.
    pub group: &'a str,
}

/// The scalars that rows carry; `None` where not recorded, or not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scalars {
    /// Number of the checkpoint that x_t is, in a run that was made of checkpoints.
    pub checkpoint: Option<f64>,
    /// Epoch, as the training counts it.
    pub epoch: Option<f64>,
    /// Training loss.
    pub loss: Option<f64>,
    /// Learning rate of the group's parameters; `None` where they have several.
    pub lr: Option<f64>,
    /// One of them was recorded as an infinity or a NaN.
    pub nonfinite: bool,
}

impl Scalars {
    /// The scalars of a step, from what was recorded.
    pub fn new(checkpoint: Option<f64>, epoch: Option<f64>, loss: Option<f64>, lr: Option<f64>) -> Scalars {
        let all = [checkpoint, epoch, loss, lr];
        let nonfinite = all.iter().flatten().any(|v| !v.is_finite());
        let [checkpoint, epoch, loss, lr] = all.map(finite);
        Scalars { checkpoint, epoch, loss, lr, nonfinite }
    }
}

// A NaN has no place in an order, so engines that answer from a file's statistics find other rows than
// those that read it: numbers of a table are finite or null.
pub(crate) fn finite(value: Option<f64>) -> Option<f64> {
    value.filter(|v| v.is_finite())
}

impl<'a> Row<'a> {
    /// A row of a group from its sums, and how far rounding can have moved x_t - r. What depends on other rows is
    /// left to be set.
    pub(crate) fn new(
        step: u64,
        scalars: Scalars,
        names: Names<'a>,
        group: &Group,
        sums: Sums,
        bias: Bias,
        rounding: f64,
    ) -> Row<'a> {
        Row {
            step,
            scalars,
            names,
            parameters: group.parameters,
            sums,
            geometry: geometry(&sums),
            bias,
            t_excess: None,
            intervals: None,
            t_interval: Interval::default(),
            trust: trust(&sums, rounding),
            doubt: None,
            shadowed: false,
            sampled: false,
            provisional: false,
            sketched: false,
        }
    }

    /// True if the cosine may have either sign for what was lost.
    pub fn sign_unresolved(&self) -> bool {
        self.geometry.cos.is_some() && self.intervals.is_some_and(|i| i.cos.holds_zero())
    }
}

/// Takes the rows, in the order of steps, then references, streams and groups.
pub trait Sink {
    /// Takes one row.
    ///
    /// # Errors
    /// It cannot be written.
    fn row(&mut self, row: &Row<'_>) -> Result<()>;
}

impl<F: FnMut(&Row<'_>) -> Result<()>> Sink for F {
    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        self(row)
    }
}

/// The value of one column of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    /// Text.
    Text(&'a str),
    /// A count.
    Integer(u64),
    /// A number, or null.
    Real(Option<f64>),
    /// A flag.
    Flag(bool),
}

/// The kind of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text, never null.
    Text,
    /// A count, never null.
    Integer,
    /// A number, or null.
    Real,
    /// A flag, never null.
    Flag,
}

/// A column: its name and how to get its value.
pub(crate) struct Column {
    /// Name in Parquet, CSV and JSON.
    pub name: &'static str,
    /// The type of its values.
    pub kind: Kind,
    get: for<'a> fn(&Row<'a>) -> Cell<'a>,
}

impl Column {
    /// Its value in a row. A number is finite or null: engines disagree on what a NaN is larger than and on
    /// how it enters the statistics of a file, and JSON has none. Flags say why it is null.
    pub(crate) fn cell<'a>(&self, row: &Row<'a>) -> Cell<'a> {
        match (self.get)(row) {
            Cell::Real(value) => Cell::Real(finite(value)),
            other => other,
        }
    }
}

macro_rules! columns {
    ($($name:literal => $kind:ident($row:ident, $value:expr),)*) => {
        &[$(Column { name: $name, kind: Kind::$kind, get: { fn get<'a>($row: &Row<'a>) -> Cell<'a> { Cell::$kind($value) } get } },)*]
    };
}

/// A sum over gradients is null where all gradients are absent.
fn graded(row: &Row<'_>, value: f64) -> Option<f64> {
    (!row.sums.all_absent).then_some(value)
}

/// Changes with the columns and with what they mean, so that a table of other ones is not up to date.
pub(crate) const SCHEMA_VERSION: u32 = 3;

/// The first columns, in order. `docs/schema.md` explains each.
const COLUMNS: &[Column] = columns! {
    "step" => Integer(r, r.step),
    "checkpoint" => Real(r, r.scalars.checkpoint),
    "epoch" => Real(r, r.scalars.epoch),
    "reference" => Text(r, r.names.reference),
    "stream" => Text(r, r.names.stream),
    "group" => Text(r, r.names.group),
    "n_params" => Integer(r, r.parameters),
    "loss" => Real(r, r.scalars.loss),
    "lr" => Real(r, r.scalars.lr),
    "rsi" => Real(r, r.geometry.rsi),
    "eb" => Real(r, r.geometry.eb),
    "cos" => Real(r, r.geometry.cos),
    "kappa" => Real(r, r.geometry.kappa),
    "angle_deg" => Real(r, r.geometry.angle_deg),
    "lolr" => Real(r, r.geometry.lolr),
    "dist" => Real(r, r.geometry.dist),
    "own" => Real(r, r.bias.own),
    "cos_own" => Real(r, r.bias.cos_own),
    "cos_excess" => Real(r, r.bias.cos_excess.filter(|_| !r.bias.beyond())),
    "rsi_excess" => Real(r, r.bias.rsi_excess),
    "lolr_ratio" => Real(r, r.bias.lolr_ratio),
    "cos_walk" => Real(r, r.bias.cos_walk),
    "t_excess" => Real(r, r.t_excess),
    "z" => Real(r, r.bias.z.filter(|_| !r.bias.beyond())),
    "dot" => Real(r, graded(r, r.sums.dot)),
    "g2" => Real(r, graded(r, r.sums.g2)),
    "d2" => Real(r, Some(r.sums.d2)),
    "x2" => Real(r, Some(r.sums.x2)),
    "gx" => Real(r, graded(r, r.sums.gx)),
    "step2" => Real(r, r.sums.step2),
    "init2" => Real(r, r.sums.init2),
    "dot_next" => Real(r, r.sums.dot_next.filter(|_| !r.sums.all_absent)),
    "dot_lag" => Real(r, r.sums.dot_lag.filter(|_| !r.sums.all_absent)),
    "ulp_ratio" => Real(r, r.trust.ulp_ratio),
    "low_precision" => Flag(r, r.trust.low_precision),
    "x_eq_ref" => Flag(r, r.trust.x_eq_ref),
    "zero_grad" => Flag(r, r.trust.zero_grad),
    "absent_grad" => Flag(r, r.sums.absent),
    "nonfinite" => Flag(r, r.trust.nonfinite),
    "nonfinite_scalar" => Flag(r, r.scalars.nonfinite),
    "lagged" => Flag(r, r.bias.lagged),
    "shadowed" => Flag(r, r.shadowed),
    "excess_beyond" => Flag(r, r.bias.beyond()),
    "sampled" => Flag(r, r.sampled),
    "provisional" => Flag(r, r.provisional),
    "gap" => Flag(r, r.sums.step2.is_none()),
};

/// Both ends of an interval of a metric.
macro_rules! ends {
    ($($name:ident),*) => {
        &[$(
            Column {
                name: concat!(stringify!($name), "_lo"),
                kind: Kind::Real,
                get: |r| Cell::Real(r.intervals.as_ref().and_then(|i| i.$name.lo)),
            },
            Column {
                name: concat!(stringify!($name), "_hi"),
                kind: Kind::Real,
                get: |r| Cell::Real(r.intervals.as_ref().and_then(|i| i.$name.hi)),
            },
        )*]
    };
}

/// Those of the intervals, null where nothing was lost.
const METRIC_ENDS: &[Column] =
    ends!(rsi, eb, cos, kappa, angle_deg, lolr, dist, own, cos_own, cos_excess, rsi_excess, lolr_ratio, z);

/// The last columns: what of loss is not a metric's of one row, and which table a row is of.
const LAST: &[Column] = columns! {
    "t_excess_lo" => Real(r, r.t_interval.lo),
    "t_excess_hi" => Real(r, r.t_interval.hi),
    "sign_unresolved" => Flag(r, r.sign_unresolved()),
    "sketched" => Flag(r, r.sketched),
    "run_id" => Text(r, r.names.run_id),
};

// All tables have these columns, whatever was analyzed or lost, so that one query reads many runs. A column
// that is null in a whole row group takes no memory and some 190 bytes of the file.
/// The columns of every table, in order: the same whatever was analyzed, so that tables can be read
/// together.
pub(crate) fn columns() -> impl Iterator<Item = &'static Column> {
    COLUMNS.iter().chain(METRIC_ENDS).chain(LAST)
}
