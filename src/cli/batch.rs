//! `lpa analyze RUN RUN ...`: several runs by one command.
//!
//! Owns which run is measured when and on how many threads, and what is said of each; knows nothing of how one is
//! analyzed. Each goes its own way: what is wrong with one is said at the end, and costs the others nothing.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::analyze::Observer;
use crate::cli::progress::Progress;
use crate::cli::{Fault, bytes, fault, is_stopped, say};
use crate::parts::append;
use crate::printable::{printable, printable_in_line};
use crate::question::{Execution, Made, Question, Tabulated};
use crate::run::{Access, Run};
use crate::summary::{counted, thousands};

/// Values of vectors up to which a run is measured beside others, on one thread: threads of its own would have little to
/// share.
const SMALL: u64 = 1 << 27;

/// How what happens is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Told {
    /// For a person
    Text,
    /// A line of JSON for each run, on standard output
    Json,
}

/// What is asked of each run, and how.
pub(super) struct Batch<'a> {
    pub runs: &'a [PathBuf],
    pub question: &'a Question,
    /// Only what is new of runs that have grown is measured.
    pub append: bool,
    pub access: Access,
    pub how: Execution<'a>,
    pub told: Told,
    pub quiet: bool,
}

/// What became of a run.
enum Outcome {
    Written {
        table: PathBuf,
        rows: u64,
        bytes: u64,
    },
    /// The table was there.
    Before {
        table: PathBuf,
    },
    /// The table lacks what is damaged.
    Partial {
        table: PathBuf,
        rows: u64,
        left_out: String,
    },
    Failed {
        error: anyhow::Error,
    },
}

/// What became of all, so far.
struct Report<'a> {
    batch: &'a Batch<'a>,
    counts: [usize; 4],
    /// What is to be said at the end.
    faults: Vec<(Fault, String)>,
    failure: Option<anyhow::Error>,
}

/// Says of which run a note is.
struct OfRun<'a> {
    run: &'a Path,
    quiet: bool,
}

impl Observer for OfRun<'_> {
    fn note(&self, line: &str) {
        if !self.quiet {
            let line = format!("note: {}: {line}", self.run.display());
            let _ = writeln!(std::io::stderr().lock(), "{}", printable_in_line(&line));
        }
    }
}

