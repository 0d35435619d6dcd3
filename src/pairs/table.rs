//! The table of all pairs: a row a step and reference.
//!
//! Owns its columns and what identifies it. Units and meanings are stated in `docs/schema.md`.

use std::path::Path;

use crate::error::Result;
use crate::pairs::{AllPairs, Pair};
use crate::row::{Cell, Kind, finite};
use crate::run::Run;
use crate::table::{Contents, Field, RUN_ID, Table};

/// Changes with the columns and with what they mean.
const SCHEMA_VERSION: u32 = 2;

/// A column: its name, the kind of its values, and how to get one.
type Column = (&'static str, Kind, for<'a> fn(&Pair, &'a str) -> Cell<'a>);

/// The columns, in order.
const COLUMNS: [Column; 11] = [
    ("step", Kind::Integer, |p, _| Cell::Integer(p.step)),
    ("reference_step", Kind::Integer, |p, _| Cell::Integer(p.reference)),
    ("cos", Kind::Real, |p, _| Cell::Real(finite(p.cos()))),
    ("dist", Kind::Real, |p, _| Cell::Real(finite(Some(p.dist())))),
    ("cos_first", Kind::Real, |p, _| Cell::Real(finite(p.cos_first))),
    ("cos_last", Kind::Real, |p, _| Cell::Real(finite(p.cos_last))),
    ("dot", Kind::Real, |p, _| Cell::Real(finite(p.dot))),
    ("g2", Kind::Real, |p, _| Cell::Real(finite(p.g2))),
    ("d2", Kind::Real, |p, _| Cell::Real(finite(Some(p.d2)))),
    ("walk_d2", Kind::Real, |p, _| Cell::Real(finite(p.walk_d2))),
    ("run_id", Kind::Text, |_, run_id| Cell::Text(run_id)),
];

/// Writes all pairs as a Parquet table, with `summary` in its metadata. Returns rows and bytes.
///
/// # Errors
/// The disk refuses.
pub(crate) fn write(run: &Run, pairs: &AllPairs, path: &Path, summary: &str) -> Result<(u64, u64)> {
    let fields = COLUMNS.iter().map(|(name, kind, _)| Field { name, kind: *kind }).collect();
    let mut table = Table::of(path, fields)?;
    let run_id = run.manifest.run_id.as_str();
    let walks = pairs.distances().walks();
    for t in 0..pairs.plan.steps.len() {
        for pair in pairs.of_step(t, walks.as_deref()) {
            table.push(COLUMNS.iter().map(|(_, _, get)| get(&pair, run_id)))?;
        }
    }
    let metadata = Contents::Pairs.metadata(
        SCHEMA_VERSION,
        [
            (RUN_ID, run_id.to_owned()),
            ("lpa.every", pairs.plan.every.to_string()),
            ("lpa.summary", summary.to_owned()),
        ],
    );
    table.finish(metadata)
}
