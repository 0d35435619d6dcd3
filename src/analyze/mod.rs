//! The main job: every selected step of a run, measured and handed on row by row.
//!
//! Owns the order of work. First the shards are read once and every step's sums measured: windows of
//! shards, in them chunks, in them time. Then rows are derived, since what a gradient put into the
//! reference depends on the steps after it. Memory holds the sums of one window, the scalars of all
//! steps and, per thread, the vectors of one chunk.

mod common;
mod derive;
mod facts;
pub(crate) mod measure;
mod mover;
pub(crate) mod record;
mod shadow;
mod sketched;
mod skipped;
pub(crate) mod spool;
mod unusable;

use crate::analyze::common::Common;
use crate::analyze::derive::lag::Lag;
use crate::analyze::derive::walk::{Enters, Walk, entering};
pub(crate) use crate::analyze::measure::Aside;
pub(crate) use crate::analyze::measure::Measured;
pub(crate) use crate::analyze::measure::basis::Basis;
use crate::analyze::measure::course::Course;
use crate::analyze::measure::influence::Influence;
use crate::analyze::measure::recorded;
use crate::analyze::measure::sample::Sample;
pub(crate) use crate::analyze::measure::share::{Share, shares_of_groups, shares_of_steps};
pub(crate) use crate::analyze::measure::taken::{Record as TakenRecord, Taken};
pub(crate) use crate::analyze::measure::threads::thread_pool;
use crate::analyze::mover::Movers;
use crate::analyze::record::{Part, Shape};
pub(crate) use crate::analyze::shadow::Shadow;
use crate::analyze::sketched::Sketches;
pub(crate) use crate::analyze::skipped::Skipped;
pub(crate) use crate::analyze::unusable::unusable;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::group::{ALL, Group};
use crate::isa::Isa;
use crate::metrics::interval::Confidence;
use crate::metrics::skewness::Skewness;
use crate::optimizer::{Hyperparameters, Law, Moment};
use crate::order::ORDER_VERSION;
use crate::reference::weights::Weights;
use crate::reference::{Kin, Reference};
use crate::row::SCHEMA_VERSION;
use crate::run::Run;
use crate::run::format::manifest::{FORMAT_VERSION, GRAD, Kept, Manifest};
use crate::run::format::vector_id::{StreamId, VectorId};
use crate::run::read::catalog::Catalog;
use crate::stream;
use crate::stream::Stream;
use crate::summary::Topic;
use crate::sums::{Layout, Loss};

/// Where the vectors come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// From shards: any step can be read at any time.
    Shards,
    /// From a training that goes on: each is seen once.
    Training,
}

/// Key of a table's metadata that holds what was left out.
pub(crate) const LEFT_OUT: &str = "lpa.left_out";

/// What to analyze, and how.
pub(crate) struct Options {
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
    /// Where the vectors come from.
    pub pass: Pass,
    /// Tensors that are in none of the groups, since they hold no numbers.
    pub left_out: Vec<usize>,
    /// What tells the shadows from others that what gradients put into references is measured on; none where it is to
    /// be computed.
    pub shadows: Vec<String>,
}

/// Told of progress, from any thread. `()` hears nothing.
pub trait Observer: Sync {
    /// Something that helps to understand the result.
    fn note(&self, _line: &str) {}
    /// Something that is not in the result; lines of text.
    fn warn(&self, _text: &str) {}
    /// Measuring begins, if it failed on a GPU once more: so many pairs of step and chunk, so many chunks a step.
    fn begin(&self, _cells: u64, _chunks: u64) {}
    /// `cells` pairs of step and chunk are done, for which `bytes` stored bytes were read.
    fn advance(&self, _cells: u64, _bytes: u64) {}
    /// Measuring is over.
    fn end(&self) {}
}

impl Observer for () {}

