//! The walk over a run: some chunks at a time, window after window.
//!
//! Owns what is held in memory: the references of so many chunks as fit, and the sums of all pairs. The sums of chunks
//! are folded in the order of chunks, whatever thread had them first.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::analyze::{Observer, thread_pool};
use crate::error::Result;
use crate::memory;
use crate::order::{CHUNK, Neumaier};
use crate::pairs::Sums;
use crate::pairs::panel::{Panel, PanelSums, STEPS, StepSums};
use crate::reduce::products::{ABREAST, Columns};
use crate::run::Run;
use crate::run::format::chunk::Chunk;
use crate::run::format::manifest::GRAD;
use crate::run::read::chunk_reader::{Decoded, Reader};
use crate::run::read::trajectory::Trajectory;
use crate::run::read::window::{Ahead, Window};
use crate::summary::thousands;

/// Bytes of references that are held.
const REFERENCE_BYTES: usize = 1 << 30;
/// Tiles of references that are decoded from shards that are open at a time.
const WINDOW_TILES: usize = 4;
/// Steps whose shards are open, and whose sums wait to be folded.
const WINDOW_STEPS: usize = 4 * STEPS;

/// Sums of all pairs that are being folded.
struct Folded {
    /// Place of the first step.
    first: usize,
    g2: Vec<Option<Neumaier>>,
    moved: Vec<Option<Neumaier>>,
    dot: Vec<Neumaier>,
    d2: Vec<Neumaier>,
}

/// Some steps of a chunk that one thread measures.
struct Job<'a> {
    /// Place in the batch.
    place: usize,
    chunk: &'a Chunk,
    steps: Range<usize>,
}

/// Measures those of `steps` at some places, which begin with a multiple of [`STEPS`], against the iterates of
/// `references`, which are among all of them.
pub(super) fn measure(
    run: &Run,
    (steps, places): (&[u64], Range<usize>),
    references: &[u64],
    threads: usize,
    observer: &dyn Observer,
) -> Result<Sums> {
    let pool = thread_pool(threads, &run.path)?;
    let chunks = run.table.chunks();
    let pairs = places.len() * references.len();
    check_memory(run, pairs, references.len(), threads)?;
    let mut folded = Folded {
        first: places.start,
        g2: vec![Some(Neumaier::default()); places.len()],
        moved: vec![Some(Neumaier::default()); places.len()],
        dot: vec![Neumaier::default(); pairs],
        d2: vec![Neumaier::default(); pairs],
    };
    let passes = (places.len() + references.len()) as u64;
    observer.begin(passes * chunks.len() as u64, chunks.len() as u64);
    let batch = (REFERENCE_BYTES / (CHUNK * size_of::<f32>() * references.len())).max(1);
    let panel = || Mutex::new(Panel::new(run.access().isa));
    let panels = (0..threads.max(1)).map(|_| panel()).collect();
    let walk = Walk { run, steps, references, panels, observer };
    let measured = chunks.chunks(batch).try_for_each(|batch| -> Result<()> {
        let columns = pool.install(|| walk.columns(batch))?;
        for from in places.clone().step_by(WINDOW_STEPS) {
            let window = from..(from + WINDOW_STEPS).min(places.end);
            pool.install(|| walk.window(batch, &columns, window, &mut folded))?;
        }
        Ok(())
    });
    observer.end();
    measured?;
    let total = |sum: &Option<Neumaier>| sum.map(Neumaier::total);
    let totals = |sums: &[Neumaier]| sums.iter().map(|s| s.total()).collect();
    Ok(Sums {
        g2: folded.g2.iter().map(total).collect(),
        moved: folded.moved.iter().map(total).collect(),
        dot: totals(&folded.dot),
        d2: totals(&folded.d2),
    })
}

/// What the walk knows.
struct Walk<'a> {
    run: &'a Run,
    steps: &'a [u64],
    references: &'a [u64],
    /// One a thread.
    panels: Vec<Mutex<Panel>>,
    observer: &'a dyn Observer,
}

