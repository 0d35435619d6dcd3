//! Steps against those some lags later: how long gradients go on to agree, or oppose each other, and how far the path
//! moves in so many steps.
//!
//! Owns what is asked for and what is made of the sums. `plan` says which steps meet, `measure` walks the run, `history`
//! has the steps of one chunk, `meeting` what the sums of two steps say, `share` the sums of some steps that others
//! measure, `thirds` means over parts of the path, `words` what a person reads, `table` the columns.

mod history;
mod measure;
mod meeting;
mod plan;
mod share;
mod table;
mod thirds;
mod words;

use std::path::Path;

use crate::analyze::{Observer, thread_pool, unusable};
use crate::error::{Error, Result};
use crate::group::{self, ALL, Group};
use crate::lags::measure::Subject;
use crate::lags::meeting::{Meeting, StepSums};
use crate::lags::plan::Plan;
use crate::optimizer::Hyperparameters;
use crate::question::{Destination, Steps};
use crate::reduce::lagged::LaggedSums;
use crate::reference::{self, Cache, OwnReference, Reference, ReferenceSpec};
use crate::run::Run;
use crate::run::format::manifest::GRAD;
use crate::run::read::catalog::Catalog;
use crate::table::{Contents, Written};

/// Which lags are asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The lags, in steps; none for the usual ones.
    pub lags: Vec<u64>,
    /// The reference that distances are measured to.
    pub reference: ReferenceSpec,
    /// Groups that get a row for each step and lag, named as for the analysis.
    pub groups: Vec<String>,
    /// The steps t.
    pub steps: Steps,
    /// Threads that measure.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            lags: Vec::new(),
            reference: ReferenceSpec::Own(OwnReference::Final),
            groups: vec![ALL.to_owned()],
            steps: Steps::default(),
            threads: 1,
        }
    }
}

impl Options {
    /// What tells the table of these lags, against this reference, from that of the usual ones.
    fn description(&self, plan: &Plan, reference: &Reference) -> Vec<String> {
        let joined = |all: &[u64]| all.iter().map(u64::to_string).collect::<Vec<_>>().join("+");
        let lags = (!self.lags.is_empty()).then(|| format!("lags-{}", joined(&plan.lags)));
        let reference = reference.described(&self.reference);
        let (groups, steps) = (group::described(&self.groups), self.steps.described());
        [lags, reference, groups, steps].into_iter().flatten().collect()
    }
}

/// The sums of a group.
#[derive(Debug, Default)]
pub(crate) struct GroupSums {
    /// By step that is read.
    steps: Vec<StepSums>,
    /// By pair.
    pairs: Vec<LaggedSums>,
}

/// A question and all that it names, opened.
pub(crate) struct Setting<'a> {
    run: &'a Run,
    options: &'a Options,
    catalog: Catalog,
    plan: Plan,
    reference: Reference,
    groups: Vec<Group>,
    pool: rayon::ThreadPool,
    /// Tensors that no number can be had from.
    pub(crate) unusable: Vec<usize>,
}

/// What was measured.
struct Lags<'a> {
    run: &'a Run,
    catalog: &'a Catalog,
    hyperparameters: Hyperparameters<'a>,
    plan: &'a Plan,
    reference: &'a Reference,
    groups: &'a [Group],
    /// By group.
    sums: Vec<GroupSums>,
}

impl Lags<'_> {
    /// The pairs of a group, by step, then lag.
    fn of_group(&self, group: usize) -> impl Iterator<Item = Meeting> {
        let (plan, sums) = (self.plan, &self.sums[group]);
        plan.pairs.iter().zip(&sums.pairs).map(move |(pair, both)| Meeting {
            step: plan.steps[pair.earlier],
            lag: plan.lags[pair.lag],
            earlier: sums.steps[pair.earlier],
            later: sums.steps[pair.later],
            both: *both,
        })
    }

    /// The learning rate of a group at a step, where its parameters have one only.
    fn lr(&self, group: &Group, step: u64) -> Option<f64> {
        let tensors = group.tensors.iter().map(|&t| &self.run.manifest.tensors[t]);
        let mut all =
            tensors.filter(|t| t.elements() > 0).map(|t| self.hyperparameters.lr(t.param_group, step));
        let first = all.next().flatten();
        let agree = all.all(|lr| lr.map(f64::to_bits) == first.map(f64::to_bits));
        first.filter(|_| agree)
    }
}

