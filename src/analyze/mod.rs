//! The main job: every selected step of a run, measured and handed on row by row.
//!
//! Owns the order of work. First the shards are read once and every step's sums measured: windows of
//! shards, in them chunks, in them time. Then rows are derived, since what a gradient put into the
//! reference depends on the steps after it. Memory holds the sums of one window, the scalars of all
//! steps and, per thread, the vectors of one chunk.

mod derive;
mod load;
mod record;
mod skipped;
mod spool;
mod unit;
mod walk;

use std::path::Path;
use std::sync::mpsc::sync_channel;

use self::record::Shape;
pub use self::skipped::Skipped;
use self::spool::Spool;
use self::unit::{Unit, Workers};
use crate::error::{Error, Result};
use crate::group::Group;
use crate::isa::Isa;
use crate::optimizer::Hyperparameters;
use crate::reduce::order::ORDER_VERSION;
use crate::reference::Reference;
use crate::reference::weights::Weights;
use crate::row::Row;
use crate::run::Run;
use crate::run::catalog::Catalog;
use crate::run::manifest::FORMAT_VERSION;
use crate::run::plan::plan_windows;
use crate::run::window::Window;
use crate::stream::{Measured, Part, Stream};
use crate::sums::{Cells, Flags, Fold, Layout};

/// Sums of a window that are held: what bounds memory for models of very many chunks.
const SUMS_BYTES: usize = 4 << 20;

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
    pub directions: Vec<Measured>,
    /// Worker threads.
    pub threads: usize,
    /// Instruction set of the hot loops.
    pub isa: Isa,
    /// Leave out what is damaged or missing, and report it, instead of stopping.
    pub skip_damaged: bool,
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

/// What an analysis left behind besides its rows.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Steps for which rows were written.
    pub steps: u64,
    /// Steps left out because of damage.
    pub skipped: Skipped,
}

/// How a stream's agreement with a reference is told from what it put there itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The optimizer's response is known.
    Known,
    /// It is not, so the direction is compared with a later iterate.
    Lagged,
}

