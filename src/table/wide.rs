//! Tables with columns that are known only when they are written: such as what users recorded of their trainings.

use std::path::Path;

use polars::prelude::*;

use crate::error::Result;
use crate::row::Kind;
use crate::run::Draft;
use crate::table::read::{mapped, of_polars, reader};
use crate::table::{begin, check_seal, data_type, finish, table_error};

/// A value of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Datum {
    Text(String),
    Integer(u64),
    Real(f64),
    Flag(bool),
}

/// A column with its values, which are null where there is none or where they are of another kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wide {
    /// Its name.
    pub name: String,
    /// The type of its values.
    pub kind: Kind,
    /// By row.
    pub values: Vec<Option<Datum>>,
}

impl Wide {
    fn column(&self) -> Column {
        let name = PlSmallStr::from_str(&self.name);
        match self.kind {
            Kind::Text => {
                let texts = self.values.iter().map(|v| match v {
                    Some(Datum::Text(text)) => Some(text.as_str()),
                    _ => None,
                });
                StringChunked::from_iter_options(name, texts).into_column()
            }
            Kind::Integer => {
                let numbers = self.values.iter().map(|v| match v {
                    Some(Datum::Integer(n)) => i64::try_from(*n).ok(),
                    _ => None,
                });
                Int64Chunked::from_iter_options(name, numbers).into_column()
            }
            Kind::Real => {
                let numbers = self.values.iter().map(|v| match v {
                    Some(Datum::Real(x)) => Some(*x),
                    _ => None,
                });
                Float64Chunked::from_iter_options(name, numbers).into_column()
            }
            Kind::Flag => {
                let flags = self.values.iter().map(|v| match v {
                    Some(Datum::Flag(flag)) => Some(*flag),
                    _ => None,
                });
                BooleanChunked::from_iter_options(name, flags).into_column()
            }
        }
    }

    /// The same value, that of the first row, in so many rows.
    fn repeated(&self, rows: usize) -> Column {
        let one = self.column();
        let value = one.get(0).map_or(AnyValue::Null, AnyValue::into_static);
        Column::new_scalar(one.name().clone(), Scalar::new(data_type(self.kind), value), rows)
    }
}

/// Writes a table of some columns, which are equally long. Returns its bytes.
///
/// # Errors
/// The disk refuses.
pub(crate) fn write_wide(path: &Path, columns: &[Wide], metadata: Vec<(String, String)>) -> Result<u64> {
    let draft = Draft::create(path)?;
    let rows = columns.first().map_or(0, |c| c.values.len());
    let frame = DataFrame::new(rows, columns.iter().map(Wide::column).collect());
    let frame = frame.map_err(|e| table_error(path, e))?;
    let mut writer = begin(&draft, frame.schema())?;
    writer.write_batch(&frame).map_err(|e| table_error(path, e))?;
    finish(&writer, draft, metadata)
}

/// Writes a table again, with some more columns, of which each has one value. Returns its bytes.
///
/// # Errors
/// There is no table, or it is damaged; or the disk refuses.
pub(crate) fn widen(from: &Path, to: &Path, more: &[Wide], metadata: Vec<(String, String)>) -> Result<u64> {
    check_seal(from)?;
    let table = mapped(from)?;
    let (known, schema) = of_polars(from, || {
        let mut reader = reader(&table);
        Ok((reader.get_metadata()?.clone(), reader.schema()?))
    })?;
    let mut wide = Schema::from_arrow_schema(&schema);
    for column in more {
        wide.with_column(PlSmallStr::from_str(&column.name), data_type(column.kind));
    }
    let draft = Draft::create(to)?;
    let mut writer = begin(&draft, &wide)?;
    let mut at = 0;
    for group in &known.row_groups {
        let rows = group.num_rows();
        let mut reader = reader(&table).with_slice(Some((at, rows)));
        reader.set_metadata(known.clone());
        let frame = of_polars(from, || reader.finish())?;
        let columns = frame.columns().iter().cloned().chain(more.iter().map(|c| c.repeated(rows)));
        DataFrame::new(rows, columns.collect())
            .and_then(|frame| writer.write_batch(&frame))
            .map_err(|e| table_error(to, e))?;
        at += rows;
    }
    finish(&writer, draft, metadata)
}
