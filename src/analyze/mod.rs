//! The main job: every selected step of a run, measured and handed on row by row.
//!
//! Owns the order of work: windows of shards, in them chunks, in them time. Memory holds the sums of
//! one window and, per thread, the vectors of one chunk; neither grows with the length of the run.

mod plan;
mod skipped;
mod unit;

use std::sync::mpsc::sync_channel;

use self::plan::plan_windows;
pub use self::skipped::Skipped;
use self::unit::{Unit, Workers};
use crate::error::{Error, Result};
use crate::group::Group;
use crate::hash::xxh3_128;
use crate::isa::Isa;
use crate::reduce::order::ORDER_VERSION;
use crate::reference::Reference;
use crate::row::{Row, Scalars};
use crate::run::manifest::{FORMAT_VERSION, GRAD};
use crate::run::shard::check_header;
use crate::run::window::Window;
use crate::run::{Run, Segment};
use crate::sums::{ChunkSums, Fold, Sums};

/// What to analyze, and how.
pub struct Options {
    /// Steps to analyze, a half-open range.
    pub steps: std::ops::Range<u64>,
    /// Every how many steps.
    pub every: u64,
    /// The groups, each giving a row per step.
    pub groups: Vec<Group>,
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

/// Takes the rows, in the order of steps, then groups.
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

/// A prepared analysis.
pub struct Analysis<'a> {
    run: &'a Run,
    reference: &'a Reference,
    options: &'a Options,
    stream: u16,
    candidates: Vec<u64>,
    first: Option<u64>,
    skipped: Skipped,
    inputs: u128,
}

