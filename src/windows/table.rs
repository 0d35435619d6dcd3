//! The table of windows: a row a window, reference, stream and group.
//!
//! Owns its columns. Units and meanings are stated in `docs/schema.md`.

use std::path::Path;

use crate::curve::Key;
use crate::error::Result;
use crate::row::{Cell, Kind, finite};
use crate::table::{Contents, Field, RUN_ID, Table, value};
use crate::windows::{Shares, Window, Windows};

/// Changes with the columns and with what they mean.
const SCHEMA_VERSION: u32 = 2;

/// What a row is made of.
struct Row<'a> {
    key: &'a Key,
    window: &'a Window,
    shares: Shares,
}

/// A column: its name, the kind of its values, and how to get one.
type Column = (&'static str, Kind, for<'a> fn(&Row<'a>) -> Cell<'a>);

macro_rules! columns {
    ($($name:literal => $kind:ident($row:ident, $value:expr),)*) => {
        &[$(($name, Kind::$kind, { fn get<'a>($row: &Row<'a>) -> Cell<'a> { Cell::$kind($value) } get }),)*]
    };
}

/// The columns, in order.
const COLUMNS: &[Column] = columns! {
    "window" => Integer(r, r.window.number),
    "first_step" => Integer(r, r.window.steps.0),
    "last_step" => Integer(r, r.window.steps.1),
    "steps" => Integer(r, r.window.rows),
    "epoch" => Real(r, r.window.epoch),
    "reference" => Text(r, &r.key.reference),
    "stream" => Text(r, &r.key.stream),
    "group" => Text(r, &r.key.group),
    "n_params" => Integer(r, r.window.parameters),
    "cos" => Real(r, r.window.cos()),
    "cos_walk" => Real(r, r.window.cos_walk()),
    "cos_excess" => Real(r, r.window.cos_excess()),
    "negative" => Integer(r, r.window.negative),
    "lr" => Real(r, r.window.lr()),
    "lolr" => Real(r, r.window.lolr()),
    "lolr_walk" => Real(r, r.window.lolr_walk()),
    "dist" => Real(r, r.window.dist()),
    "from_start" => Real(r, r.window.start_dist()),
    "length" => Real(r, r.window.length()),
    "rsi_min" => Real(r, r.window.certificate().map(|c| c.mu)),
    "eb_max" => Real(r, r.window.certificate().map(|c| c.l)),
    "certified" => Real(r, r.window.certificate().and_then(|c| c.rate())),
    "half_life" => Real(r, r.window.certificate().and_then(|c| c.half_life())),
    "contraction" => Real(r, r.window.contraction()),
    "best" => Real(r, r.window.best()),
    "slope" => Real(r, r.window.slope()),
    "dot_share" => Real(r, r.shares.dot),
    "g2_share" => Real(r, r.shares.g2),
    "d2_share" => Real(r, r.shares.d2),
    "own_share" => Real(r, r.shares.own),
    "low_precision" => Integer(r, r.window.rounding),
    "nonfinite" => Integer(r, r.window.nonfinite),
};

/// Writes windows as a Parquet table, in the order of steps, then as in the table `source` that they are of, with
/// `summary` in its metadata. Returns rows and bytes.
///
/// # Errors
/// The disk refuses.
pub(crate) fn write(windows: &Windows, source: &Path, path: &Path, summary: &str) -> Result<(u64, u64)> {
    let fields = COLUMNS.iter().map(|&(name, kind, _)| Field { name, kind }).collect();
    let mut table = Table::of(path, fields)?;
    let mut rows: Vec<(usize, usize)> = Vec::new();
    for (k, of) in windows.keys.iter().enumerate() {
        rows.extend((0..of.windows.len()).map(|w| (k, w)));
    }
    rows.sort_by_key(|&(k, w)| (windows.keys[k].windows[w].number, k));
    for (k, w) in rows {
        let of = &windows.keys[k];
        let window = &of.windows[w];
        let shares = windows.shares(of, window);
        let row = Row { key: &of.key, window, shares };
        table.push(COLUMNS.iter().map(|(_, _, get)| match get(&row) {
            Cell::Real(value) => Cell::Real(finite(value)),
            other => other,
        }))?;
    }
    let metadata = Contents::Windows.metadata(
        SCHEMA_VERSION,
        [(RUN_ID, value(source, RUN_ID).unwrap_or_default()), ("lpa.summary", summary.to_owned())],
    );
    table.finish(metadata)
}