impl Batch<'_> {
    /// Analyzes every run. Returns whose fault it was, where some could not be, or not as a whole.
    ///
    /// # Errors
    /// It was stopped, or nothing can be said any more.
    pub(super) fn carry_out(&self) -> anyhow::Result<Option<Fault>> {
        let report = Mutex::new(Report { batch: self, counts: [0; 4], faults: Vec::new(), failure: None });
        let lock = || report.lock().unwrap_or_else(PoisonError::into_inner);
        let (waiting, large) = (Mutex::new(self.runs.iter()), Mutex::new(Vec::new()));
        let work = || {
            loop {
                let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(path) = next.filter(|_| lock().failure.is_none()) else { return };
                match Run::open(path, self.access) {
                    Ok(run) if !is_small(&run) => {
                        large.lock().unwrap_or_else(PoisonError::into_inner).push(path);
                    }
                    Ok(run) => {
                        let observer = OfRun { run: path, quiet: self.quiet };
                        let how = Execution { threads: 1, observer: &observer, ..self.how.clone() };
                        let outcome = self.one(&run, &how);
                        lock().add(path, outcome);
                    }
                    Err(error) => lock().add(path, Outcome::Failed { error: error.into() }),
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.how.threads.min(self.runs.len()) {
                // With fewer threads it takes longer.
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        for path in large.into_inner().unwrap_or_else(PoisonError::into_inner) {
            if lock().failure.is_some() {
                break;
            }
            let outcome = match Run::open(path, self.access) {
                Ok(run) => {
                    self.one(&run, &Execution { observer: &Progress::new(self.quiet), ..self.how.clone() })
                }
                Err(error) => Outcome::Failed { error: error.into() },
            };
            lock().add(path, outcome);
        }
        report.into_inner().unwrap_or_else(PoisonError::into_inner).end()
    }

    fn one(&self, run: &Run, how: &Execution<'_>) -> Outcome {
        let table = if self.append {
            append(self.question, run, how, None)
        } else {
            self.question.tabulate(run, how, None)
        };
        match table {
            Err(error) => Outcome::Failed { error: error.into() },
            Ok(Tabulated { path, made: Made::Before, .. }) => Outcome::Before { table: path },
            Ok(Tabulated { path, left_out: Some(left_out), made: Made::Now { rows, .. }, .. }) => {
                Outcome::Partial { table: path, rows, left_out }
            }
            Ok(Tabulated { path, made: Made::Now { rows, bytes, .. }, .. }) => {
                Outcome::Written { table: path, rows, bytes }
            }
        }
    }
}

/// Whether a run is measured beside others.
fn is_small(run: &Run) -> bool {
    let steps = run.steps();
    run.manifest.elements().saturating_mul(steps.end - steps.start) <= SMALL
}

/// The place of [`Outcome::Partial`] among what is counted.
const PARTIAL: usize = 2;

impl Report<'_> {
    /// Takes what became of the next run, and tells it.
    fn add(&mut self, run: &Path, outcome: Outcome) {
        let (at, name) = (run.display(), run.to_string_lossy());
        let (kind, line, mut json) = match &outcome {
            Outcome::Written { table, rows, bytes: size } => {
                let line = format!("wrote {} ({}, {})", table.display(), counted(*rows, "row"), bytes(*size));
                (
                    0,
                    line,
                    serde_json::json!({"outcome": "written", "table": table.to_string_lossy(), "rows": rows}),
                )
            }
            Outcome::Before { table } => {
                let json = serde_json::json!({"outcome": "up to date", "table": table.to_string_lossy()});
                (1, format!("{} is up to date", table.display()), json)
            }
            Outcome::Partial { table, rows, left_out } => {
                let what = format!("{at}: not all of it could be read\n{}", left_out.trim_end());
                self.faults.push((Fault::Input, what));
                let line =
                    format!("wrote {} ({}) without what is damaged", table.display(), counted(*rows, "row"));
                let table = table.to_string_lossy();
                let json =
                    serde_json::json!({"outcome": "partial", "table": table, "rows": rows, "why": left_out});
                (PARTIAL, line, json)
            }
            Outcome::Failed { error } => {
                let (fault, text) = (fault(error), error.to_string());
                let json =
                    serde_json::json!({"outcome": "failed", "why": text, "exit_code": fault.exit_code()});
                self.faults.push((fault, text));
                (3, "failed".to_owned(), json)
            }
        };
        self.counts[kind] += 1;
        let said = match self.batch.told {
            Told::Json => {
                json["run"] = name.into();
                json["done"] = self.counts.iter().sum::<usize>().into();
                json["of"] = self.batch.runs.len().into();
                say(&format!("{json}\n"))
            }
            Told::Text if self.batch.quiet => Ok(()),
            Told::Text => say(&format!("{at}: {line}\n")),
        };
        let stopped = match outcome {
            Outcome::Failed { error } if is_stopped(&error) => Some(error),
            _ => said.err(),
        };
        if self.failure.is_none() {
            self.failure = stopped;
        }
    }

    /// Says what was wrong.
    fn end(self) -> anyhow::Result<Option<Fault>> {
        if let Some(error) = self.failure {
            return Err(error);
        }
        let words = ["written", "up to date", "written without what is damaged", "failed"];
        let parts = self.counts.iter().zip(words).filter(|(n, _)| **n > 0);
        let parts: Vec<String> = parts.map(|(n, word)| format!("{} {word}", thousands(*n as u64))).collect();
        if self.batch.told == Told::Text && !self.batch.quiet {
            say(&format!("{}: {}\n", counted(self.batch.runs.len() as u64, "run"), parts.join(", ")))?;
        }
        let mut err = std::io::stderr().lock();
        for (_, what) in &self.faults {
            let _ = writeln!(err, "lpa: {}", printable(what));
        }
        // Of one run, what was asked for was done, as it is without `--tell`; of several, who looks at none would not know.
        if self.batch.runs.len() == 1 && self.counts[PARTIAL] == 1 {
            return Ok(None);
        }
        // What may go well elsewhere is to be tried again; and what is damaged is still there then.
        Ok(self.faults.into_iter().map(|(fault, _)| fault).max())
    }
}
