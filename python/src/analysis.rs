//! Asking a question.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use lpa::internals::{
    CompareAsked, LagsOptions, NoiseOptions, PairsOptions, Written, append, compare_ends, report_place,
    tabulate_batches, tabulate_claims, tabulate_comparison, tabulate_events, tabulate_lags, tabulate_noise,
    tabulate_pairs, tabulate_windows, write_report,
};
use lpa::{Backend, Execution, Question, Rename, Run, Steps};
use pyo3::prelude::*;

use crate::errors::{raise, usage};
use crate::run::access;
use crate::watch::{Watch, watched};

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
    pub(crate) fn question(self) -> PyResult<Question> {
        let Asked { references, renames, streams, groups, steps, shadow, skip_damaged } = self;
        let renames = renames.into_iter().map(|(old, new)| Rename { old, new }).collect();
        let references = references.iter().map(|r| r.parse().map_err(usage)).collect::<PyResult<_>>()?;
        let steps = parsed(steps)?;
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
        let mut execution = Execution { backend, ..Execution::default() };
        execution.threads = self.threads.unwrap_or(execution.threads);
        Ok(execution)
    }
}

/// Analyzes as `lpa analyze` does, with `--append` if that is asked for; returns the table's path.
#[pyfunction]
#[pyo3(signature = (path, asked, how, appends, on_progress))]
pub(crate) fn analyze(
    py: Python<'_>,
    path: PathBuf,
    asked: Asked,
    how: How,
    appends: bool,
    on_progress: Option<Bound<'_, PyAny>>,
) -> PyResult<PathBuf> {
    let Execution { threads, backend, .. } = how.execution()?;
    let out = how.out.as_deref();
    let (question, access) = (asked.question()?, access(true)?);
    let table = watched(py, on_progress, |watch: &Watch| {
        let how = Execution { threads, backend, observer: watch };
        let run = Run::open(&path, access)?.until(&watch.stop);
        if appends { append(&question, &run, &how, out) } else { question.tabulate(&run, &how, out) }
    });
    table.map(|table| table.path)
}

/// Steps as they were named; all where nothing was said.
fn parsed(steps: Option<String>) -> PyResult<Steps> {
    steps.map_or(Ok(Steps::default()), |s| s.parse()).map_err(usage)
}

