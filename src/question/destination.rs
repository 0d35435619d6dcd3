//! Where the table of a question goes, and what it is called.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, Tried, Usage};
use crate::group;
use crate::hash::xxh3_64;
use crate::question::Question;
use crate::run::format::manifest::GRAD;
use crate::run::{Run, parent};
use crate::table::{Contents, mentions, metadata};

/// What tables of metrics are called.
const METRICS: &str = "metrics";

/// What files of other kinds end in.
const OTHERS: [&str; 14] = [
    "arrow", "csv", "feather", "html", "json", "jsonl", "ndjson", "npz", "pdf", "png", "svg", "tsv", "txt",
    "xlsx",
];

/// Longest description in a file name.
const LONGEST: usize = 80;

/// Digits of a hash in a file name, which tell runs of the same name apart.
const WHICH: usize = 12;

/// Nothing for the main question, else what tells it from others; `references` are the names of those that were
/// opened.
pub(super) fn description(question: &Question, references: &[&str]) -> String {
    let mut parts = Vec::new();
    if references != ["final"] {
        let names = references.iter().map(|name| name.trim_end_matches(".safetensors"));
        parts.push(names.collect::<Vec<_>>().join("+"));
    }
    if question.streams != [GRAD] {
        parts.push(question.streams.join("+"));
    }
    parts.extend(group::described(&question.groups));
    parts.extend(question.steps.described());
    if question.shadow {
        parts.push("shadow".to_owned());
    }
    in_file_names(&parts)
}

/// A description as names of files have it: a hash of a long one.
fn in_file_names(parts: &[String]) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.+".contains(c) { c } else { '-' };
    let text: String = parts.join(".").chars().map(plain).collect();
    if text.len() > LONGEST { format!("{:016x}", xxh3_64(parts.join("\n").as_bytes())) } else { text }
}

/// `KIND.parquet` for the main question, `KIND.PARTS.parquet` for another one.
fn file_name(kind: &str, parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|p| !p.is_empty()).collect();
    [&[kind], parts.as_slice(), &["parquet"]].concat().join(".")
}

// A table answers one question (references, streams, groups, steps) and is named after it. Adding rows to a
// table would mean to rewrite it, and a query that forgets the column `reference` would mix them. Measuring
// a reference again beside a new one costs a small part of decoding.
/// Where tables go that nothing else is said of: into the run. Where the run cannot be written, into the working
/// directory, under the run's name and a part of a hash of which run it is, since many have the same name.
pub(crate) struct Destination {
    pub(super) directory: PathBuf,
    /// What the names of files begin with.
    prefix: String,
    /// The file, where it was named.
    named: Option<PathBuf>,
}

impl Destination {
    /// For the file `out`, or where tables of a run go.
    ///
    /// # Errors
    /// The run's directory cannot be looked into.
    pub(crate) fn new(run: &Run, out: Option<&Path>) -> Result<Destination> {
        match out {
            Some(out) => Ok(Destination {
                directory: parent(out).to_owned(),
                prefix: String::new(),
                named: Some(out.to_owned()),
            }),
            None => Destination::of(run),
        }
    }

    fn of(run: &Run) -> Result<Destination> {
        let (run_id, run) = (&run.manifest.run_id, run.path.as_path());
        match tempfile::tempfile_in(run) {
            Ok(_) => Ok(Destination { directory: run.to_owned(), prefix: String::new(), named: None }),
            Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
                let full = run.canonicalize().unwrap_or_else(|_| run.to_owned());
                let of = full.file_name().unwrap_or(OsStr::new("run")).to_string_lossy();
                // Copies of a run have the same id, and another run may take its place.
                let which = [run_id.as_bytes(), full.as_os_str().as_encoded_bytes()].concat();
                let which = format!("{:016x}", xxh3_64(&which));
                let prefix = format!("{of}.{}.", &which[..WHICH]);
                Ok(Destination { directory: PathBuf::from("."), prefix, named: None })
            }
            Err(source) => Err(source).tried("write", &run.join(file_name(METRICS, &[]))),
        }
    }

    /// The table's file. Where a table of that name answers another question (references of one name in two
    /// places, say), this one's name ends in a hash of the question, so that no answer takes the place of another.
    pub(super) fn table(&self, description: &str, provenance: &[(String, String)]) -> PathBuf {
        if let Some(named) = &self.named {
            return named.clone();
        }
        let path =
            |parts: &[&str]| self.directory.join(format!("{}{}", self.prefix, file_name(METRICS, parts)));
        let plain = path(&[description]);
        let asked = asked(provenance);
        match metadata(&plain) {
            Some(there) if self::asked(&there) != asked => {
                path(&[description, &format!("{:08x}", xxh3_64(asked.as_bytes()) >> 32)])
            }
            _ => plain,
        }
    }

    /// The directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file of a table of another `kind`, described by `parts`, which can be written.
    ///
    /// # Errors
    /// As [`check_writable`].
    pub(crate) fn of_kind(&self, kind: &str, contents: Contents, parts: &[String]) -> Result<PathBuf> {
        let name = file_name(kind, &[&in_file_names(parts)]);
        let usual = || self.directory.join(format!("{}{name}", self.prefix));
        let path = self.named.clone().unwrap_or_else(usual);
        check_writable(&path, contents)?;
        Ok(path)
    }
}

