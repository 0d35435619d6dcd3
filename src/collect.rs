//! Tables of several runs as one set of files that databases read as one table, and a table of the runs.
//!
//! Owns where each lies and which columns are added: what users recorded of their trainings. Knows nothing of what the
//! numbers mean. `run=NAME` in a path is a column's value by a convention that DuckDB, polars and Spark know, so that a
//! question about some runs reads their files alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result, Tried, Usage};
use crate::hash::xxh3_64;
use crate::question::check_writable;
use crate::report::SUMMARY;
use crate::row::{Kind, SCHEMA_VERSION};
use crate::table::{Contents, Datum, Opened, SEAL, Wide, known, metadata, rows, told, widen, write_wide};
use crate::training::Training;
use crate::uninterrupted::list;

/// Version of the columns of both.
const COLUMNS: u32 = 1;
/// Key of the metadata of a table that says of what it was made.
const MADE_OF: &str = "lpa.collected_of";
/// Below the directory: the rows.
const METRICS: &str = "metrics";
/// Below the directory: the runs.
const RUNS: &str = "runs.parquet";
/// Below the directory of a run: its rows.
const TABLE: &str = "metrics.parquet";
/// What directories of runs begin with.
const RUN: &str = "run=";

/// What was done.
#[derive(Debug)]
pub(crate) struct Collected {
    /// Runs whose rows were written.
    pub written: u64,
    /// Runs whose rows were there.
    pub before: u64,
    /// Rows of all.
    pub rows: u64,
    /// The table of the runs.
    pub runs: PathBuf,
    /// All files of rows, as a pattern.
    pub metrics: PathBuf,
}

/// One run.
struct Member {
    name: String,
    table: PathBuf,
    training: Training,
    summary: String,
    /// The table's hash of itself.
    seal: String,
}

/// Collects tables that lpa analyze has written, each with a name that no other has, in a directory.
///
/// # Errors
/// One is no such table, is damaged or of another version; the directory holds a run that is not named; or the disk
/// refuses.
pub(crate) fn collect(tables: &[(String, PathBuf)], to: &Path) -> Result<Collected> {
    if let Some((name, _)) =
        tables.iter().enumerate().find_map(|(i, t)| tables[..i].iter().find(|o| o.0 == t.0))
    {
        return Err(Usage(format!("{name} is named twice")).into());
    }
    let mut places = BTreeMap::new();
    for (name, table) in tables {
        if let Some(other) = places.insert(table.canonicalize().unwrap_or_else(|_| table.clone()), name) {
            return Err(Usage(format!("{other} and {name} are one run")).into());
        }
    }
    let members: Vec<Member> =
        tables.iter().map(|(name, table)| Member::open(name, table)).collect::<Result<_>>()?;
    let folder = to.join(METRICS);
    std::fs::create_dir_all(&folder).tried("create", &folder)?;
    check_others(&folder, &members)?;
    check_writable(&to.join(RUNS), Contents::Runs)?;
    let columns = recorded(&members);
    let (mut written, mut before, mut counts) = (0, 0, Vec::new());
    for (i, member) in members.iter().enumerate() {
        let more: Vec<Wide> =
            columns.iter().map(|c| Wide { values: vec![c.values[i].clone()], ..c.clone() }).collect();
        let made_of = format!("{}-{:016x}", member.seal, xxh3_64(format!("{more:?}").as_bytes()));
        let place = folder.join(directory(&member.name));
        std::fs::create_dir_all(&place).tried("create", &place)?;
        let path = place.join(TABLE);
        check_writable(&path, Contents::Collected)?;
        let there = metadata(&path).unwrap_or_default();
        let _opened = member.opened()?;
        counts.push(rows(&member.table)?);
        if told(&there, MADE_OF) == Some(&made_of) {
            before += 1;
        } else {
            let metadata = Contents::Collected.metadata(COLUMNS, [(MADE_OF, made_of)]);
            widen(&member.table, &path, &more, metadata)?;
            written += 1;
        }
    }
    let runs = to.join(RUNS);
    let of_runs = [about(&members, &counts), columns].concat();
    write_wide(&runs, &of_runs, Contents::Runs.metadata(COLUMNS, []))?;
    let metrics = folder.join("*").join("*.parquet");
    Ok(Collected { written, before, rows: counts.iter().sum(), runs, metrics })
}

impl Member {
    fn open(name: &str, table: &Path) -> Result<Member> {
        let all = known(table)?;
        let version = told(&all, Contents::Metrics.key());
        if version.is_none() {
            Contents::Metrics.check(table)?;
        }
        if version != Some(SCHEMA_VERSION.to_string().as_str()) {
            let what = "its columns are not those of this lpa; lpa analyze makes it again".to_owned();
            return Err(Error::NotFound { path: table.to_owned(), what });
        }
        let text = |key: &str| told(&all, key).unwrap_or_default().to_owned();
        Ok(Member {
            name: name.to_owned(),
            table: table.to_owned(),
            training: Training::of(&all, name.to_owned()),
            summary: text(SUMMARY),
            seal: text(SEAL),
        })
    }