/// Measures a run's steps against those some lags later into a Parquet table: `out`, or `lags.parquet` where tables of the
/// run go, with what was asked for in its name.
///
/// # Errors
/// Something that is named is not there, is damaged or does not fit; no two steps are so far apart; there is too little
/// memory; or the table cannot be written, or would take the place of another file.
pub fn tabulate(
    run: &Run,
    options: &Options,
    out: Option<&Path>,
    observer: &dyn Observer,
) -> Result<Written> {
    let destination = Destination::new(run, out)?;
    let cache = Cache::below(destination.directory());
    let setting = Setting::open(run, options, &cache, None, observer)?;
    setting.tabulate(&destination, || setting.measure(&setting.plan, observer))
}

impl<'a> Setting<'a> {
    /// Opens all that a question names; `unusable` are the tensors that no number can be had from, where that is known.
    ///
    /// # Errors
    /// Something is not there, is damaged or does not fit; no two steps are so far apart; or there is too little memory.
    pub(crate) fn open(
        run: &'a Run,
        options: &'a Options,
        cache: &Cache,
        known: Option<&[usize]>,
        observer: &dyn Observer,
    ) -> Result<Setting<'a>> {
        // What is read beforehand is read by the threads that measure.
        let pool = thread_pool(options.threads, &run.path)?;
        let nothing = |what: &str| Error::Nothing { path: run.path.clone(), what: what.to_owned() };
        if run.manifest.stream_id(GRAD).is_none() {
            return Err(nothing("no gradients were recorded (there is no stream 'grad')"));
        }
        let catalog = Catalog::read(run, false)?;
        let recorded: Vec<u64> = catalog.iterates(0..u64::MAX).collect();
        let mut groups = group::select(run, &options.groups)?;
        let bytes_of_pair = measure::bytes_of_pair(groups.len());
        let plan = Plan::new(&recorded, &run.steps(), &options.steps, &options.lags, bytes_of_pair)?;
        if plan.pairs.is_empty() {
            return Err(nothing(
                "no two of the steps that are asked for have recorded iterates a lag apart; choose others by --steps or --lag",
            ));
        }
        let specs = std::slice::from_ref(&options.reference);
        let (unusable, mut references) = pool.install(|| -> Result<(Vec<usize>, Vec<Reference>)> {
            let unusable = known.map_or_else(|| unusable(run, &catalog), |known| Ok(known.to_vec()))?;
            group::leave_out(run, &mut groups, &unusable);
            Ok((unusable, reference::open(run, &catalog, specs, &[], cache)?))
        })?;
        reference::check_cover(run, &references, &groups)?;
        let Some(reference) = references.pop() else { return Err(nothing("no reference is named")) };
        reference.notes.iter().for_each(|note| observer.note(note));
        Ok(Setting { run, options, catalog, plan, reference, groups, pool, unusable })
    }

    /// Measures the pairs of a plan, by group.
    ///
    /// # Errors
    /// Something is damaged or cannot be read, or there is too little memory.
    fn measure(&self, plan: &Plan, observer: &dyn Observer) -> Result<Vec<GroupSums>> {
        let Setting { run, reference, groups, .. } = self;
        measure::measure(Subject { run, plan, reference, groups }, &self.pool, observer)
    }

    /// Writes the table of the sums that `measure` has.
    ///
    /// # Errors
    /// As [`tabulate`], or `measure`.
    pub(crate) fn tabulate(
        &self,
        destination: &Destination,
        measure: impl FnOnce() -> Result<Vec<GroupSums>>,
    ) -> Result<Written> {
        let Setting { run, catalog, plan, reference, groups, .. } = self;
        let description = self.options.description(plan, reference);
        let path = destination.of_kind("lags", Contents::Lags, &description)?;
        let sums = measure()?;
        let hyperparameters = Hyperparameters::new(&run.manifest, catalog);
        let lags = Lags { run, catalog, hyperparameters, plan, reference, groups, sums };
        let summary = words::summary(&lags);
        let (rows, bytes) = table::write(&lags, &path, &summary)?;
        Ok(Written { path, summary, rows, bytes })
    }
}