/// The question that a table answers: of which run, against what, along what and for which groups. A reference of
/// the run itself is the same one though it may change while the training goes on; another run's is told by
/// that run; a file by its values.
fn asked(provenance: &[(String, String)]) -> String {
    let value = |key: &str| provenance.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str());
    let references: Vec<serde_json::Value> =
        serde_json::from_str(value("lpa.references")).unwrap_or_default();
    let identity = |r: &serde_json::Value| match (&r["run"], &r["file"]) {
        (serde_json::Value::String(run), _) => format!("{run}:{}", r["name"]),
        (_, serde_json::Value::Bool(true)) => r["xxh3"].to_string(),
        _ => r["name"].to_string(),
    };
    let mut all: Vec<String> = references.iter().map(identity).collect();
    all.extend(["lpa.run_id", "lpa.streams", "lpa.groups", "lpa.shadows"].map(|key| value(key).to_owned()));
    all.join("\n")
}

/// Checks that a table can be written, before hours of work, and that it takes the place of nothing but a table of
/// the same kind.
///
/// # Errors
/// It cannot, or there is another file.
pub(crate) fn check_writable(table: &Path, contents: Contents) -> Result<()> {
    if std::fs::symlink_metadata(table).is_ok_and(|m| m.is_symlink()) {
        let source = std::io::Error::other("it is a link; name the file itself by --out");
        return Err(Error::Io { action: "write", path: table.to_owned(), source });
    }
    let there = table.exists().then(|| mentions(table, ["lpa.version", contents.key()]));
    if let Some([is_ours, is_same]) = there
        && !(is_ours && is_same)
    {
        let what = match is_ours {
            true => "there is a table of lpa's that holds something else; choose another name",
            false => "there is a file that is no table of lpa's; choose another name",
        };
        let source = std::io::Error::other(what);
        return Err(Error::Io { action: "write", path: table.to_owned(), source });
    }
    let extension = table.extension().map(|e| e.to_string_lossy().to_lowercase());
    if let Some(other) = extension.filter(|e| OTHERS.contains(&e.as_str())) {
        let what =
            format!("--out {}: tables are Parquet files, and not {other}; name it .parquet", table.display());
        return Err(Usage(what).into());
    }
    tempfile::tempfile_in(parent(table)).map(drop).tried("write", table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::Steps;

    #[test]
    fn every_question_has_a_file_of_its_own() {
        let name = |references: &[&str], streams: &[&str], groups: &[&str], steps: Option<&str>| {
            let owned = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<String>>();
            let steps = steps.map_or(Steps::default(), |s| s.parse().unwrap());
            let (streams, groups) = (owned(streams), owned(groups));
            let question = Question { streams, groups, steps, ..Question::default() };
            file_name(METRICS, &[&description(&question, references)])
        };
        assert_eq!(name(&["final"], &["grad"], &["*"], None), "metrics.parquet");
        assert_eq!(name(&["final", "step:100"], &["grad"], &["*"], None), "metrics.final+step-100.parquet");
        assert_eq!(
            name(&["b:final", "best.safetensors"], &["grad"], &["*"], None),
            "metrics.b-final+best.parquet"
        );
        assert_eq!(name(&["ck-5/model.safetensors"], &["grad"], &["*"], None), "metrics.ck-5-model.parquet");
        assert_eq!(name(&["final"], &["grad", "update"], &["*"], None), "metrics.grad+update.parquet");
        assert_eq!(name(&["final"], &["grad"], &["*", "each"], None), "metrics.all+each.parquet");
        assert_eq!(name(&["final"], &["grad"], &["*"], Some("0..9:3")), "metrics.steps-0..9-3.parquet");
        let many: Vec<String> = (0..32).map(|i| format!("step:{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(name(&many, &["grad"], &["*"], None).len(), "metrics.0123456789abcdef.parquet".len());
    }

    #[test]
    fn two_files_are_two_questions_and_a_run_that_goes_on_is_one() {
        let of = |references: &str| asked(&[("lpa.references".to_owned(), references.to_owned())]);
        let file = |xxh3: &str| of(&format!(r#"[{{"name": "model", "file": true, "xxh3": "{xxh3}"}}]"#));
        assert_ne!(file("a"), file("b"));
        let last = |xxh3: &str| of(&format!(r#"[{{"name": "last", "file": false, "xxh3": "{xxh3}"}}]"#));
        assert_eq!(last("a"), last("b"));
        let run = |id: &str| of(&format!(r#"[{{"name": "b:final", "run": "{id}", "file": false}}]"#));
        assert_ne!(run("1"), run("2"));
    }
}