    /// The same table once more, to read its rows.
    ///
    /// # Errors
    /// Another one has its place.
    fn opened(&self) -> Result<Opened> {
        let opened = Opened::new(&self.table)?;
        match told(&known(&self.table)?, SEAL).unwrap_or_default() == self.seal {
            true => Ok(opened),
            false => {
                let what = "it was made anew while it was read; call the same again".to_owned();
                Err(Error::Write { path: self.table.clone(), what })
            }
        }
    }
}

/// A name in a path: of other characters the bytes as `%2F`, which readers turn back.
fn directory(name: &str) -> String {
    let mut out = RUN.to_owned();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Checks that no rows lie there that would be read along.
fn check_others(folder: &Path, members: &[Member]) -> Result<()> {
    let own: BTreeSet<String> = members.iter().map(|m| directory(&m.name)).collect();
    for entry in list(folder).tried("list", folder)? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !own.contains(&name) {
            let what = format!("it holds {name}, which is none of the runs; name that run too, or remove it");
            return Err(Error::Write { path: folder.to_owned(), what });
        }
        let of_run = folder.join(&name);
        for entry in list(&of_run).tried("list", &of_run)? {
            // What a killed call has left is removed by the next one.
            let file = entry.file_name().to_string_lossy().into_owned();
            if file.ends_with(".parquet") && file != TABLE {
                let what = format!("it holds {file}, whose rows would be read as this run's; remove it");
                return Err(Error::Write { path: of_run, what });
            }
        }
    }
    Ok(())
}

/// What users recorded of their trainings, a column a name and a row a run.
fn recorded(members: &[Member]) -> Vec<Wide> {
    let mut keys: Vec<&str> = Vec::new();
    for key in members.iter().flat_map(|m| m.training.metadata.keys()) {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    keys.into_iter()
        .map(|key| column(key, members.iter().map(|m| m.training.metadata.get(key)).collect()))
        .collect()
}

fn column(key: &str, values: Vec<Option<&Value>>) -> Wide {
    let there = || values.iter().flatten().filter(|v| !v.is_null());
    let kind = match () {
        () if there().all(|v| v.is_number()) => Kind::Real,
        () if there().all(|v| v.is_boolean()) => Kind::Flag,
        () => Kind::Text,
    };
    let datum = |value: &Value| match (kind, value) {
        (_, Value::Null) => None,
        (Kind::Real, v) => v.as_f64().map(Datum::Real),
        (Kind::Flag, v) => v.as_bool().map(Datum::Flag),
        (_, Value::String(text)) => Some(Datum::Text(text.clone())),
        (_, other) => Some(Datum::Text(other.to_string())),
    };
    Wide { name: format!("meta_{key}"), kind, values: values.into_iter().map(|v| datum(v?)).collect() }
}

/// What is known of each run besides.
fn about(members: &[Member], rows: &[u64]) -> Vec<Wide> {
    let of = |name: &str, kind: Kind, value: &dyn Fn(usize, &Member) -> Option<Datum>| Wide {
        name: name.to_owned(),
        kind,
        values: members.iter().enumerate().map(|(i, m)| value(i, m)).collect(),
    };
    let text = |text: &str| Some(Datum::Text(text.to_owned()));
    vec![
        of("run", Kind::Text, &|_, m| text(&m.name)),
        of("run_id", Kind::Text, &|_, m| text(&m.training.run_id)),
        of("table", Kind::Text, &|_, m| text(&m.table.to_string_lossy())),
        of("rows", Kind::Integer, &|i, _| rows.get(i).copied().map(Datum::Integer)),
        of("steps", Kind::Integer, &|_, m| m.training.steps.map(Datum::Integer)),
        of("final_step", Kind::Integer, &|_, m| m.training.final_step().map(Datum::Integer)),
        of("optimizer", Kind::Text, &|_, m| m.training.optimizer_name().and_then(text)),
        of("has_intervals", Kind::Flag, &|_, m| Some(Datum::Flag(m.training.lossy))),
        of("summary", Kind::Text, &|_, m| text(&m.summary)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_name_is_a_directory_of_its_own() {
        assert_eq!(directory("a-1_b.c"), "run=a-1_b.c");
        assert_eq!(directory("runs/a b"), "run=runs%2Fa%20b");
        assert_eq!(directory("%"), "run=%25");
    }

    #[test]
    fn what_was_recorded_is_of_the_kind_that_all_have() {
        let of = |values: &[Option<Value>]| column("k", values.iter().map(Option::as_ref).collect());
        assert_eq!(of(&[Some(json!(1)), None, Some(json!(0.5))]).kind, Kind::Real);
        assert_eq!(of(&[Some(json!(true)), Some(Value::Null)]).values, [Some(Datum::Flag(true)), None]);
        let mixed = of(&[Some(json!(1)), Some(json!("a")), Some(json!([1, 2]))]);
        let text = |t: &str| Some(Datum::Text(t.to_owned()));
        assert_eq!((mixed.kind, mixed.values), (Kind::Text, vec![text("1"), text("a"), text("[1,2]")]));
        assert_eq!(mixed.name, "meta_k");
    }
}
