//! The unit of work: one chunk of parameters walked through a few steps in time.
//!
//! Units are independent, so threads take them in any order; what a unit computes depends on
//! nothing but its chunk and steps.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use crate::analyze::common::{Common, Norms};
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
use crate::reduce::Direction;
use crate::reduce::cpu::{Vectors, iterate_sums};
use crate::reference::Reference;
use crate::run::Run;
use crate::run::format::chunk::{Chunk, Piece};
use crate::run::format::manifest::GRAD;
use crate::run::read::chunk_reader::{ChunkReader, Decoded, Reader};
use crate::run::read::trajectory::{Made, Slots, Trajectory};
use crate::run::read::window::Window;
use crate::stream::Measured;
use crate::sums::{Cells, Layout};

/// What all units of a window share.
pub(crate) struct Unit<'a> {
    pub(crate) run: &'a Run,
    pub(crate) window: &'a Window,
    /// The chunks that are walked, by number.
    pub(crate) chunks: &'a [usize],
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
    /// Where it is summed what directions have in common, and how long they are at the steps of the window.
    pub(crate) common: Option<(&'a Common, &'a Norms)>,
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

/// The sums of a piece, and what the storage of its iterates tells, by step.
#[derive(Clone)]
pub(crate) struct Measurement {
    pub(crate) cells: Cells,
    pub(crate) told: Vec<Told>,
}

/// What a unit came to.
struct Walked {
    /// By piece.
    measured: Vec<Measurement>,
    /// By piece: `||x_0||^2`.
    starts: Vec<Option<f64>>,
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

