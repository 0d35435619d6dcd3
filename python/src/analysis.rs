//! Asking a question.

use std::path::PathBuf;

use lpa::internals::{
    LagsOptions, PairsOptions, report_place, tabulate_claims, tabulate_events, tabulate_lags, tabulate_pairs,
    tabulate_windows, write_report,
};
use lpa::{Backend, Execution, Observer, Question, Rename, Run, Steps};
use pyo3::prelude::*;

use crate::errors::{raise, usage};
use crate::run::access;

/// What lpa says to a person goes where the interpreter's own warnings go.
struct Warnings;

impl Observer for Warnings {
    fn warn(&self, text: &str) {
        use std::io::Write;
        let _ = write!(std::io::stderr().lock(), "{text}");
    }
}

/// What is asked, by the names of `lpa.analyze`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Asked {
    references: Vec<String>,
    renames: Vec<(String, String)>,
    streams: Vec<String>,
    groups: Vec<String>,
    steps: Option<String>,
    shadow: bool,
    skip_damaged: bool,
}

/// How it is carried out, by the names of `lpa.analyze`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct How {
    out: Option<PathBuf>,
    threads: Option<usize>,
    backend: Option<String>,
    devices: Vec<usize>,
}

impl Asked {
    fn question(self) -> PyResult<Question> {
        let Asked { references, renames, streams, groups, steps, shadow, skip_damaged } = self;
        let renames = renames.into_iter().map(|(old, new)| Rename { old, new }).collect();
        let references = references.iter().map(|r| r.parse().map_err(usage)).collect::<PyResult<_>>()?;
        let steps = steps.map_or(Ok(Steps::default()), |s| s.parse()).map_err(usage)?;
        Ok(Question { references, renames, streams, groups, steps, shadow, skip_damaged })
    }
}

impl How {
    fn execution(&self) -> PyResult<Execution<'static>> {
        let backend = match self.backend.as_deref() {
            None | Some("auto") => Backend::Auto,
            Some("cpu") => Backend::Cpu,
            Some("cuda") => Backend::Cuda(vec![0]),
            Some(other) => {
                return Err(usage(format!("no backend '{other}'; there are 'auto', 'cpu' and 'cuda'")));
            }
        };
        let contradiction = || usage("devices are GPUs, which backend=\"cpu\" does not use");
        let backend = backend.on(&self.devices).ok_or_else(contradiction)?;
        let mut execution = Execution { backend, observer: &Warnings, ..Execution::default() };
        execution.threads = self.threads.unwrap_or(execution.threads);
        Ok(execution)
    }
}

/// Analyzes as `lpa analyze` does; returns the table's path.
#[pyfunction]
pub(crate) fn analyze(py: Python<'_>, path: PathBuf, asked: Asked, how: How) -> PyResult<PathBuf> {
    let (execution, out) = (how.execution()?, how.out.as_deref());
    let (question, access) = (asked.question()?, access(true)?);
    let table = py.detach(|| question.tabulate(&Run::open(&path, access)?, &execution, out));
    table.map(|table| table.path).map_err(raise)
}

/// Which pairs, by the names of `lpa.pairs`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct AskedPairs {
    every: Option<u64>,
    steps: Option<String>,
    threads: Option<usize>,
    out: Option<PathBuf>,
}

/// Measures all pairs as `lpa pairs` does; returns the table's path.
#[pyfunction]
pub(crate) fn pairs(py: Python<'_>, path: PathBuf, asked: AskedPairs) -> PyResult<PathBuf> {
    let AskedPairs { every, steps, threads, out } = asked;
    let steps = steps.map_or(Ok(Steps::default()), |s| s.parse()).map_err(usage)?;
    let options = PairsOptions { every, steps, threads: threads.unwrap_or(Execution::default().threads) };
    let access = access(true)?;
    let measured = || tabulate_pairs(&Run::open(&path, access)?, &options, out.as_deref(), &Warnings);
    py.detach(measured).map(|table| table.path).map_err(raise)
}

/// Which lags, by the names of `lpa.lags`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct AskedLags {
    lags: Vec<u64>,
    reference: String,
    groups: Vec<String>,
    steps: Option<String>,
    threads: Option<usize>,
    out: Option<PathBuf>,
}

/// Measures steps against later ones as `lpa lags` does; returns the table's path.
#[pyfunction]
pub(crate) fn lags(py: Python<'_>, path: PathBuf, asked: AskedLags) -> PyResult<PathBuf> {
    let AskedLags { lags, reference, groups, steps, threads, out } = asked;
    let reference = reference.parse().map_err(usage)?;
    let steps = steps.map_or(Ok(Steps::default()), |s| s.parse()).map_err(usage)?;
    let threads = threads.unwrap_or(Execution::default().threads);
    let options = LagsOptions { lags, reference, groups, steps, threads };
    let access = access(true)?;
    let measured = || tabulate_lags(&Run::open(&path, access)?, &options, out.as_deref(), &Warnings);
    py.detach(measured).map(|table| table.path).map_err(raise)
}

/// Writes the events of a table as `lpa events` does.
#[pyfunction]
pub(crate) fn events(py: Python<'_>, table: PathBuf, out: PathBuf) -> PyResult<()> {
    py.detach(|| tabulate_events(&table, &out)).map(drop).map_err(raise)
}

/// Writes the windows of a table as `lpa windows` does.
#[pyfunction]
#[pyo3(signature = (table, window, out))]
pub(crate) fn windows(py: Python<'_>, table: PathBuf, window: Option<String>, out: PathBuf) -> PyResult<()> {
    py.detach(|| tabulate_windows(&table, window.as_deref(), &out)).map(drop).map_err(raise)
}

/// Writes what `lpa check` finds of tables; `names` are what they are called.
#[pyfunction]
pub(crate) fn check(py: Python<'_>, tables: Vec<(String, PathBuf)>, out: PathBuf) -> PyResult<()> {
    py.detach(|| tabulate_claims(&tables, &out)).map(drop).map_err(raise)
}

/// Writes the page of runs as `lpa report` does, of the steps that are named; returns its path. With `all`, all pairs and
/// lags are measured too.
#[pyfunction]
pub(crate) fn report(
    py: Python<'_>,
    paths: Vec<PathBuf>,
    asked: Asked,
    how: How,
    options: Vec<String>,
    all: bool,
) -> PyResult<PathBuf> {
    let execution = how.execution()?;
    let (question, access) = (asked.question()?, access(true)?);
    let steps = question.steps.clone();
    // The table is of all steps, and so is the verdict.
    let question = Question { steps: Steps::default(), ..question };
    let write = || {
        let out = report_place(&paths, how.out.as_deref(), &steps)?;
        let mut tables = Vec::new();
        for path in &paths {
            let run = Run::open(path, access)?;
            tables.push(question.tabulate(&run, &execution, None)?.path);
            if all {
                let threads = execution.threads;
                tabulate_pairs(&run, &PairsOptions { threads, ..PairsOptions::default() }, None, &Warnings)?;
                tabulate_lags(&run, &LagsOptions { threads, ..LagsOptions::default() }, None, &Warnings)?;
            }
        }
        write_report(&paths, tables, &options, &steps, &out).map(|()| out)
    };
    py.detach(write).map_err(raise)
}