/// A prepared analysis.
pub(crate) struct Analysis<'a> {
    pub(crate) run: &'a Run,
    catalog: &'a Catalog,
    pub(crate) references: &'a [Reference],
    pub(crate) options: &'a Options,
    hyperparameters: Hyperparameters<'a>,
    movers: Movers<'a>,
    /// How streams enter references: by reference, then stream.
    enters: Vec<Vec<Enters>>,
    walks: Vec<Walk>,
    /// What the optimizer makes of its gradients.
    law: Law,
    /// By group: why that is not known of the optimizer of one of its tensors, where several train the model and one is.
    beyond: Vec<Option<String>>,
    /// How streams that enter the references in an unknown way are compared with a later iterate, or why they are not.
    lag: std::result::Result<Lag, String>,
    shape: Shape,
    /// Where the vectors are sketches.
    sketches: Option<Sketches>,
    confidence: Confidence,
    candidates: Vec<u64>,
    first: Option<u64>,
    skipped: Skipped,
    /// Gradients, where it matters how skewed they are.
    sample: Option<Sample>,
    /// What directions of sketches have in common.
    common: Option<Common>,
}

impl<'a> Analysis<'a> {
    /// Checks that the run has what is asked for.
    ///
    /// # Errors
    /// There is nothing to analyze.
    pub(crate) fn prepare(
        run: &'a Run,
        catalog: &'a Catalog,
        references: &'a [Reference],
        options: &'a Options,
    ) -> Result<Analysis<'a>> {
        let nothing = |what: String| Error::Nothing { path: run.path.clone(), what };
        let all = run.steps();
        if all.is_empty() {
            return Err(nothing("the run is empty: no step was recorded".to_owned()));
        }
        if run.table.is_empty() {
            return Err(nothing(
                "the run's tensors have no elements, so that there is nothing to measure".to_owned(),
            ));
        }
        let mut hyperparameters = Hyperparameters::new(&run.manifest, catalog);
        let law = law(run, catalog, &mut hyperparameters, options)?;
        let (enters, walks) = match options.shadows.as_slice() {
            [] => entering(references, options, &law, hyperparameters.decays()),
            _ => (shadowed(run, references, options), Vec::new()),
        };
        let lag = match options.pass {
            _ if !options.shadows.is_empty() => Err("its shadows do not have it".to_owned()),
            Pass::Shards => Lag::new(&hyperparameters, catalog, references, run.manifest.parameters()),
            Pass::Training => Err("while a training goes on there is no later iterate".to_owned()),
        };
        let beyond = beyond(&law, &hyperparameters, &run.manifest, &options.groups);
        let is_mixed = beyond.iter().any(Option::is_some);
        let meets_later = enters.iter().flatten().any(|e| match e {
            Enters::Unknown => true,
            Enters::Known(_) => is_mixed,
            Enters::Not | Enters::Shadowed => false,
        });
        let sketches = Sketches::of(&run.manifest, &options.directions)
            .map_err(|e| Error::Manifest { path: run.path.clone(), what: e.0 })?;
        let lossy = references.iter().find(|r| r.is_lossy());
        if let Some(r) = lossy.filter(|_| sketches.is_some()) {
            let what =
                format!("{} was stored with loss; a run of sketches is compared with what is exact", r.name);
            return Err(Error::Reference { path: run.path.clone(), what });
        }
        let rounds = run.manifest.loses(StreamId::Iterate) || lossy.is_some();
        let layout = Layout {
            directions: options.directions.len(),
            references: references.len(),
            lag: lag.as_ref().ok().filter(|_| meets_later).map(|lag| lag.steps),
            own: law == Law::Elementwise && !walks.is_empty(),
            loss: match &sketches {
                Some(_) => Loss::Sketched,
                None if rounds || run.manifest.kept() == Kept::Rounded => Loss::Rounded,
                None => Loss::Nothing,
            },
        };
        let movers = Movers::new(&run.manifest, catalog);
        let key = |t| match options.pass {
            Pass::Shards => movers.of(t),
            // What moves together was not known when the sums were taken.
            Pass::Training => t,
        };
        let of = (run.manifest.tensors.as_slice(), references);
        let shape = Shape::new(layout, &options.groups, of, |t| (key(t), movers.of(t)));
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
            movers,
            enters,
            walks,
            law,
            beyond,
            lag,
            shape,
            confidence: match layout.loss {
                Loss::Sketched => Confidence::sketched(),
                Loss::Rounded | Loss::Nothing if rounds => Confidence::adaptive(),
                Loss::Rounded | Loss::Nothing => Confidence::independent(),
            },
            sketches,
            candidates: Vec::new(),
            first: (all.start == 0).then_some(0),
            skipped,
            sample: None,
            common: None,
        };
        analysis.candidates = analysis.select();
        let judges = |e: &Enters| match e {
            Enters::Not => false,
            Enters::Known(_) | Enters::Shadowed => true,
            Enters::Unknown => analysis.lag.is_ok(),
        };
        if (analysis.law != Law::Linear || is_mixed) && analysis.enters.iter().flatten().any(judges) {
            analysis.sample = Some(Sample::new(run, &analysis.candidates));
        }
        if analysis.sketches.is_some()
            && let Some(group) = options.groups.get(analysis.judged())
        {
            let lengths = analysis.lengths();
            analysis.common =
                Some(Common::new(run, &options.directions, group, analysis.span().start, lengths));
        }
        if !analysis.finds_steps() && analysis.skipped_steps(&analysis.skipped) == 0 {
            let last = run.final_step().unwrap_or(all.end).saturating_sub(1);
            return Err(nothing(format!(
                "no step from {} on was recorded; there are {} to {last}",
                options.steps.start, all.start
            )));
        }
        if analysis.skipped.ranges().next().is_none()
            && !analysis.candidates.iter().any(|step| analysis.has_direction(*step))
        {
            return Err(nothing(analysis.no_direction()));
        }
        Ok(analysis)
    }

    /// Whether a direction is there at a step; while a training goes on nobody has recorded what is.
    fn has_direction(&self, step: u64) -> bool {
        let has = |stream| self.catalog.has(VectorId { step, stream });
        let next = self.catalog.has_iterate(step.saturating_add(1));
        self.options.pass == Pass::Training || recorded(&self.options.directions, has, next) != 0
    }

    /// Why there is nothing to be measured.
    fn no_direction(&self) -> String {
        let all: Vec<u64> =
            self.catalog.iterates(0..u64::MAX).filter(|step| self.has_direction(*step)).collect();
        match (all.first(), all.last()) {
            (Some(first), Some(last)) => format!(
                "none of the steps that were asked for has both this stream and an iterate; there are {first} to {last}"
            ),
            _ => "none of the steps has both this stream and an iterate. Where iterates are all there is (checkpoints), \
                  measure their differences: --stream update. A run of lpa.measure has its table already: metrics.parquet."
                .to_owned(),
        }
    }

    /// How what gradients put into references is summed element by element; `None` where it is not.
    fn influence(&self, share: &Share, scratch: &std::path::Path) -> Result<Option<Influence<'_>>> {
        // Steps behind all references put nothing into them.
        let is_behind = share.steps.is_some_and(|(from, _)| self.lasts().all(|last| last <= from));
        if !self.shape.layout.own || is_behind {
            return Ok(None);
        }
        let mut targets: Vec<usize> = self.walks.iter().map(|w| w.reference).collect();
        targets.sort_unstable();
        targets.dedup();
        let optimizer = (&self.hyperparameters, &self.movers);
        let of = (self.references, targets);
        let how = (self.options.isa, self.options.threads);
        let course = Course::new((self.run, self.catalog), optimizer, of, &self.candidates)?;
        Influence::new((self.run, share), course, how, scratch).map(Some)
    }

    /// By reference that is made of the path: the step after which nothing enters it.
    fn lasts(&self) -> impl Iterator<Item = u64> {
        self.references.iter().filter_map(|r| r.weights.last())
    }

    /// The steps that were asked for, are not left out, and of which something may be told: where shards are read those
    /// whose iterates are there.
    fn select(&self) -> Vec<u64> {
        let Options { steps, every, pass, .. } = self.options;
        let asked = |s: &u64| {
            steps.contains(s)
                && (s - steps.start).is_multiple_of((*every).max(1))
                && !self.skipped.contains(*s)
        };
        match pass {
            Pass::Shards => self.catalog.iterates(steps.clone()).filter(asked).collect(),
            Pass::Training => self.recorded_steps().flatten().filter(asked).collect(),
        }
    }

    /// The steps that rank 0 has published.
    fn recorded_steps(&self) -> impl Iterator<Item = std::ops::RangeInclusive<u64>> {
        self.run.segments(0).iter().map(|s| s.first..=s.last)
    }

    /// Whether one of the steps that were asked for was published.
    fn finds_steps(&self) -> bool {
        let Options { steps, every, .. } = self.options;
        self.recorded_steps().any(|listed| {
            let from = steps.start.max(*listed.start());
            let next = (from - steps.start).checked_next_multiple_of((*every).max(1));
            let next = next.and_then(|more| steps.start.checked_add(more));
            next.is_some_and(|s| steps.contains(&s) && listed.contains(&s))
        })
    }

    /// How many of the steps that were asked for are left out.
    pub(crate) fn skipped_steps(&self, skipped: &Skipped) -> u64 {
        let Options { steps, every, .. } = self.options;
        skipped.count(steps.start, steps.end, (*every).max(1))
    }

    /// What is left out, as far as that is known before measuring.
    pub(crate) fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    /// What the summary should know of each stream, in the group that it judges, after measuring.
    pub(crate) fn topics(&self) -> Vec<Topic> {
        let sample = self.sample.as_ref().filter(|s| s.is_known());
        let skewness = sample.map(|s| Skewness::of(s.elements()));
        let judged = self.judged();
        let beyond = self.beyond.get(judged).and_then(Option::as_ref);
        let not_lagged = self.not_lagged(judged);
        let topic = |s: &Stream| {
            let made = s.part != stream::Part::None;
            let why = match (&self.law, beyond) {
                (Law::Unknown(why), _) | (_, Some(why)) if made => why.clone(),
                _ => "how this stream enters the reference is not modelled".to_owned(),
            };
            // Of several optimizers all of those that step the group.
            let is_linear = self.law == Law::Linear && beyond.is_none();
            let shadows = self.options.shadows.len();
            let known = match shadows {
                0 => made && beyond.is_none() && !matches!(self.law, Law::Unknown(_)),
                _ => shadow::have(self.run, self.options, s),
            };
            let may_have_shadows = self.options.pass == Pass::Shards && self.sketches.is_none();
            let unjudged = if s.part == stream::Part::DecayedGradient && self.hyperparameters.decays() {
                Some("with weight decay it holds a part of x_t, which is no walk".to_owned())
            } else {
                match &not_lagged {
                    Some(no) if !known && made && shadows == 0 && may_have_shadows => Some(format!(
                        "{why}, and {no}; a shadow of the run would tell (lpa.shadow in Python)"
                    )),
                    Some(no) if !known => Some(format!("{why}, and {no}")),
                    _ => None,
                }
            };
            let lag = self.lag.as_ref().map_or(0, |lag| lag.steps);
            let skewness = skewness.filter(|_| !is_linear);
            let skewness = skewness.map(|s| (s, s.cosine(self.hyperparameters.newest_part())));
            let stream = s.name.clone();
            // Sketches do not say it, and those of before have no elements beside them.
            let may_be_skewed = self.sketches.is_some() && !is_linear && skewness.is_none();
            Topic {
                stream,
                with_lr: made && is_linear,
                unjudged,
                lagged: why,
                lag,
                shadows,
                skewness,
                may_be_skewed,
                shared: self.shared(s),
            }
        };
        self.options.streams.iter().map(topic).collect()
    }

    /// How much the directions of each third have in common, of thirds of so many steps; nothing where no sketches were
    /// measured.
    fn shared(&self, stream: &Stream) -> Vec<(u64, [f64; 3])> {
        self.common.as_ref().map_or_else(Vec::new, |common| common.in_thirds(stream.direction))
    }

    /// Numbers of steps of which the summary has thirds: up to the references, where these are the path's.
    fn lengths(&self) -> Vec<u64> {
        let span = self.span();
        let length = span.end.saturating_sub(span.start).max(1);
        let up_to = |r: &Reference| {
            r.weights.last().map_or(length, |last| last.saturating_sub(span.start).min(length))
        };
        let mut all: Vec<u64> = self.references.iter().map(up_to).filter(|length| *length > 0).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The group that the verdict is on.
    fn judged(&self) -> usize {
        self.options.groups.iter().position(|g| g.name == ALL).unwrap_or(0)
    }

    /// The steps that the summary tells of. The final iterate has one of its own, but no gradient.
    pub(crate) fn span(&self) -> std::ops::Range<u64> {
        let (known, asked) = (self.run.steps(), &self.options.steps);
        let end = self.run.final_step().unwrap_or(known.end).min(known.end);
        known.start.max(asked.start)..end.min(asked.end)
    }

    /// Why a group, by number, is not compared with later iterates; `None` where it can be.
    fn not_lagged(&self, group: usize) -> Option<String> {
        let lag = match &self.lag {
            Ok(lag) => lag,
            Err(no) => return Some(no.clone()),
        };
        let param_group = |p: &Part| self.movers.param_group(p.mover);
        let parts = self.shape.parts.get(group).map_or(&[][..], Vec::as_slice);
        let mut references = self.references.iter().enumerate();
        references.any(|reference| lag.is_apart(reference, parts, &self.candidates, param_group)).then(|| {
            "weight decay takes more back of some parameters than of others, so that no later iterate stands for \
             the reference"
                .to_owned()
        })
    }

    /// Pairs of step and chunk of a share that will be walked: the length of the progress bar.
    pub(crate) fn cells(&self, share: &Share) -> u64 {
        (share.steps(&self.candidates).len() * share.chunks(self.run).len()) as u64
    }

    /// The steps of which sums are taken, ascending.
    pub(crate) fn candidates(&self) -> &[u64] {
        &self.candidates
    }

    /// Directions times references.
    pub(crate) fn partners(&self) -> usize {
        self.options.directions.len() * self.references.len()
    }

    /// The same times parameters and steps: the work of summing.
    pub(crate) fn terms(&self) -> u64 {
        self.run.manifest.elements() * self.candidates.len() as u64 * self.partners() as u64
    }

    /// Whether a run was stored with loss.
    pub(crate) fn is_lossy(&self) -> bool {
        self.shape.layout.has_spreads()
    }

    /// Number of chunks, to turn cells into steps.
    pub(crate) fn chunks(&self) -> u64 {
        self.run.table.len() as u64
    }

    /// Of the steps that were asked for those that were left out, as ranges, and steps with damaged vectors that
    /// rows of others are made of; for the file's metadata.
    pub(crate) fn left_out(&self, skipped: &Skipped) -> (String, String) {
        let asked = &self.options.steps;
        let within = |(first, last): (u64, u64)| (first.max(asked.start), last.min(asked.end - 1));
        let ranges = skipped.ranges().map(|(steps, _)| within(steps.into_inner()));
        let also = skipped.also.keys().map(|step| (*step, *step));
        let mut all: Vec<(u64, u64)> = ranges.filter(|(first, last)| first <= last).chain(also).collect();
        all.sort_unstable();
        all.dedup_by(|next, before| {
            let meets = next.0 <= before.1.saturating_add(1);
            if meets {
                before.1 = before.1.max(next.1);
            }
            meets
        });
        (LEFT_OUT.to_owned(), serde_json::json!(all).to_string())
    }

    /// All that can change a number of the result, for the file's metadata.
    pub(crate) fn provenance(&self) -> Vec<(String, String)> {
        let o = self.options;
        let groups = o.groups.iter().map(|g| {
            let tensors = (g.tensors.len() < self.run.manifest.tensors.len()).then_some(&g.tensors);
            serde_json::json!({"name": g.name, "tensors": tensors})
        });
        let streams: Vec<&str> = o.streams.iter().map(|s| s.name.as_str()).collect();
        let references = self.references.iter().map(|r| {
            serde_json::json!({"name": r.name, "step": r.step, "xxh3": r.xxh3, "control": r.is_control(),
                "run": r.run_id, "file": r.is_file(), "near": r.kin.map(Kin::nearest)})
        });
        [
            ("lpa.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("lpa.run_format", FORMAT_VERSION.to_string()),
            ("lpa.sum_order", ORDER_VERSION.to_string()),
            ("lpa.schema", SCHEMA_VERSION.to_string()),
            ("lpa.run_id", self.run.manifest.run_id.clone()),
            ("lpa.inputs_xxh3", format!("{:032x}", self.catalog.inputs_xxh3)),
            ("lpa.references", serde_json::Value::Array(references.collect()).to_string()),
            ("lpa.streams", serde_json::json!(streams).to_string()),
            ("lpa.groups", serde_json::Value::Array(groups.collect()).to_string()),
            (
                "lpa.steps",
                format!("{}..{}:{}", o.steps.start, o.steps.end.min(self.run.steps().end), o.every),
            ),
            ("lpa.run_steps", format!("{}..{}", self.run.steps().start, self.run.steps().end)),
            ("lpa.storage", serde_json::json!(self.run.manifest.storage).to_string()),
            ("lpa.sketch", serde_json::json!(self.run.manifest.sketch).to_string()),
            ("lpa.optimizer", serde_json::json!(self.run.manifest.optimizer).to_string()),
            ("lpa.metadata", told(&self.run.manifest.metadata)),
            ("lpa.shadows", serde_json::json!(o.shadows).to_string()),
            ("lpa.skip_damaged", o.skip_damaged.to_string()),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .to_vec()
    }
}

/// What a user has added, as it stands in the manifest; it may be large.
fn told(metadata: &serde_json::Map<String, serde_json::Value>) -> String {
    serde_json::to_string(metadata).unwrap_or_default()
}

/// How each stream enters each reference where shadows are measured.
fn shadowed(run: &Run, references: &[Reference], options: &Options) -> Vec<Vec<Enters>> {
    let of = |r: &Reference, s: &Stream| match r.weights == Weights::None {
        true => Enters::Not,
        false if shadow::have(run, options, s) => Enters::Shadowed,
        false => Enters::Unknown,
    };
    references.iter().map(|r| options.streams.iter().map(|s| of(r, s)).collect()).collect()
}

/// By group: why it is not known what the optimizer of one of its tensors makes of gradients, where it is known of others.
fn beyond(
    law: &Law,
    hyper: &Hyperparameters<'_>,
    manifest: &Manifest,
    groups: &[Group],
) -> Vec<Option<String>> {
    let unknown: Vec<Option<String>> = match law {
        Law::Unknown(_) => vec![None; hyper.groups()],
        Law::Linear | Law::Elementwise => (0..hyper.groups()).map(|g| hyper.unknown(g)).collect(),
    };
    let of_tensor = |&t: &usize| unknown[manifest.tensors[t].param_group].clone();
    groups.iter().map(|g| g.tensors.iter().find_map(of_tensor)).collect()
}

/// What the optimizer makes of its gradients, as far as that can be followed in this run: of several, those that divide by
/// nothing may be where others are not.
fn law(run: &Run, catalog: &Catalog, hyper: &mut Hyperparameters<'_>, options: &Options) -> Result<Law> {
    if hyper.law() == Law::Elementwise
        && let Some(why) = second_moments_unknown(run, catalog, hyper, options)?
    {
        hyper.give_up_moments(why);
    }
    let law = hyper.law();
    let departure = match law {
        Law::Linear | Law::Elementwise => measure::check::departure(run, catalog, hyper)?,
        Law::Unknown(_) => None,
    };
    let all = match law {
        Law::Linear => "lr, momentum, dampening, nesterov, weight_decay and lr_in_velocity",
        Law::Elementwise | Law::Unknown(_) => "lr, betas, eps and weight_decay",
    };
    let unknown = departure.map(|step| {
        format!(
            "step {step} is not what the optimizer in the manifest makes of the gradients: it had taken steps before the \
             recording began, or its {all} are not all there"
        )
    });
    Ok(unknown.map_or(law, Law::Unknown))
}

/// Why the second moments of the optimizer are not known at every step; `None` where they are.
fn second_moments_unknown(
    run: &Run,
    catalog: &Catalog,
    hyper: &Hyperparameters<'_>,
    options: &Options,
) -> Result<Option<String>> {
    let manifest = &run.manifest;
    let of = |why: &str| {
        Ok(Some(format!("the second moments of '{}' are not known: {why}", manifest.optimizer.name)))
    };
    if options.pass == Pass::Training {
        return of("they are used backward in time, which needs a recording");
    }
    if manifest.stream_id(GRAD).is_none() {
        return of("no gradients were recorded");
    }
    match manifest.kept() {
        Kept::Rounded => return of("the run was stored with loss"),
        Kept::Sketches => return of("the run is one of sketches, and squares of elements are not in them"),
        Kept::Whole => {}
    }
    if let Some(t) = manifest.tensors.iter().find(|t| t.dtype != DType::F32) {
        return of(&format!("'{}' is {}, and so may they be", t.name, t.dtype));
    }
    if catalog.steps.start > 0 || catalog.absences().is_none() {
        return of("it is not known how many steps each tensor has taken");
    }
    let recorded = hyper.moment() == Moment::Recorded && catalog.has_second_moments(run)?;
    let last = run.final_step().unwrap_or(catalog.steps.end);
    match (catalog.steps.start..last).find(|s| !catalog.has_iterate(*s)) {
        Some(s) if !recorded => of(&format!("they were not recorded, and neither was step {s}")),
        _ => Ok(None),
    }
}
