//! The walk over a run: some chunks at a time, window after window, and in each chunk from step to step.
//!
//! Owns what is held in memory: of each chunk the steps that later ones meet, and the sums. The sums of pieces are folded
//! in the order of chunks, whatever thread had them first.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::analyze::Observer;
use crate::error::Result;
use crate::group::{Group, by_tensor};
use crate::lags::GroupSums;
use crate::lags::history::{Held, History};
use crate::lags::meeting::StepSums;
use crate::lags::plan::{INSTEAD, Plan};
use crate::memory;
use crate::order::{CHUNK, Neumaier};
use crate::reduce::lagged::{Lagged, LaggedSums, Meetings, OwnSums, Vectors};
use crate::reference::Reference;
use crate::run::Run;
use crate::run::format::chunk::{Chunk, Piece};
use crate::run::format::manifest::GRAD;
use crate::run::read::chunk_reader::{ChunkReader, Decoded, Reader};
use crate::run::read::plan::plan_windows;
use crate::run::read::trajectory::Trajectory;
use crate::run::read::window::{Ahead, Window};

/// Steps of a chunk that are summed at a time.
const STEPS: usize = 128;
/// Bytes of steps that are held from one window to the next, if a chunk for each thread takes no more.
const HELD_BYTES: usize = 1 << 30;
/// A compensated sum, and then a number.
const BYTES_OF_SUM: usize = size_of::<Neumaier>() + size_of::<f64>();
/// Bytes of sums of a window that wait to be folded.
const SUMS_BYTES: usize = 64 << 20;

/// What is measured.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub run: &'a Run,
    pub plan: &'a Plan,
    pub reference: &'a Reference,
    pub groups: &'a [Group],
}

/// The sums of consecutive steps over one piece.
#[derive(Debug, Default)]
struct PieceSums {
    /// By step: whether there is a gradient.
    present: Vec<bool>,
    /// By step.
    own: Vec<OwnSums>,
    /// By step, then by the earlier ones that it meets.
    met: Vec<LaggedSums>,
}

/// What a thread works with.
#[derive(Default)]
struct Worker {
    lagged: Lagged,
    reference: Vec<f32>,
    spare: Vec<Held>,
}

/// Sums of a group that are being folded.
struct Folded {
    present: Vec<bool>,
    own: Vec<[Neumaier; 3]>,
    met: Vec<[Neumaier; 5]>,
}

/// What the walk knows.
struct Walk<'a> {
    subject: Subject<'a>,
    /// By tensor: numbers of the groups that it is in.
    groups_of: Vec<Vec<usize>>,
    /// One a thread.
    workers: Vec<Mutex<Worker>>,
    observer: &'a dyn Observer,
}

/// Measures all pairs of a plan, by group, on the threads of a pool.
///
/// # Errors
/// Something is damaged or cannot be read, or there is too little memory.
pub(super) fn measure(
    subject: Subject<'_>,
    pool: &rayon::ThreadPool,
    observer: &dyn Observer,
) -> Result<Vec<GroupSums>> {
    let Subject { run, plan, groups, .. } = subject;
    let groups_of = by_tensor(groups, run.manifest.tensors.len());
    let threads = pool.current_num_threads();
    let workers = (0..threads).map(|_| Mutex::default()).collect();
    let walk = Walk { subject, groups_of, workers, observer };
    let chunks: Vec<&Chunk> = run.table.chunks().iter().filter(|c| walk.is_wanted(c)).collect();
    let pieces: usize = chunks.iter().map(|c| c.pieces.len()).sum();
    let windows = plan_windows(run, &plan.steps, SUMS_BYTES / (bytes_of_step(plan) * pieces.max(1)))?;
    let batch = if windows.len() > 1 { batch(plan, threads) } else { chunks.len() }.max(1);
    check_memory(subject, batch.min(chunks.len()), threads)?;
    let mut folded: Vec<Folded> = groups.iter().map(|_| Folded::new(plan)).collect();
    observer.begin((plan.steps.len() * chunks.len()) as u64, chunks.len() as u64);
    let measured = chunks.chunks(batch).try_for_each(|batch| -> Result<()> {
        let mut histories: Vec<History> = batch.iter().map(|_| History::default()).collect();
        for places in &windows {
            let window = Window::whole(run, &plan.steps[places.clone()], Ahead::All)?;
            let done = pool.install(|| walk.window(&window, batch, places, &mut histories));
            for (chunk, sums) in batch.iter().zip(done) {
                walk.fold(chunk, places, &sums?, &mut folded);
            }
        }
        Ok(())
    });
    observer.end();
    measured?;
    Ok(folded.into_iter().map(Folded::totals).collect())
}

