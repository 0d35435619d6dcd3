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
use crate::group::Group;
use crate::metrics::bias::Bias;
use crate::row::{COLUMNS, Cell, Names, Row, Scalars};
use crate::run::Draft;
use crate::sums::{Flags, Layout, Sums};

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

/// The kinds of all columns, which those of any row tell.
fn sample() -> Vec<(&'static str, DataType)> {
    let group =
        Group { name: String::new(), tensors: Vec::new(), parameters: 0, dtype: crate::dtype::DType::F32 };
    let layout = Layout { directions: 1, references: 1, lagged: false };
    let zeros = vec![0.0; layout.width()];
    let sums = Sums::of(layout, &zeros, Flags::default(), 0, 0);
    let names = Names { reference: "", stream: "", group: "" };
    let kinds = Row::new(0, Scalars::default(), names, &group, sums, Bias::default());
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
    /// Starts a table that will be `path`.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn create(path: &Path) -> Result<Table> {
        let draft = Draft::create(path)?;
        let file = draft.file().try_clone().tried("write", path)?;
        let kinds = sample();
        let schema =
            Schema::from_iter(kinds.iter().map(|(n, k)| Field::new(PlSmallStr::from_str(n), k.clone())));
        let writer = ParquetWriter::new(file)
            .with_compression(ParquetCompression::Zstd(None))
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

    /// The place that the file will take.
    pub fn path(&self) -> &Path {
        self.draft.path()
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
        for (column, builder) in COLUMNS.iter().zip(&mut self.builders) {
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
