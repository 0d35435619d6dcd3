//! The walk over a run: window after window, in each all chunks, and in each chunk from step to step.
//!
//! Owns the sums of the minibatch's gradient with those of the probes at the same iterate. The sums of pieces are folded
//! in the order of chunks, whatever thread had them first.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::analyze::Observer;
use crate::error::Result;
use crate::group::{Group, by_tensor};
use crate::memory;
use crate::order::Neumaier;
use crate::reduce::lagged::{Lagged, Meetings, OwnSums, Vectors};
use crate::reference::Reference;
use crate::run::Run;
use crate::run::format::chunk::{Chunk, Piece};
use crate::run::format::manifest::GRAD;
use crate::run::format::vector_id::StreamId;
use crate::run::read::chunk_reader::{ChunkReader, Decoded, Reader};
use crate::run::read::plan::plan_windows;
use crate::run::read::trajectory::Trajectory;
use crate::run::read::window::{Ahead, Window};

/// Bytes of sums of a window that wait to be folded.
const SUMS_BYTES: usize = 64 << 20;

/// What is measured.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub run: &'a Run,
    /// Ascending.
    pub steps: &'a [u64],
    /// The streams of the probes, then that of the minibatch.
    pub streams: &'a [StreamId],
    pub reference: &'a Reference,
    pub groups: &'a [Group],
}

/// The sums of a step: by stream, and of the minibatch's gradient with each probe's.
#[derive(Clone, Debug)]
pub(crate) struct StepSums {
    /// By stream; `None` where it was not recorded, or no tensor has one.
    pub own: Vec<Option<OwnSums>>,
    /// By probe: the inner product of both gradients.
    pub products: Vec<f64>,
}

/// Sums that are being folded.
#[derive(Clone)]
struct Folded {
    present: Vec<bool>,
    own: Vec<[Neumaier; 3]>,
    products: Vec<Neumaier>,
}

/// What a thread works with.
#[derive(Default)]
struct Worker {
    lagged: Lagged,
    reference: Vec<f32>,
    /// By stream.
    vectors: Vec<Vec<f32>>,
}

/// The sums of a step over one piece.
struct PieceSums {
    present: Vec<bool>,
    own: Vec<OwnSums>,
    products: Vec<f64>,
}

struct Walk<'a> {
    subject: Subject<'a>,
    /// By tensor: numbers of the groups that it is in.
    groups_of: Vec<Vec<usize>>,
    /// By stream: those of earlier ones that it meets.
    met: Vec<Vec<usize>>,
    /// One a thread.
    workers: Vec<Mutex<Worker>>,
    observer: &'a dyn Observer,
}

/// Measures all steps, by group, on the threads of a pool.
///
/// # Errors
/// Something is damaged or cannot be read, or there is too little memory.
pub(super) fn measure(
    subject: Subject<'_>,
    pool: &rayon::ThreadPool,
    observer: &dyn Observer,
) -> Result<Vec<Vec<StepSums>>> {
    let Subject { run, steps, streams, groups, .. } = subject;
    let groups_of = by_tensor(groups, run.manifest.tensors.len());
    let probes = streams.len() - 1;
    let mut met = vec![Vec::new(); probes];
    met.push((0..probes).collect());
    let workers = (0..pool.current_num_threads()).map(|_| Mutex::default()).collect();
    let walk = Walk { subject, groups_of, met, workers, observer };
    let chunks: Vec<&Chunk> = run.table.chunks().iter().filter(|c| walk.is_wanted(c)).collect();
    let pieces: usize = chunks.iter().map(|c| c.pieces.len()).sum();
    let of_step = streams.len() * (size_of::<OwnSums>() + size_of::<f64>() + 1);
    let held = groups.len() * steps.len() * streams.len() * 5 * size_of::<Neumaier>();
    let what = format!("the sums of {} steps, {} groups and {probes} probes", steps.len(), groups.len());
    memory::check_memory(held as u64, &what, "Take fewer groups, or fewer steps by --steps A..B:K")?;
    let none = Folded {
        present: vec![false; streams.len()],
        own: vec![Default::default(); streams.len()],
        products: vec![Neumaier::default(); probes],
    };
    let mut folded = vec![vec![none; steps.len()]; groups.len()];
    let windows = plan_windows(run, steps, SUMS_BYTES / (of_step * pieces.max(1)))?;
    observer.begin((steps.len() * chunks.len()) as u64, chunks.len() as u64);
    let measured = windows.iter().try_for_each(|places| -> Result<()> {
        let window = Window::whole(run, &steps[places.clone()], Ahead::All)?;
        let job = |chunk: &&Chunk| walk.take(&window, chunk, places);
        let done: Vec<_> = pool.install(|| chunks.par_iter().with_max_len(1).map(job).collect());
        for (chunk, sums) in chunks.iter().zip(done) {
            walk.fold(chunk, places, &sums?, &mut folded);
        }
        Ok(())
    });
    observer.end();
    measured?;
    Ok(folded.into_iter().map(|steps| steps.into_iter().map(Folded::totals).collect()).collect())
}

