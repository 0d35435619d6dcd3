//! The table of noise: a row a group, window and probe.
//!
//! Owns its columns and what identifies it. Units and meanings are stated in `docs/schema.md`.

use std::path::Path;

use crate::error::Result;
use crate::group::Group;
use crate::noise::Noise;
use crate::noise::split::{Measured, Said, Split};
use crate::noise::window::{OfProbe, Window};
use crate::row::{Cell, Kind, finite};
use crate::table::{Contents, Field, RUN_ID, Table};

/// Changes with the columns and with what they mean.
const SCHEMA_VERSION: u32 = 1;

/// What a row is made of.
struct Row<'a> {
    noise: &'a Noise<'a>,
    group: &'a Group,
    window: &'a Window,
    of: &'a OfProbe,
}

impl Row<'_> {
    fn scale(&self, of: Said<Split>) -> Option<Measured> {
        Some(ratio(of)?.times(self.noise.batch?))
    }
}

/// A column: its name, the kind of its values, and how to get one.
type Column = (&'static str, Kind, for<'a> fn(&Row<'a>) -> Cell<'a>);

macro_rules! columns {
    ($($name:literal => $kind:ident($row:ident, $value:expr),)*) => {
        &[$(($name, Kind::$kind, { fn get<'a>($row: &Row<'a>) -> Cell<'a> { Cell::$kind($value) } get }),)*]
    };
}

fn value(of: Option<Measured>) -> Option<f64> {
    of.map(|m| m.value)
}

fn error(of: Option<Measured>) -> Option<f64> {
    of.and_then(|m| m.error)
}

fn shared(of: Said<Split>) -> Option<Measured> {
    of.ok().map(|s| s.shared)
}

fn rest(of: Said<Split>) -> Option<Measured> {
    of.ok().map(|s| s.rest)
}

fn ratio(of: Said<Split>) -> Option<Measured> {
    of.and_then(|s| s.ratio).ok()
}

fn reason(of: Said<Split>) -> &'static str {
    of.and_then(|s| s.ratio).map_or_else(|why| why.text(), |_| "")
}

/// The columns, in order.
const COLUMNS: &[Column] = columns! {
    "window" => Integer(r, r.window.number),
    "first_step" => Integer(r, r.window.steps.0),
    "last_step" => Integer(r, r.window.steps.1),
    "steps" => Integer(r, r.of.steps),
    "nonfinite" => Integer(r, r.of.nonfinite),
    "epoch" => Real(r, r.window.epoch),
    "reference" => Text(r, &r.noise.reference.name),
    "group" => Text(r, &r.group.name),
    "probe" => Text(r, r.noise.name(r.of.probes)),
    "n_params" => Integer(r, r.group.parameters),
    "batch" => Real(r, r.noise.batch),
    "g2" => Real(r, r.of.g2),
    "probe2" => Real(r, r.of.probe2),
    "shared" => Real(r, value(shared(r.of.whole))),
    "shared_error" => Real(r, error(shared(r.of.whole))),
    "noise" => Real(r, value(rest(r.of.whole))),
    "noise_error" => Real(r, error(rest(r.of.whole))),
    "ratio" => Real(r, value(ratio(r.of.whole))),
    "ratio_error" => Real(r, error(ratio(r.of.whole))),
    "noise_scale" => Real(r, value(r.scale(r.of.whole))),
    "noise_scale_error" => Real(r, error(r.scale(r.of.whole))),
    "reason" => Text(r, reason(r.of.whole)),
    "along" => Real(r, r.of.mean.ok().map(|s| s.shared.value + s.rest.value)),
    "along_probe" => Real(r, value(shared(r.of.mean))),
    "along_noise" => Real(r, value(rest(r.of.mean))),
    "along_noise_error" => Real(r, error(rest(r.of.mean))),
    "shared_along" => Real(r, value(shared(r.of.along))),
    "shared_along_error" => Real(r, error(shared(r.of.along))),
    "noise_along" => Real(r, value(rest(r.of.along))),
    "noise_along_error" => Real(r, error(rest(r.of.along))),
    "ratio_along" => Real(r, value(ratio(r.of.along))),
    "ratio_along_error" => Real(r, error(ratio(r.of.along))),
    "noise_scale_along" => Real(r, value(r.scale(r.of.along))),
    "noise_scale_along_error" => Real(r, error(r.scale(r.of.along))),
    "reason_along" => Text(r, reason(r.of.along)),
    "run_id" => Text(r, &r.noise.run.manifest.run_id),
};

/// Writes all rows as a Parquet table, with `summary` in its metadata. Returns rows and bytes.
///
/// # Errors
/// The disk refuses.
pub(super) fn write(noise: &Noise<'_>, path: &Path, summary: &str) -> Result<(u64, u64)> {
    let fields = COLUMNS.iter().map(|&(name, kind, _)| Field { name, kind }).collect();
    let mut table = Table::of(path, fields)?;
    for of_group in &noise.groups {
        for window in &of_group.windows {
            for of in &window.probes {
                let row = Row { noise, group: of_group.group, window, of };
                table.push(COLUMNS.iter().map(|(_, _, get)| match get(&row) {
                    Cell::Real(value) => Cell::Real(finite(value)),
                    other => other,
                }))?;
            }
        }
    }
    let metadata = Contents::Noise.metadata(
        SCHEMA_VERSION,
        [
            (RUN_ID, noise.run.manifest.run_id.clone()),
            ("lpa.reference", format!("{} {}", noise.reference.name, noise.reference.xxh3)),
            ("lpa.summary", summary.to_owned()),
        ],
    );
    table.finish(metadata)
}
