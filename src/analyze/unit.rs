//! The unit of work: one chunk of parameters walked through a few steps in time.
//!
//! Units are independent, so threads take them in any order; what a unit computes depends on
//! nothing but its chunk and steps.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::Observer;
use crate::codec::{Codec, Decoder};
use crate::error::{Error, Result, Tried};
use crate::isa::Isa;
use crate::reduce::cpu::step_sums;
use crate::reduce::order::CHUNK;
use crate::reference::Reference;
use crate::run::Run;
use crate::run::chunk::Chunk;
use crate::run::window::Window;
use crate::sums::ChunkSums;

/// What all units of a window share.
pub(super) struct Unit<'a> {
    pub(super) run: &'a Run,
    pub(super) window: &'a Window,
    pub(super) reference: &'a Reference,
    pub(super) stream: u16,
    /// The step of x_0, where it is there.
    pub(super) first: Option<u64>,
    pub(super) observer: &'a dyn Observer,
}

/// The threads and what each works with.
pub(super) struct Workers {
    pool: rayon::ThreadPool,
    isa: Isa,
    scratch: Vec<Mutex<Scratch>>,
}

/// Damage that was met: the step that it spoils, and how it shows.
type Damage = Vec<(u64, Error)>;

struct Scratch {
    decoder: Decoder,
    file: Vec<u8>,
    g: Vec<f32>,
    x: Vec<f32>,
    next: Vec<f32>,
    init: Vec<f32>,
    reference: Vec<f32>,
}

/// What became of a vector's chunk.
enum Decoded {
    Values,
    Absent,
    Missing,
}

impl Workers {
    pub(super) fn new(threads: usize, isa: Isa, run: &Path) -> Result<Workers> {
        let threads = threads.max(1);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(std::io::Error::other)
            .tried("start threads for", run)?;
        let scratch = (0..threads).map(|_| Ok(Mutex::new(Scratch::new(isa)?)));
        let scratch = scratch.collect::<std::io::Result<_>>().tried("start the decoder for", run)?;
        Ok(Workers { pool, isa, scratch })
    }

    /// The sums of every chunk at every step, as `[chunk][step]`, and the damage met.
    pub(super) fn measure(&self, unit: &Unit<'_>, steps: &[u64]) -> Result<(Vec<Vec<ChunkSums>>, Damage)> {
        let chunks = unit.run.table.chunks();
        // Models of few chunks are also cut in time, so that every thread has work.
        let pieces = (4 * self.scratch.len()).div_ceil(chunks.len().max(1));
        let piece = steps.len().div_ceil(pieces).max(8);
        let jobs: Vec<(&Chunk, &[u64])> =
            chunks.iter().flat_map(|c| steps.chunks(piece).map(move |s| (c, s))).collect();
        let done: Vec<Result<(Vec<ChunkSums>, Damage)>> = self.pool.install(|| {
            jobs.par_iter()
                .with_max_len(1)
                .map(|(chunk, steps)| {
                    let thread = rayon::current_thread_index().unwrap_or(0);
                    let slot = &self.scratch[thread % self.scratch.len()];
                    let mut scratch = slot.lock().unwrap_or_else(PoisonError::into_inner);
                    unit.walk(self.isa, chunk, steps, &mut scratch)
                })
                .collect()
        });
        let mut cells = vec![Vec::with_capacity(steps.len()); chunks.len()];
        let mut damage = Vec::new();
        let per_chunk = steps.chunks(piece).len().max(1);
        for (i, result) in done.into_iter().enumerate() {
            let (sums, found) = result?;
            cells[i / per_chunk].extend(sums);
            damage.extend(found);
        }
        damage.sort_by_key(|(step, _)| *step);
        Ok((cells, damage))
    }
}

impl Scratch {
    fn new(isa: Isa) -> std::io::Result<Scratch> {
        let vector = || vec![0.0f32; CHUNK];
        Ok(Scratch {
            decoder: Decoder::new(isa)?,
            file: Vec::new(),
            g: vector(),
            x: vector(),
            next: vector(),
            init: vector(),
            reference: vector(),
        })
    }
}

