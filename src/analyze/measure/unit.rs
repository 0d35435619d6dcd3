//! The unit of work: one chunk of parameters walked through a few steps in time.
//!
//! Units are independent, so threads take them in any order; what a unit computes depends on
//! nothing but its chunk and steps.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use crate::analyze::measure::course::Segment;
use crate::analyze::measure::gpu::{Batch, Shared};
use crate::analyze::measure::influence::Influence;
use crate::analyze::measure::lossy::Bounds;
use crate::analyze::measure::responses::Responses;
use crate::analyze::measure::sample::Sample;
use crate::analyze::measure::term::{Supply, Term};
use crate::analyze::measure::threads::thread_pool;
use crate::analyze::measure::told::{Told, Updates};
use crate::analyze::{Observer, Options};
use crate::codec::Predictor;
use crate::cuda::Device;
use crate::error::{Error, Result};
use crate::isa::Isa;
use crate::optimizer::Hyperparameters;
use crate::order::CHUNK;
use crate::reduce::Direction;
use crate::reduce::cpu::{Vectors, iterate_sums};
use crate::reference::Reference;
use crate::run::Run;
use crate::run::format::chunk::Chunk;
use crate::run::format::manifest::GRAD;
use crate::run::read::chunk_reader::{ChunkReader, Decoded, Reader};
use crate::run::read::trajectory::{Slots, Trajectory};
use crate::run::read::window::Window;
use crate::stream::Measured;
use crate::sums::{Cells, Layout};

/// What all units of a window share.
pub(crate) struct Unit<'a> {
    pub(crate) run: &'a Run,
    pub(crate) window: &'a Window,
    pub(crate) layout: Layout,
    pub(crate) references: &'a [Reference],
    pub(crate) directions: &'a [Measured],
    pub(crate) hyperparameters: &'a Hyperparameters<'a>,
    /// How the declared optimizer's steps are predicted, where the storage of iterates tells of them.
    pub(crate) replays: Vec<Option<Predictor>>,
    /// The updates of the steps, where they are linear.
    pub(crate) updates: &'a Updates,
    /// The step of x_0, where it is there.
    pub(crate) first: Option<u64>,
    /// Whether `||x_0||^2` is still to be found.
    pub(crate) wants_start: bool,
    /// Where gradients are kept to see how skewed they are.
    pub(crate) sample: Option<&'a Sample>,
    /// Where what gradients put into references is summed element by element: how, and the segments of the window.
    pub(crate) influence: Option<(&'a Influence<'a>, &'a [Segment])>,
    pub(crate) observer: &'a dyn Observer,
}

/// The threads and what each works with.
pub(crate) struct Workers {
    pool: rayon::ThreadPool,
    isa: Isa,
    scratch: Vec<Mutex<Scratch>>,
    /// Where each chunk begins in the model.
    offsets: Vec<usize>,
}

/// Threads of a processor where GPUs sum: while one waits for its batch, another decodes.
const WAITING: usize = 2;
/// Lanes of a device at most, since each pins memory.
const LANES: usize = 64;

/// Damage that was met: the steps that it spoils, and how it shows.
type Damage = Vec<(RangeInclusive<u64>, Error)>;

/// The sums of a chunk, and what the storage of its iterates tells, by step.
#[derive(Clone)]
pub(crate) struct Measurement {
    pub(crate) cells: Cells,
    pub(crate) told: Vec<Told>,
}

/// What a unit came to.
struct Walked {
    cells: Cells,
    told: Vec<Told>,
    /// `||x_0||^2`.
    start: Option<f64>,
    damage: Damage,
}

struct Scratch {
    reader: Reader,
    g: Vec<f32>,
    init: Vec<f32>,
    iterates: Trajectory,
    references: Vec<Vec<f32>>,
    /// Where vectors were stored with loss.
    bounds: Option<Bounds>,
    /// Where there is an [`Influence`].
    responses: Option<Responses>,
    /// Where a GPU sums.
    batch: Option<RefCell<Batch>>,
}

