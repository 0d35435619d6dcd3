//! What is asked of a run, and how it is answered: from names to a table.
//!
//! Owns the order in which a question is answered: open what it names, prepare, measure, derive, write. The command,
//! Python and whoever embeds the library ask the same one.

mod backend;
mod destination;
mod kept;
mod steps;

use std::path::{Path, PathBuf};

pub use crate::question::backend::Backend;
use crate::question::backend::Devices;
use crate::question::destination::description;
pub(crate) use crate::question::destination::{Destination, check_writable};
use crate::question::kept::check_keeps;
pub use crate::question::steps::Steps;

use crate::analyze::{Analysis, Measured, Observer, Options, Pass, Shadow, Share, thread_pool, unusable};
use crate::error::{Result, Usage};
use crate::group;
use crate::processors::processors;
use crate::reference;
use crate::reference::{Cache, OwnReference, Reference, ReferenceSpec, Rename};
use crate::report::{SUMMARY, left_out, report};
use crate::row::Sink;
use crate::run::format::manifest::GRAD;
use crate::run::read::catalog::Catalog;
use crate::run::{Run, parent, unless_moved};
use crate::stream;
use crate::table::{Contents, SEAL, Table, metadata, told};

/// What is asked of a run. The default is the main job: the gradients of all steps against the final iterate, all
/// tensors together.
#[derive(Clone, Debug)]
pub struct Question {
    /// References that the steps are measured against.
    pub references: Vec<ReferenceSpec>,
    /// Renames of the tensors of references that are files or of other runs.
    pub renames: Vec<Rename>,
    /// Names of the directions that are measured: `grad`, `grad_wd`, `grad_preclip`, `update`, or a recorded stream.
    pub streams: Vec<String>,
    /// Groups that get a row each step: `*` (all tensors), `each` (every tensor), a tensor's name, a glob, `NAME=GLOB`.
    pub groups: Vec<String>,
    /// The steps.
    pub steps: Steps,
    /// Take what noise puts into the references from the run's shadows.
    pub shadow: bool,
    /// Leave out what is damaged or missing, and report it, instead of stopping.
    pub skip_damaged: bool,
}

impl Default for Question {
    fn default() -> Question {
        Question {
            references: vec![ReferenceSpec::Own(OwnReference::Final)],
            renames: Vec::new(),
            streams: vec![GRAD.to_owned()],
            groups: vec![group::ALL.to_owned()],
            steps: Steps::default(),
            shadow: false,
            skip_damaged: false,
        }
    }
}

/// How an analysis is carried out, which changes no number of it.
#[derive(Clone)]
pub struct Execution<'a> {
    /// Threads that measure.
    pub threads: usize,
    /// The processors or GPUs that take the sums.
    pub backend: Backend,
    /// Listener that is told of the progress.
    pub observer: &'a dyn Observer,
}

impl std::fmt::Debug for Execution<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Execution")
            .field("threads", &self.threads)
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}

impl Default for Execution<'_> {
    fn default() -> Self {
        Execution { threads: processors(), backend: Backend::Auto, observer: &() }
    }
}

/// An answer whose rows were handed to a sink.
#[derive(Debug)]
pub struct Answer<S> {
    /// The sink, which has taken all rows.
    pub sink: S,
    /// Steps that were measured.
    pub steps: u64,
    /// The summary for a person.
    pub summary: String,
    /// Metadata of a table, by key: all that can change a number, what was left out, and the summary.
    pub metadata: Vec<(String, String)>,
}

/// A table that answers a question.
#[derive(Debug)]
pub struct Tabulated {
    /// Path of the file.
    pub path: PathBuf,
    /// The summary for a person.
    pub summary: String,
    /// What it lacks, in lines of text, where something was damaged or missing and could be left out.
    pub left_out: Option<String>,
    /// The work that was done for it.
    pub made: Made,
}

/// What was done for a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Nothing: it was there, made from the same inputs by the same version.
    Before,
    /// It was written.
    Now {
        /// Steps that were measured.
        steps: u64,
        /// Its rows.
        rows: u64,
        /// Its bytes.
        bytes: u64,
    },
}

/// A question and all that it names, opened.
pub(crate) struct Setting<'a> {
    run: &'a Run,
    how: &'a Execution<'a>,
    catalog: Catalog,
    references: Vec<Reference>,
    pub(crate) shadows: Vec<Shadow>,
    options: Options,
    pub(crate) cache: Cache,
    /// Tensors that no number can be had from.
    pub(crate) unusable: Vec<usize>,
}

