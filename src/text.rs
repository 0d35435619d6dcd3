//! Rows as text for pipes: CSV, or JSON with one object a line.
//!
//! Numbers are the shortest decimals that read back to the same bits. Null is an empty field in
//! CSV and `null` in JSON; a sum that is not finite is `NaN` or `inf` in CSV and a string in JSON.

use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::analyze::Sink;
use crate::error::{Error, Result, Tried};
use crate::row::{Cell, Column, Row};

/// CSV with a header line.
pub struct Csv<W: Write>(csv::Writer<W>, Vec<&'static Column>);

/// JSON lines.
pub struct JsonLines<W: Write>(W, Vec<&'static Column>);

impl<W: Write> Csv<W> {
    /// Writes the header line of rows with these columns.
    ///
    /// # Errors
    /// The output refuses.
    pub fn new(out: W, columns: Vec<&'static Column>) -> Result<Csv<W>> {
        let mut csv = csv::Writer::from_writer(out);
        csv.write_record(columns.iter().map(|c| c.name)).map_err(csv_error)?;
        Ok(Csv(csv, columns))
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// The output refuses.
    pub fn finish(mut self) -> Result<()> {
        self.0.flush().tried("write", stdout())
    }
}

impl<W: Write> Sink for Csv<W> {
    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        let cells = self.1.iter().map(|c| match (c.get)(row) {
            Cell::Text(v) => v.to_owned(),
            Cell::Integer(v) => v.to_string(),
            Cell::Real(v) => v.map_or_else(String::new, number),
            Cell::Flag(v) => v.to_string(),
        });
        self.0.write_record(cells).map_err(csv_error)
    }
}

impl<W: Write> JsonLines<W> {
    /// Writes rows with these columns to `out`.
    pub fn new(out: W, columns: Vec<&'static Column>) -> JsonLines<W> {
        JsonLines(out, columns)
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// The output refuses.
    pub fn finish(mut self) -> Result<()> {
        self.0.flush().tried("write", stdout())
    }
}

impl<W: Write> Sink for JsonLines<W> {
    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        let value = |c: &crate::row::Column| match (c.get)(row) {
            Cell::Text(v) => json!(v),
            Cell::Integer(v) => json!(v),
            Cell::Real(None) => Value::Null,
            Cell::Real(Some(v)) if v.is_finite() => json!(v),
            Cell::Real(Some(v)) => json!(v.to_string()),
            Cell::Flag(v) => json!(v),
        };
        let map: Map<String, Value> = self.1.iter().map(|c| (c.name.to_owned(), value(c))).collect();
        writeln!(self.0, "{}", Value::Object(map)).tried("write", stdout())
    }
}

fn number(v: f64) -> String {
    // JSON's spelling is the shortest, and uses exponents where they are shorter.
    if v.is_finite() { json!(v).to_string() } else { v.to_string() }
}

fn stdout() -> &'static Path {
    Path::new("standard output")
}

fn csv_error(e: csv::Error) -> Error {
    let source = match e.into_kind() {
        csv::ErrorKind::Io(source) => source,
        other => std::io::Error::other(format!("{other:?}")),
    };
    Error::Io { action: "write", path: stdout().to_owned(), source }
}