impl Walk<'_> {
    /// Decodes the references of some chunks.
    fn columns(&self, batch: &[Chunk]) -> Result<Vec<Columns>> {
        let (run, references) = (self.run, self.references);
        let mut all: Vec<Columns> = batch.iter().map(|c| Columns::new(references.len(), c.len)).collect();
        let tiles: Vec<&[u64]> = references.chunks(ABREAST).collect();
        for (first, tiles) in tiles.chunks(WINDOW_TILES).enumerate() {
            let own: Vec<u64> = tiles.concat();
            let window = Window::whole(run, &own, Ahead::All)?;
            let decode = |(chunk, columns): (&Chunk, &mut Columns)| -> Result<()> {
                let mut reader = Reader::new(run)?;
                let mut source = reader.at(run, &window, chunk);
                let mut iterates = Trajectory::sized(1, chunk.len);
                let mut held = vec![0.0; ABREAST * chunk.len];
                for (tile, steps) in (first * WINDOW_TILES..).zip(tiles) {
                    for (held, &k) in held.chunks_exact_mut(chunk.len).zip(*steps) {
                        held.copy_from_slice(iterates.recorded(k, &mut source)?);
                    }
                    let vectors: Vec<&[f32]> = held.chunks_exact(chunk.len).take(steps.len()).collect();
                    columns.set(tile, &vectors);
                }
                self.observer.advance(own.len() as u64, source.bytes);
                Ok(())
            };
            batch.par_iter().zip(&mut all).with_max_len(1).try_for_each(decode)?;
        }
        Ok(all)
    }

    /// Measures the steps of a window.
    fn window(
        &self,
        batch: &[Chunk],
        columns: &[Columns],
        places: Range<usize>,
        folded: &mut Folded,
    ) -> Result<()> {
        let before = places.start.checked_sub(1).unwrap_or(places.start);
        let window = Window::whole(self.run, &self.steps[before..places.end], Ahead::All)?;
        // Models of few chunks are cut in time too, so that every thread has work.
        let parts = (2 * self.panels.len()).div_ceil(batch.len());
        let part = places.len().div_ceil(parts).next_multiple_of(STEPS);
        let cut = |from: usize| from..(from + part).min(places.end);
        let of_chunk = |(place, chunk)| {
            places.clone().step_by(part).map(move |from| Job { place, chunk, steps: cut(from) })
        };
        let jobs: Vec<Job<'_>> = batch.iter().enumerate().flat_map(of_chunk).collect();
        let done: Vec<Result<PanelSums>> =
            jobs.par_iter().with_max_len(1).map(|job| self.take(&window, job, &columns[job.place])).collect();
        for (job, sums) in jobs.iter().zip(done) {
            folded.add(job.steps.clone(), self.references.len(), &sums?);
        }
        Ok(())
    }

    /// Walks a chunk through some steps.
    fn take(&self, window: &Window, job: &Job<'_>, columns: &Columns) -> Result<PanelSums> {
        let (run, chunk) = (self.run, job.chunk);
        let grad = run.manifest.stream_id(GRAD);
        if let Some(piece) = chunk.pieces.first() {
            window.prefetch_chunk(run, run.table.chunk_of(piece), |stream| Some(stream) == grad);
        }
        let mut reader = Reader::new(run)?;
        let mut source = reader.at(run, window, chunk);
        let mut iterates = Trajectory::sized(1, chunk.len);
        let thread = rayon::current_thread_index().unwrap_or(0) % self.panels.len();
        let mut panel = self.panels[thread].lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = PanelSums::default();
        let before = job.steps.start.checked_sub(1).map(|place| self.steps[place]);
        let last = panel.begin(chunk.len, before);
        if let Some(before) = before {
            last.copy_from_slice(iterates.recorded(before, &mut source)?);
        }
        let steps = &self.steps[job.steps.clone()];
        for (i, &t) in steps.iter().enumerate() {
            panel.push(t, iterates.recorded(t, &mut source)?);
            if let Some(grad) = grad.filter(|g| window.has(t, *g)) {
                // The next iterate is decoded from it, so that it is decoded once for both.
                if steps.get(i + 1) == Some(&(t + 1)) {
                    iterates.reach(t + 1, &mut source)?;
                }
                match iterates.gradient(t, chunk.len) {
                    Some((g, Decoded::Values)) => panel.gradient().copy_from_slice(g),
                    Some(_) => panel.gradient().fill(0.0),
                    None => {
                        if source.load(t, grad, panel.gradient())? != Decoded::Values {
                            panel.gradient().fill(0.0);
                        }
                    }
                }
                panel.has_gradient();
            }
            if panel.is_full() {
                panel.flush(self.references, columns, &mut out);
            }
        }
        panel.flush(self.references, columns, &mut out);
        self.observer.advance(steps.len() as u64, source.bytes);
        Ok(out)
    }
}

impl Folded {
    /// Adds the sums of a chunk.
    fn add(&mut self, steps: Range<usize>, references: usize, sums: &PanelSums) {
        let add = |sum: &mut Option<Neumaier>, term: Option<f64>| match (sum.as_mut(), term) {
            (Some(sum), Some(term)) => sum.add(term),
            _ => *sum = None,
        };
        let steps = steps.start - self.first..steps.end - self.first;
        for (t, StepSums { g2, moved }) in steps.clone().zip(&sums.steps) {
            add(&mut self.g2[t], *g2);
            add(&mut self.moved[t], *moved);
        }
        let pairs = steps.start * references..steps.end * references;
        self.dot[pairs.clone()].iter_mut().zip(&sums.dot).for_each(|(sum, term)| sum.add(*term));
        self.d2[pairs].iter_mut().zip(&sums.d2).for_each(|(sum, term)| sum.add(*term));
    }
}

/// Checks that there is memory for so many pairs.
///
/// # Errors
/// There is not; the text says what to do.
fn check_memory(run: &Run, pairs: usize, references: usize, threads: usize) -> Result<()> {
    // Two compensated sums of each, and then two numbers, and one of the walk.
    let of_pairs = pairs.saturating_mul(2 * size_of::<Neumaier>() + 3 * size_of::<f64>());
    let longest = run.table.chunks().iter().map(|c| c.len).max().unwrap_or(0);
    let of_references = REFERENCE_BYTES.max(references.saturating_mul(longest * size_of::<f32>()));
    let of_threads = threads.saturating_mul(2 * STEPS * CHUNK * size_of::<f32>());
    let needed = of_pairs.saturating_add(of_references).saturating_add(of_threads) as u64;
    let of = format!("{} pairs", thousands(pairs as u64));
    memory::check_memory(needed, &of, "Take a larger --every, or fewer steps by --steps A..B:K")
}