impl Walk<'_> {
    fn is_wanted(&self, chunk: &Chunk) -> bool {
        chunk.pieces.iter().any(|p| self.is_wanted_of(p))
    }

    fn is_wanted_of(&self, piece: &Piece) -> bool {
        !self.groups_of[piece.tensor].is_empty()
    }

    /// Walks a chunk through the steps of a window: by step, then wanted piece.
    fn take(&self, window: &Window, chunk: &Chunk, places: &Range<usize>) -> Result<Vec<Vec<PieceSums>>> {
        let Subject { run, steps, streams, reference, .. } = self.subject;
        if let Some(piece) = chunk.pieces.first() {
            window.prefetch_chunk(run, run.table.chunk_of(piece), |stream| streams.contains(&stream));
        }
        let thread = rayon::current_thread_index().unwrap_or(0) % self.workers.len();
        let mut worker = self.workers[thread].lock().unwrap_or_else(PoisonError::into_inner);
        let Worker { lagged, reference: r, vectors } = &mut *worker;
        let mut reader = Reader::new(run)?;
        r.resize(chunk.len, 0.0);
        reference.chunk(chunk, reader.buffer(), r)?;
        let mut source = reader.at(run, window, chunk);
        let mut iterates = Trajectory::sized(1, chunk.len);
        let mut x = vec![0.0; chunk.len];
        vectors.resize_with(streams.len(), Vec::new);
        let mut done = Vec::new();
        for place in places.clone() {
            let t = steps[place];
            x.copy_from_slice(iterates.recorded(t, &mut source)?);
            let follows = place + 1 < places.end && steps.get(place + 1) == Some(&(t + 1));
            let there = self.read(t, follows, vectors, &mut iterates, &mut source)?;
            let absent: Vec<_> = streams.iter().map(|s| source.absent(t, *s)).collect();
            let wanted = chunk.pieces.iter().enumerate().filter(|(_, piece)| self.is_wanted_of(piece));
            let sums = wanted.map(|(number, piece)| {
                let of = piece.range();
                let all: Vec<Vectors<'_>> =
                    vectors.iter().map(|g| Vectors { g: &g[of.clone()], x: &x[of.clone()] }).collect();
                lagged.take(run.access().isa, Meetings { steps: &all, met: &self.met, reference: &r[of] });
                PieceSums {
                    present: there.iter().zip(&absent).map(|(there, a)| *there && !a.has(number)).collect(),
                    own: lagged.own.clone(),
                    products: lagged.met.iter().map(|m| m.gg).collect(),
                }
            });
            done.push(sums.collect());
        }
        self.observer.advance(places.len() as u64, source.bytes);
        Ok(done)
    }

    /// Reads the streams of a step; zeros where one is not there. `follows` says whether the next step is walked too.
    /// Returns which are there.
    fn read(
        &self,
        t: u64,
        follows: bool,
        vectors: &mut [Vec<f32>],
        iterates: &mut Trajectory,
        source: &mut ChunkReader<'_>,
    ) -> Result<Vec<bool>> {
        let grad = self.subject.run.manifest.stream_id(GRAD);
        let mut all = Vec::new();
        for (&stream, values) in self.subject.streams.iter().zip(vectors) {
            values.resize(source.chunk.len, 0.0);
            let mut there = false;
            if source.window.has(t, stream) {
                // The next iterate is decoded from the gradient, so that it is decoded once for both.
                if follows && grad == Some(stream) {
                    iterates.reach(t + 1, source)?;
                }
                let swapped = if grad == Some(stream) { iterates.swap_gradient(t, values) } else { None };
                let decoded = match swapped {
                    Some(decoded) => decoded,
                    None => source.load(t, stream, values)?,
                };
                there = decoded == Decoded::Values;
            }
            if !there {
                values.fill(0.0);
            }
            all.push(there);
        }
        Ok(all)
    }

    /// Adds the sums of a chunk's pieces to those of their groups.
    fn fold(
        &self,
        chunk: &Chunk,
        places: &Range<usize>,
        sums: &[Vec<PieceSums>],
        folded: &mut [Vec<Folded>],
    ) {
        let wanted: Vec<&Piece> = chunk.pieces.iter().filter(|p| self.is_wanted_of(p)).collect();
        for (place, sums) in places.clone().zip(sums) {
            for (piece, sums) in wanted.iter().zip(sums) {
                self.groups_of[piece.tensor].iter().for_each(|&g| folded[g][place].add(sums));
            }
        }
    }
}

impl Folded {
    fn add(&mut self, sums: &PieceSums) {
        self.present.iter_mut().zip(&sums.present).for_each(|(a, b)| *a |= b);
        for (own, sums) in self.own.iter_mut().zip(&sums.own) {
            own.iter_mut().zip(sums.values()).for_each(|(sum, term)| sum.add(term));
        }
        self.products.iter_mut().zip(&sums.products).for_each(|(sum, term)| sum.add(*term));
    }

    fn totals(self) -> StepSums {
        let own = self.own.iter().zip(self.present);
        StepSums {
            own: own
                .map(|(sums, there)| there.then(|| OwnSums::of(sums.each_ref().map(|s| s.total()))))
                .collect(),
            products: self.products.iter().map(|s| s.total()).collect(),
        }
    }
}
