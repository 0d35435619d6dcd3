//! The first phase: every step's sums, in one pass over the shards.

pub(crate) mod basis;
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
pub(crate) mod share;
pub(crate) mod taken;
pub(crate) mod term;
pub(crate) mod threads;
pub(crate) mod told;
pub(crate) mod unit;
pub(crate) mod vector_file;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use crate::analyze::common::Common;
use crate::analyze::facts::Facts;
use crate::analyze::measure::book::Book;
use crate::analyze::measure::influence::Influence;
use crate::analyze::measure::path::Departures;
use crate::analyze::measure::sample::Sample;
use crate::analyze::measure::share::Share;
use crate::analyze::measure::taken::{Record, Taken};
use crate::analyze::measure::told::Told;
use crate::analyze::measure::unit::{Unit, Workers};
use crate::analyze::shadow::Shadows;
use crate::analyze::skipped::Skipped;
use crate::analyze::spool::Spool;
use crate::analyze::{Analysis, Observer};
use crate::codec::Predictor;
use crate::cuda::Device;
use crate::error::{Error, Result, Tried};
use crate::order::Neumaier;
use crate::run::Run;
use crate::run::format::vector_id::StreamId;
use crate::run::read::plan::{plan_windows, plan_windows_at};
use crate::run::read::window::Window;
use crate::stream;
use crate::sums::Flags;

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

/// What all windows of a walk share.
struct Shared<'a> {
    share: &'a Share,
    /// The pieces that are walked, by number.
    pieces: Vec<usize>,
    /// The steps that have rows.
    wanted: &'a [u64],
    /// How the declared optimizer's steps are predicted, where the storage of iterates tells of them.
    replays: Vec<Option<Predictor>>,
    influence: Option<&'a Influence<'a>>,
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