impl<'a> Analysis<'a> {
    /// Checks that the run has what is asked for, and the header of every shard.
    ///
    /// # Errors
    /// There is nothing to analyze, or something is damaged or missing and may not be skipped.
    pub fn prepare(run: &'a Run, reference: &'a Reference, options: &'a Options) -> Result<Analysis<'a>> {
        let nothing = |what: String| Error::Nothing { path: run.path.clone(), what };
        let Some(stream) = run.manifest.stream_id(GRAD) else {
            return Err(nothing("no gradients were recorded (there is no stream 'grad')".to_owned()));
        };
        let all = run.steps();
        if all.is_empty() || run.table.chunks().is_empty() {
            return Err(nothing("the run is empty: no step was recorded".to_owned()));
        }
        let mut analysis = Analysis {
            run,
            reference,
            options,
            stream,
            candidates: Vec::new(),
            first: (all.start == 0).then_some(0),
            skipped: Skipped::default(),
            inputs: 0,
        };
        analysis.check_headers()?;
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

    /// Checks every shard's header before hours of work, and hashes them for the provenance.
    fn check_headers(&mut self) -> Result<()> {
        let mut hashes = Vec::new();
        for missing in self.run.missing() {
            if !self.options.skip_damaged {
                return Err(missing);
            }
            if let Error::MissingShard { first, last, .. } = missing {
                self.skipped.add(first..=last, &missing.to_string());
            }
        }
        for rank in 0..self.run.manifest.world {
            for segment in self.run.segments(rank) {
                match check_header(&segment.file, &self.run.manifest) {
                    Ok(hash) => hashes.extend_from_slice(&hash.to_le_bytes()),
                    Err(e) if e.is_damage() && self.options.skip_damaged => {
                        self.skipped.add(segment.first..=segment.last, &e.to_string());
                    }
                    Err(e) => return Err(self.explain(segment, e)),
                }
            }
        }
        self.inputs = xxh3_128(&hashes);
        Ok(())
    }

    /// A shard of another run is told from a damaged one by its tensor table.
    fn explain(&self, segment: &Segment, e: Error) -> Error {
        match self.run.open_shard(&segment.file, false) {
            Err(mismatch @ Error::TableMismatch { .. }) => mismatch,
            _ => e,
        }
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
        let groups: Vec<&str> = self.options.groups.iter().map(|g| g.name.as_str()).collect();
        let o = self.options;
        [
            ("lpa.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("lpa.run_format", FORMAT_VERSION.to_string()),
            ("lpa.sum_order", ORDER_VERSION.to_string()),
            ("lpa.run_id", self.run.manifest.run_id.clone()),
            ("lpa.inputs_xxh3", format!("{:032x}", self.inputs)),
            ("lpa.reference", self.reference.name.clone()),
            ("lpa.reference_step", self.reference.step.map_or(String::new(), |s| s.to_string())),
            ("lpa.reference_xxh3", self.reference.xxh3.clone()),
            (
                "lpa.steps",
                format!("{}..{}:{}", o.steps.start, o.steps.end.min(self.run.steps().end), o.every),
            ),
            ("lpa.groups", serde_json::json!(groups).to_string()),
            ("lpa.skip_damaged", o.skip_damaged.to_string()),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .to_vec()
    }

    /// Measures every selected step and gives its rows to `sink`.
    ///
    /// # Errors
    /// Something is damaged and may not be skipped, cannot be read, or the sink fails.
    pub fn run(&self, sink: &mut dyn Sink, observer: &dyn Observer) -> Result<Outcome> {
        let workers = Workers::new(self.options.threads, self.options.isa, &self.run.path)?;
        let plan = plan_windows(self.run, &self.candidates);
        let mut outcome = Outcome { skipped: self.skipped.clone(), ..Outcome::default() };
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
                self.window(steps, window, &workers, sink, observer, &mut outcome)?;
            }
            if outcome.steps == 0 {
                let what = match outcome.skipped.ranges().next() {
                    None => "none of the steps has both a gradient and an iterate".to_owned(),
                    Some((_, why)) => format!("no step is left: {why}"),
                };
                return Err(Error::Nothing { path: self.run.path.clone(), what });
            }
            Ok(outcome)
        })
    }

    /// The steps whose vectors rows of `steps` are made of, ascending.
    fn needed(&self, steps: &[u64]) -> Vec<u64> {
        let mut all: Vec<u64> = self.first.into_iter().collect();
        all.extend(steps.iter().flat_map(|&s| [s, s + 1]));
        all.sort_unstable();
        all.dedup();
        all
    }

    fn window(
        &self,
        steps: &[u64],
        mut window: Window,
        workers: &Workers,
        sink: &mut dyn Sink,
        observer: &dyn Observer,
        outcome: &mut Outcome,
    ) -> Result<()> {
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
            .filter(|&s| window.has(s, 0) && window.has(s, self.stream))
            .filter(|&s| !outcome.skipped.contains(s))
            .collect();
        let unit = Unit {
            run: self.run,
            window: &window,
            reference: self.reference,
            stream: self.stream,
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
        for (i, &step) in measured.iter().enumerate() {
            let column: Vec<&ChunkSums> = cells.iter().map(|chunk| &chunk[i]).collect();
            if column.iter().any(|c| c.damaged) {
                continue;
            }
            self.rows(step, &column, &window, sink)?;
            outcome.steps += 1;
        }
        Ok(())
    }

    /// Folds the chunks of a step into tensors and these into groups, and writes the rows.
    fn rows(&self, step: u64, column: &[&ChunkSums], window: &Window, sink: &mut dyn Sink) -> Result<()> {
        let tensors = &self.run.manifest.tensors;
        let mut folds: Vec<Fold> = tensors.iter().map(|_| Fold::default()).collect();
        for (chunk, sums) in self.run.table.chunks().iter().zip(column) {
            folds[chunk.tensor].chunk(sums);
        }
        let totals: Vec<Sums> = folds.iter().map(Fold::total).collect();
        let (epoch, loss) = (window.scalar(step, "epoch"), window.scalar(step, "loss"));
        for group in &self.options.groups {
            let mut fold = Fold::default();
            // Tensors without elements have no gradient to be absent or next iterate to be missing.
            for &t in group.tensors.iter().filter(|&&t| tensors[t].elements() > 0) {
                fold.tensor(&totals[t]);
            }
            let scalars = Scalars { epoch, loss, lr: self.lr(step, group, window) };
            let names = [self.reference.name.as_str(), GRAD, group.name.as_str()];
            sink.row(&Row::new(step, scalars, names, group.parameters, group.dtype, fold.total()))?;
        }
        Ok(())
    }

    /// The learning rate of the group's parameter groups, where they agree on one.
    fn lr(&self, step: u64, group: &Group, window: &Window) -> Option<f64> {
        let tensors = &self.run.manifest.tensors;
        let mut all = group.tensors.iter().map(|&t| tensors[t].param_group);
        let first = all.next()?;
        let lr = |g: usize| window.scalar(step, &format!("lr/{g}"));
        let value = lr(first)?;
        let mut others: Vec<usize> = all.filter(|&g| g != first).collect();
        others.dedup();
        others.iter().all(|&g| lr(g).is_some_and(|v| v.to_bits() == value.to_bits())).then_some(value)
    }
}