impl Question {
    /// Analyzes a run and hands the rows to a sink, which is made once all is measured.
    ///
    /// # Errors
    /// Something that is named is not there, is damaged or does not fit; a device or the sink fails.
    pub fn analyze<S: Sink>(
        &self,
        run: &Run,
        how: &Execution<'_>,
        sink: impl FnOnce() -> Result<S>,
    ) -> Result<Answer<S>> {
        let setting = Setting::open(self, run, how, Cache::temporary(), None)?;
        let analysis = setting.prepare()?;
        let devices = how.backend.devices(how.observer)?;
        let scratch = std::env::temp_dir();
        let mut measured = setting.measure(&analysis, &devices, &scratch)?;
        let answer = answer(&analysis, &mut measured, &scratch, sink()?)?;
        left_out(&analysis, &measured.skipped).iter().for_each(|text| how.observer.warn(text));
        Ok(answer)
    }

    /// Analyzes a run into a Parquet table: `out`, or where tables of such questions go. One that is there already
    /// and was made from the same inputs by the same version is left as it is.
    ///
    /// # Errors
    /// As [`Self::analyze`]; or the table would take the place of another file, or of a table that holds more.
    pub fn tabulate(&self, run: &Run, how: &Execution<'_>, out: Option<&Path>) -> Result<Tabulated> {
        let destination = Destination::new(run, out)?;
        // What is made on the way is kept beside the table.
        let setting = Setting::open(self, run, how, Cache::below(&destination.directory), None)?;
        let devices = how.backend.devices(how.observer)?;
        setting.tabulate(self, &destination, |analysis, table| {
            setting.measure(analysis, &devices, parent(table))
        })
    }
}

impl<'a> Setting<'a> {
    /// Writes the table of a question, of what is measured as `measure` does, which is told the table's path: what does
    /// not fit in memory goes beside it.
    ///
    /// # Errors
    /// As [`Question::tabulate`], or `measure`.
    pub(crate) fn tabulate(
        &self,
        question: &Question,
        destination: &Destination,
        measure: impl FnOnce(&Analysis<'_>, &Path) -> Result<Measured>,
    ) -> Result<Tabulated> {
        let analysis = self.prepare()?;
        let provenance = analysis.provenance();
        let names: Vec<&str> = self.references.iter().map(|r| r.name.as_str()).collect();
        let path = destination.table(&description(question, &names), &provenance);
        // With damage the same question may have another answer after a repair.
        if !question.skip_damaged
            && let Some(summary) = up_to_date(&path, &provenance)
        {
            return Ok(Tabulated { path, summary, left_out: None, made: Made::Before });
        }
        check_writable(&path, Contents::Metrics)?;
        check_keeps(&path, &[&provenance[..], &[analysis.left_out(analysis.skipped())]].concat())?;
        self.write(&analysis, path.clone(), measure).map_err(|e| unless_moved(&path, e))
    }

    fn write(
        &self,
        analysis: &Analysis<'_>,
        path: PathBuf,
        measure: impl FnOnce(&Analysis<'_>, &Path) -> Result<Measured>,
    ) -> Result<Tabulated> {
        let mut measured = measure(analysis, &path)?;
        let answer = answer(analysis, &mut measured, parent(&path), Table::create(&path)?)?;
        let left_out = left_out(analysis, &measured.skipped);
        left_out.iter().for_each(|text| self.how.observer.warn(text));
        check_keeps(&path, &answer.metadata)?;
        // What was ended leaves no table, however late.
        self.run.check_stop()?;
        let (rows, bytes) = answer.sink.finish(answer.metadata)?;
        let made = Made::Now { steps: answer.steps, rows, bytes };
        Ok(Tabulated { path, summary: answer.summary, left_out, made })
    }

    /// Opens all that a question names. What is made on the way goes to `cache`; `unusable` are the tensors that no
    /// number can be had from, where that is known.
    ///
    /// # Errors
    /// Something is not there, is damaged or does not fit.
    pub(crate) fn open(
        question: &Question,
        run: &'a Run,
        how: &'a Execution<'a>,
        cache: Cache,
        unusable: Option<&[usize]>,
    ) -> Result<Setting<'a>> {
        // What is read beforehand is read by the threads of the pool that asks for it; others measure.
        let pool = thread_pool(how.threads, &run.path)?;
        pool.install(|| Setting::open_all(question, run, how, cache, unusable))
    }

    fn open_all(
        question: &Question,
        run: &'a Run,
        how: &'a Execution<'a>,
        cache: Cache,
        known: Option<&[usize]>,
    ) -> Result<Setting<'a>> {
        if question.references.is_empty() || question.streams.is_empty() {
            return Err(Usage("a question names a reference and a stream at least".to_owned()).into());
        }
        if let Some(Rename { old, new }) = question.renames.first()
            && question.references.iter().all(|r| matches!(r, ReferenceSpec::Own(_)))
        {
            let what = format!(
                "'{old}={new}' renames tensors of files and of other runs, and no such reference is named"
            );
            return Err(Usage(what).into());
        }
        let mut groups = group::select(run, &question.groups)?;
        let catalog = Catalog::read(run, question.skip_damaged)?;
        let unusable = known.map_or_else(|| unusable(run, &catalog), |known| Ok(known.to_vec()))?;
        let left_out = group::leave_out(run, &mut groups, &unusable);
        let (streams, directions) = stream::select(run, &catalog, &question.streams)?;
        let references = reference::open(run, &catalog, &question.references, &question.renames, &cache)?;
        reference::check_cover(run, &references, &groups)?;
        let shadows = if question.shadow { Shadow::open_all(run)? } else { Vec::new() };
        let options = Options {
            steps: question.steps.range(),
            every: question.steps.every(),
            groups,
            streams,
            directions,
            threads: how.threads,
            isa: run.access().isa,
            skip_damaged: question.skip_damaged,
            pass: Pass::Shards,
            left_out,
            shadows: shadows.iter().map(Shadow::id).collect(),
        };
        Ok(Setting { run, how, catalog, references, shadows, options, cache, unusable })
    }