/// What is found on the way, besides the sums of steps.
#[derive(Clone, Debug)]
pub(crate) struct Aside {
    /// Steps left out because of damage.
    pub(crate) skipped: Skipped,
    /// `||x_0||^2` by piece, where it is known.
    pub(crate) starts: Vec<Option<f64>>,
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
        let mut measured = Measured::new(self.shape.words(), scratch, Skipped::default());
        let mut book = Book::new(self, self.shape.layout.own, scratch);
        let aside = self.walk(&Share::ALL, (devices, scratch, observer), |taken, left_out| {
            book.take(self, &taken, left_out, &mut measured)
        })?;
        self.close(book, aside, measured)
    }

    /// The same, of what others have measured: `each` is given what takes it, step by step.
    ///
    /// # Errors
    /// The disk is full, no step is left, or as `each`.
    pub(crate) fn gather(
        &self,
        aside: Aside,
        scratch: &Path,
        each: impl FnOnce(&mut dyn FnMut(&Taken) -> Result<()>) -> Result<()>,
    ) -> Result<Measured> {
        let mut measured = Measured::new(self.shape.words(), scratch, Skipped::default());
        let mut book = Book::new(self, false, scratch);
        each(&mut |taken| book.take(self, taken, &aside.skipped, &mut measured))?;
        self.close(book, aside, measured)
    }

    fn close(&self, book: Book, aside: Aside, mut measured: Measured) -> Result<Measured> {
        measured.set_start(self.run, aside.starts.into_iter());
        measured.skipped = aside.skipped;
        if let Some(sample) = &self.sample {
            sample.forget(|step| measured.skipped.contains(step));
        }
        book.close(self, &mut measured)?;
        if measured.steps.is_empty() {
            let what = match measured.skipped.ranges().next() {
                None => "no step was measured".to_owned(),
                Some((_, why)) => format!("no step is left: {why}"),
            };
            return Err(Error::Nothing { path: self.run.path.clone(), what });
        }
        Ok(measured)
    }

    /// What is known on the side before anything is read.
    pub(crate) fn aside(&self) -> Aside {
        Aside { skipped: self.skipped.clone(), starts: vec![None; self.run.table.pieces().len()] }
    }

    /// Walks a share of the steps and chunks window by window, and hands on what pieces have at the steps of each, and
    /// what is left out so far.
    ///
    /// # Errors
    /// As [`Self::measure`], or `take`.
    pub(crate) fn walk(
        &self,
        share: &Share,
        (devices, scratch, observer): (&[Arc<Device>], &Path, &dyn Observer),
        mut take: impl FnMut(Taken, &Skipped) -> Result<()>,
    ) -> Result<Aside> {
        // It may be once more, after a device has failed.
        if let Some(common) = &self.common {
            common.clear();
        }
        let layout = self.shape.layout;
        let influence = self.influence(share, scratch)?;
        let influence = influence.as_ref();
        let workers = Workers::new(self.options, devices, layout, self.run, self.references, influence)?;
        let wanted = share.steps(&self.candidates);
        let walked = influence.map_or_else(|| wanted.to_vec(), |i| i.course.steps());
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
        let replays = if self.check().is_some() { self.replays() } else { Vec::new() };
        let shared = Shared { share, pieces: share.pieces(self.run), wanted, replays, influence };
        let mut aside = self.aside();
        std::thread::scope(|scope| -> Result<()> {
            // One window is opened, and its pages brought in, while the one before is measured.
            let (send, receive) = sync_channel::<Result<(&[u64], Window)>>(0);
            let walked = &walked;
            let open = move || {
                for range in plan {
                    let steps = &walked[range];
                    let opened = share.open(self.run, &self.needed(steps));
                    if send.send(opened.map(|window| (steps, window))).is_err() {
                        return;
                    }
                }
            };
            let opener = std::thread::Builder::new().spawn_scoped(scope, open);
            opener.tried("start a thread for", &self.run.path)?;
            let mut leaving: Option<JoinHandle<()>> = None;
            for opened in receive {
                let (steps, mut window) = opened?;
                let taken = self.window((steps, &shared), &mut window, (&workers, observer), &mut aside)?;
                take(taken, &aside.skipped)?;
                if !self.run.access().mmap {
                    // Files are closed before the next ones are opened.
                    drop(window);
                    continue;
                }
                if let Some(before) = leaving.take() {
                    let _ = before.join();
                }
                // It takes a while to unmap gigabytes. Where no thread can be had it is done here.
                leaving = std::thread::Builder::new().spawn(move || drop(window)).ok();
            }
            Ok(())
        })?;
        Ok(aside)
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
        (walked, shared): (&[u64], &Shared<'_>),
        window: &mut Window,
        (workers, observer): (&Workers, &dyn Observer),
        aside: &mut Aside,
    ) -> Result<Taken> {
        let skip = self.options.skip_damaged;
        let place = |step: Option<&u64>, more: u64| {
            step.map_or(0, |step| shared.wanted.partition_point(|s| *s < step + more))
        };
        let steps = &shared.wanted[place(walked.first(), 0)..place(walked.last(), 1)];
        if !skip && !window.damaged.is_empty() {
            return Err(window.damaged.swap_remove(0).1);
        }
        for (range, e) in &window.damaged {
            if steps.iter().any(|s| range.contains(s)) {
                aside.skipped.add(range.clone(), &e.to_string());
            } else {
                aside.skipped.also.insert(*range.start(), e.to_string());
            }
        }
        let measured: Vec<u64> = steps
            .iter()
            .copied()
            .filter(|&s| window.has(s, StreamId::Iterate) && self.recorded(window, s) != 0)
            .filter(|&s| !aside.skipped.contains(s))
            .collect();
        let updates = self.linear_updates(&measured);
        let scalar = |step: u64, name: &str| window.scalar(step, name);
        let norms = self.common.as_ref().map(|common| common.begin(&measured, scalar));
        let chunks = shared.share.chunks(self.run);
        let unit = Unit {
            run: self.run,
            window,
            chunks: &chunks,
            layout: self.shape.layout,
            references: self.references,
            directions: &self.options.directions,
            hyperparameters: &self.hyperparameters,
            replays: shared.replays.clone(),
            updates: &updates,
            first: self.first.filter(|&s| window.has(s, StreamId::Iterate)),
            wants_start: shared.pieces.iter().any(|p| aside.starts[*p].is_none()),
            sample: self.sample.as_ref(),
            common: self.common.as_ref().zip(norms.as_ref()),
            influence: shared.influence.map(|i| (i, i.course.segments_of(walked))),
            observer,
        };
        let (pieces, starts, damage) = workers.measure(&unit, &measured)?;
        for (known, start) in aside.starts.iter_mut().zip(starts) {
            *known = known.or(start);
        }
        for (lost, e) in damage {
            if !skip {
                return Err(e);
            }
            let (first, last) = lost.into_inner();
            let candidates = &self.candidates[self.candidates.partition_point(|s| *s < first)..];
            if candidates.first().is_some_and(|s| *s <= last) {
                aside.skipped.add(first..=last, &e.to_string());
            } else {
                aside.skipped.also.insert(first, e.to_string());
            }
        }
        observer.advance(((steps.len() - measured.len()) * chunks.len()) as u64, 0);
        let is_damaged = |row: usize| shared.pieces.iter().any(|p| pieces[*p].cells.row(row).flags.damaged);
        if let Some(row) =
            (0..measured.len()).find(|&row| is_damaged(row) && !aside.skipped.contains(measured[row]))
        {
            let step = measured[row];
            let what = format!("step {step} was not measured. This is a fault of lpa; please report it.");
            return Err(Error::Nothing { path: self.run.path.clone(), what });
        }
        let recorded = measured.iter().map(|&step| self.recorded(window, step)).collect();
        let scalars = measured.iter().map(|&step| self.scalars_of(window, step)).collect();
        Ok(Taken { steps: measured, recorded, scalars, pieces })
    }

    /// How many scalars of each step the fold of sketches needs.
    fn scalars_of_step(&self) -> usize {
        let Some(sketches) = &self.sketches else { return 0 };
        sketches.scalars().len() + self.sample.as_ref().map_or(0, |sample| sample.scalars().len())
    }

    /// What a step has of them.
    fn scalars_of(&self, window: &Window, step: u64) -> Vec<Option<f64>> {
        let Some(sketches) = &self.sketches else { return Vec::new() };
        let mut all: Vec<Option<f64>> = Vec::with_capacity(self.scalars_of_step());
        all.extend(sketches.scalars().iter().map(|name| window.scalar(step, name)));
        if let Some(sample) = &self.sample {
            let wanted = sample.wants_scalars(step);
            all.extend(sample.scalars().iter().map(|name| window.scalar(step, name).filter(|_| wanted)));
        }
        all
    }

    /// What the words of a step of a share are of.
    pub(crate) fn record(&self, share: &Share) -> Record {
        Record { layout: self.shape.layout, scalars: self.scalars_of_step(), pieces: share.pieces(self.run) }
    }

    /// What is taken of no step.
    pub(crate) fn nothing_taken(&self) -> Taken {
        Taken::new(self.shape.layout, self.run.table.pieces().len())
    }

    /// What was kept besides, as words: the sample of the gradients, and what directions of sketches have in common.
    pub(crate) fn kept_besides(&self) -> [Vec<u64>; 2] {
        [
            self.sample.as_ref().map(Sample::to_words).unwrap_or_default(),
            self.common.as_ref().map(Common::to_words).unwrap_or_default(),
        ]
    }

    /// Forgets what was kept besides.
    pub(crate) fn forget_besides(&self) {
        if let Some(sample) = &self.sample {
            sample.forget(|_| true);
        }
        if let Some(common) = &self.common {
            common.clear();
        }
    }

    /// Adds what another process has kept besides of other steps, those of a range; false where it does not fit.
    pub(crate) fn add_besides(&self, range: &Range<u64>, [sample, common]: [&[u64]; 2]) -> bool {
        self.sample.as_ref().map_or(sample.is_empty(), |own| own.add_words(range, sample))
            && self.common.as_ref().map_or(common.is_empty(), |own| own.add_words(common))
    }

    /// One bit a direction: it was recorded at this step.
    fn recorded(&self, window: &Window, step: u64) -> u64 {
        recorded(&self.options.directions, |id| window.has(step, id), window.has(step + 1, StreamId::Iterate))
    }
}
