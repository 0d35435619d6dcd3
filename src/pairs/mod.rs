//! All pairs: every step of a run against every K-th of its iterates.
//!
//! Owns which pairs there are and what is made of their sums. `measure` walks the run, `panel` has the sums of some
//! steps of one chunk, `share` those of some steps that others measure, `path` what distances say of a path, `words` what
//! a person reads, `table` the columns.

mod measure;
mod panel;
mod path;
mod share;
mod table;
mod words;

use std::path::Path;

use crate::analyze::Observer;
use crate::error::{Error, Result};
use crate::optimizer::Hyperparameters;
use crate::pairs::path::Distances;
use crate::question::{Destination, Steps};
use crate::run::Run;
use crate::run::read::catalog::Catalog;
use crate::table::{Contents, Written};

/// References that there are about where nothing is said of them: what a heat map shows.
const USUAL: u64 = 200;

/// Which pairs are asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Every so many-th iterate is a reference; `None` makes some 200 of them.
    pub every: Option<u64>,
    /// The steps.
    pub steps: Steps,
    /// Threads that measure.
    pub threads: usize,
}

impl Options {
    /// What tells the table of these pairs from that of the usual ones.
    fn description(&self) -> Vec<String> {
        let every = self.every.map(|every| format!("every-{every}"));
        every.into_iter().chain(self.steps.described()).collect()
    }
}

/// Which pairs of a run there are.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The steps t, ascending: those whose iterates are recorded, the last one included.
    pub steps: Vec<u64>,
    /// The steps k of the references, ascending: the first, every K-th after it, and the last.
    pub references: Vec<u64>,
    /// K.
    pub every: u64,
    /// What the optimizer keeps of a gradient from one step to the next; `None` where that is not known.
    memory: Option<f64>,
    /// Stands for every byte of every shard.
    inputs_xxh3: u128,
}

/// All pairs of a run.
#[derive(Debug)]
pub(crate) struct AllPairs {
    plan: Plan,
    sums: Sums,
}

/// The sums of all pairs of some steps.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    /// `||g_t||^2` by step; `None` where no gradient was recorded.
    g2: Vec<Option<f64>>,
    /// `||x_t - x_{t-1}||^2` by step; `None` where x_{t-1} is not recorded, or not asked for.
    moved: Vec<Option<f64>>,
    /// `<g_t, x_t - x_k>`, by step, then reference.
    dot: Vec<f64>,
    /// `||x_t - x_k||^2`, likewise.
    d2: Vec<f64>,
}

/// One pair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    /// The step t.
    pub step: u64,
    /// The step k of the reference.
    pub reference: u64,
    /// `<g_t, x_t - x_k>`; `None` where no gradient was recorded.
    pub dot: Option<f64>,
    /// `||g_t||^2`, likewise.
    pub g2: Option<f64>,
    /// `||x_t - x_k||^2`.
    pub d2: f64,
    /// `cos(x_t - x_first, x_k - x_first)`.
    pub cos_first: Option<f64>,
    /// `cos(x_t - x_last, x_k - x_last)`.
    pub cos_last: Option<f64>,
    /// What `d2` is in the mean of a walk of the same step lengths; `None` where it is not known.
    pub walk_d2: Option<f64>,
}

impl Pair {
    /// `cos(g_t, x_t - x_k)`.
    pub(crate) fn cos(&self) -> Option<f64> {
        let lengths = self.g2?.sqrt() * self.d2.sqrt();
        (lengths > 0.0).then(|| self.dot.map(|dot| dot / lengths)).flatten()
    }

    /// `||x_t - x_k||`.
    pub(crate) fn dist(&self) -> f64 {
        self.d2.sqrt()
    }
}

