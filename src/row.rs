//! One row of the result: a step x reference x stream x group.
//!
//! Owns the column table, which is the one place that knows names, types and units; tables and text
//! output follow it.

use crate::dtype::DType;
use crate::metrics::geometry::{Geometry, geometry};
use crate::metrics::trust::{Trust, trust};
use crate::sums::Sums;

/// A row.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// The step t.
    pub step: u64,
    /// Recorded scalars of the step.
    pub scalars: Scalars,
    /// Name of the reference.
    pub reference: &'a str,
    /// Name of the stream.
    pub stream: &'a str,
    /// Name of the group.
    pub group: &'a str,
    /// Parameters in the group.
    pub parameters: u64,
    /// The sums.
    pub sums: Sums,
    /// The metrics.
    pub geometry: Geometry,
    /// Trust.
    pub trust: Trust,
}

/// The scalars that rows carry; `None` where not recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scalars {
    /// Epoch, as the training counts it.
    pub epoch: Option<f64>,
    /// Training loss.
    pub loss: Option<f64>,
    /// Learning rate of the group's parameters; `None` where they have several.
    pub lr: Option<f64>,
}

impl<'a> Row<'a> {
    /// A row from its sums. `dtype` is the coarsest type among the group's tensors.
    pub fn new(
        step: u64,
        scalars: Scalars,
        [reference, stream, group]: [&'a str; 3],
        parameters: u64,
        dtype: DType,
        sums: Sums,
    ) -> Row<'a> {
        let (geometry, trust) = (geometry(&sums), trust(&sums, dtype));
        Row { step, scalars, reference, stream, group, parameters, sums, geometry, trust }
    }
}

/// The value of one column of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// Text.
    Text(&'a str),
    /// A count.
    Integer(u64),
    /// A number, or null.
    Real(Option<f64>),
    /// A flag.
    Flag(bool),
}

/// A column: its name and how to get its value.
pub struct Column {
    /// Name in Parquet, CSV and JSON.
    pub name: &'static str,
    /// Its value in a row.
    pub get: for<'a> fn(&Row<'a>) -> Cell<'a>,
}

macro_rules! columns {
    ($($name:literal => $kind:ident($row:ident, $value:expr),)*) => {
        &[$(Column { name: $name, get: { fn get<'a>($row: &Row<'a>) -> Cell<'a> { Cell::$kind($value) } get } },)*]
    };
}

/// A sum over gradients is null where all gradients are absent.
fn graded(row: &Row<'_>, value: f64) -> Option<f64> {
    (!row.sums.all_absent).then_some(value)
}

/// All columns in order. `docs/schema.md` explains each.
pub const COLUMNS: &[Column] = columns! {
    "step" => Integer(r, r.step),
    "epoch" => Real(r, r.scalars.epoch),
    "reference" => Text(r, r.reference),
    "stream" => Text(r, r.stream),
    "group" => Text(r, r.group),
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
    "dot" => Real(r, graded(r, r.sums.dot)),
    "g2" => Real(r, graded(r, r.sums.g2)),
    "d2" => Real(r, Some(r.sums.d2)),
    "x2" => Real(r, Some(r.sums.x2)),
    "gx" => Real(r, graded(r, r.sums.gx)),
    "step2" => Real(r, r.sums.step2),
    "init2" => Real(r, r.sums.init2),
    "dot_next" => Real(r, r.sums.dot_next.filter(|_| !r.sums.all_absent)),
    "ulp_ratio" => Real(r, r.trust.ulp_ratio),
    "low_precision" => Flag(r, r.trust.low_precision),
    "x_eq_ref" => Flag(r, r.trust.x_eq_ref),
    "zero_grad" => Flag(r, r.trust.zero_grad),
    "absent_grad" => Flag(r, r.sums.absent),
    "nonfinite" => Flag(r, r.trust.nonfinite),
    "gap" => Flag(r, r.sums.step2.is_none()),
};
