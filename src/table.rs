//! The Parquet file: the only module that knows polars.
//!
//! Rows are encoded in groups of a fixed size, so that neither memory nor bytes depend on how the
//! work was cut, and the file appears under its name only when it is whole.

use std::fs::File;
use std::path::Path;

use polars::prelude::*;

use crate::analyze::Sink;
use crate::error::{Error, Result, Tried};
use crate::row::{COLUMNS, Cell, Row};
use crate::run::Draft;

/// Rows a row group.
const ROW_GROUP: usize = 16_384;

/// A Parquet file that is being written.
pub struct Table {
    draft: Draft,
    writer: BatchedWriterOf,
    builders: Vec<Builder>,
    pending: usize,
    rows: u64,
}

type BatchedWriterOf = polars::io::parquet::write::BatchedWriter<File>;

enum Builder {
    Text(StringChunkedBuilder),
    Integer(PrimitiveChunkedBuilder<Int64Type>),
    Real(PrimitiveChunkedBuilder<Float64Type>),
    Flag(BooleanChunkedBuilder),
}

/// What the first row would be; only the kinds of its cells matter.
fn sample() -> Vec<(&'static str, DataType)> {
    let kinds = Row::new(
        0,
        crate::row::Scalars::default(),
        ["", "", ""],
        0,
        crate::dtype::DType::F32,
        crate::sums::Fold::default().total(),
    );
    let kind = |c: &crate::row::Column| match (c.get)(&kinds) {
        Cell::Text(_) => DataType::String,
        Cell::Integer(_) => DataType::Int64,
        Cell::Real(_) => DataType::Float64,
        Cell::Flag(_) => DataType::Boolean,
    };
    COLUMNS.iter().map(|c| (c.name, kind(c))).collect()
}

fn builder(name: &str, kind: &DataType) -> Builder {
    let name = PlSmallStr::from_str(name);
    match kind {
        DataType::String => Builder::Text(StringChunkedBuilder::new(name, ROW_GROUP)),
        DataType::Int64 => Builder::Integer(PrimitiveChunkedBuilder::new(name, ROW_GROUP)),
        DataType::Boolean => Builder::Flag(BooleanChunkedBuilder::new(name, ROW_GROUP)),
        _ => Builder::Real(PrimitiveChunkedBuilder::new(name, ROW_GROUP)),
    }
}

impl Builder {
    fn push(&mut self, cell: Cell<'_>) {
        match (self, cell) {
            (Builder::Text(b), Cell::Text(v)) => b.append_value(v),
            (Builder::Integer(b), Cell::Integer(v)) => b.append_option(i64::try_from(v).ok()),
            (Builder::Real(b), Cell::Real(v)) => b.append_option(v),
            (Builder::Flag(b), Cell::Flag(v)) => b.append_value(v),
            // A column's cells are of one kind; a stray one is null rather than a panic.
            (Builder::Text(b), _) => b.append_null(),
            (Builder::Integer(b), _) => b.append_null(),
            (Builder::Real(b), _) => b.append_null(),
            (Builder::Flag(b), _) => b.append_null(),
        }
    }

    fn finish(self) -> Column {
        match self {
            Builder::Text(b) => b.finish().into_column(),
            Builder::Integer(b) => b.finish().into_column(),
            Builder::Real(b) => b.finish().into_column(),
            Builder::Flag(b) => b.finish().into_column(),
        }
    }
}

impl Table {
    /// Starts a table that will be `path`, with `metadata` in the file's key-value metadata.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn create(path: &Path, metadata: Vec<(String, String)>) -> Result<Table> {
        let draft = Draft::create(path)?;
        let file = draft.file().try_clone().tried("write", path)?;
        let kinds = sample();
        let schema =
            Schema::from_iter(kinds.iter().map(|(n, k)| Field::new(PlSmallStr::from_str(n), k.clone())));
        let writer = ParquetWriter::new(file)
            .with_compression(ParquetCompression::Zstd(None))
            .with_key_value_metadata(Some(KeyValueMetadata::from_static(metadata)))
            .set_parallel(false)
            .batched(&schema)
            .map_err(|e| table_error(path, e))?;
        Ok(Table {
            draft,
            writer,
            builders: kinds.iter().map(|(n, k)| builder(n, k)).collect(),
            pending: 0,
            rows: 0,
        })
    }

    fn write_group(&mut self) -> Result<()> {
        if self.pending == 0 {
            return Ok(());
        }
        let fresh = sample().iter().map(|(n, k)| builder(n, k)).collect();
        let full = std::mem::replace(&mut self.builders, fresh);
        let columns = full.into_iter().map(Builder::finish).collect();
        DataFrame::new(self.pending, columns)
            .and_then(|frame| self.writer.write_batch(&frame))
            .map_err(|e| table_error(self.draft.path(), e))?;
        self.pending = 0;
        Ok(())
    }

    /// Writes what is pending and the footer, and gives the file its name. Returns rows and bytes.
    ///
    /// # Errors
    /// The disk refuses. The file that had the name before, if any, is then still there.
    pub fn finish(mut self) -> Result<(u64, u64)> {
        self.write_group()?;
        self.writer.finish().map_err(|e| table_error(self.draft.path(), e))?;
        let bytes = self.draft.commit()?;
        Ok((self.rows, bytes))
    }
}

impl Sink for Table {
    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        for (column, builder) in COLUMNS.iter().zip(&mut self.builders) {
            builder.push((column.get)(row));
        }
        self.pending += 1;
        self.rows += 1;
        if self.pending == ROW_GROUP { self.write_group() } else { Ok(()) }
    }
}

fn table_error(path: &Path, e: PolarsError) -> Error {
    match e {
        PolarsError::IO { error, .. } => Error::Io {
            action: "write",
            path: path.to_owned(),
            source: std::io::Error::new(error.kind(), error.to_string()),
        },
        other => Error::Table { path: path.to_owned(), what: other.to_string() },
    }
}