/// A prepared analysis.
pub struct Analysis<'a> {
    run: &'a Run,
    catalog: &'a Catalog,
    references: &'a [Reference],
    options: &'a Options,
    hyperparameters: Hyperparameters<'a>,
    /// By reference, then stream.
    modes: Vec<Vec<Mode>>,
    shape: Shape,
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
        let linear = hyperparameters.linear();
        let mode = |r: &Reference, s: &Stream| match (&r.weights, s.part) {
            (Weights::None, _) => Mode::Known,
            (_, Part::Gradient | Part::DecayedGradient) if linear => Mode::Known,
            _ => Mode::Lagged,
        };
        let modes: Vec<Vec<Mode>> =
            references.iter().map(|r| options.streams.iter().map(|s| mode(r, s)).collect()).collect();
        let layout = Layout {
            directions: options.directions.len(),
            references: references.len(),
            lagged: modes.iter().flatten().any(|m| *m == Mode::Lagged),
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
            modes,
            shape: Shape::new(layout, &options.groups, &run.manifest.tensors),
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

    /// Pairs of step and chunk that will be walked: the length of the progress bar.
    pub fn cells(&self) -> u64 {
        (self.candidates.len() * self.run.table.chunks().len()) as u64
    }

    /// Number of chunks, to turn cells into steps.
    pub fn chunks(&self) -> u64 {
        self.run.table.chunks().len() as u64
    }

    /// All that can change a number of the result, for the file's metadata.
    pub fn provenance(&self) -> Vec<(String, String)> {
        let o = self.options;
        let groups = o.groups.iter().map(|g| {
            let tensors = (g.name != crate::group::ALL).then_some(&g.tensors);
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

    /// Measures every selected step, then derives its rows and gives them to `sink`. Intermediate
    /// sums that do not fit in memory go to a file without a name in `scratch`.
    ///
    /// # Errors
    /// Something is damaged and may not be skipped, cannot be read, or the sink fails.
    pub fn run(&self, scratch: &Path, sink: &mut dyn Sink, observer: &dyn Observer) -> Result<Outcome> {
        let mut outcome = Outcome { skipped: self.skipped.clone(), ..Outcome::default() };
        let mut spool = Spool::new(self.shape.words(), scratch);
        let steps = self.measure(&mut spool, observer, &mut outcome)?;
        if steps.is_empty() {
            let what = match outcome.skipped.ranges().next() {
                None => "none of the steps has both a gradient and an iterate".to_owned(),
                Some((_, why)) => format!("no step is left: {why}"),
            };
            return Err(Error::Nothing { path: self.run.path.clone(), what });
        }
        outcome.steps = steps.len() as u64;
        self.derive(&mut spool, &steps, scratch, sink)?;
        Ok(outcome)
    }

    /// The first phase: sums of every step, in order, to the spool. Returns the steps.
    fn measure(&self, spool: &mut Spool, observer: &dyn Observer, outcome: &mut Outcome) -> Result<Vec<u64>> {
        let layout = self.shape.layout;
        let workers = Workers::new(self.options.threads, self.options.isa, layout, &self.run.path)?;
        let row = size_of::<f64>() * layout.width() + size_of::<Flags>();
        let max_steps = SUMS_BYTES / row / self.run.table.chunks().len().max(1);
        let plan = plan_windows(self.run, &self.candidates, max_steps);
        let mut done = Vec::new();
        std::thread::scope(|scope| {
            // One window is opened, and its pages brought in, while the one before is measured.
            let (send, receive) = sync_channel::<Result<(&[u64], Window)>>(0);
            scope.spawn(move || {
                for range in plan {
                    let steps = &self.candidates[range];
                    let opened = Window::open(self.run, &self.needed(steps), true);
                    if send.send(opened.map(|window| (steps, window))).is_err() {
                        return;
                    }
                }
            });
            for opened in receive {
                let (steps, window) = opened?;
                done.extend(self.window(steps, window, &workers, spool, observer, outcome)?);
            }
            Ok(done)
        })
    }

    /// The steps whose vectors rows of `steps` are made of, ascending.
    fn needed(&self, steps: &[u64]) -> Vec<u64> {
        let lag = self.shape.layout.lagged.then_some(crate::metrics::bias::LAG);
        let mut all: Vec<u64> = self.first.into_iter().collect();
        all.extend(steps.iter().flat_map(|&s| [Some(s), Some(s + 1), lag.map(|l| s + l)]).flatten());
        all.sort_unstable();
        all.dedup();
        all
    }

    fn window(
        &self,
        steps: &[u64],
        mut window: Window,
        workers: &Workers,
        spool: &mut Spool,
        observer: &dyn Observer,
        outcome: &mut Outcome,
    ) -> Result<Vec<u64>> {
        let skip = self.options.skip_damaged;
        if !skip && !window.damaged.is_empty() {
            return Err(window.damaged.swap_remove(0).1);
        }
        for (range, e) in &window.damaged {
            if steps.iter().any(|s| range.contains(s)) {
                outcome.skipped.add(range.clone(), &e.to_string());
            } else {
                outcome.skipped.also.insert(*range.start(), e.to_string());
            }
        }
        let measured: Vec<u64> = steps
            .iter()
            .copied()
            .filter(|&s| window.has(s, 0) && self.recorded(&window, s) != 0)
            .filter(|&s| !outcome.skipped.contains(s))
            .collect();
        let unit = Unit {
            run: self.run,
            window: &window,
            layout: self.shape.layout,
            references: self.references,
            directions: &self.options.directions,
            hyperparameters: &self.hyperparameters,
            first: self.first.filter(|&s| window.has(s, 0)),
            observer,
        };
        let (cells, damage) = workers.measure(&unit, &measured)?;
        for (step, e) in damage {
            if !skip {
                return Err(e);
            }
            if self.candidates.binary_search(&step).is_ok() {
                outcome.skipped.add(step..=step, &e.to_string());
            } else {
                outcome.skipped.also.insert(step, e.to_string());
            }
        }
        let idle = (steps.len() - measured.len()) * self.run.table.chunks().len();
        observer.advance(idle as u64, 0);
        let mut done = Vec::new();
        for (i, &step) in measured.iter().enumerate() {
            if cells.iter().all(|chunk| !chunk.row(i).1.damaged) {
                spool.push(&self.fold(step, self.recorded(&window, step), &cells, i))?;
                done.push(step);
            }
        }
        Ok(done)
    }

    /// One bit a direction: it was recorded at this step.
    fn recorded(&self, window: &Window, step: u64) -> u64 {
        let directions = self.options.directions.iter().enumerate();
        directions.fold(0, |bits, (d, m)| match m.recorded {
            Some(stream) if !window.has(step, stream) => bits,
            None if !window.has(step + 1, 0) => bits,
            _ => bits | 1 << d,
        })
    }

    /// Folds the chunks of a step into tensors and these into groups: a record.
    fn fold(&self, step: u64, recorded: u64, cells: &[Cells], row: usize) -> Vec<u64> {
        let (tensors, layout) = (&self.run.manifest.tensors, self.shape.layout);
        let width = layout.width();
        let mut totals: Vec<(Vec<f64>, Flags)> = Vec::with_capacity(tensors.len());
        let mut fold = Fold::new(width);
        let mut chunks = self.run.table.chunks().iter().zip(cells).peekable();
        for tensor in 0..tensors.len() {
            fold.clear();
            while let Some((_, cells)) = chunks.next_if(|(c, _)| c.tensor == tensor) {
                let (values, flags) = cells.row(row);
                fold.add(values, flags);
            }
            let mut out = Vec::with_capacity(width);
            let flags = fold.total(&mut out);
            totals.push((out, flags));
        }
        let mut words = vec![step, recorded];
        let mut sums = Vec::with_capacity(width);
        let mut total = |tensors: &mut dyn Iterator<Item = usize>, sums: &mut Vec<f64>| {
            fold.clear();
            tensors.for_each(|t| fold.add(&totals[t].0, totals[t].1));
            sums.clear();
            fold.total(sums)
        };
        for (group, parts) in self.options.groups.iter().zip(&self.shape.parts) {
            // Tensors without elements have no gradient to be absent or next iterate to be missing.
            let mut members = group.tensors.iter().copied().filter(|&t| tensors[t].elements() > 0);
            let flags = total(&mut members, &mut sums);
            words.extend(sums.iter().map(|v| v.to_bits()));
            words.push(flags.to_bits());
            if parts.len() > 1 {
                for part in parts {
                    total(&mut part.tensors.iter().copied(), &mut sums);
                    words.extend((0..layout.directions).map(|d| sums[layout.g2(d)].to_bits()));
                    words.push(sums[Layout::X2].to_bits());
                }
            }
        }
        words
    }
}
