//! Rows as text for pipes: CSV, or JSON with one object a line.
//!
//! Numbers are the shortest decimals that read back to the same bits. Null is an empty field in
//! CSV and `null` in JSON.

use std::io::Write;
use std::path::Path;

use serde_json::json;

use crate::error::{Error, Result, Tried};
use crate::row::{Cell, Row, Sink, columns};

/// CSV with a header line.
pub(crate) struct Csv<W: Write>(csv::Writer<W>);

/// JSON lines.
pub(crate) struct JsonLines<W: Write> {
    out: W,
    line: Vec<u8>,
}

impl<W: Write> Csv<W> {
    /// Writes the header line.
    ///
    /// # Errors
    /// The output refuses.
    pub(crate) fn new(out: W) -> Result<Csv<W>> {
        let mut csv = csv::Writer::from_writer(out);
        csv.write_record(columns().map(|c| c.name)).map_err(csv_error)?;
        Ok(Csv(csv))
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// The output refuses.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.0.flush().tried("write", stdout())
    }
}

impl<W: Write> Sink for Csv<W> {
    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        let cells = columns().map(|c| match c.cell(row) {
            Cell::Text(v) => v.to_owned(),
            Cell::Integer(v) => v.to_string(),
            Cell::Real(v) => v.map_or_else(String::new, number),
            Cell::Flag(v) => v.to_string(),
        });
        self.0.write_record(cells).map_err(csv_error)
    }
}

impl<W: Write> JsonLines<W> {
    /// Writes rows to `out`.
    pub(crate) fn new(out: W) -> JsonLines<W> {
        JsonLines { out, line: Vec::new() }
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// The output refuses.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.out.flush().tried("write", stdout())
    }
}

impl<W: Write> Sink for JsonLines<W> {
    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        self.line.clear();
        for (column, before) in columns().zip(std::iter::once('{').chain(std::iter::repeat(','))) {
            // Names are plain words.
            let written =
                write!(self.line, "{before}\"{}\":", column.name).and_then(|()| match column.cell(row) {
                    Cell::Text(v) => Ok(serde_json::to_writer(&mut self.line, v)?),
                    Cell::Integer(v) => Ok(serde_json::to_writer(&mut self.line, &v)?),
                    Cell::Real(v) => Ok(serde_json::to_writer(&mut self.line, &v)?),
                    Cell::Flag(v) => Ok(serde_json::to_writer(&mut self.line, &v)?),
                });
            written.tried("write", stdout())?;
        }
        self.line.extend_from_slice(b"}\n");
        self.out.write_all(&self.line).tried("write", stdout())
    }
}

fn number(v: f64) -> String {
    // JSON's spelling is the shortest, and uses exponents where they are shorter.
    json!(v).to_string()
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