    /// The sums of every piece at every step, `||x_0||^2` of every piece where x_0 is there and it is wanted,
    /// and the damage met.
    pub(crate) fn measure(
        &self,
        unit: &Unit<'_>,
        steps: &[u64],
    ) -> Result<(Vec<Measurement>, Vec<Option<f64>>, Damage)> {
        let chunks = unit.run.table.chunks();
        // Models of few chunks are also cut in time, so that every thread has work. A part decodes
        // the iterates after its last step too, of which there are many where directions meet a
        // later one.
        let parts = (4 * self.scratch.len()).div_ceil(unit.chunks.len().max(1));
        let least = unit.layout.lag.map_or(8, |lag| 4 * usize::try_from(lag).unwrap_or(2));
        let part = steps.len().div_ceil(parts).max(least);
        let cut = |c: usize| steps.chunks(part).map(move |s| (c, s));
        let jobs: Vec<(usize, &[u64])> = match unit.influence {
            None => unit.chunks.iter().copied().flat_map(cut).collect(),
            // Who walks backward does so from the end, also where no row is wanted.
            Some(_) => unit.chunks.iter().map(|c| (*c, steps)).collect(),
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
        let pieces = unit.run.table.pieces().len();
        let mut measured = vec![Measurement { cells, told: Vec::with_capacity(steps.len()) }; pieces];
        let (mut starts, mut damage) = (vec![None; pieces], Vec::new());
        for ((chunk, _), result) in jobs.iter().zip(done) {
            let walked = result?;
            for (p, (own, start)) in walked.measured.into_iter().zip(walked.starts).enumerate() {
                let number = chunks[*chunk].pieces[p].number;
                measured[number].cells.append(own.cells);
                measured[number].told.extend(own.told);
                starts[number] = start;
            }
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
        // Of a small model these are much shorter than a chunk can be.
        let len = run.table.longest();
        let vector = || vec![0.0f32; len];
        let shared = run.table.chunks().iter().any(Chunk::is_shared);
        // x_t while x_{t+1} is the newest, or the later one that directions are compared with.
        let past = layout.lag.map_or(1, |lag| usize::try_from(lag).unwrap_or(1));
        Ok(Scratch {
            reader: Reader::new(run)?,
            g: vector(),
            init: vector(),
            iterates: Trajectory::sized(past, len),
            // A GPU has its own, of the chunks that it sums.
            references: (0..if batch.is_some() && !layout.has_spreads() && !shared {
                0
            } else {
                layout.references
            })
                .map(|_| vector())
                .collect(),
            bounds: Bounds::new(layout),
            responses: influence.map(|influence| Responses::new(influence, len)),
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
        let rows = Measurement {
            cells: Cells::zeros(self.layout, steps.len()),
            told: vec![Told::default(); steps.len()],
        };
        let mut damage = Vec::new();
        let Scratch { reader, g, init, iterates, references, bounds, responses, batch } = s;
        // Launching a kernel for a few elements takes longer than summing them.
        let batch = batch.as_ref().filter(|_| !chunk.is_shared());
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
        let (mut starts, mut has_init) = (vec![None; chunk.pieces.len()], false);
        if let Some(first) = self.first {
            match iterates.recorded(first, &mut source) {
                Ok(x) => {
                    init[..n].copy_from_slice(x);
                    has_init = true;
                    for (start, piece) in starts.iter_mut().zip(&chunk.pieces).filter(|_| self.wants_start) {
                        let x = &x[piece.range()];
                        *start = Some(iterate_sums(isa, &Vectors { g: x, x, next: x, init: x }).x2);
                    }
                }
                Err(e) => damage.push((first..=first, keep(e)?)),
            }
        }
        let init = has_init.then_some(&init[..n]);
        let (measured, again) = (vec![rows; chunk.pieces.len()], Vec::new());
        let wanted = steps;
        let mut walk =
            Steps { unit: self, isa, wanted, init, g, references, bounds, measured, again, damage };
        match (self.influence, responses, batch.filter(|b| b.borrow().decodes())) {
            (Some((influence, segments)), Some(responses), _) => {
                responses.begin(influence, chunk)?;
                for segment in segments.iter().rev() {
                    // What is held is of later steps, which would be kept for longer than those that come.
                    iterates.clear();
                    responses.forward(influence, segment, self.layout, &mut source)?;
                    let walked: Vec<u64> = segment.steps.clone().collect();
                    let noting = Noting { responses, influence, segment };
                    walk.take(&walked, iterates, batch, Some(noting), &mut source)?;
                    responses.back(influence, segment, isa, &mut source, |place, sums| {
                        if let Ok(row) = steps.binary_search(&sums.step) {
                            walk.measured[place].cells.row_mut(row).put_own(sums.reference, sums.own);
                        }
                    });
                }
                if segments.first().is_some_and(|s| s.number > 0) {
                    responses.end(influence, chunk)?;
                }
            }
            (_, _, None) => walk.take(steps, iterates, batch, None, &mut source)?,
            (_, _, Some(on_device)) => {
                let count = on_device.borrow().iterates();
                walk.take(steps, &mut Trajectory::over(on_device, count), batch, None, &mut source)?;
            }
        }
        let Steps { mut measured, again, damage, .. } = walk;
        let bytes = source.bytes;
        // A device has not shown what was missed; there is something at few steps, if any.
        for (row, step) in again {
            iterates.recorded(step + 1, &mut source)?;
            let made = iterates.made(step + 1, &source);
            for (place, own) in measured.iter_mut().enumerate() {
                let made = made.map(|m| m.of(place));
                own.told[row] = self.told(made, step, chunk.tensor).unwrap_or_default();
            }
        }
        if let (Some(batch), Some(own)) = (batch, measured.first_mut()) {
            batch.borrow_mut().flush(self.references, chunk, &mut own.cells)?;
        }
        self.observer.advance(steps.len() as u64, bytes);
        Ok(Walked { measured, starts, damage })
    }

    /// What the storage of x_{t+1} tells of step t; `None` where its values must be at hand first.
    fn told(&self, made: Option<Made>, step: u64, tensor: usize) -> Option<Told> {
        let group = self.run.manifest.tensors[tensor].param_group;
        let Some(replay) = self.replays.get(group).copied().flatten() else { return Some(Told::Nothing) };
        let update = self.updates.at(step).get(group).and_then(Option::as_ref);
        Told::of(made, replay, update)
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
    /// The steps that have a row.
    wanted: &'a [u64],
    /// x_0, where it is there.
    init: Option<&'a [f32]>,
    g: &'a mut [f32],
    references: &'a [Vec<f32>],
    bounds: &'a mut Option<Bounds>,
    /// By piece.
    measured: Vec<Measurement>,
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
                let cells = &mut self.measured[0].cells;
                batch.borrow_mut().flush(self.unit.references, source.chunk, cells)?;
            }
            let around = self.reach_around(t, row.is_some(), steps, &mut reached, iterates, source)?;
            if let Some(row) = row {
                let made = iterates.made(t + 1, source);
                for (place, own) in self.measured.iter_mut().enumerate() {
                    match self.unit.told(made.map(|m| m.of(place)), t, source.chunk.tensor) {
                        Some(of_step) => own.told[row] = of_step,
                        None => self.again.push((row, t)),
                    }
                }
            }
            let Some(x) = iterates.get(t, n) else {
                row.into_iter().for_each(|row| self.damaged(row));
                continue;
            };
            if let Some(noting) = &mut noting {
                self.note(noting, (t, row), x, iterates, source);
            }
            if let Some(row) = row {
                self.fill(row, t, around, iterates, batch, source)?;
            }
        }
        Ok(())
    }

    /// Marks a row whose sums mean nothing.
    fn damaged(&mut self, row: usize) {
        self.measured.iter_mut().for_each(|own| own.cells.row_mut(row).flags.damaged = true);
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

    /// Notes a step's gradient for the walk back, and what the step missed, where storage does not tell.
    fn note<S: Slots>(
        &mut self,
        noting: &mut Noting<'_>,
        (t, row): (u64, Option<usize>),
        x: &[f32],
        iterates: &Trajectory<S>,
        source: &mut ChunkReader<'_>,
    ) {
        let Noting { responses, influence, segment } = noting;
        let n = source.chunk.len;
        let known = iterates.gradient(t, n).or_else(|| {
            let grad = self.unit.run.manifest.stream_id(GRAD)?;
            let decoded = source.load(t, grad, &mut self.g[..n]).ok()?;
            Some((&self.g[..n], decoded))
        });
        let second = iterates.second_after(t, n).unwrap_or_default();
        let next = iterates.get(t + 1, n).unwrap_or_default();
        responses.note(influence, (segment, t), self.isa, known, [x, next, second], source);
        for (own, missed) in self.measured.iter_mut().zip(responses.missed()) {
            if let (Some(row), Some(missed)) = (row, missed)
                && let Told::Nothing | Told::NotReplayed = own.told[row]
            {
                own.told[row] = Told::Missed(missed);
            }
        }
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
        let chunk = source.chunk;
        let on_device = batch.is_some_and(|b| b.borrow().decodes());
        let wants = |p: &Piece| unit.sample.filter(|s| s.wants(p.number, t));
        if let (true, Some(grad)) = (on_device && chunk.pieces.iter().any(|p| wants(p).is_some()), grad)
            && matches!(source.load(t, grad, &mut self.g[..n]), Ok(Decoded::Values))
        {
            chunk
                .pieces
                .iter()
                .for_each(|p| wants(p).into_iter().for_each(|s| s.keep(p.number, t, &self.g[p.range()])));
        }
        if let Some(bounds) = self.bounds {
            let moves = unit.directions.iter().any(|m| m.recorded.is_none());
            let next = Some(next).filter(|_| moves && has_next);
            let later = later.map_or((t, None), |(step, values)| (step, Some(values)));
            bounds.iterates(source, [(t, Some(x)), (t + 1, next), later])?;
        }
        for own in &mut self.measured {
            let flags = own.cells.row_mut(row).flags;
            (flags.no_init, flags.no_next, flags.no_later) =
                (self.init.is_none(), !has_next, later.is_none());
        }
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
                        self.damaged(row);
                        continue;
                    }
                },
            };
            match supply {
                Supply::Read(stream) => held = Some(stream),
                Supply::Absent => {
                    // Its part of every sum is 0.
                    self.g[..n].fill(0.0);
                    held = None;
                }
                Supply::AtHand(_) | Supply::Iterates => {}
            }
            let g = match (supply, at_hand) {
                (Supply::AtHand(_), Some((values, _))) => values,
                _ => &self.g[..n],
            };
            let absent = supply.stream().map(|stream| source.absent(t, stream)).unwrap_or_default();
            let exact = match self.bounds {
                Some(bounds) => bounds.direction(source, t, supply.stream(), g)?,
                None => None,
            };
            let direction = unit.direction(measured, chunk, t);
            for (place, piece) in chunk.pieces.iter().enumerate() {
                let mut sums = self.measured[place].cells.row_mut(row);
                let (mut supply, mut direction) = (supply, direction);
                if supply == Supply::Absent || absent.has(place) {
                    (supply, direction) = (Supply::Absent, Direction::Stored);
                    sums.flags.absent |= 1 << d;
                    sums.flags.all_absent |= 1 << d;
                }
                if measured.recorded == grad
                    && supply.stream().is_some()
                    && let Some(sample) = wants(piece).filter(|_| !on_device)
                {
                    sample.keep(piece.number, t, part(g, piece));
                }
                if supply.stream().is_some()
                    && let Some((common, norms)) = unit.common
                {
                    common.add(norms, piece, (d, t), part(g, piece));
                }
                let [g, x, next, init] = [g, x, next, init].map(|v| part(v, piece));
                let vectors = Vectors { g, x, next, init };
                let later = later.map(|(step, values)| (step, part(values, piece)));
                let term = Term { number: d, step: t, direction, supply, vectors, has_next, later };
                if batch.is_none() {
                    term.sum(self.isa, self.references, piece.range(), &mut sums);
                }
                let given = self.bounds.as_mut().is_some_and(|bounds| {
                    bounds.add(self.isa, &term, (self.references, piece.range()), exact, &mut sums)
                });
                if let Some(batch) = batch {
                    batch.borrow_mut().add(&term, row, given)?;
                }
            }
        }
        Ok(())
    }
}

/// The elements of a piece; none of a vector that is not at hand, but on a device.
fn part<'v>(vector: &'v [f32], piece: &Piece) -> &'v [f32] {
    vector.get(piece.range()).unwrap_or_default()
}

/// Passes damage on to be collected; anything else ends the analysis.
fn keep(e: Error) -> Result<Error> {
    if e.is_damage() { Ok(e) } else { Err(e) }
}
