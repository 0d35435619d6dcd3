//! The main job: every selected step of a run, measured and handed on row by row.
//!
//! Owns the order of work. First the shards are read once and every step's sums measured: windows of
//! shards, in them chunks, in them time. Then rows are derived, since what a gradient put into the
//! reference depends on the steps after it. Memory holds the sums of one window, the scalars of all
//! steps and, per thread, the vectors of one chunk.

mod cell;
mod check;
mod derive;
mod gpu;
mod lossy;
mod measure;
pub mod online;
mod past;
mod path;
mod record;
mod skipped;
mod spool;
mod told;
mod unit;
mod walk;
mod windows;

pub use self::measure::Measured;
use self::record::Shape;
pub use self::skipped::Skipped;
use self::walk::{Enters, Walk, entering};
use crate::error::{Error, Result};
use crate::group::Group;
use crate::isa::Isa;
use crate::metrics::bias::LAG;
use crate::metrics::interval::Confidence;
use crate::optimizer::Hyperparameters;
use crate::reduce::order::ORDER_VERSION;
use crate::reference::Reference;
use crate::row::{Column, Row, columns};
use crate::run::Run;
use crate::run::catalog::Catalog;
use crate::run::manifest::FORMAT_VERSION;
use crate::stream::{self, Stream};
use crate::summary::Topic;
use crate::sums::Layout;

/// Most of something that counts as nothing: of a reference's weight, or of a direction's effect.
const LITTLE: f64 = 0.01;

/// What to analyze, and how.
pub struct Options {
    /// Steps to analyze, a half-open range.
    pub steps: std::ops::Range<u64>,
    /// Every how many steps.
    pub every: u64,
    /// The groups, each giving a row per step.
    pub groups: Vec<Group>,
    /// The streams, each giving a row per step.
    pub streams: Vec<Stream>,
    /// The directions that the streams are had from.
    pub directions: Vec<stream::Measured>,
    /// Worker threads.
    pub threads: usize,
    /// Instruction set of the hot loops.
    pub isa: Isa,
    /// Leave out what is damaged or missing, and report it, instead of stopping.
    pub skip_damaged: bool,
    /// Streams that enter the references in an unknown way meet a later iterate.
    pub lagged: bool,
}

/// Told of progress, from any thread.
pub trait Observer: Sync {
    /// `cells` pairs of step and chunk are done, for which `bytes` stored bytes were read.
    fn advance(&self, cells: u64, bytes: u64);
}

/// Takes the rows, in the order of steps, then references, streams and groups.
pub trait Sink {
    /// Takes one row.
    ///
    /// # Errors
    /// It cannot be written.
    fn row(&mut self, row: &Row<'_>) -> Result<()>;
}

/// A prepared analysis.
pub struct Analysis<'a> {
    run: &'a Run,
    catalog: &'a Catalog,
    references: &'a [Reference],
    options: &'a Options,
    hyperparameters: Hyperparameters<'a>,
    /// How streams enter references: by reference, then stream.
    enters: Vec<Vec<Enters>>,
    walks: Vec<Walk>,
    /// Why the optimizer's response is not known; `None` where it is.
    unknown: Option<String>,
    /// The momentum is over by the time of the later iterate.
    lag_is_enough: bool,
    shape: Shape,
    confidence: Confidence,
    candidates: Vec<u64>,
    first: Option<u64>,
    skipped: Skipped,
}