impl Walk<'_> {
    fn is_wanted(&self, chunk: &Chunk) -> bool {
        chunk.pieces.iter().any(|p| self.is_wanted_of(p))
    }

    fn is_wanted_of(&self, piece: &Piece) -> bool {
        !self.groups_of[piece.tensor].is_empty()
    }

    /// Measures the steps of a window: by chunk, then piece.
    fn window(
        &self,
        window: &Window,
        batch: &[&Chunk],
        places: &Range<usize>,
        histories: &mut [History],
    ) -> Vec<Result<Vec<PieceSums>>> {
        let jobs = batch.par_iter().zip(histories).with_max_len(1);
        jobs.map(|(chunk, history)| self.take(window, chunk, places, history)).collect()
    }

    /// Walks a chunk through the steps of a window.
    fn take(
        &self,
        window: &Window,
        chunk: &Chunk,
        places: &Range<usize>,
        history: &mut History,
    ) -> Result<Vec<PieceSums>> {
        let Subject { run, plan, reference, .. } = self.subject;
        let grad = run.manifest.stream_id(GRAD);
        if let Some(piece) = chunk.pieces.first() {
            window.prefetch_chunk(run, run.table.chunk_of(piece), |stream| Some(stream) == grad);
        }
        let thread = rayon::current_thread_index().unwrap_or(0) % self.workers.len();
        let mut worker = self.workers[thread].lock().unwrap_or_else(PoisonError::into_inner);
        let mut reader = Reader::new(run)?;
        worker.reference.resize(chunk.len, 0.0);
        reference.chunk(chunk, reader.buffer(), &mut worker.reference)?;
        let mut source = reader.at(run, window, chunk);
        let mut iterates = Trajectory::sized(1, chunk.len);
        let mut sums: Vec<PieceSums> = chunk.pieces.iter().map(|_| PieceSums::default()).collect();
        let mut begin = places.start;
        for place in places.clone() {
            let mut step = worker.spare.pop().unwrap_or_default();
            let there = self.read(place, &mut step, &mut iterates, &mut source)?;
            let absent = grad.map(|grad| source.absent(plan.steps[place], grad)).unwrap_or_default();
            for (number, sums) in sums.iter_mut().enumerate() {
                sums.present.push(there && !absent.has(number));
            }
            history.push(step);
            if place + 1 - begin == STEPS || place + 1 == places.end {
                self.sum(chunk, begin..place + 1, history, &mut worker, &mut sums);
                begin = place + 1;
            }
        }
        self.observer.advance(places.len() as u64, source.bytes);
        Ok(sums)
    }

    /// Reads the vectors of a step. Returns whether there is a gradient.
    fn read(
        &self,
        place: usize,
        step: &mut Held,
        iterates: &mut Trajectory,
        source: &mut ChunkReader<'_>,
    ) -> Result<bool> {
        let (run, steps, n) = (self.subject.run, &self.subject.plan.steps, source.chunk.len);
        let t = steps[place];
        let Held { x, g } = step;
        [&mut *x, &mut *g].into_iter().for_each(|vector| vector.resize(n, 0.0));
        x.copy_from_slice(iterates.recorded(t, source)?);
        let mut there = false;
        if let Some(grad) = run.manifest.stream_id(GRAD).filter(|g| source.window.has(t, *g)) {
            // The next iterate is decoded from it, so that it is decoded once for both.
            if steps.get(place + 1) == Some(&(t + 1)) {
                iterates.reach(t + 1, source)?;
            }
            let decoded = match iterates.swap_gradient(t, g) {
                Some(decoded) => decoded,
                None => source.load(t, grad, g)?,
            };
            there = decoded == Decoded::Values;
        }
        if !there {
            g.fill(0.0);
        }
        Ok(there)
    }

    /// Sums some steps of a chunk, which are the last ones that are held, and lets those go that no later one meets.
    fn sum(
        &self,
        chunk: &Chunk,
        places: Range<usize>,
        history: &mut History,
        worker: &mut Worker,
        sums: &mut [PieceSums],
    ) {
        let Subject { run, plan, .. } = self.subject;
        let Worker { lagged, reference, spare } = worker;
        let earlier = |number: &usize| plan.pairs[*number].earlier - history.first();
        let met: Vec<Vec<usize>> =
            places.clone().map(|place| plan.met[place].iter().map(earlier).collect()).collect();
        for (piece, sums) in chunk.pieces.iter().zip(sums).filter(|(piece, _)| self.is_wanted_of(piece)) {
            let of = piece.range();
            let steps: Vec<Vectors<'_>> =
                history.held().map(|s| Vectors { g: &s.g[of.clone()], x: &s.x[of.clone()] }).collect();
            lagged.take(run.access().isa, Meetings { steps: &steps, met: &met, reference: &reference[of] });
            sums.own.extend_from_slice(&lagged.own);
            sums.met.extend_from_slice(&lagged.met);
        }
        history.forget(plan.oldest(places.end), spare);
    }

    /// Adds the sums of a chunk's pieces to those of their groups.
    fn fold(&self, chunk: &Chunk, places: &Range<usize>, sums: &[PieceSums], folded: &mut [Folded]) {
        for (piece, sums) in chunk.pieces.iter().zip(sums) {
            for &g in &self.groups_of[piece.tensor] {
                folded[g].add(self.subject.plan, places, sums);
            }
        }
    }
}