impl Plan {
    /// Of a run.
    ///
    /// # Errors
    /// Something is damaged or cannot be read, or there is no iterate.
    pub(crate) fn new(run: &Run, options: &Options) -> Result<Plan> {
        let catalog = Catalog::read(run, false)?;
        let range = options.steps.range();
        let all = catalog.iterates(range.clone());
        let begins = range.start.max(run.steps().start);
        let steps: Vec<u64> = all.filter(|s| (s - begins).is_multiple_of(options.steps.every())).collect();
        let (Some(&first), Some(&last)) = (steps.first(), steps.last()) else {
            let what = "none of the steps that are asked for has a recorded iterate, so there are no pairs";
            return Err(Error::Nothing { path: run.path.clone(), what: what.to_owned() });
        };
        let every = options.every.unwrap_or_else(|| ((last - first) / USUAL).max(1));
        let mut references = Vec::new();
        for &step in &steps {
            if references.last().is_none_or(|k| step - k >= every) || step == last {
                references.push(step);
            }
        }
        let memory = Hyperparameters::new(&run.manifest, &catalog).memory();
        Ok(Plan { steps, references, every, memory, inputs_xxh3: catalog.inputs_xxh3 })
    }
}

impl AllPairs {
    /// Of what was measured.
    pub(crate) fn new(plan: Plan, sums: Sums) -> AllPairs {
        AllPairs { plan, sums }
    }

    /// Measures a run.
    ///
    /// # Errors
    /// As [`Plan::new`], or there is too little memory.
    pub(crate) fn measure(run: &Run, options: &Options, observer: &dyn Observer) -> Result<AllPairs> {
        let plan = Plan::new(run, options)?;
        let places = 0..plan.steps.len();
        let sums = measure::measure(run, (&plan.steps, places), &plan.references, options.threads, observer)?;
        Ok(AllPairs::new(plan, sums))
    }

    /// The pairs of the step at a place; `walks` are those of the distances.
    pub(crate) fn of_step<'a>(
        &'a self,
        t: usize,
        walks: Option<&'a [Vec<f64>]>,
    ) -> impl Iterator<Item = Pair> + 'a {
        let (distances, sums, plan) = (self.distances(), &self.sums, &self.plan);
        (0..plan.references.len()).map(move |k| {
            let at = t * plan.references.len() + k;
            Pair {
                step: plan.steps[t],
                reference: plan.references[k],
                dot: sums.g2[t].map(|_| sums.dot[at]),
                g2: sums.g2[t],
                d2: sums.d2[at],
                cos_first: distances.cos_first(t, k),
                cos_last: distances.cos_last(t, k),
                walk_d2: walks.map(|w| w[k][t]),
            }
        })
    }

    /// The distances.
    pub(crate) fn distances(&self) -> Distances<'_> {
        let (Plan { steps, references, memory, .. }, Sums { d2, moved, .. }) = (&self.plan, &self.sums);
        Distances { steps, references, d2, moved, memory: *memory }
    }
}

/// Measures all pairs of a run into a Parquet table: `out`, or `pairs.parquet` where tables of the run go, with what
/// was asked for in its name.
///
/// # Errors
/// Something is damaged or cannot be read, or there is no iterate; there is too little memory; or the table cannot be
/// written, or would take the place of another file.
pub fn tabulate(
    run: &Run,
    options: &Options,
    out: Option<&Path>,
    observer: &dyn Observer,
) -> Result<Written> {
    tabulate_of(run, options, out, || AllPairs::measure(run, options, observer))
}

/// The same, of pairs that `measure` has.
///
/// # Errors
/// As [`tabulate`], or `measure`.
pub(crate) fn tabulate_of(
    run: &Run,
    options: &Options,
    out: Option<&Path>,
    measure: impl FnOnce() -> Result<AllPairs>,
) -> Result<Written> {
    let path = Destination::new(run, out)?.of_kind("pairs", Contents::Pairs, &options.description())?;
    let pairs = measure()?;
    let summary = words::summary(run, &pairs);
    let (rows, bytes) = table::write(run, &pairs, &path, &summary)?;
    Ok(Written { path, summary, rows, bytes })
}