impl Workers {
    pub(crate) fn new(
        options: &Options,
        devices: &[Arc<Device>],
        layout: Layout,
        run: &Run,
        references: &[Reference],
        influence: Option<&Influence<'_>>,
    ) -> Result<Workers> {
        let isa = &options.isa;
        let threads = match devices.len() {
            0 => options.threads.max(1),
            count => (options.threads.max(1) * WAITING).min(count * LANES),
        };
        let lanes = threads.div_ceil(devices.len().max(1));
        let shared = devices.iter().map(|d| Shared::new(d, lanes, layout, run, references));
        let shared = shared.collect::<Result<Vec<_>>>()?;
        let scratch = |i: usize| {
            let batch = match shared.len() {
                0 => None,
                count => Some(shared[i % count].batch()?),
            };
            Ok(Mutex::new(Scratch::new(layout, batch, influence, run)?))
        };
        let scratch = (0..threads).map(scratch).collect::<Result<_>>()?;
        let offsets = run.table.chunks().iter().scan(0, |at, chunk| {
            *at += chunk.len;
            Some(*at - chunk.len)
        });
        Ok(Workers { pool: thread_pool(threads, &run.path)?, isa: *isa, scratch, offsets: offsets.collect() })
    }

    /// The sums of every chunk at every step, `||x_0||^2` of every chunk where x_0 is there and it is wanted,
    /// and the damage met.
    pub(crate) fn measure(
        &self,
        unit: &Unit<'_>,
        steps: &[u64],
    ) -> Result<(Vec<Measurement>, Vec<Option<f64>>, Damage)> {
        let chunks = unit.run.table.chunks();
        // Models of few chunks are also cut in time, so that every thread has work. A piece decodes
        // the iterates after its last step too, of which there are many where directions meet a
        // later one.
        let pieces = (4 * self.scratch.len()).div_ceil(chunks.len().max(1));
        let least = unit.layout.lag.map_or(8, |lag| 4 * usize::try_from(lag).unwrap_or(2));
        let piece = steps.len().div_ceil(pieces).max(least);
        let cut = |c: usize| steps.chunks(piece).map(move |s| (c, s));
        let jobs: Vec<(usize, &[u64])> = match unit.influence {
            None => (0..chunks.len()).flat_map(cut).collect(),
            // Who walks backward does so from the end, also where no row is wanted.
            Some(_) => (0..chunks.len()).map(|c| (c, steps)).collect(),
        };
        let done: Vec<Result<Walked>> = self.pool.install(|| {
            jobs.par_iter()
                .with_max_len(1)
                .map(|&(index, steps)| {
                    let wanted = |s| unit.directions.iter().any(|m| m.recorded == Some(s));
                    unit.window.prefetch_chunk(unit.run, index, wanted);
                    let thread = rayon::current_thread_index().unwrap_or(0);
                    let slot = &self.scratch[thread % self.scratch.len()];
                    let mut scratch = slot.lock().unwrap_or_else(PoisonError::into_inner);
                    unit.walk(self.isa, (index, self.offsets[index]), steps, &mut scratch)
                })
                .collect()
        });
        let cells = Cells::with_capacity(unit.layout, steps.len());
        let mut measured = vec![Measurement { cells, told: Vec::with_capacity(steps.len()) }; chunks.len()];
        let (mut starts, mut damage) = (vec![None; chunks.len()], Vec::new());
        let per_chunk = (jobs.len() / chunks.len().max(1)).max(1);
        for (i, result) in done.into_iter().enumerate() {
            let walked = result?;
            let of_chunk = &mut measured[i / per_chunk];
            of_chunk.cells.append(walked.cells);
            of_chunk.told.extend(walked.told);
            starts[i / per_chunk] = walked.start;
            damage.extend(walked.damage);
        }
        damage.sort_by_key(|(steps, _)| *steps.start());
        Ok((measured, starts, damage))
    }
}

impl Scratch {
    fn new(
        layout: Layout,
        batch: Option<Batch>,
        influence: Option<&Influence<'_>>,
        run: &Run,
    ) -> Result<Scratch> {
        let vector = || vec![0.0f32; CHUNK];
        // x_t while x_{t+1} is the newest, or the later one that directions are compared with.
        let past = layout.lag.map_or(1, |lag| usize::try_from(lag).unwrap_or(1));
        Ok(Scratch {
            reader: Reader::new(run)?,
            g: vector(),
            init: vector(),
            iterates: Trajectory::new(past),
            // A GPU has its own.
            references: (0..if batch.is_some() && !layout.lossy { 0 } else { layout.references })
                .map(|_| vector())
                .collect(),
            bounds: layout.lossy.then(|| Bounds::new(layout)),
            responses: influence.map(Responses::new),
            batch: batch.map(RefCell::new),
        })
    }
}

