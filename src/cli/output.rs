//! Where the rows of an analysis go, and what the table is called.

use std::ffi::OsStr;
use std::io::{BufWriter, ErrorKind};
use std::path::{Path, PathBuf};

use super::analyze::Format;
use crate::analyze::Sink;
use crate::error::{Error, Result};
use crate::hash::xxh3_64;
use crate::reference::{Own, Spec};
use crate::row::Row;
use crate::summary::Summary;
use crate::table::Table;
use crate::text::{Csv, JsonLines};

/// Longest list of references in a file name.
const LONGEST: usize = 80;

/// Where rows go.
pub(super) enum Output {
    Table(Box<Table>),
    Csv(Box<Csv<BufWriter<std::io::Stdout>>>),
    JsonLines(JsonLines<BufWriter<std::io::Stdout>>),
}

impl Output {
    /// To the file `table`, else as text to standard output.
    pub(super) fn open(format: Format, table: Option<&Path>) -> Result<Output> {
        let stdout = || BufWriter::with_capacity(1 << 16, std::io::stdout());
        Ok(match (table, format) {
            (Some(path), _) => Output::Table(Box::new(Table::create(path)?)),
            (None, Format::Csv) => Output::Csv(Box::new(Csv::new(stdout())?)),
            (None, _) => Output::JsonLines(JsonLines::new(stdout())),
        })
    }
}

/// Rows to the output, and to the summary.
pub(super) struct Tee {
    pub(super) output: Output,
    pub(super) summary: Summary,
}

impl Sink for Tee {
    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        self.summary.row(row)?;
        match &mut self.output {
            Output::Table(table) => table.row(row),
            Output::Csv(csv) => csv.row(row),
            Output::JsonLines(lines) => lines.row(row),
        }
    }
}

/// The table's file: `RUN/metrics.parquet`, or `RUN/metrics.REFERENCES.parquet` for others than the
/// final iterate, so that another set of references adds a file. In the working directory, under the
/// run's name, where the run cannot be written.
///
/// # Errors
/// The run's directory cannot be looked into.
pub(super) fn default_table(run: &Path, references: &[Spec]) -> Result<PathBuf> {
    let name = match references {
        [Spec::Own(Own::Final)] => "metrics.parquet".to_owned(),
        other => format!("metrics.{}.parquet", slug(other)),
    };
    match tempfile::tempfile_in(run) {
        Ok(_) => Ok(run.join(name)),
        Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            let full = run.canonicalize().unwrap_or_else(|_| run.to_owned());
            let of = full.file_name().unwrap_or(OsStr::new("run")).to_string_lossy();
            Ok(PathBuf::from(format!("./{of}.{name}")))
        }
        Err(source) => Err(Error::Io { action: "write", path: run.join(name), source }),
    }
}

/// Checks that a table can be written, before hours of work.
///
/// # Errors
/// It cannot.
pub(super) fn check_writable(table: &Path) -> Result<()> {
    let directory = table.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match tempfile::tempfile_in(directory) {
        Ok(_) => Ok(()),
        Err(source) => Err(Error::Io { action: "write", path: table.to_owned(), source }),
    }
}

/// References as a part of a file name: `final+step-100`.
fn slug(references: &[Spec]) -> String {
    let name = |spec: &Spec| match spec {
        Spec::Own(own) => own.to_string(),
        Spec::Path(text) => {
            let path = text.trim_end_matches('/').trim_end_matches(".safetensors");
            path.rsplit('/').next().unwrap_or(path).to_owned()
        }
    };
    let all: Vec<String> = references.iter().map(name).collect();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.+".contains(c) { c } else { '-' };
    let text: String = all.join("+").chars().map(plain).collect();
    if text.len() <= LONGEST {
        text
    } else {
        format!("{}-references-{:08x}", references.len(), xxh3_64(text.as_bytes()) >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_references_has_a_file_of_its_own() {
        let slug_of = |all: &[&str]| slug(&all.iter().map(|s| s.parse().unwrap()).collect::<Vec<_>>());
        assert_eq!(slug_of(&["final", "step:100"]), "final+step-100");
        assert_eq!(slug_of(&["runs/b:final", "x/best.safetensors"]), "b-final+best");
        assert_eq!(slug_of(&["mean:10..20", "ema:0.99"]), "mean-10..20+ema-0.99");
        let many: Vec<String> = (0..32).map(|i| format!("step:{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(slug_of(&many).starts_with("32-references-"));
    }
}
