//! Findings as a table, and as JSON.
//!
//! Owns the columns. Units and meanings are stated in `docs/schema.md`.

use std::path::Path;

use serde_json::json;

use crate::claims::Finding;
use crate::error::Result;
use crate::row::{Cell, Kind, finite};
use crate::table::{Contents, Field, Table};

/// Changes with the columns and with what they mean.
const SCHEMA_VERSION: u32 = 1;

/// A column: its name, the kind of its values, and how to get one.
type Column = (&'static str, Kind, for<'a> fn(&'a Finding) -> Cell<'a>);

/// The columns, in order.
const COLUMNS: [Column; 8] = [
    ("claim", Kind::Text, |f| Cell::Text(f.claim.id)),
    ("statement", Kind::Text, |f| Cell::Text(f.claim.statement)),
    ("of", Kind::Text, |f| Cell::Text(&f.of)),
    ("outcome", Kind::Text, |f| Cell::Text(f.outcome.name())),
    ("measure", Kind::Text, |f| Cell::Text(f.claim.measure)),
    ("value", Kind::Real, |f| Cell::Real(finite(f.value))),
    ("walk", Kind::Real, |f| Cell::Real(finite(f.walk))),
    ("sentence", Kind::Text, |f| Cell::Text(&f.sentence)),
];

/// Writes findings as a Parquet table. Returns rows and bytes.
///
/// # Errors
/// The disk refuses.
pub(crate) fn write(findings: &[Finding], path: &Path) -> Result<(u64, u64)> {
    let fields = COLUMNS.iter().map(|&(name, kind, _)| Field { name, kind }).collect();
    let mut table = Table::of(path, fields)?;
    for finding in findings {
        table.push(COLUMNS.iter().map(|(_, _, get)| get(finding)))?;
    }
    let metadata = Contents::Claims.metadata(SCHEMA_VERSION, []);
    table.finish(metadata)
}

/// Findings as a JSON array of objects with the names of the columns.
pub(crate) fn json(findings: &[Finding]) -> String {
    let value = |cell: Cell<'_>| match cell {
        Cell::Text(text) => json!(text),
        Cell::Integer(n) => json!(n),
        Cell::Real(v) => json!(v),
        Cell::Flag(on) => json!(on),
    };
    let object = |f: &Finding| {
        let all = COLUMNS.iter().map(|(name, _, get)| ((*name).to_owned(), value(get(f))));
        serde_json::Value::Object(all.collect())
    };
    format!("{:#}\n", serde_json::Value::Array(findings.iter().map(object).collect()))
}
