//! The Parquet file: the only module that knows polars.
//!
//! Rows are encoded in groups of a fixed size, so that neither memory nor bytes depend on how the
//! work was cut, and the file appears under its name only when it is whole.

mod opened;
mod read;
pub(crate) mod seal;
mod wide;

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use polars::io::parquet::write::ParquetMetadataContext;
use polars::prelude::*;

use crate::room::explained;
pub(crate) use crate::table::opened::Opened;
pub(crate) use crate::table::read::{Piece, names, read, rows};
pub(crate) use crate::table::seal::KEY as SEAL;
use crate::table::seal::Seal;
pub(crate) use crate::table::wide::{Datum, Wide, widen, write_wide};

use crate::error::{Error, Result, Tried};
use crate::row::{Cell, Kind, Row, Sink, columns};
use crate::run::Draft;

/// Rows a row group.
const ROW_GROUP: usize = 32_768;
/// Rows for which there is room from the beginning.
const ROOM: usize = 1024;
/// Bytes that go to the file at once, where there are as many.
const BUFFER: usize = 1 << 16;

/// What a table is of, by the key of its metadata that has the version of its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    Metrics,
    Pairs,
    Lags,
    Windows,
    Events,
    Claims,
    Comparison,
    Noise,
    Batches,
    /// Rows of one run among those of others.
    Collected,
    Runs,
}

impl Contents {
    /// The key.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Contents::Metrics => "lpa.schema",
            Contents::Pairs => "lpa.pairs_schema",
            Contents::Lags => "lpa.lags_schema",
            Contents::Windows => "lpa.windows_schema",
            Contents::Events => "lpa.events_schema",
            Contents::Claims => "lpa.claims_schema",
            Contents::Comparison => "lpa.comparison_schema",
            Contents::Noise => "lpa.noise_schema",
            Contents::Batches => "lpa.batches_schema",
            Contents::Collected => "lpa.collected_schema",
            Contents::Runs => "lpa.runs_schema",
        }
    }

    /// The metadata of such a table: the version of lpa, that of the columns, and the rest.
    pub(crate) fn metadata<const N: usize>(
        self,
        schema: u32,
        rest: [(&str, String); N],
    ) -> Vec<(String, String)> {
        let version = ("lpa.version", env!("CARGO_PKG_VERSION").to_owned());
        let all = [version, (self.key(), schema.to_string())].into_iter().chain(rest);
        all.map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// The command that writes them.
    const fn command(self) -> &'static str {
        match self {
            Contents::Metrics => "analyze",
            Contents::Pairs => "pairs",
            Contents::Lags => "lags",
            Contents::Windows => "windows",
            Contents::Events => "events",
            Contents::Claims => "check",
            Contents::Comparison => "compare",
            Contents::Noise | Contents::Batches => "noise",
            Contents::Collected | Contents::Runs => "collect",
        }
    }

    /// Checks that a table is of this. What is no table at all passes: its reader says what is wrong with it.
    ///
    /// # Errors
    /// It is another one.
    pub(crate) fn check(self, table: &Path) -> Result<()> {
        match metadata(table) {
            Some(all) if all.iter().all(|(key, _)| key != self.key()) => {
                let what = format!("it is a table, but none that lpa {} has written", self.command());
                Err(Error::NotFound { path: table.to_owned(), what })
            }
            _ => Ok(()),
        }
    }
}

/// Key of a table's metadata that says of which run it is.
pub(crate) const RUN_ID: &str = "lpa.run_id";

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    /// Its name.
    pub name: &'static str,
    /// The type of its values.
    pub kind: Kind,
}

