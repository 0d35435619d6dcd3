//! The first phase: every step's sums, in one pass over the shards.

pub(crate) mod book;
pub(crate) mod check;
pub(crate) mod course;
pub(crate) mod gpu;
pub(crate) mod influence;
pub(crate) mod lossy;
pub(crate) mod path;
pub(crate) mod responses;
pub(crate) mod sample;
pub(crate) mod seconds;
pub(crate) mod term;
pub(crate) mod threads;
pub(crate) mod told;
pub(crate) mod unit;
pub(crate) mod vector_file;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use crate::analyze::facts::Facts;
use crate::analyze::measure::book::{Book, Entry};
use crate::analyze::measure::influence::Influence;
use crate::analyze::measure::path::Departures;
use crate::analyze::measure::told::Told;
use crate::analyze::measure::unit::{Measurement, Unit, Workers};
use crate::analyze::shadow::Shadows;
use crate::analyze::skipped::Skipped;
use crate::analyze::spool::Spool;
use crate::analyze::{Analysis, Observer};
use crate::cuda::Device;
use crate::error::{Error, Result, Tried};
use crate::order::Neumaier;
use crate::run::Run;
use crate::run::format::vector_id::StreamId;
use crate::run::read::plan::{plan_windows, plan_windows_at};
use crate::run::read::window::Window;
use crate::stream;
use crate::sums::{Cells, Flags};

/// Sums of a window that are held: what bounds memory for models of very many pieces.
const SUMS_BYTES: usize = 4 << 20;

/// What was measured.
#[derive(Debug)]
pub(crate) struct Measured {
    /// The steps, ascending.
    pub steps: Vec<u64>,
    /// Steps left out because of damage.
    pub skipped: Skipped,
    /// By step: one bit a direction, that it was recorded.
    pub(crate) recorded: Vec<u64>,
    /// `||x_0||^2` by tensor; `None` where it is not known.
    pub(crate) start: Option<Vec<f64>>,
    /// What single tensors do.
    pub facts: Facts,
    /// Where the path is not what the optimizer makes of the gradients.
    pub(crate) departures: Departures,
    /// The sums, a record a step.
    pub(crate) spool: Spool,
    /// What was measured of shadows.
    pub(crate) shadows: Shadows,
}

impl Measured {
    /// Nothing yet, of records of `words` words.
    pub(crate) fn new(words: usize, scratch: &Path, skipped: Skipped) -> Measured {
        Measured {
            steps: Vec::new(),
            skipped,
            recorded: Vec::new(),
            start: None,
            facts: Facts::default(),
            departures: Departures::default(),
            spool: Spool::new(words, scratch),
            shadows: Shadows::default(),
        }
    }

    /// Folds `||x_0||^2` of the run's pieces.
    pub(crate) fn set_start(&mut self, run: &Run, squares: impl Iterator<Item = Option<f64>>) {
        let mut sums = vec![Neumaier::default(); run.manifest.tensors.len()];
        for (piece, square) in run.table.pieces().zip(squares) {
            let Some(square) = square else { return };
            sums[piece.tensor].add(square);
        }
        self.start = Some(sums.iter().map(|s| s.total()).collect());
    }

    /// Adds the next step.
    pub(crate) fn push(&mut self, step: u64, recorded: u64, record: &[u64]) -> Result<()> {
        self.spool.push(record)?;
        self.steps.push(step);
        self.recorded.push(recorded);
        Ok(())
    }
}

/// One bit a direction: it was recorded at a step, of which it is known whether a stream `has` a vector
/// there and whether x_{t+1} is there.
pub(crate) fn recorded(directions: &[stream::Measured], has: impl Fn(StreamId) -> bool, next: bool) -> u64 {
    directions.iter().enumerate().fold(0, |bits, (d, m)| match m.recorded {
        Some(id) if !has(id) => bits,
        None if !next => bits,
        _ => bits | 1 << d,
    })
}

