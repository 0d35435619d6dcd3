//! The Parquet file: the only module that knows polars.
//!
//! Rows are encoded in groups of a fixed size, so that neither memory nor bytes depend on how the
//! work was cut, and the file appears under its name only when it is whole.

use std::fs::File;
use std::path::Path;
use std::sync::PoisonError;

use polars::io::parquet::write::ParquetMetadataContext;
use polars::prelude::*;

use crate::analyze::Sink;
use crate::error::{Error, Result, Tried};
use crate::row::{Cell, Column as RowColumn, Kind, Row};
use crate::run::Draft;

/// Rows a row group.
const ROW_GROUP: usize = 32_768;

/// A Parquet file that is being written.
pub struct Table {
    draft: Draft,
    writer: BatchedWriterOf,
    columns: Vec<&'static RowColumn>,
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

fn data_type(kind: Kind) -> DataType {
    match kind {
        Kind::Text => DataType::String,
        Kind::Integer => DataType::Int64,
        Kind::Real => DataType::Float64,
        Kind::Flag => DataType::Boolean,
    }
}

/// Empty builders of all columns.
fn builders(columns: &[&'static RowColumn]) -> Vec<Builder> {
    let builder = |c: &&RowColumn| {
        let name = PlSmallStr::from_str(c.name);
        match c.kind {
            Kind::Text => Builder::Text(StringChunkedBuilder::new(name, ROW_GROUP)),
            Kind::Integer => Builder::Integer(PrimitiveChunkedBuilder::new(name, ROW_GROUP)),
            Kind::Real => Builder::Real(PrimitiveChunkedBuilder::new(name, ROW_GROUP)),
            Kind::Flag => Builder::Flag(BooleanChunkedBuilder::new(name, ROW_GROUP)),
        }
    };
    columns.iter().map(builder).collect()
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
    /// Starts a table with these columns that will be `path`.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn create(path: &Path, columns: Vec<&'static RowColumn>) -> Result<Table> {
        let draft = Draft::create(path)?;
        let file = draft.file().try_clone().tried("write", path)?;
        let field = |c: &&RowColumn| Field::new(PlSmallStr::from_str(c.name), data_type(c.kind));
        let schema = Schema::from_iter(columns.iter().map(field));
        let writer = ParquetWriter::new(file)
            .with_compression(ParquetCompression::Zstd(None))
            .set_parallel(false)
            .batched(&schema)
            .map_err(|e| table_error(path, e))?;
        let builders = builders(&columns);
        Ok(Table { draft, writer, columns, builders, pending: 0, rows: 0 })
    }

    /// The place that the file will take.
    pub fn path(&self) -> &Path {
        self.draft.path()
    }

    fn write_group(&mut self) -> Result<()> {
        if self.pending == 0 {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.builders, builders(&self.columns));
        let columns = full.into_iter().map(Builder::finish).collect();
        DataFrame::new(self.pending, columns)
            .and_then(|frame| self.writer.write_batch(&frame))
            .map_err(|e| table_error(self.draft.path(), e))?;
        self.pending = 0;
        Ok(())
    }

    /// Writes what is pending and the footer with `metadata`, and gives the file its name. Returns
    /// rows and bytes.
    ///
    /// # Errors
    /// The disk refuses. The file that had the name before, if any, is then still there.
    pub fn finish(mut self, metadata: Vec<(String, String)>) -> Result<(u64, u64)> {
        self.write_group()?;
        // The summary is among the metadata and exists only now, after the last row.
        let metadata = KeyValueMetadata::from_static(metadata);
        let context = ParquetMetadataContext { arrow_schema: "" };
        let footer = |writer: &BatchedWriterOf| {
            let pairs = metadata.collect(context)?;
            let mut file = writer.get_writer().lock().unwrap_or_else(PoisonError::into_inner);
            file.end(Some(pairs))
        };
        footer(&self.writer).map_err(|e| table_error(self.draft.path(), e))?;
        let bytes = self.draft.commit()?;
        Ok((self.rows, bytes))
    }
}

impl Sink for Table {
    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        for (column, builder) in self.columns.iter().zip(&mut self.builders) {
            builder.push((column.get)(row));
        }
        self.pending += 1;
        self.rows += 1;
        if self.pending == ROW_GROUP { self.write_group() } else { Ok(()) }
    }
}

/// The key-value metadata of a table that was written before; `None` where there is no such file, or
/// it is no table.
pub fn metadata(path: &Path) -> Option<Vec<(String, String)>> {
    let mut reader = ParquetReader::new(File::open(path).ok()?);
    let pairs = reader.get_metadata().ok()?.key_value_metadata().clone()?;
    Some(pairs.into_iter().filter_map(|kv| Some((kv.key.to_string(), kv.value?.to_string()))).collect())
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