impl Unit<'_> {
    /// Walks `chunk` through `steps`, keeping x from one step to the next.
    fn walk(
        &self,
        isa: Isa,
        chunk: &Chunk,
        steps: &[u64],
        s: &mut Scratch,
    ) -> Result<(Vec<ChunkSums>, Damage)> {
        let n = chunk.len;
        let (mut all, mut damage) = (Vec::with_capacity(steps.len()), Vec::new());
        let Scratch { decoder, file, g, x, next, init, reference } = s;
        self.reference.chunk(chunk, file, &mut reference[..n])?;
        let mut bytes = 0;
        let mut load = |step: u64, stream: u16, out: &mut [f32]| {
            self.load(chunk, step, stream, decoder, file, &mut bytes, out)
        };
        let mut no_init = true;
        if let Some(first) = self.first {
            match load(first, 0, &mut init[..n]) {
                Ok(found) => no_init = !matches!(found, Decoded::Values),
                Err(e) => damage.push((first, keep(e)?)),
            }
        }
        let mut held = None;
        for &t in steps {
            let mut cell = ChunkSums { no_init, ..ChunkSums::default() };
            if self.first == Some(t) && !no_init {
                x[..n].copy_from_slice(&init[..n]);
            } else if held != Some(t)
                && let Err(e) = load(t, 0, &mut x[..n])
            {
                damage.push((t, keep(e)?));
                cell.damaged = true;
            }
            match load(t, self.stream, &mut g[..n]) {
                Ok(Decoded::Values) => {}
                Ok(Decoded::Absent | Decoded::Missing) => {
                    g[..n].fill(0.0);
                    cell.absent = true;
                }
                Err(e) => {
                    damage.push((t, keep(e)?));
                    cell.damaged = true;
                }
            }
            match load(t + 1, 0, &mut next[..n]) {
                Ok(found) => cell.no_next = !matches!(found, Decoded::Values),
                Err(e) => {
                    damage.push((t + 1, keep(e)?));
                    cell.no_next = true;
                }
            }
            let next_x = if cell.no_next { &x[..n] } else { &next[..n] };
            let init_x = if no_init { &x[..n] } else { &init[..n] };
            if !cell.damaged {
                (cell.vector, cell.reference) =
                    step_sums(isa, &g[..n], &x[..n], next_x, init_x, &reference[..n]);
            }
            held = None;
            if !cell.no_next {
                std::mem::swap(x, next);
                held = Some(t + 1);
            }
            all.push(cell);
        }
        self.observer.advance(steps.len() as u64, bytes);
        Ok((all, damage))
    }

    /// Decodes a vector's chunk into `out`.
    #[allow(clippy::too_many_arguments)]
    fn load(
        &self,
        chunk: &Chunk,
        step: u64,
        stream: u16,
        decoder: &mut Decoder,
        file: &mut Vec<u8>,
        bytes: &mut u64,
        out: &mut [f32],
    ) -> Result<Decoded> {
        let Some(payload) = self.window.payload(self.run, step, stream, chunk, file)? else {
            return Ok(Decoded::Missing);
        };
        *bytes += payload.bytes.len() as u64;
        if payload.coding.codec == Codec::Absent {
            return Ok(Decoded::Absent);
        }
        let dtype = self.run.manifest.tensors[chunk.tensor].dtype;
        decoder.decode(dtype, payload.coding, payload.bytes, out).map_err(|e| {
            self.window.undecodable(self.run, step, stream, chunk, payload.offset, &e.to_string())
        })?;
        Ok(Decoded::Values)
    }
}

/// Passes damage on to be collected; anything else ends the analysis.
fn keep(e: Error) -> Result<Error> {
    if e.is_damage() { Ok(e) } else { Err(e) }
}