impl Analysis<'_> {
    /// Measures every selected step, on `devices`; where there are none, the processors sum. Sums that do
    /// not fit in memory go to a file without a name in `scratch`.
    ///
    /// # Errors
    /// Something is damaged and may not be skipped, or cannot be read; no step is left; or a device fails.
    pub(crate) fn measure(
        &self,
        devices: &[Arc<Device>],
        scratch: &Path,
        observer: &dyn Observer,
    ) -> Result<Measured> {
        let mut measured = Measured::new(self.shape.words(), scratch, self.skipped.clone());
        // It may be once more, after a device has failed.
        if let Some(common) = &self.common {
            common.clear();
        }
        let layout = self.shape.layout;
        let influence = self.influence(scratch)?;
        let influence = influence.as_ref();
        let workers = Workers::new(self.options, devices, layout, self.run, self.references, influence)?;
        let walked = influence.map_or_else(|| self.candidates.clone(), |i| i.course.steps());
        let mut book = Book::new(self, influence.is_some(), scratch);
        let row = size_of::<f64>() * layout.width() + size_of::<Flags>() + size_of::<Told>();
        let max_steps = SUMS_BYTES / row / self.run.table.pieces().len().max(1);
        // Each window decodes the iterates after its last step too.
        let least = layout.lag.map_or(0, |lag| 2 * usize::try_from(lag).unwrap_or(0));
        let max_steps = max_steps.max(least);
        let plan = match influence {
            None => plan_windows(self.run, &walked, max_steps)?,
            Some(influence) => {
                let mut plan = plan_windows_at(self.run, &walked, max_steps, &influence.course.begins());
                // What a gradient put into a reference is known by the steps after it.
                plan.reverse();
                plan
            }
        };
        std::thread::scope(|scope| -> Result<()> {
            // One window is opened, and its pages brought in, while the one before is measured.
            let (send, receive) = sync_channel::<Result<(&[u64], Window)>>(0);
            let walked = &walked;
            let open = move || {
                for range in plan {
                    let steps = &walked[range];
                    let opened = Window::open(self.run, &self.needed(steps), true);
                    if send.send(opened.map(|window| (steps, window))).is_err() {
                        return;
                    }
                }
            };
            let opener = std::thread::Builder::new().spawn_scoped(scope, open);
            opener.tried("start a thread for", &self.run.path)?;
            for opened in receive {
                let (steps, mut window) = opened?;
                let walk = (steps, influence);
                self.window(walk, &mut window, (&workers, observer), &mut measured, &mut book)?;
                // It takes a while to unmap gigabytes. Where no thread can be had it is done here.
                let _ = std::thread::Builder::new().spawn(move || drop(window));
            }
            Ok(())
        })?;
        book.close(self, &mut measured)?;
        if measured.steps.is_empty() {
            let what = match measured.skipped.ranges().next() {
                None => "none of the steps has both this stream and an iterate. Where iterates are all there is \
                         (checkpoints), measure their differences: --stream update. A run of lpa.measure has its \
                         table already: metrics.parquet."
                    .to_owned(),
                Some((_, why)) => format!("no step is left: {why}"),
            };
            return Err(Error::Nothing { path: self.run.path.clone(), what });
        }
        Ok(measured)
    }

    // x_0 and the iterate after the last step are decoded again in each window rather than held for all
    // chunks: two decodings a window against 4 bytes a parameter of memory.
    /// The steps whose vectors rows of `steps` are made of, ascending.
    fn needed(&self, steps: &[u64]) -> Vec<u64> {
        let lag = self.shape.layout.lag;
        let mut all: Vec<u64> = self.first.into_iter().collect();
        all.extend(steps.iter().flat_map(|&s| [Some(s), Some(s + 1), lag.map(|l| s + l)]).flatten());
        all.sort_unstable();
        all.dedup();
        all
    }

    fn window(
        &self,
        (walked, influence): (&[u64], Option<&Influence<'_>>),
        window: &mut Window,
        (workers, observer): (&Workers, &dyn Observer),
        out: &mut Measured,
        book: &mut Book,
    ) -> Result<()> {
        let skip = self.options.skip_damaged;
        let place = |step: Option<&u64>, more: u64| {
            step.map_or(0, |step| self.candidates.partition_point(|s| *s < step + more))
        };
        let steps = &self.candidates[place(walked.first(), 0)..place(walked.last(), 1)];
        if !skip && !window.damaged.is_empty() {
            return Err(window.damaged.swap_remove(0).1);
        }
        for (range, e) in &window.damaged {
            if steps.iter().any(|s| range.contains(s)) {
                out.skipped.add(range.clone(), &e.to_string());
            } else {
                out.skipped.also.insert(*range.start(), e.to_string());
            }
        }
        let measured: Vec<u64> = steps
            .iter()
            .copied()
            .filter(|&s| window.has(s, StreamId::Iterate) && self.recorded(window, s) != 0)
            .filter(|&s| !out.skipped.contains(s))
            .collect();
        let updates = self.linear_updates(&measured);
        let scalar = |step: u64, name: &str| window.scalar(step, name);
        let norms = self.common.as_ref().map(|common| common.begin(&measured, scalar));
        let unit = Unit {
            run: self.run,
            window,
            layout: self.shape.layout,
            references: self.references,
            directions: &self.options.directions,
            hyperparameters: &self.hyperparameters,
            replays: if book.checks() { self.replays() } else { Vec::new() },
            updates: &updates,
            first: self.first.filter(|&s| window.has(s, StreamId::Iterate)),
            wants_start: out.start.is_none(),
            sample: self.sample.as_ref(),
            common: self.common.as_ref().zip(norms.as_ref()),
            influence: influence.map(|i| (i, i.course.segments_of(walked))),
            observer,
        };
        let (pieces, starts, damage) = workers.measure(&unit, &measured)?;
        if out.start.is_none() {
            out.set_start(self.run, starts.into_iter());
        }
        for (lost, e) in damage {
            if !skip {
                return Err(e);
            }
            let (first, last) = lost.into_inner();
            let candidates = &self.candidates[self.candidates.partition_point(|s| *s < first)..];
            if candidates.first().is_some_and(|s| *s <= last) {
                out.skipped.add(first..=last, &e.to_string());
            } else {
                out.skipped.also.insert(first, e.to_string());
            }
        }
        let idle = (steps.len() - measured.len()) * self.run.table.len();
        observer.advance(idle as u64, 0);
        let cells: Vec<&Cells> = pieces.iter().map(|p| &p.cells).collect();
        for i in 0..measured.len() {
            let i = if influence.is_some() { measured.len() - 1 - i } else { i };
            let step = measured[i];
            if cells.iter().all(|piece| !piece.row(i).flags.damaged) {
                let (mut totals, told) = (self.shape.totals(self.run, &cells, i), self.told(&pieces, i));
                if let Some(sketches) = &self.sketches {
                    sketches.estimate(&mut totals, |name| window.scalar(step, name));
                    if let Some(sample) = &self.sample {
                        sample.keep_scalars(step, |name| window.scalar(step, name));
                    }
                }
                let recorded = self.recorded(window, step);
                book.enter(self, &Entry { step, recorded, totals, told }, out)?;
            } else if !out.skipped.contains(step) {
                let what = format!("step {step} was not measured. This is a fault of lpa; please report it.");
                return Err(Error::Nothing { path: self.run.path.clone(), what });
            }
        }
        Ok(())
    }

    /// What the storage of a step's next iterate tells, by tensor.
    fn told(&self, pieces: &[Measurement], row: usize) -> Vec<Told> {
        let mut told: Vec<Option<Told>> = vec![None; self.run.manifest.tensors.len()];
        for (piece, measured) in self.run.table.pieces().zip(pieces) {
            let (own, of_tensor) = (measured.told[row], &mut told[piece.tensor]);
            *of_tensor = Some(of_tensor.map_or(own, |t| t.and(own)));
        }
        told.into_iter().map(Option::unwrap_or_default).collect()
    }

    /// One bit a direction: it was recorded at this step.
    fn recorded(&self, window: &Window, step: u64) -> u64 {
        recorded(&self.options.directions, |id| window.has(step, id), window.has(step + 1, StreamId::Iterate))
    }
}
