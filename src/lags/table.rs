//! The table of lags: a row a group, step and lag.
//!
//! Owns its columns and what identifies it. Units and meanings are stated in `docs/schema.md`.

use std::path::Path;

use crate::error::Result;
use crate::lags::Lags;
use crate::lags::meeting::Meeting;
use crate::row::{Cell, Kind, finite};
use crate::table::{Contents, Field, Table};

/// Changes with the columns and with what they mean.
const SCHEMA_VERSION: u32 = 1;

/// What a row says besides its sums.
struct About<'a> {
    epoch: Option<f64>,
    lr: Option<f64>,
    reference: &'a str,
    group: &'a str,
    run_id: &'a str,
}

/// A column: its name, the kind of its values, and how to get one.
type Column = (&'static str, Kind, for<'a> fn(&Meeting, &About<'a>) -> Cell<'a>);

/// A number, or null where there is none.
fn real<'a>(value: Option<f64>) -> Cell<'a> {
    Cell::Real(finite(value))
}

/// The columns, in order.
const COLUMNS: [Column; 21] = [
    ("step", Kind::Integer, |m, _| Cell::Integer(m.step)),
    ("lag", Kind::Integer, |m, _| Cell::Integer(m.lag)),
    ("epoch", Kind::Real, |_, a| real(a.epoch)),
    ("lr", Kind::Real, |_, a| real(a.lr)),
    ("reference", Kind::Text, |_, a| Cell::Text(a.reference)),
    ("group", Kind::Text, |_, a| Cell::Text(a.group)),
    ("cos", Kind::Real, |m, _| real(m.cos())),
    ("cos_perp", Kind::Real, |m, _| real(m.cos_perp())),
    ("moved", Kind::Real, |m, _| real(Some(m.moved()))),
    ("gg", Kind::Real, |m, _| real(m.gg())),
    ("gd", Kind::Real, |m, _| real(m.gd())),
    ("dg", Kind::Real, |m, _| real(m.dg())),
    ("dd", Kind::Real, |m, _| real(Some(m.dd()))),
    ("moved2", Kind::Real, |m, _| real(Some(m.moved2()))),
    ("g2", Kind::Real, |m, _| real(m.earlier.gradient.map(|g| g.g2))),
    ("dot", Kind::Real, |m, _| real(m.earlier.gradient.map(|g| g.dot))),
    ("d2", Kind::Real, |m, _| real(Some(m.earlier.d2))),
    ("g2_later", Kind::Real, |m, _| real(m.later.gradient.map(|g| g.g2))),
    ("dot_later", Kind::Real, |m, _| real(m.later.gradient.map(|g| g.dot))),
    ("d2_later", Kind::Real, |m, _| real(Some(m.later.d2))),
    ("run_id", Kind::Text, |_, a| Cell::Text(a.run_id)),
];

/// Writes all rows as a Parquet table, with `summary` in its metadata. Returns rows and bytes.
///
/// # Errors
/// The disk refuses.
pub(super) fn write(lags: &Lags<'_>, path: &Path, summary: &str) -> Result<(u64, u64)> {
    let fields = COLUMNS.iter().map(|(name, kind, _)| Field { name, kind: *kind }).collect();
    let mut table = Table::of(path, fields)?;
    let (run_id, reference) = (lags.run.manifest.run_id.as_str(), lags.reference);
    for (number, group) in lags.groups.iter().enumerate() {
        for meeting in lags.of_group(number) {
            let about = About {
                epoch: lags.catalog.scalar(meeting.step, "epoch"),
                lr: lags.lr(group, meeting.step),
                reference: &reference.name,
                group: &group.name,
                run_id,
            };
            table.push(COLUMNS.iter().map(|(_, _, get)| get(&meeting, &about)))?;
        }
    }
    let numbers: Vec<String> = lags.plan.lags.iter().map(u64::to_string).collect();
    let metadata = Contents::Lags.metadata(
        SCHEMA_VERSION,
        [
            ("lpa.run_id", run_id.to_owned()),
            ("lpa.reference", format!("{} {}", reference.name, reference.xxh3)),
            ("lpa.lags", numbers.join(",")),
            ("lpa.summary", summary.to_owned()),
        ],
    );
    table.finish(metadata)
}