impl Folded {
    fn new(plan: &Plan) -> Folded {
        Folded {
            present: vec![false; plan.steps.len()],
            own: vec![Default::default(); plan.steps.len()],
            met: vec![Default::default(); plan.pairs.len()],
        }
    }

    /// Adds the sums of a piece.
    fn add(&mut self, plan: &Plan, places: &Range<usize>, sums: &PieceSums) {
        let mut met = sums.met.iter();
        for (place, (present, own)) in places.clone().zip(sums.present.iter().zip(&sums.own)) {
            self.present[place] |= present;
            add(&mut self.own[place], own.values());
            for (number, both) in plan.met[place].iter().zip(&mut met) {
                add(&mut self.met[*number], both.values());
            }
        }
    }

    fn totals(self) -> GroupSums {
        let own = self.own.iter().zip(self.present);
        GroupSums {
            steps: own.map(|(sums, there)| StepSums::new(OwnSums::of(totals(sums)), there)).collect(),
            pairs: self.met.iter().map(|sums| LaggedSums::of(totals(sums))).collect(),
        }
    }
}

fn add<const N: usize>(sums: &mut [Neumaier; N], terms: [f64; N]) {
    sums.iter_mut().zip(terms).for_each(|(sum, term)| sum.add(term));
}

fn totals<const N: usize>(sums: &[Neumaier; N]) -> [f64; N] {
    sums.map(Neumaier::total)
}

/// Bytes of the sums of a step over one piece.
fn bytes_of_step(plan: &Plan) -> usize {
    size_of::<bool>() + size_of::<OwnSums>() + plan.lags.len() * size_of::<LaggedSums>()
}

/// Bytes of the sums of a pair over so many groups.
pub(super) fn bytes_of_pair(groups: usize) -> usize {
    groups.saturating_mul(5 * BYTES_OF_SUM)
}

/// Bytes of the vectors of so many steps of a chunk.
fn vectors(steps: usize) -> usize {
    steps.saturating_mul(2 * CHUNK * size_of::<f32>())
}

/// Chunks that are walked at a time, so that what is held of them fits.
fn batch(plan: &Plan, threads: usize) -> usize {
    (HELD_BYTES / vectors(plan.held()).max(1)).max(threads)
}

/// Checks that there is memory for it.
///
/// # Errors
/// There is not; the text says what to do.
fn check_memory(Subject { plan, groups, .. }: Subject<'_>, batch: usize, threads: usize) -> Result<()> {
    let of_steps = plan.steps.len().saturating_mul(3 * groups.len() * BYTES_OF_SUM);
    let sums = of_steps.saturating_add(plan.pairs.len().saturating_mul(bytes_of_pair(groups.len())));
    let read = vectors(plan.held()).saturating_mul(batch);
    let of_threads = vectors(STEPS.min(plan.steps.len())).saturating_mul(threads);
    let needed = sums.saturating_add(read).saturating_add(of_threads) as u64;
    let of = format!(
        "{} lags of up to {} steps, over {} steps and {} groups on {threads} threads,",
        plan.lags.len(),
        plan.longest(),
        plan.steps.len(),
        groups.len()
    );
    memory::check_memory(needed, &of, INSTEAD)
}