    /// Checks that the run has what is asked for; says what a person should know beforehand.
    ///
    /// # Errors
    /// It has not.
    pub(crate) fn prepare(&self) -> Result<Analysis<'_>> {
        let pool = thread_pool(self.how.threads, &self.run.path)?;
        let analysis =
            pool.install(|| Analysis::prepare(self.run, &self.catalog, &self.references, &self.options))?;
        self.references.iter().flat_map(|r| &r.notes).for_each(|note| self.how.observer.note(note));
        Ok(analysis)
    }

    /// Measures the run and its shadows.
    fn measure(&self, analysis: &Analysis<'_>, devices: &Devices<'_>, scratch: &Path) -> Result<Measured> {
        let observer = self.how.observer;
        devices.with(analysis, self.how.threads, |devices| {
            observer.begin(analysis.cells(&Share::ALL) * (1 + self.shadows.len() as u64), analysis.chunks());
            let measured = analysis.measure(devices, scratch, observer).and_then(|mut measured| {
                let measure = |_: usize, of: &Analysis<'_>| of.measure(&[], scratch, observer);
                analysis.measure_shadows(&self.shadows, &self.cache, &mut measured, scratch, measure)?;
                Ok(measured)
            });
            observer.end();
            measured
        })
    }
}

/// Derives the rows from what was measured.
///
/// # Errors
/// A file without a name in `scratch` cannot be read, or the sink refuses.
pub(crate) fn answer<S: Sink>(
    analysis: &Analysis<'_>,
    measured: &mut Measured,
    scratch: &Path,
    sink: S,
) -> Result<Answer<S>> {
    let (sink, summary) = report(analysis, measured, scratch, sink)?;
    let left_out = analysis.left_out(&measured.skipped);
    let metadata = [analysis.provenance(), vec![left_out, (SUMMARY.to_owned(), summary.clone())]].concat();
    Ok(Answer { sink, steps: measured.steps.len() as u64, summary, metadata })
}

/// The summary of a table that is there, made from the same inputs by the same version.
fn up_to_date(path: &Path, provenance: &[(String, String)]) -> Option<String> {
    let there = metadata(path).filter(|all| told(all, SEAL).is_some())?;
    let same = provenance.iter().all(|pair| there.contains(pair));
    let summary = there.into_iter().find(|(k, _)| k == SUMMARY).map(|(_, text)| text);
    same.then(|| summary.unwrap_or_default())
}