impl Unit<'_> {
    /// Walks a chunk through `steps`, keeping iterates from one step to the next.
    fn walk(
        &self,
        isa: Isa,
        (index, offset): (usize, usize),
        steps: &[u64],
        s: &mut Scratch,
    ) -> Result<Walked> {
        let chunk = &self.run.table.chunks()[index];
        let n = chunk.len;
        let cells = Cells::zeros(self.layout, steps.len());
        let mut damage = Vec::new();
        let Scratch { reader, g, init, iterates, references, bounds, responses, batch } = s;
        if let Some(batch) = batch {
            batch.borrow_mut().begin(&self.run.manifest, chunk, offset, self.directions)?;
        }
        for (reference, values) in self.references.iter().zip(references.iter_mut()) {
            reference.chunk(chunk, reader.buffer(), &mut values[..n])?;
        }
        if let Some(bounds) = bounds {
            bounds.begin(self.references, chunk, reader.buffer())?;
        }
        let mut source = reader.at(self.run, self.window, chunk);
        iterates.clear();
        let (mut start, mut has_init) = (None, false);
        if let Some(first) = self.first {
            match iterates.recorded(first, &mut source) {
                Ok(x) => {
                    init[..n].copy_from_slice(x);
                    has_init = true;
                    start = self
                        .wants_start
                        .then(|| iterate_sums(isa, &Vectors { g: x, x, next: x, init: x }).x2);
                }
                Err(e) => damage.push((first..=first, keep(e)?)),
            }
        }
        let init = has_init.then_some(&init[..n]);
        let (told, again) = (vec![Told::default(); steps.len()], Vec::new());
        let wanted = steps;
        let mut walk =
            Steps { unit: self, isa, index, wanted, init, g, references, bounds, cells, told, again, damage };
        let batch = batch.as_ref();
        match (self.influence, responses, batch.filter(|b| b.borrow().decodes())) {
            (Some((influence, segments)), Some(responses), _) => {
                let mover = influence.course.movers.of(chunk.tensor);
                responses.begin(influence, index, n)?;
                for segment in segments.iter().rev() {
                    // What is held is of later steps, which would be kept for longer than those that come.
                    iterates.clear();
                    responses.forward(influence, (segment, index), (mover, self.layout), &mut source)?;
                    let walked: Vec<u64> = segment.steps.clone().collect();
                    let noting = Noting { responses, influence, segment, mover };
                    walk.take(&walked, iterates, batch, Some(noting), &mut source)?;
                    let rows = (steps, &mut walk.cells);
                    responses.back(influence, segment, (isa, mover), rows, &mut source);
                }
                if segments.first().is_some_and(|s| s.number > 0) {
                    responses.end(influence, index, n)?;
                }
            }
            (_, _, None) => walk.take(steps, iterates, batch, None, &mut source)?,
            (_, _, Some(on_device)) => {
                let count = on_device.borrow().iterates();
                walk.take(steps, &mut Trajectory::over(on_device, count), batch, None, &mut source)?;
            }
        }
        let Steps { mut cells, mut told, again, damage, .. } = walk;
        let bytes = source.bytes;
        // A device has not shown what was missed; there is something at few steps, if any.
        for (row, step) in again {
            iterates.recorded(step + 1, &mut source)?;
            told[row] = self.told(iterates, step, chunk.tensor).unwrap_or_default();
        }
        if let Some(batch) = batch {
            batch.borrow_mut().flush(self.references, chunk, &mut cells)?;
        }
        self.observer.advance(steps.len() as u64, bytes);
        Ok(Walked { cells, told, start, damage })
    }

    /// What the storage of x_{t+1} tells of step t; `None` where its values must be at hand first.
    fn told<S: Slots>(&self, iterates: &Trajectory<S>, step: u64, tensor: usize) -> Option<Told> {
        let group = self.run.manifest.tensors[tensor].param_group;
        let Some(replay) = self.replays.get(group).copied().flatten() else { return Some(Told::Nothing) };
        let update = self.updates.at(step).get(group).and_then(Option::as_ref);
        Told::of(iterates.made(step + 1), replay, update)
    }

    fn direction(&self, measured: &Measured, chunk: &Chunk, step: u64) -> Direction {
        let group = self.run.manifest.tensors[chunk.tensor].param_group;
        measured.direction(|| self.hyperparameters.coupled_weight_decay(group, step).unwrap_or(0.0))
    }
}

