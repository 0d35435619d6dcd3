//! Where the rows of an analysis go that is asked for as text.

use std::io::BufWriter;

use crate::error::Result;
use crate::row::{Row, Sink};
use crate::text::{Csv, JsonLines};

/// How rows are written.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Parquet,
    Csv,
    Jsonl,
}

/// Rows as text on standard output.
pub(super) enum Output {
    Csv(Box<Csv<BufWriter<std::io::Stdout>>>),
    JsonLines(JsonLines<BufWriter<std::io::Stdout>>),
}

impl Output {
    /// Begins, with the header line where there is one.
    pub(super) fn open(format: Format) -> Result<Output> {
        let stdout = BufWriter::with_capacity(1 << 16, std::io::stdout());
        Ok(match format {
            Format::Csv => Output::Csv(Box::new(Csv::new(stdout)?)),
            Format::Parquet | Format::Jsonl => Output::JsonLines(JsonLines::new(stdout)),
        })
    }

    /// Writes out what is buffered.
    pub(super) fn finish(self) -> Result<()> {
        match self {
            Output::Csv(csv) => csv.finish(),
            Output::JsonLines(lines) => lines.finish(),
        }
    }
}

impl Sink for Output {
    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        match self {
            Output::Csv(csv) => csv.row(row),
            Output::JsonLines(lines) => lines.row(row),
        }
    }
}
