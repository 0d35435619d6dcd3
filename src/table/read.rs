//! Some columns of a table that is there, some row groups at a time.
//!
//! Knows nothing of what the columns mean.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use memmap2::Mmap;
use polars::prelude::*;

use crate::error::{Error, Result, Tried};
use crate::table::{Field, check_seal, data_type, opened};

/// Rows of a table that follow each other.
pub(crate) struct Piece(DataFrame);

impl Piece {
    /// Texts of the column `i`; where one is null it is empty.
    pub(crate) fn texts(&self, i: usize) -> Vec<&str> {
        let column = self.0.columns().get(i).and_then(|c| c.str().ok());
        column.map_or_else(Vec::new, |c| c.iter().map(Option::unwrap_or_default).collect())
    }

    /// Counts of the column `i`; where one is null or negative it is 0.
    pub(crate) fn integers(&self, i: usize) -> Vec<u64> {
        let count = |v: Option<i64>| v.and_then(|v| u64::try_from(v).ok()).unwrap_or(0);
        let column = self.0.columns().get(i).and_then(|c| c.i64().ok());
        column.map_or_else(Vec::new, |c| c.iter().map(count).collect())
    }

    /// Numbers of the column `i`: finite, or NaN where there is none.
    pub(crate) fn reals(&self, i: usize) -> Vec<f64> {
        let number = |v: f64| if v.is_finite() { v } else { f64::NAN };
        let Some(column) = self.0.columns().get(i).and_then(|c| c.f64().ok()) else { return Vec::new() };
        let mut all = Vec::with_capacity(column.len());
        for chunk in column.downcast_iter() {
            match chunk.validity() {
                None => all.extend(chunk.values().iter().copied().map(number)),
                Some(_) => all.extend(chunk.iter().map(|v| v.map_or(f64::NAN, |&v| number(v)))),
            }
        }
        all
    }

    /// Flags of the column `i`.
    pub(crate) fn flags(&self, i: usize) -> Vec<bool> {
        let column = self.0.columns().get(i).and_then(|c| c.bool().ok());
        column.map_or_else(Vec::new, |c| c.iter().map(Option::unwrap_or_default).collect())
    }
}

/// The bytes of the table `path`. polars would map it too, and panics where the system refuses.
///
/// # Errors
/// There is none, or it cannot be mapped.
pub(super) fn mapped(path: &Path) -> Result<Mmap> {
    let file = opened::file(path).tried("read", path)?;
    // SAFETY: the contract is that nobody changes the file while it is mapped. lpa writes tables anew and renames them, and
    // never changes one. Another program could, and then it is as with shards (`run/read/mapped.rs`); what polars makes of
    // other bytes is checked by polars.
    unsafe { Mmap::map(&*file) }.tried("map", path)
}

/// What reads a table.
pub(super) fn reader(table: &Mmap) -> ParquetReader<Cursor<&[u8]>> {
    ParquetReader::new(Cursor::new(table))
}

/// The names of the columns of the table `path`.
///
/// # Errors
/// There is no Parquet file, or it is damaged.
pub(crate) fn names(path: &Path) -> Result<Vec<String>> {
    check_seal(path)?;
    let table = mapped(path)?;
    let schema = of_polars(path, || reader(&table).schema())?;
    Ok(schema.iter_names().map(ToString::to_string).collect())
}

/// The number of rows of the table `path`.
///
/// # Errors
/// There is no Parquet file, or it is damaged.
pub(crate) fn rows(path: &Path) -> Result<u64> {
    let table = mapped(path)?;
    Ok(of_polars(path, || reader(&table).num_rows())? as u64)
}

/// Values that are read at a time, about: opening a row group takes as long as thousands of them.
const AT_A_TIME: usize = 1 << 18;

/// Reads `fields` of the table `path`, and hands the rows, some row groups at a time, to `take` with the columns in this
/// order.
///
/// # Errors
/// There is no Parquet file, it is damaged, or lacks a column; or `take` refuses.
pub(crate) fn read(path: &Path, fields: &[Field], mut take: impl FnMut(&Piece) -> Result<()>) -> Result<()> {
    check_seal(path)?;
    let table = mapped(path)?;
    let (metadata, schema) = of_polars(path, || {
        let mut reader = reader(&table);
        Ok((reader.get_metadata()?.clone(), reader.schema()?))
    })?;
    for field in fields {
        let there = schema.get(field.name).map(DataType::from_arrow_field);
        if there.as_ref() != Some(&data_type(field.kind)) {
            let what = format!("the table has no column '{}' as this lpa writes it", field.name);
            return Err(Error::NotFound { path: path.to_owned(), what });
        }
    }
    let names: Vec<String> = fields.iter().map(|f| f.name.to_owned()).collect();
    // A single column is read where it is asked for; several keep all processors busy.
    let threads = if fields.len() == 1 { ParallelStrategy::None } else { ParallelStrategy::Auto };
    let (mut from, mut rows) = (0, 0);
    for (i, group) in metadata.row_groups.iter().enumerate() {
        rows += group.num_rows();
        if rows * names.len() < AT_A_TIME && i + 1 < metadata.row_groups.len() {
            continue;
        }
        let mut reader = reader(&table)
            .with_columns(Some(names.clone()))
            .with_slice(Some((from, rows)))
            .read_parallel(threads);
        reader.set_metadata(metadata.clone());
        let frame = of_polars(path, || reader.finish()?.select(names.iter().map(String::as_str)))?;
        take(&Piece(frame))?;
        (from, rows) = (from + rows, 0);
    }
    Ok(())
}

/// What polars reads of a file, or what it says against it.
pub(super) fn of_polars<T>(path: &Path, read: impl FnOnce() -> PolarsResult<T>) -> Result<T> {
    let said = match guarded(read) {
        Some(Ok(read)) => return Ok(read),
        Some(Err(e)) => e.to_string().lines().next().unwrap_or_default().to_owned(),
        None => "it is damaged".to_owned(),
    };
    Err(Error::Io { action: "read", path: path.to_owned(), source: std::io::Error::other(said) })
}

/// What is read, or nothing where polars panics, as it does on some damaged footers. Nothing is printed of that.
fn guarded<T>(read: impl FnOnce() -> T) -> Option<T> {
    Silence::begin();
    let read = catch_unwind(AssertUnwindSafe(read));
    Silence::end();
    read.ok()
}

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;

/// That panics print nothing while something is read. The hook is the whole program's: the first of those that read at
/// the same time takes it away, and the last brings it back.
struct Silence {
    readers: usize,
    hook: Option<Hook>,
}

static SILENCE: Mutex<Silence> = Mutex::new(Silence { readers: 0, hook: None });

impl Silence {
    fn begin() {
        let mut silence = SILENCE.lock().unwrap_or_else(PoisonError::into_inner);
        if silence.readers == 0 {
            silence.hook = Some(take_hook());
            set_hook(Box::new(|_| {}));
        }
        silence.readers += 1;
    }

    fn end() {
        let mut silence = SILENCE.lock().unwrap_or_else(PoisonError::into_inner);
        silence.readers -= 1;
        if silence.readers == 0 {
            silence.hook.take().into_iter().for_each(set_hook);
        }
    }
}
