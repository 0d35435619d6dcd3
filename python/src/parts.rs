//! One analysis in many parts, as `lpa plan`, `partial`, `missing` and `merge` make it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lpa::internals::{AskedOfParts, MadePart, Nodes, Plan, make_part, merge as merge_parts, missing_parts};
use lpa::{Execution, Run};
use pyo3::prelude::*;

use crate::analysis::{Asked, AskedLags, AskedPairs};
use crate::errors::usage;
use crate::run::access;
use crate::watch::{Watch, watched};

/// As many threads as are asked for, and a listener.
fn execution(threads: Option<usize>, watch: &Watch) -> Execution<'_> {
    let usual = Execution { observer: watch, ..Execution::default() };
    Execution { threads: threads.unwrap_or(usual.threads), ..usual }
}

/// A question that is shared out, by the names of `lpa.plan`.
#[derive(FromPyObject)]
pub(crate) enum Shared {
    Analysis(Asked),
    Pairs(AskedPairs),
    Lags(AskedLags),
}

/// Plans as `lpa plan` does; returns how many parts there are.
#[pyfunction]
#[pyo3(signature = (path, asked, parts, out, threads, nodes))]
pub(crate) fn plan(
    py: Python<'_>,
    path: PathBuf,
    asked: Shared,
    parts: usize,
    out: PathBuf,
    threads: Option<usize>,
    nodes: Vec<(String, Vec<u32>)>,
) -> PyResult<usize> {
    let asked = match asked {
        Shared::Analysis(asked) => AskedOfParts::Analysis(asked.question()?),
        Shared::Pairs(asked) => AskedOfParts::Pairs(asked.options()?),
        Shared::Lags(asked) => AskedOfParts::Lags(asked.options()?),
    };
    let (access, nodes) = (access(true)?, Nodes::new(nodes).map_err(usage)?);
    watched(py, None, |watch: &Watch| {
        let run = Run::open(&path, access)?.until(&watch.stop);
        Plan::make(&asked, &run, &execution(threads, watch), (parts, &nodes, &out)).map(|plan| plan.count())
    })
}

/// Makes a part as `lpa partial` does; returns whether it was made now.
#[pyfunction]
#[pyo3(signature = (plan, part, threads, on_progress))]
pub(crate) fn partial(
    py: Python<'_>,
    plan: PathBuf,
    part: usize,
    threads: Option<usize>,
    on_progress: Option<Bound<'_, PyAny>>,
) -> PyResult<bool> {
    let access = access(true)?;
    let done = watched(py, on_progress, |watch: &Watch| {
        make_part(&read(&plan, watch)?, part, access, &execution(threads, watch))
    });
    done.map(|done| done != MadePart::Before)
}

/// The numbers of the parts that `lpa missing` names.
#[pyfunction]
pub(crate) fn missing(py: Python<'_>, plan: PathBuf) -> PyResult<Vec<usize>> {
    watched(py, None, |watch: &Watch| missing_parts(&read(&plan, watch)?))
}

/// Makes the table as `lpa merge` does; returns its path.
#[pyfunction]
#[pyo3(signature = (plan, out, wait, threads))]
pub(crate) fn merge(
    py: Python<'_>,
    plan: PathBuf,
    out: Option<PathBuf>,
    wait: u32,
    threads: Option<usize>,
) -> PyResult<PathBuf> {
    let (access, wait) = (access(true)?, Duration::from_secs(wait.into()));
    let table = watched(py, None, |watch: &Watch| {
        let how = execution(threads, watch);
        merge_parts(&read(&plan, watch)?, access, &how, (out.as_deref(), wait))
    });
    table.map(|table| table.path)
}

/// Reads a plan, whose work ends when the interpreter's is to.
fn read(plan: &Path, watch: &Watch) -> lpa::Result<Plan> {
    Plan::read(plan).map(|plan| plan.until(&watch.stop))
}