/// A walk through the steps of a unit.
struct Steps<'a> {
    unit: &'a Unit<'a>,
    isa: Isa,
    /// The chunk's number.
    index: usize,
    /// The steps that have a row.
    wanted: &'a [u64],
    /// x_0, where it is there.
    init: Option<&'a [f32]>,
    g: &'a mut [f32],
    references: &'a [Vec<f32>],
    bounds: &'a mut Option<Bounds>,
    cells: Cells,
    told: Vec<Told>,
    /// Rows and steps of which more is told once the values are at hand.
    again: Vec<(usize, u64)>,
    damage: Damage,
}

/// How far iterates were looked for.
#[derive(Default)]
struct Reached {
    /// Steps whose iterates cannot be decoded.
    lost: Option<RangeInclusive<u64>>,
    /// Up to here all that are needed were taken.
    ahead: u64,
}

/// Which iterates around a step are at hand.
#[derive(Clone, Copy)]
struct Around {
    has_next: bool,
    /// The step of the later iterate that directions meet.
    later: Option<u64>,
}

/// Who is told of the gradients on the way, to walk back over them.
struct Noting<'a> {
    responses: &'a mut Responses,
    influence: &'a Influence<'a>,
    segment: &'a Segment,
    mover: usize,
}

impl Steps<'_> {
    /// Takes `steps`, with iterates held wherever they are; in a batch where a GPU sums.
    fn take<S: Slots>(
        &mut self,
        steps: &[u64],
        iterates: &mut Trajectory<S>,
        batch: Option<&RefCell<Batch>>,
        mut noting: Option<Noting<'_>>,
        source: &mut ChunkReader<'_>,
    ) -> Result<()> {
        let n = source.chunk.len;
        let mut reached = Reached::default();
        for &t in steps {
            let row = self.wanted.binary_search(&t).ok();
            if let Some(batch) = batch.filter(|b| b.borrow().is_full()) {
                batch.borrow_mut().flush(self.unit.references, source.chunk, &mut self.cells)?;
            }
            let around = self.reach_around(t, row.is_some(), steps, &mut reached, iterates, source)?;
            if let Some(row) = row {
                match self.unit.told(iterates, t, source.chunk.tensor) {
                    Some(of_step) => self.told[row] = of_step,
                    None => self.again.push((row, t)),
                }
            }
            let Some(x) = iterates.get(t, n) else {
                row.into_iter().for_each(|row| self.cells.row_mut(row).flags.damaged = true);
                continue;
            };
            if let Some(noting) = &mut noting {
                self.note(noting, t, x, iterates, source);
            }
            if let Some(row) = row {
                self.fill(row, t, around, iterates, batch, source)?;
            }
        }
        Ok(())
    }

    /// Decodes the iterates that a step needs.
    fn reach_around<S: Slots>(
        &mut self,
        t: u64,
        has_row: bool,
        steps: &[u64],
        reached: &mut Reached,
        iterates: &mut Trajectory<S>,
        source: &mut ChunkReader<'_>,
    ) -> Result<Around> {
        let (run, Reached { lost, ahead }) = (self.unit.run, reached);
        let mut reach = |step: u64| -> Result<bool> {
            if lost.as_ref().is_some_and(|lost| lost.contains(&step)) {
                return Ok(false);
            }
            iterates.reach(step, source).or_else(|e| {
                let e = keep(e)?;
                let end = run.next_keyframe(step)?.map_or(u64::MAX, |k| k - 1);
                *lost = Some(step..=end);
                // The final iterate has no row.
                let last = run.final_step().unwrap_or(run.steps().end).saturating_sub(1);
                self.damage.push((step..=last.min(end).max(step), e));
                Ok(false)
            })
        };
        let (_, has_next) = (reach(t)?, reach(t + 1)?);
        let later = self.unit.layout.lag.map_or(t, |lag| t + lag);
        // A later iterate may be decoded without those before it, which the next steps need: in order.
        let needed = |s: &u64| steps.binary_search(s).is_ok() || steps.binary_search(&(s - 1)).is_ok();
        for between in ((t + 2).max(*ahead + 1)..later).filter(needed) {
            reach(between)?;
        }
        *ahead = later;
        let has_later = later > t && has_row && reach(later)?;
        Ok(Around { has_next, later: has_later.then_some(later) })
    }

    /// Notes a step's gradient for the walk back.
    fn note<S: Slots>(
        &mut self,
        noting: &mut Noting<'_>,
        t: u64,
        x: &[f32],
        iterates: &Trajectory<S>,
        source: &mut ChunkReader<'_>,
    ) {
        let Noting { responses, influence, segment, mover } = noting;
        let n = source.chunk.len;
        let known = iterates.gradient(t, n).or_else(|| {
            let grad = self.unit.run.manifest.stream_id(GRAD)?;
            let decoded = source.load(t, grad, &mut self.g[..n]).ok()?;
            Some((&self.g[..n], decoded))
        });
        let second = iterates.second_after(t, n).unwrap_or_default();
        responses.note(influence, (segment, t), (self.isa, *mover), known, [x, second]);
    }

    /// Fills the row of a step, or adds it to the batch.
    fn fill<S: Slots>(
        &mut self,
        row: usize,
        t: u64,
        around: Around,
        iterates: &Trajectory<S>,
        batch: Option<&RefCell<Batch>>,
        source: &mut ChunkReader<'_>,
    ) -> Result<()> {
        let (unit, n) = (self.unit, source.chunk.len);
        let (grad, has_next) = (unit.run.manifest.stream_id(GRAD), around.has_next);
        let x = iterates.get(t, n).unwrap_or_default();
        let next = iterates.get(t + 1, n).unwrap_or(x);
        let later = around.later.and_then(|step| Some((step, iterates.get(step, n)?)));
        let init = self.init.unwrap_or(x);
        let sample = unit.sample.filter(|s| s.wants(self.index, t));
        let on_device = batch.is_some_and(|b| b.borrow().decodes());
        if let (Some(sample), Some(grad)) = (sample.filter(|_| on_device), grad)
            && matches!(source.load(t, grad, &mut self.g[..n]), Ok(Decoded::Values))
        {
            sample.keep(self.index, t, &self.g[..n]);
        }
        if let Some(bounds) = self.bounds {
            let moves = unit.directions.iter().any(|m| m.recorded.is_none());
            let next = Some(next).filter(|_| moves && has_next);
            let later = later.map_or((t, None), |(step, values)| (step, Some(values)));
            bounds.iterates(source, [(t, Some(x)), (t + 1, next), later])?;
        }
        let mut sums = self.cells.row_mut(row);
        (sums.flags.no_init, sums.flags.no_next) = (self.init.is_none(), !has_next);
        sums.flags.no_later = later.is_none();
        // The stream whose values the buffer holds.
        let mut held = None;
        for (d, measured) in unit.directions.iter().enumerate() {
            let at_hand = iterates.gradient(t, n).filter(|_| measured.recorded == grad);
            let supply = match (measured.recorded, at_hand) {
                (None, _) if has_next => Supply::Iterates,
                (None, _) => Supply::Absent,
                (Some(stream), Some((_, Decoded::Values))) => Supply::AtHand(stream),
                (Some(_), Some(_)) => Supply::Absent,
                (Some(stream), None) if held == Some(stream) => Supply::Read(stream),
                (Some(stream), None) => match source.load(t, stream, &mut self.g[..n]) {
                    Ok(Decoded::Values) => Supply::Read(stream),
                    Ok(Decoded::Absent | Decoded::Missing) => Supply::Absent,
                    Err(e) => {
                        self.damage.push((t..=t, keep(e)?));
                        sums.flags.damaged = true;
                        continue;
                    }
                },
            };
            let mut direction = unit.direction(measured, source.chunk, t);
            match supply {
                Supply::Read(stream) => held = Some(stream),
                Supply::Absent => {
                    // Its part of every sum is 0.
                    self.g[..n].fill(0.0);
                    (held, direction) = (None, Direction::Stored);
                    sums.flags.absent |= 1 << d;
                    sums.flags.all_absent |= 1 << d;
                }
                Supply::AtHand(_) | Supply::Iterates => {}
            }
            let g = match (supply, at_hand) {
                (Supply::AtHand(_), Some((values, _))) => values,
                _ => &self.g[..n],
            };
            if let Some(sample) = sample.filter(|_| !on_device && measured.recorded == grad)
                && supply.stream().is_some()
            {
                sample.keep(self.index, t, g);
            }
            let vectors = Vectors { g, x, next, init };
            let term = Term { number: d, step: t, direction, supply, vectors, has_next, later };
            if batch.is_none() {
                term.sum(self.isa, self.references, &mut sums);
            }
            let given = match self.bounds {
                Some(bounds) => bounds.add(self.isa, &term, self.references, source, &mut sums)?,
                None => false,
            };
            if let Some(batch) = batch {
                batch.borrow_mut().add(&term, row, given)?;
            }
        }
        Ok(())
    }
}

/// Passes damage on to be collected; anything else ends the analysis.
fn keep(e: Error) -> Result<Error> {
    if e.is_damage() { Ok(e) } else { Err(e) }
}
