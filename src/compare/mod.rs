//! Several paths beside each other: what each is like at the same places, and against the ends of the others.
//!
//! Owns how paths are put together: at the very same places, and never interpolated. `place` has these, `path` what is
//! kept of a path's rows, `seeds` trainings that differ by chance alone as one, `matrix` every path against every end, `table` the columns, `words` what a person reads.

mod matrix;
mod path;
mod place;
mod seeds;
mod table;
mod words;

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

pub(crate) use crate::compare::matrix::{Against, HEAD, Matrix};
use crate::compare::path::OfTable;
use crate::compare::place::Places;
use crate::curve::{Along, Chosen, Spread, find, word};
use crate::error::{Error, Result, Usage};
use crate::question::check_writable;
use crate::reading::extent;
use crate::run::{Access, Run};
use crate::table::{Contents, Written};
use crate::training::Training;

/// Places that paths are cut into where nothing is said of them, along steps and parts of the path.
const USUAL: NonZeroU64 = NonZeroU64::new(50).unwrap();

/// How paths are compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// What they are put together along; `None`: epochs where all have them, else steps.
    pub(crate) along: Option<Along>,
    /// Steps of a place, where they are put together along steps; `None`: a fiftieth of the longest.
    pub(crate) window: Option<NonZeroU64>,
    /// Trainings that differ by chance alone are one, with this band.
    pub(crate) seeds: Option<Spread>,
}

impl Asked {
    /// By the names of the options of `lpa compare`.
    ///
    /// # Errors
    /// There is no such thing.
    pub fn named(along: Option<&str>, window: Option<NonZeroU64>, seeds: Option<&str>) -> Result<Asked> {
        Ok(Asked { along: word("x", along)?, window, seeds: word("seeds", seeds)? })
    }
}

/// Paths beside each other.
#[derive(Debug)]
pub(crate) struct Comparison {
    places: Places,
    seeds: Option<Spread>,
    /// In the order in which they were named.
    tables: Vec<OfTable>,
}

impl Comparison {
    /// Compares the tables of runs, each with what it is called.
    ///
    /// # Errors
    /// There is one alone, one is no table of metrics, is damaged, or is of a run that is there already; or they cannot
    /// be put together along what was asked for.
    pub(crate) fn of(tables: &[(String, PathBuf, Chosen)], asked: Asked) -> Result<Comparison> {
        if tables.len() < 2 {
            return Err(Usage("name two runs or more, to be compared".to_owned()).into());
        }
        let mut opened = Vec::new();
        for (name, table, chosen) in tables {
            let found = find(table, chosen)?;
            let ends = extent(&found)?;
            opened.push((found, Training::read(table, name.clone())?, ends));
        }
        for (i, (_, training, _)) in opened.iter().enumerate() {
            let same = |(_, other, _): &&(_, Training, _)| {
                !training.run_id.is_empty() && other.run_id == training.run_id
            };
            if let Some((_, other, _)) = opened[..i].iter().find(same) {
                let what = format!("{} and {} are of the same run", other.name, training.name);
                return Err(Usage(what).into());
            }
        }
        let a_part = opened.iter().find_map(|(_, t, _)| t.part.as_ref().map(|part| (t, part)));
        if let Some((t, part)) = a_part.filter(|_| asked.along == Some(Along::Fraction)) {
            let what = format!(
                "the table of {} is of a part of its path, steps {part}; --x fraction is of whole ones",
                t.name
            );
            return Err(Usage(what).into());
        }
        let longest = opened.iter().map(|(_, _, (first, last))| last - first + 1).max().unwrap_or(1);
        let places = |along: Along| Places::new(along, asked.window, longest);
        let read = |places: Places| -> Result<Vec<OfTable>> {
            let of = |(found, training, ends): &(_, Training, _)| {
                OfTable::read(found, training.clone(), *ends, places)
            };
            opened.iter().map(of).collect()
        };
        if asked.along.is_some_and(|along| along != Along::Step) && asked.window.is_some() {
            return Err(Usage("--window is for --x step".to_owned()).into());
        }
        let (places, tables) = match (asked.along, asked.window) {
            (Some(along), _) => (places(along), read(places(along))?),
            (None, Some(_)) => (places(Along::Step), read(places(Along::Step))?),
            (None, None) => match read(places(Along::Epoch)) {
                // As curves: by epochs where these are enough to be a curve.
                Ok(tables) if tables.iter().all(|t| t.places() >= path::EPOCHS) => (Places::Epoch, tables),
                Ok(_) | Err(Error::Usage(_)) => (places(Along::Step), read(places(Along::Step))?),
                Err(e) => return Err(e),
            },
        };
        let all = Comparison { places, seeds: asked.seeds, tables };
        all.check()?;
        Ok(all)
    }

    /// Checks that what is listed of each table is of the same.
    fn check(&self) -> std::result::Result<(), Usage> {
        let key = |table: &OfTable| {
            let of = &table.main()?.key;
            Some(format!("group {}, against {}, stream {}", of.group, of.reference, of.stream))
        };
        let first = &self.tables[0];
        match self.tables.iter().find(|table| key(table) != key(first)) {
            None => Ok(()),
            Some(other) => Err(Usage(format!(
                "{} is of {}, and {} of {}: name tables of the same, or runs",
                first.training.name,
                key(first).unwrap_or_default(),
                other.training.name,
                key(other).unwrap_or_default()
            ))),
        }
    }

    /// Every path against the end of every other; `None` where none was measured against another's.
    pub(crate) fn matrix(&self) -> Option<Matrix> {
        Matrix::of(&self.tables)
    }

    fn trainings(&self) -> Vec<&Training> {
        self.tables.iter().map(|t| &t.training).collect()
    }

    /// What a person should know.
    pub(crate) fn summary(&self) -> String {
        words::summary(self)
    }

    /// Writes what the paths are like at each place as a Parquet table.
    ///
    /// # Errors
    /// The disk refuses, or `out` is another file.
    pub(crate) fn write(&self, out: &Path) -> Result<Written> {
        check_writable(out, Contents::Comparison)?;
        let summary = self.summary();
        let (rows, bytes) = table::write(self, out, &summary)?;
        Ok(Written { path: out.to_owned(), summary, rows, bytes })
    }
}

/// By run, the references that it is measured against: its own end, and those of the others that are of the same model.
///
/// # Errors
/// One is no run.
pub fn ends(paths: &[PathBuf], access: Access) -> Result<Vec<Vec<String>>> {
    let mut models = Vec::new();
    for path in paths {
        let run = Run::open(path, access)?;
        let tensors = run.manifest.tensors.iter().map(|t| (t.name.clone(), t.shape.clone()));
        models.push(tensors.collect::<Vec<_>>());
    }
    let end = |path: &PathBuf| format!("{}:final", path.display());
    let of = |i: usize| {
        let others = (0..models.len()).filter(|&j| j != i && models[j] == models[i]);
        std::iter::once("final".to_owned()).chain(others.map(|j| end(&paths[j]))).collect()
    };
    Ok((0..models.len()).map(of).collect())
}

/// Compares tables, each with what it is called, and writes what was found as another one, `out`.
///
/// # Errors
/// As `Comparison::of` and `Comparison::write`.
pub fn tabulate(tables: &[(String, PathBuf)], asked: Asked, out: &Path) -> Result<Written> {
    check_writable(out, Contents::Comparison)?;
    let all: Vec<_> = tables.iter().map(|(name, path)| (name.clone(), path.clone(), Chosen::all())).collect();
    Comparison::of(&all, asked)?.write(out)
}