/// A table that was written.
#[derive(Debug)]
pub struct Written {
    /// Its file.
    pub path: PathBuf,
    /// What a person should know of it.
    pub summary: String,
    /// Its rows.
    pub rows: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// A Parquet file that is being written.
pub(crate) struct Table {
    draft: Draft,
    writer: BatchedWriterOf,
    fields: Vec<Field>,
    builders: Vec<Builder>,
    pending: usize,
    rows: u64,
}

// The footer is written in pieces of a few bytes, thousands of them.
type BatchedWriterOf = polars::io::parquet::write::BatchedWriter<BufWriter<File>>;

/// A column of a row group.
enum Builder {
    Text(Text),
    Integer(PrimitiveChunkedBuilder<Int64Type>),
    Real(Real),
    Flag(BooleanChunkedBuilder),
}

/// Texts. Those that are all equal are one, as a name is that all rows share.
enum Text {
    Equal(Option<String>),
    Several(StringChunkedBuilder),
}

/// Numbers. A column that is null throughout takes no memory.
enum Real {
    Nulls,
    Numbers(PrimitiveChunkedBuilder<Float64Type>),
}

fn data_type(kind: Kind) -> DataType {
    match kind {
        Kind::Text => DataType::String,
        Kind::Integer => DataType::Int64,
        Kind::Real => DataType::Float64,
        Kind::Flag => DataType::Boolean,
    }
}

fn name(field: &Field) -> PlSmallStr {
    PlSmallStr::from_static(field.name)
}

/// Empty builders of columns.
fn builders(fields: &[Field]) -> Vec<Builder> {
    let builder = |c: &Field| match c.kind {
        Kind::Text => Builder::Text(Text::Equal(None)),
        Kind::Integer => Builder::Integer(PrimitiveChunkedBuilder::new(name(c), ROOM)),
        Kind::Real => Builder::Real(Real::Nulls),
        Kind::Flag => Builder::Flag(BooleanChunkedBuilder::new(name(c), ROOM)),
    };
    fields.iter().map(builder).collect()
}

impl Text {
    fn push(&mut self, field: &Field, before: usize, text: &str) {
        match self {
            Text::Several(builder) => builder.append_value(text),
            Text::Equal(Some(value)) if value == text => {}
            Text::Equal(None) => *self = Text::Equal(Some(text.to_owned())),
            Text::Equal(Some(value)) => {
                let mut builder = StringChunkedBuilder::new(name(field), ROOM);
                (0..before).for_each(|_| builder.append_value(&*value));
                builder.append_value(text);
                *self = Text::Several(builder);
            }
        }
    }

    fn finish(self, field: &Field, rows: usize) -> Column {
        match self {
            Text::Equal(value) => {
                let value = Scalar::from(PlSmallStr::from(value.unwrap_or_default()));
                Column::new_scalar(name(field), value, rows)
            }
            Text::Several(builder) => builder.finish().into_column(),
        }
    }
}

impl Real {
    fn push(&mut self, field: &Field, before: usize, value: Option<f64>) {
        match (&mut *self, value) {
            (Real::Nulls, None) => {}
            (Real::Nulls, Some(value)) => {
                let mut builder = PrimitiveChunkedBuilder::new(name(field), ROOM);
                (0..before).for_each(|_| builder.append_null());
                builder.append_value(value);
                *self = Real::Numbers(builder);
            }
            (Real::Numbers(builder), value) => builder.append_option(value),
        }
    }

    fn finish(self, field: &Field, rows: usize) -> Column {
        match self {
            Real::Nulls => Column::full_null(name(field), rows, &DataType::Float64),
            Real::Numbers(builder) => builder.finish().into_column(),
        }
    }
}

impl Builder {
    /// Takes the value of a row that has `before` others of its row group before it.
    fn push(&mut self, field: &Field, before: usize, cell: Cell<'_>) {
        match (self, cell) {
            (Builder::Text(b), Cell::Text(v)) => b.push(field, before, v),
            (Builder::Integer(b), Cell::Integer(v)) => b.append_option(i64::try_from(v).ok()),
            (Builder::Real(b), Cell::Real(v)) => b.push(field, before, v),
            (Builder::Flag(b), Cell::Flag(v)) => b.append_value(v),
            // A column's cells are of one kind; a stray one is empty, or null, rather than a panic.
            (Builder::Text(b), _) => b.push(field, before, ""),
            (Builder::Integer(b), _) => b.append_null(),
            (Builder::Real(b), _) => b.push(field, before, None),
            (Builder::Flag(b), _) => b.append_null(),
        }
    }

    fn finish(self, field: &Field, rows: usize) -> Column {
        match self {
            Builder::Text(b) => b.finish(field, rows),
            Builder::Integer(b) => b.finish().into_column(),
            Builder::Real(b) => b.finish(field, rows),
            Builder::Flag(b) => b.finish().into_column(),
        }
    }
}

impl Table {
    /// Starts a table of [`Row`]s that will be `path`.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(crate) fn create(path: &Path) -> Result<Table> {
        Table::of(path, columns().map(|c| Field { name: c.name, kind: c.kind }).collect())
    }