/// Measures a run as `work` does, watched; returns the table's path.
fn measured(
    py: Python<'_>,
    path: &Path,
    on_progress: Option<Bound<'_, PyAny>>,
    work: impl FnOnce(&Run, &Watch) -> lpa::Result<Written> + Send,
) -> PyResult<PathBuf> {
    let access = access(true)?;
    let open = |watch: &Watch| lpa::Result::Ok(Run::open(path, access)?.until(&watch.stop));
    watched(py, on_progress, |watch: &Watch| work(&open(watch)?, watch)).map(|table| table.path)
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

impl AskedPairs {
    pub(crate) fn options(self) -> PyResult<PairsOptions> {
        let AskedPairs { every, steps, threads, .. } = self;
        let threads = threads.unwrap_or(Execution::default().threads);
        Ok(PairsOptions { every, steps: parsed(steps)?, threads })
    }
}

/// Measures all pairs as `lpa pairs` does; returns the table's path.
#[pyfunction]
#[pyo3(signature = (path, asked, on_progress))]
pub(crate) fn pairs(
    py: Python<'_>,
    path: PathBuf,
    asked: AskedPairs,
    on_progress: Option<Bound<'_, PyAny>>,
) -> PyResult<PathBuf> {
    let out = asked.out.clone();
    let options = asked.options()?;
    measured(py, &path, on_progress, |run, watch| tabulate_pairs(run, &options, out.as_deref(), watch))
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

impl AskedLags {
    pub(crate) fn options(self) -> PyResult<LagsOptions> {
        let AskedLags { lags, reference, groups, steps, threads, .. } = self;
        let reference = reference.parse().map_err(usage)?;
        let threads = threads.unwrap_or(Execution::default().threads);
        Ok(LagsOptions { lags, reference, groups, steps: parsed(steps)?, threads })
    }
}

/// Measures steps against later ones as `lpa lags` does; returns the table's path.
#[pyfunction]
#[pyo3(signature = (path, asked, on_progress))]
pub(crate) fn lags(
    py: Python<'_>,
    path: PathBuf,
    asked: AskedLags,
    on_progress: Option<Bound<'_, PyAny>>,
) -> PyResult<PathBuf> {
    let out = asked.out.clone();
    let options = asked.options()?;
    measured(py, &path, on_progress, |run, watch| tabulate_lags(run, &options, out.as_deref(), watch))
}

/// What of noise, by the names of `lpa.noise`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct AskedNoise {
    probes: Vec<String>,
    batch: Option<f64>,
    window: Option<String>,
    reference: String,
    groups: Vec<String>,
    steps: Option<String>,
    threads: Option<usize>,
    out: Option<PathBuf>,
}

/// Measures the noise of gradients as `lpa noise` does of one run; returns the table's path.
#[pyfunction]
#[pyo3(signature = (path, asked, on_progress))]
pub(crate) fn noise(
    py: Python<'_>,
    path: PathBuf,
    asked: AskedNoise,
    on_progress: Option<Bound<'_, PyAny>>,
) -> PyResult<PathBuf> {
    let AskedNoise { probes, batch, window, reference, groups, steps, threads, out } = asked;
    let reference = reference.parse().map_err(usage)?;
    let steps = parsed(steps)?;
    let threads = threads.unwrap_or(Execution::default().threads);
    let options = NoiseOptions { probes, batch, window, reference, groups, steps, threads };
    measured(py, &path, on_progress, |run, watch| tabulate_noise(run, &options, out.as_deref(), watch))
}

/// Writes how the cosines of tables go with the batch size, as `lpa noise` does of several runs; `names` are what they are
/// called.
#[pyfunction]
pub(crate) fn batches(py: Python<'_>, tables: Vec<(String, PathBuf)>, out: PathBuf) -> PyResult<()> {
    py.detach(|| tabulate_batches(&tables, &out)).map(drop).map_err(raise)
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

/// By run, the references by which `lpa compare --cross` measures it.
#[pyfunction]
pub(crate) fn ends(paths: Vec<PathBuf>) -> PyResult<Vec<Vec<String>>> {
    compare_ends(&paths, access(true)?).map_err(raise)
}

/// Writes what `lpa compare` finds of tables; `names` are what they are called.
#[pyfunction]
pub(crate) fn compare(
    py: Python<'_>,
    tables: Vec<(String, PathBuf)>,
    x: Option<String>,
    window: Option<NonZeroU64>,
    seeds: Option<String>,
    out: PathBuf,
) -> PyResult<()> {
    let asked = CompareAsked::named(x.as_deref(), window, seeds.as_deref()).map_err(raise)?;
    py.detach(|| tabulate_comparison(&tables, asked, &out)).map(drop).map_err(raise)
}

/// What is on a page.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Page {
    /// The command's options, by which it is made again.
    options: Vec<String>,
    /// Of a table: references, streams and groups.
    chosen: [Vec<String>; 3],
    /// All pairs and lags are measured too.
    all: bool,
}

/// Writes the page of runs or tables as `lpa report` does, of the steps that are named; returns its path. Of a table the
/// rows that are `chosen` are shown.
#[pyfunction]
#[pyo3(signature = (paths, asked, how, page, on_progress))]
pub(crate) fn report(
    py: Python<'_>,
    paths: Vec<PathBuf>,
    asked: Asked,
    how: How,
    page: Page,
    on_progress: Option<Bound<'_, PyAny>>,
) -> PyResult<PathBuf> {
    let Page { options, chosen, all } = page;
    let Execution { threads, backend, .. } = how.execution()?;
    let (question, access) = (asked.question()?, access(true)?);
    let steps = question.steps.clone();
    // The table is of all steps, and so is the verdict.
    let question = Question { steps: Steps::default(), ..question };
    watched(py, on_progress, |watch: &Watch| {
        let out = report_place(&paths, how.out.as_deref(), &steps)?;
        let how = Execution { threads, backend, observer: watch };
        let mut tables = Vec::new();
        for path in &paths {
            if path.is_file() {
                tables.push((path.clone(), chosen.clone()));
                continue;
            }
            let run = Run::open(path, access)?.until(&watch.stop);
            tables.push((question.tabulate(&run, &how, None)?.path, Default::default()));
            if all {
                tabulate_pairs(&run, &PairsOptions { threads, ..PairsOptions::default() }, None, watch)?;
                tabulate_lags(&run, &LagsOptions { threads, ..LagsOptions::default() }, None, watch)?;
            }
        }
        write_report(&paths, tables, &options, &steps, &out).map(|()| out)
    })
}
