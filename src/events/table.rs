//! The table of events: a row an event.
//!
//! Owns its columns. Units and meanings are stated in `docs/schema.md`.

use std::path::Path;

use crate::error::Result;
use crate::events::{Event, Events};
use crate::row::{Cell, Kind, finite};
use crate::table::{Contents, Field, RUN_ID, Table, value};

/// Changes with the columns and with what they mean.
const SCHEMA_VERSION: u32 = 2;

/// A column: its name, the kind of its values, and how to get one.
type Column = (&'static str, Kind, for<'a> fn(&'a Event) -> Cell<'a>);

/// The columns, in order.
const COLUMNS: [Column; 12] = [
    ("step", Kind::Integer, |e| Cell::Integer(e.step)),
    ("epoch", Kind::Real, |e| Cell::Real(e.row.epoch)),
    ("event", Kind::Text, |e| Cell::Text(e.happened.name())),
    ("reference", Kind::Text, |e| Cell::Text(&e.key.reference)),
    ("stream", Kind::Text, |e| Cell::Text(&e.key.stream)),
    ("group", Kind::Text, |e| Cell::Text(&e.key.group)),
    ("value", Kind::Real, |e| Cell::Real(finite(e.value))),
    ("usual", Kind::Real, |e| Cell::Real(finite(e.usual))),
    ("blame", Kind::Text, |e| Cell::Text(e.blame.as_ref().map_or("", |b| &b.group))),
    ("blame_part", Kind::Real, |e| Cell::Real(e.blame.as_ref().and_then(|b| b.part))),
    ("loss", Kind::Real, |e| Cell::Real(e.row.loss)),
    ("lr", Kind::Real, |e| Cell::Real(e.row.lr)),
];

/// Writes events as a Parquet table; `source` is the table that they are of, `summary` is in the metadata. Returns
/// rows and bytes.
///
/// # Errors
/// The disk refuses.
pub(crate) fn write(events: &Events, source: &Path, path: &Path, summary: &str) -> Result<(u64, u64)> {
    let fields = COLUMNS.iter().map(|&(name, kind, _)| Field { name, kind }).collect();
    let mut table = Table::of(path, fields)?;
    for event in &events.all {
        table.push(COLUMNS.iter().map(|(_, _, get)| get(event)))?;
    }
    let metadata = Contents::Events.metadata(
        SCHEMA_VERSION,
        [(RUN_ID, value(source, RUN_ID).unwrap_or_default()), ("lpa.summary", summary.to_owned())],
    );
    table.finish(metadata)
}