    /// Starts a table of some columns.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub(crate) fn of(path: &Path, fields: Vec<Field>) -> Result<Table> {
        let draft = Draft::create(path)?;
        let schema = Schema::from_iter(fields.iter().map(|f| (name(f), data_type(f.kind))));
        let writer = begin(&draft, &schema)?;
        let builders = builders(&fields);
        Ok(Table { draft, writer, fields, builders, pending: 0, rows: 0 })
    }

    /// Takes a row, by the value of each column.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn push<'a>(&mut self, cells: impl Iterator<Item = Cell<'a>>) -> Result<()> {
        for ((field, builder), cell) in self.fields.iter().zip(&mut self.builders).zip(cells) {
            builder.push(field, self.pending, cell);
        }
        self.pending += 1;
        self.rows += 1;
        if self.pending == ROW_GROUP { self.write_group() } else { Ok(()) }
    }

    fn write_group(&mut self) -> Result<()> {
        if self.pending == 0 {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.builders, builders(&self.fields));
        let rows = self.pending;
        let full = self.fields.iter().zip(full).map(|(field, builder)| builder.finish(field, rows)).collect();
        DataFrame::new(rows, full)
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
    pub(crate) fn finish(mut self, metadata: Vec<(String, String)>) -> Result<(u64, u64)> {
        self.write_group()?;
        // The summary is among the metadata and exists only now, after the last row.
        Ok((self.rows, finish(&self.writer, self.draft, metadata)?))
    }
}

/// Begins a file of such columns.
fn begin(draft: &Draft, schema: &Schema) -> Result<BatchedWriterOf> {
    let path = draft.path();
    let file = draft.file().try_clone().tried("write", path)?;
    ParquetWriter::new(BufWriter::with_capacity(BUFFER, file))
        .with_compression(ParquetCompression::Zstd(None))
        .set_parallel(false)
        .batched(schema)
        .map_err(|e| table_error(path, e))
}

/// Writes the footer with `metadata`, and gives the file its name. Returns its bytes.
fn finish(writer: &BatchedWriterOf, draft: Draft, metadata: Vec<(String, String)>) -> Result<u64> {
    let seal = (SEAL.to_owned(), seal::BLANK.to_owned());
    let metadata = KeyValueMetadata::from_static([metadata, vec![seal]].concat());
    let context = ParquetMetadataContext { arrow_schema: "" };
    let footer = || {
        let pairs = metadata.collect(context)?;
        let mut file = writer.get_writer().lock().unwrap_or_else(PoisonError::into_inner);
        file.end(Some(pairs))
    };
    footer().map_err(|e| table_error(draft.path(), e))?;
    seal::put(draft.file()).tried("write", draft.path())?;
    draft.commit()
}

impl Sink for Table {
    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        self.push(columns().map(|column| column.cell(row)))
    }
}

/// The key-value metadata of a table that was written before; `None` where there is no such file, it is no table, or it is
/// not as it was written.
pub(crate) fn metadata(path: &Path) -> Option<Vec<(String, String)>> {
    known(path).ok().filter(|all| !all.is_empty())
}

/// The key-value metadata of a table that is read, of any program's.
///
/// # Errors
/// It is not as it was written, or cannot be read.
pub(crate) fn known(path: &Path) -> Result<Vec<(String, String)>> {
    check_seal(path)?;
    let table = read::mapped(path)?;
    let pairs =
        read::of_polars(path, || Ok(read::reader(&table).get_metadata()?.key_value_metadata().clone()))?;
    let pairs = pairs.into_iter().flatten();
    Ok(pairs.filter_map(|kv| Some((kv.key.to_string(), kv.value?.to_string()))).collect())
}

/// Checks that a table is as it was written; one of another program's has nothing to be told by.
///
/// # Errors
/// It is not, or cannot be read.
pub(crate) fn check_seal(path: &Path) -> Result<()> {
    match opened::file(path).and_then(|file| seal::look(&file)).tried("read", path)? {
        Seal::Whole | Seal::Absent => Ok(()),
        Seal::Broken => {
            let what = "it is not as lpa wrote it (checksum); the command that made it makes it again";
            Err(Error::damaged(path, what))
        }
    }
}

/// Of which of some keys the metadata of a table speak, as far as can be seen where it is damaged.
pub(crate) fn mentions<const N: usize>(path: &Path, keys: [&str; N]) -> [bool; N] {
    if let Some(metadata) = metadata(path) {
        return keys.map(|key| told(&metadata, key).is_some());
    }
    let end = opened::file(path).and_then(|file| seal::end(&file)).unwrap_or_default();
    keys.map(|key| end.windows(key.len()).any(|w| w == key.as_bytes()))
}

/// What metadata say of a key.
pub(crate) fn told<'a>(metadata: &'a [(String, String)], key: &str) -> Option<&'a str> {
    metadata.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
}

/// What the metadata of a table say of a key.
pub(crate) fn value(path: &Path, key: &str) -> Option<String> {
    metadata(path)?.into_iter().find(|(k, _)| k == key).map(|(_, value)| value)
}

fn table_error(path: &Path, e: PolarsError) -> Error {
    match e {
        PolarsError::IO { error, .. } => Error::Io {
            action: "write",
            path: path.to_owned(),
            source: explained(path, std::io::Error::new(error.kind(), error.to_string())),
        },
        other => Error::Table { path: path.to_owned(), what: other.to_string() },
    }
}
