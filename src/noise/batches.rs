//! Paths that differ in their batch size: how their cosines go with it, and what of that a random walk's do.
//!
//! Owns the table of exponents and what a person reads of them; the exponents are `claims`'.

use std::fmt::Write as _;
use std::path::{Path as File, PathBuf};

use crate::claims::{Batches, Path, QUANTITIES};
use crate::error::Result;
use crate::printable::column_width;
use crate::question::check_writable;
use crate::row::{Cell, Kind, finite};
use crate::statistics::Slope;
use crate::summary::{counted, significant, thousands, wrap};
use crate::table::{Contents, Field, Table, Written};

/// Changes with the columns and with what they mean.
const SCHEMA_VERSION: u32 = 1;

/// What a row is made of.
struct Row<'a> {
    of: &'a Batches,
    quantity: &'static str,
    exponent: &'a std::result::Result<Slope, String>,
}

/// A column: its name, the kind of its values, and how to get one.
type Column = (&'static str, Kind, for<'a> fn(&'a Row<'a>) -> Cell<'a>);

fn real<'a>(row: &'a Row<'a>, get: fn(&Slope) -> f64) -> Cell<'a> {
    Cell::Real(finite(row.exponent.as_ref().ok().map(get)))
}

/// The columns, in order.
const COLUMNS: [Column; 7] = [
    ("quantity", Kind::Text, |r| Cell::Text(r.quantity)),
    ("exponent", Kind::Real, |r| real(r, |s| s.value)),
    ("low", Kind::Real, |r| real(r, |s| s.value - s.half)),
    ("high", Kind::Real, |r| real(r, |s| s.value + s.half)),
    ("runs", Kind::Integer, |r| Cell::Integer(r.of.paths.len() as u64)),
    ("batch_sizes", Kind::Integer, |r| Cell::Integer(r.of.sizes as u64)),
    ("reason", Kind::Text, |r| Cell::Text(r.exponent.as_ref().err().map_or("", String::as_str))),
];

/// Compares the paths of tables, each with what it is called, and writes the exponents as another one, `out`.
///
/// # Errors
/// A table is none of metrics, or damaged; or `out` cannot be written, or is another file.
pub fn tabulate(tables: &[(String, PathBuf)], out: &File) -> Result<Written> {
    let read = |(name, table): &(String, PathBuf)| Path::read(table, name.clone());
    write(&Batches::of(&tables.iter().map(read).collect::<Result<Vec<Path>>>()?), out)
}

/// Writes exponents.
///
/// # Errors
/// It cannot be written, or is another file.
pub(crate) fn write(of: &Batches, out: &File) -> Result<Written> {
    check_writable(out, Contents::Batches)?;
    let fields = COLUMNS.iter().map(|(name, kind, _)| Field { name, kind: *kind }).collect();
    let mut table = Table::of(out, fields)?;
    for (quantity, exponent) in QUANTITIES.into_iter().zip(&of.exponents) {
        let row = Row { of, quantity, exponent };
        table.push(COLUMNS.iter().map(|(_, _, get)| get(&row)))?;
    }
    let summary = summary(of);
    let metadata = Contents::Batches.metadata(SCHEMA_VERSION, [("lpa.summary", summary.clone())]);
    let (rows, bytes) = table.finish(metadata)?;
    Ok(Written { path: out.to_owned(), summary, rows, bytes })
}

/// The lines for a person.
pub(crate) fn summary(of: &Batches) -> String {
    let known = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), significant);
    let width = column_width(of.paths.iter().map(|p| p.name.chars().count())).max(4);
    let mut out = format!(
        "{:width$}{:>10}{:>10}{:>12}{:>12}{:>12}\n",
        "path", "batch", "steps", "cos", "walk", "excess"
    );
    for p in &of.paths {
        let [cos, walk, excess] = p.medians.map(known);
        let (batch, steps) = (p.batch, thousands(p.steps));
        let _ = writeln!(out, "{:width$}{batch:>10}{steps:>10}{cos:>12}{walk:>12}{excess:>12}", p.name);
    }
    out.push('\n');
    let of_what = ["the cosine", "that of a random walk of the same steps", "what is beyond it"];
    for (what, exponent) in of_what.iter().zip(&of.exponents) {
        let line = match exponent {
            Ok(s) => format!(
                "{what} goes as batch^{}, from {} to {} at 95 %",
                significant(s.value),
                significant(s.value - s.half),
                significant(s.value + s.half)
            ),
            Err(why) => format!("{what}: not decidable; {why}"),
        };
        out.push_str(&wrap(&line));
    }
    out.push_str(&wrap(&format!(
        "of {} of {}; medians over the path but for its first and last tenth, and a line through their \
         logarithms. At a fixed number of epochs a walk alone goes as batch^0.5, since it takes fewer steps.",
        counted(of.paths.len() as u64, "path"),
        counted(of.sizes as u64, "batch size")
    )));
    if of.left_out > 0 {
        out.push_str(&wrap(&format!(
            "left out: {}, of a part of a path, of one that is there already, or without metadata \"batch\" or \
             \"batch_size\"",
            counted(of.left_out as u64, "table")
        )));
    }
    out
}