impl<'a> Analysis<'a> {
    /// Checks that the run has what is asked for.
    ///
    /// # Errors
    /// There is nothing to analyze.
    pub fn prepare(
        run: &'a Run,
        catalog: &'a Catalog,
        references: &'a [Reference],
        options: &'a Options,
    ) -> Result<Analysis<'a>> {
        let nothing = |what: String| Error::Nothing { path: run.path.clone(), what };
        let all = run.steps();
        if all.is_empty() || run.table.chunks().is_empty() {
            return Err(nothing("the run is empty: no step was recorded".to_owned()));
        }
        let hyperparameters = Hyperparameters::new(&run.manifest, catalog);
        let mut unknown = hyperparameters.unknown();
        if unknown.is_none()
            && let Some(step) = check::departure(run, catalog, &hyperparameters, options.isa)?
        {
            unknown = Some(format!(
                "step {step} is not what the optimizer in the manifest makes of the gradients; are its lr, \
                 momentum, dampening, nesterov and weight_decay all there?"
            ));
        }
        let (enters, walks) = entering(references, options, unknown.is_none());
        let momentum = hyperparameters.largest_momentum();
        let lag_is_enough = momentum.powi(i32::try_from(LAG).unwrap_or(0)) <= LITTLE;
        let layout = Layout {
            directions: options.directions.len(),
            references: references.len(),
            lagged: options.lagged && enters.iter().flatten().any(|e| *e == Enters::Unknown),
            lossy: run.manifest.loses(0)
                || run.manifest.loses(1)
                || references.iter().any(Reference::is_lossy),
        };
        let mut skipped = Skipped::default();
        for (steps, e) in &catalog.damage {
            skipped.add(steps.clone(), &e.to_string());
        }
        let mut analysis = Analysis {
            run,
            catalog,
            references,
            options,
            hyperparameters,
            enters,
            walks,
            unknown,
            lag_is_enough,
            shape: Shape::new(layout, &options.groups, &run.manifest.tensors),
            confidence: if run.manifest.loses(0) || references.iter().any(Reference::is_lossy) {
                Confidence::adaptive()
            } else {
                Confidence::independent()
            },
            candidates: Vec::new(),
            first: (all.start == 0).then_some(0),
            skipped,
        };
        analysis.candidates = analysis.select();
        if analysis.candidates.is_empty() && analysis.skipped_steps(&analysis.skipped) == 0 {
            let last = run.final_step().unwrap_or(all.end).saturating_sub(1);
            return Err(nothing(format!(
                "no step from {} on was recorded; there are {} to {last}",
                options.steps.start, all.start
            )));
        }
        Ok(analysis)
    }

    /// The recorded steps that were asked for and are not left out.
    fn select(&self) -> Vec<u64> {
        let Options { steps, every, .. } = self.options;
        let listed = self.run.segments(0).iter().flat_map(|s| s.first..=s.last);
        listed
            .skip_while(|s| *s < steps.start)
            .take_while(|s| *s < steps.end)
            .filter(|s| (s - steps.start).is_multiple_of((*every).max(1)))
            .filter(|s| !self.skipped.contains(*s))
            .collect()
    }

    /// How many of the steps that were asked for are left out.
    pub fn skipped_steps(&self, skipped: &Skipped) -> u64 {
        let Options { steps, every, .. } = self.options;
        skipped.count(steps.start, steps.end, (*every).max(1))
    }

    /// What the summary should know of each stream.
    pub fn topics(&self) -> Vec<Topic> {
        let topic = |s: &Stream| {
            let made = s.part != stream::Part::None;
            let lagged = match &self.unknown {
                Some(why) if made => why.clone(),
                _ => "how this stream enters the reference is not modelled".to_owned(),
            };
            let unjudged = if s.part == stream::Part::DecayedGradient && self.hyperparameters.decays() {
                Some("with weight decay it holds a part of x_t, which is no walk".to_owned())
            } else if !self.lag_is_enough && (!made || self.unknown.is_some()) {
                Some(format!("the optimizer's momentum outlasts the {LAG} steps after which it is compared"))
            } else {
                None
            };
            let with_lr = made && self.unknown.is_none();
            Topic { stream: s.name.clone(), with_lr, unjudged, lagged }
        };
        self.options.streams.iter().map(topic).collect()
    }

    /// The columns of the rows.
    pub fn columns(&self) -> Vec<&'static Column> {
        columns(self.shape.layout.lossy)
    }

    /// Pairs of step and chunk that will be walked: the length of the progress bar.
    pub fn cells(&self) -> u64 {
        (self.candidates.len() * self.run.table.chunks().len()) as u64
    }

    /// Parameters times steps times directions times references: the work of summing.
    pub fn terms(&self) -> u64 {
        let partners = (self.options.directions.len() * self.references.len()) as u64;
        self.run.manifest.parameters() * self.candidates.len() as u64 * partners
    }

    /// Whether a run was stored with loss.
    pub fn is_lossy(&self) -> bool {
        self.shape.layout.lossy
    }

    /// Number of chunks, to turn cells into steps.
    pub fn chunks(&self) -> u64 {
        self.run.table.chunks().len() as u64
    }

    /// All that can change a number of the result, for the file's metadata.
    pub fn provenance(&self) -> Vec<(String, String)> {
        let o = self.options;
        let groups = o.groups.iter().map(|g| {
            let tensors = (g.tensors.len() < self.run.manifest.tensors.len()).then_some(&g.tensors);
            serde_json::json!({"name": g.name, "tensors": tensors})
        });
        let streams: Vec<&str> = o.streams.iter().map(|s| s.name.as_str()).collect();
        let references = self.references.iter().map(|r| {
            serde_json::json!({"name": r.name, "step": r.step, "xxh3": r.xxh3, "control": r.is_control()})
        });
        [
            ("lpa.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("lpa.run_format", FORMAT_VERSION.to_string()),
            ("lpa.sum_order", ORDER_VERSION.to_string()),
            ("lpa.run_id", self.run.manifest.run_id.clone()),
            ("lpa.inputs_xxh3", format!("{:032x}", self.catalog.inputs_xxh3)),
            ("lpa.references", serde_json::Value::Array(references.collect()).to_string()),
            ("lpa.streams", serde_json::json!(streams).to_string()),
            ("lpa.groups", serde_json::Value::Array(groups.collect()).to_string()),
            (
                "lpa.steps",
                format!("{}..{}:{}", o.steps.start, o.steps.end.min(self.run.steps().end), o.every),
            ),
            ("lpa.skip_damaged", o.skip_damaged.to_string()),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .to_vec()
    }
}
