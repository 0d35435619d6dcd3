//! The table of a comparison: a row a place, path, reference, stream and group.
//!
//! Owns its columns. Units and meanings are stated in `docs/schema.md`.

use std::path::Path;

use serde_json::{Map, Value};

use crate::compare::Comparison;
use crate::compare::path::METRICS;
use crate::compare::seeds::Point;
use crate::curve::Spread;
use crate::error::Result;
use crate::row::{Cell, Kind, finite};
use crate::table::{Contents, Field, Table};
use crate::training::differences;

/// Changes with the columns and with what they mean.
const SCHEMA_VERSION: u32 = 1;

/// Columns before those of the metrics.
const FIRST: [(&str, Kind); 11] = [
    ("run", Kind::Text),
    ("training", Kind::Text),
    ("reference", Kind::Text),
    ("role", Kind::Text),
    ("stream", Kind::Text),
    ("group", Kind::Text),
    ("x", Kind::Real),
    ("first_step", Kind::Integer),
    ("last_step", Kind::Integer),
    ("rows", Kind::Integer),
    ("runs", Kind::Integer),
];

/// Names of the columns of a metric: its mean, and the band around it.
const OF_METRICS: [[&str; 3]; METRICS.len()] = [
    ["cos", "cos_lo", "cos_hi"],
    ["cos_walk", "cos_walk_lo", "cos_walk_hi"],
    ["cos_excess", "cos_excess_lo", "cos_excess_hi"],
    ["t_excess", "t_excess_lo", "t_excess_hi"],
    ["rsi", "rsi_lo", "rsi_hi"],
    ["eb", "eb_lo", "eb_hi"],
    ["dist", "dist_lo", "dist_hi"],
    ["loss", "loss_lo", "loss_hi"],
    ["lr", "lr_lo", "lr_hi"],
];

/// Writes a comparison, with `summary` in its metadata. Returns rows and bytes.
///
/// # Errors
/// The disk refuses.
pub(super) fn write(all: &Comparison, path: &Path, summary: &str) -> Result<(u64, u64)> {
    let first = FIRST.iter().map(|&(name, kind)| Field { name, kind });
    let metrics = OF_METRICS.iter().flatten().map(|&name| Field { name, kind: Kind::Real });
    let mut table = Table::of(path, first.chain(metrics).collect())?;
    let trainings = all.trainings();
    let keys = differences(&trainings);
    let mut of_runs = Map::new();
    for alike in all.alike() {
        let name = alike.name();
        let first = &alike.tables[0].training;
        let told = |key: &&&str| alike.tables.iter().all(|t| t.training.told(key) == first.told(key));
        let training = first.words(&keys.iter().filter(told).copied().collect::<Vec<_>>());
        of_runs.insert(
            name.clone(),
            Value::from(alike.tables.iter().map(|t| t.training.run_id.as_str()).collect::<Vec<_>>()),
        );
        for point in alike.points(all.places, all.seeds.unwrap_or(Spread::Minmax)) {
            table.push(cells(&name, &training, &point).into_iter())?;
        }
    }
    let metadata = Contents::Comparison.metadata(
        SCHEMA_VERSION,
        [
            ("lpa.along", all.places.along().to_owned()),
            ("lpa.places", all.places.words()),
            ("lpa.band", all.seeds.map_or_else(String::new, |s| s.to_string())),
            ("lpa.runs", Value::Object(of_runs).to_string()),
            ("lpa.summary", summary.to_owned()),
        ],
    );
    table.finish(metadata)
}

fn cells<'a>(name: &'a str, training: &'a str, p: &Point<'a>) -> Vec<Cell<'a>> {
    let key = &p.of.key;
    let mut all = vec![
        Cell::Text(name),
        Cell::Text(training),
        Cell::Text(&key.reference),
        Cell::Text(p.of.role.name()),
        Cell::Text(&key.stream),
        Cell::Text(&key.group),
        Cell::Real(Some(p.x)),
        Cell::Integer(p.steps.0),
        Cell::Integer(p.steps.1),
        Cell::Integer(p.rows),
        Cell::Integer(p.runs),
    ];
    for stand in p.stands {
        let [lo, hi] = stand.band.map_or([None; 2], |band| band.map(Some));
        all.extend([stand.mean, lo, hi].map(|v| Cell::Real(finite(v))));
    }
    all
}
