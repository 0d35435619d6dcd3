//! What "No Wrong Turns" (arXiv 2306.11922) says of optimization paths, as checks of recorded ones.
//!
//! Owns which claims there are and what an answer is: whether the claim holds of these paths, by which numbers, what the
//! same check says of a random walk, and in a sentence. `path` is what is known of a path, `one` has the claims on a
//! single one (`cosine` and `motion` most of them, `rows` what these take, `ends` what holds of estimates), `several` those that compare (`told` which
//! paths, `batches` by batch size), `table` and `words` how they are told.

mod batches;
mod cosine;
mod ends;
mod motion;
mod one;
mod path;
mod rows;
mod several;
mod table;
mod told;
mod words;

use std::path::{Path as File, PathBuf};

pub(crate) use crate::claims::batches::{Batches, QUANTITIES};
pub(crate) use crate::claims::path::Path;
pub(crate) use crate::claims::table::{json, write};
pub(crate) use crate::claims::words::summary;
use crate::error::Result;
use crate::question::check_writable;
use crate::table::{Contents, Written};

/// What a check says of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It holds of what was looked at.
    Pass,
    /// It does not.
    Fail,
    /// It cannot be said from what was recorded.
    Undecidable,
}

impl Outcome {
    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Outcome::Pass => "pass",
            Outcome::Fail => "fail",
            Outcome::Undecidable => "not decidable",
        }
    }

    fn of(holds: bool) -> Outcome {
        if holds { Outcome::Pass } else { Outcome::Fail }
    }

    /// Of what may hold, and certainly does.
    fn between(may: bool, does: bool) -> Outcome {
        match (may, does) {
            (false, _) => Outcome::Fail,
            (true, true) => Outcome::Pass,
            (true, false) => Outcome::Undecidable,
        }
    }
}

/// A claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Its number.
    pub id: &'static str,
    /// What is claimed, with the threshold that decides.
    pub statement: &'static str,
    /// What `value` is.
    pub measure: &'static str,
}

impl Claim {
    const fn new(id: &'static str, statement: &'static str, measure: &'static str) -> Claim {
        Claim { id, statement, measure }
    }
}

/// What was found of a claim.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finding {
    /// The claim.
    pub claim: Claim,
    /// The path, or the paths that were compared.
    pub of: String,
    /// Whether it holds.
    pub outcome: Outcome,
    /// The number that decides.
    pub value: Option<f64>,
    /// The same number of the mean of random walks of the same steps, where there is one.
    pub walk: Option<f64>,
    /// What may be written of it.
    pub sentence: String,
}

/// What a check answers, before it is said of which path.
struct Answer {
    outcome: Outcome,
    value: Option<f64>,
    walk: Option<f64>,
    sentence: String,
}

impl Answer {
    fn undecidable(why: impl Into<String>) -> Answer {
        Answer { outcome: Outcome::Undecidable, value: None, walk: None, sentence: why.into() }
    }

    fn of(self, claim: Claim, of: &str) -> Finding {
        let Answer { outcome, value, walk, sentence } = self;
        Finding { claim, of: of.to_owned(), outcome, value, walk, sentence }
    }
}

/// Checks every claim: those on single paths of each path, those that compare once.
pub(crate) fn check(paths: &[Path]) -> Vec<Finding> {
    let one = |path: &Path, of: fn(&Path) -> Answer| match &path.training.part {
        Some(part) => Answer::undecidable(format!("the table is of a part of the path, steps {part}")),
        None => of(path),
    };
    let single = paths.iter().flat_map(|path| {
        one::CHECKS.iter().map(move |(claim, of)| one(path, *of).of(*claim, &path.training.name))
    });
    let of = match paths {
        [one] => one.training.name.clone(),
        _ => format!("{} paths", paths.len()),
    };
    let several = several::CHECKS.iter().map(|(claim, check)| check(paths).of(*claim, &of));
    let mut all: Vec<Finding> = single.chain(several).collect();
    // A claim's findings stand together.
    all.sort_by_key(|f| f.claim.id[1..].parse::<u32>().unwrap_or(u32::MAX));
    all
}

/// Checks all claims on tables, each with what it is called, and writes what was found as another one, `out`.
///
/// # Errors
/// A table is none of metrics, or damaged; or `out` cannot be written, or is another file.
pub fn tabulate(tables: &[(String, PathBuf)], out: &File) -> Result<Written> {
    check_writable(out, Contents::Claims)?;
    let read = |(name, table): &(String, PathBuf)| Path::read(table, name.clone());
    let findings = check(&tables.iter().map(read).collect::<Result<Vec<Path>>>()?);
    let (rows, bytes) = write(&findings, out)?;
    Ok(Written { path: out.to_owned(), summary: summary(&findings), rows, bytes })
}
