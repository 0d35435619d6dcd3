//! What is shared out: the question of a command, and how it stands in a plan.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Result, Tried, Usage};
use crate::lags;
use crate::pairs;
use crate::question::{Question, Steps};
use crate::reference::{ReferenceSpec, Rename};

/// A question that can be shared out.
#[derive(Clone, Debug)]
pub enum Asked {
    /// That of `lpa analyze`.
    Analysis(Question),
    /// That of `lpa pairs`.
    Pairs(pairs::Options),
    /// That of `lpa lags`.
    Lags(lags::Options),
}

impl Asked {
    /// The same, on so many threads.
    pub(crate) fn on(mut self, threads: usize) -> Asked {
        match &mut self {
            Asked::Analysis(_) => {}
            Asked::Pairs(options) => options.threads = threads,
            Asked::Lags(options) => options.threads = threads,
        }
        self
    }

    /// The paths of what is compared with the run, as they were given.
    pub(crate) fn references(&self) -> impl Iterator<Item = &str> {
        let all = match self {
            Asked::Analysis(question) => question.references.as_slice(),
            Asked::Pairs(_) => &[],
            Asked::Lags(options) => std::slice::from_ref(&options.reference),
        };
        all.iter().filter_map(|spec| match spec {
            ReferenceSpec::Own(_) => None,
            ReferenceSpec::Path(path) => Some(path.as_str()),
        })
    }
}

/// The same, in the file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum StoredAsked {
    Analysis(StoredQuestion),
    Pairs { every: Option<u64>, steps: String },
    Lags { lags: Vec<u64>, reference: String, groups: Vec<String>, steps: String },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredQuestion {
    references: Vec<String>,
    renames: Vec<String>,
    streams: Vec<String>,
    groups: Vec<String>,
    steps: String,
    shadow: bool,
    skip_damaged: bool,
}

impl StoredAsked {
    /// With the paths of references from the root on: parts are made elsewhere.
    pub(crate) fn of(asked: &Asked) -> Result<StoredAsked> {
        Ok(match asked {
            Asked::Analysis(question) => StoredAsked::Analysis(StoredQuestion::of(question)?),
            Asked::Pairs(o) => StoredAsked::Pairs { every: o.every, steps: o.steps.text().to_owned() },
            Asked::Lags(o) => StoredAsked::Lags {
                lags: o.lags.clone(),
                reference: absolute_reference(&o.reference)?,
                groups: o.groups.clone(),
                steps: o.steps.text().to_owned(),
            },
        })
    }

    pub(crate) fn asked(&self) -> std::result::Result<Asked, Usage> {
        Ok(match self {
            StoredAsked::Analysis(question) => Asked::Analysis(question.question()?),
            StoredAsked::Pairs { every, steps } => {
                Asked::Pairs(pairs::Options { every: *every, steps: parsed(steps)?, threads: 1 })
            }
            StoredAsked::Lags { lags, reference, groups, steps } => Asked::Lags(lags::Options {
                lags: lags.clone(),
                reference: reference.parse()?,
                groups: groups.clone(),
                steps: parsed(steps)?,
                threads: 1,
            }),
        })
    }
}

/// Steps as they were named; all where nothing was said.
fn parsed(steps: &str) -> std::result::Result<Steps, Usage> {
    if steps.is_empty() { Ok(Steps::default()) } else { steps.parse() }
}

fn absolute_reference(spec: &ReferenceSpec) -> Result<String> {
    match spec {
        ReferenceSpec::Own(own) => Ok(own.to_string()),
        ReferenceSpec::Path(text) => absolute(Path::new(text)).and_then(|path| text_of(&path)),
    }
}

impl StoredQuestion {
    fn of(question: &Question) -> Result<StoredQuestion> {
        Ok(StoredQuestion {
            references: question.references.iter().map(absolute_reference).collect::<Result<_>>()?,
            renames: question.renames.iter().map(|r| format!("{}={}", r.old, r.new)).collect(),
            streams: question.streams.clone(),
            groups: question.groups.clone(),
            steps: question.steps.text().to_owned(),
            shadow: question.shadow,
            skip_damaged: question.skip_damaged,
        })
    }

    fn question(&self) -> std::result::Result<Question, Usage> {
        Ok(Question {
            references: self.references.iter().map(|r| r.parse()).collect::<std::result::Result<_, _>>()?,
            renames: self
                .renames
                .iter()
                .map(|r| r.parse::<Rename>())
                .collect::<std::result::Result<_, _>>()?,
            streams: self.streams.clone(),
            groups: self.groups.clone(),
            steps: parsed(&self.steps)?,
            shadow: self.shadow,
            skip_damaged: self.skip_damaged,
        })
    }
}

/// A path from the root on.
///
/// # Errors
/// There is no working directory.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).tried("find", path)
}

/// A path as text.
///
/// # Errors
/// It is not UTF-8.
pub(crate) fn text_of(path: &Path) -> Result<String> {
    let what = || Usage(format!("{}: a plan holds no paths that are not UTF-8", path.display()));
    Ok(path.to_str().ok_or_else(what)?.to_owned())
}
