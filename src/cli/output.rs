//! Where the rows of an analysis go, and what the table is called.

use std::ffi::OsStr;
use std::io::{BufWriter, ErrorKind};
use std::path::{Path, PathBuf};

use super::analyze::Format;
use crate::analyze::Sink;
use crate::error::{Error, Result};
use crate::group::ALL;
use crate::hash::xxh3_64;
use crate::reference::{Own, Spec};
use crate::row::Row;
use crate::run::manifest::GRAD;
use crate::run::{Run, parent};
use crate::table::{Table, metadata};
use crate::text::{Csv, JsonLines};

/// Longest description in a file name.
const LONGEST: usize = 80;

/// Digits of a hash in a file name, which tell runs of the same name apart.
const WHICH: usize = 12;

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

impl Sink for Output {
    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        match self {
            Output::Table(table) => table.row(row),
            Output::Csv(csv) => csv.row(row),
            Output::JsonLines(lines) => lines.row(row),
        }
    }
}

/// What a table's file name tells apart, besides the run.
pub(super) struct Question<'a> {
    pub(super) references: &'a [Spec],
    pub(super) streams: &'a [String],
    pub(super) groups: &'a [String],
    /// As it was typed.
    pub(super) steps: Option<&'a str>,
}

impl Question<'_> {
    /// `metrics.parquet` for the main question, `metrics.PARTS.parquet` for another one, so that an
    /// answer never takes the place of another.
    fn file_name(&self) -> String {
        let mut parts = Vec::new();
        if self.references != [Spec::Own(Own::Final)] {
            parts.push(self.references.iter().map(reference_name).collect::<Vec<_>>().join("+"));
        }
        if self.streams != [GRAD] {
            parts.push(self.streams.join("+"));
        }
        if self.groups != [ALL] {
            parts.push(
                self.groups.iter().map(|g| if g == ALL { "all" } else { g }).collect::<Vec<_>>().join("+"),
            );
        }
        if let Some(steps) = self.steps {
            parts.push(format!("steps-{steps}"));
        }
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.+".contains(c) { c } else { '-' };
        let text: String = parts.join(".").chars().map(plain).collect();
        match text.len() {
            0 => "metrics.parquet".to_owned(),
            1..=LONGEST => format!("metrics.{text}.parquet"),
            _ => format!("metrics.{:016x}.parquet", xxh3_64(parts.join("\n").as_bytes())),
        }
    }
}

/// A reference as a part of a file name: `step-100`.
fn reference_name(spec: &Spec) -> String {
    match spec {
        Spec::Own(own) => own.to_string(),
        Spec::Path(text) => {
            let path = text.trim_end_matches('/').trim_end_matches(".safetensors");
            path.rsplit('/').next().unwrap_or(path).to_owned()
        }
    }
}

/// The table's file in the run. Where the run cannot be written it is in the working directory, under the run's
/// name and a part of a hash of which run it is, since many have the same name.
///
/// # Errors
/// The run's directory cannot be looked into.
pub(super) fn default_table(run: &Run, question: &Question<'_>) -> Result<PathBuf> {
    let (run_id, run) = (&run.manifest.run_id, run.path.as_path());
    let name = question.file_name();
    match tempfile::tempfile_in(run) {
        Ok(_) => Ok(run.join(name)),
        Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            let full = run.canonicalize().unwrap_or_else(|_| run.to_owned());
            let of = full.file_name().unwrap_or(OsStr::new("run")).to_string_lossy();
            // Copies of a run have the same id, and another run may take its place.
            let which = [run_id.as_bytes(), full.as_os_str().as_encoded_bytes()].concat();
            let which = format!("{:016x}", xxh3_64(&which));
            Ok(PathBuf::from(format!("./{of}.{}.{name}", &which[..WHICH])))
        }
        Err(source) => Err(Error::Io { action: "write", path: run.join(name), source }),
    }
}

/// Checks that a table can be written, before hours of work, and that it takes the place of nothing but
/// a table.
///
/// # Errors
/// It cannot, or there is another file.
pub(super) fn check_writable(table: &Path) -> Result<()> {
    if std::fs::symlink_metadata(table).is_ok_and(|m| m.is_symlink()) {
        let source = std::io::Error::other("it is a link; name the file itself by --out");
        return Err(Error::Io { action: "write", path: table.to_owned(), source });
    }
    if table.exists() && metadata(table).is_none_or(|all| all.iter().all(|(k, _)| k != "lpa.version")) {
        let source = std::io::Error::other("there is a file that is no table of lpa's; choose another name");
        return Err(Error::Io { action: "write", path: table.to_owned(), source });
    }
    match tempfile::tempfile_in(parent(table)) {
        Ok(_) => Ok(()),
        Err(source) => Err(Error::Io { action: "write", path: table.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_has_a_file_of_its_own() {
        let name = |references: &[&str], streams: &[&str], groups: &[&str], steps| {
            let owned = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<String>>();
            let references: Vec<Spec> = references.iter().map(|s| s.parse().unwrap()).collect();
            let (streams, groups) = (owned(streams), owned(groups));
            Question { references: &references, streams: &streams, groups: &groups, steps }.file_name()
        };
        assert_eq!(name(&["final"], &["grad"], &["*"], None), "metrics.parquet");
        assert_eq!(name(&["final", "step:100"], &["grad"], &["*"], None), "metrics.final+step-100.parquet");
        assert_eq!(
            name(&["runs/b:final", "x/best.safetensors"], &["grad"], &["*"], None),
            "metrics.b-final+best.parquet"
        );
        assert_eq!(name(&["final"], &["grad", "update"], &["*"], None), "metrics.grad+update.parquet");
        assert_eq!(name(&["final"], &["grad"], &["*", "each"], None), "metrics.all+each.parquet");
        assert_eq!(name(&["final"], &["grad"], &["*"], Some("0..9:3")), "metrics.steps-0..9-3.parquet");
        let many: Vec<String> = (0..32).map(|i| format!("step:{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(name(&many, &["grad"], &["*"], None).len(), "metrics.0123456789abcdef.parquet".len());
    }
}
