//! Whole steps of one rank, read in order.
//!
//! Owns which shards are open meanwhile, and how decoded chunks become vectors; knows nothing of what
//! they are read for. Memory: 24 bytes for each parameter of the rank, for what iterates are decoded
//! from, and the elements of all vectors of one step. Two shards are open at most.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;

use crate::dtype::put_bytes;
use crate::error::{Error, Place, Result};
use crate::run::Run;
use crate::run::format::chunk::Chunk;
use crate::run::format::vector_id::StreamId;
use crate::run::read::chunk_reader::Reader;
use crate::run::read::trajectory::Trajectory;
use crate::run::read::window::Window;

/// The elements of one vector that a rank wrote.
#[derive(Default)]
pub(crate) struct VectorBytes {
    /// Which one it is.
    pub(crate) stream: StreamId,
    pub(super) bytes: Vec<u8>,
    /// By tensor: where its elements lie; `None` where it is absent.
    pub(super) tensors: Vec<Option<Range<usize>>>,
}

impl VectorBytes {
    /// The elements of every tensor, little endian, in the manifest's order; `None` where it is absent.
    pub(crate) fn elements(&self) -> Vec<Option<&[u8]>> {
        self.tensors.iter().map(|t| t.clone().map(|range| &self.bytes[range])).collect()
    }

    /// Adds the elements of the next tensor, likewise.
    pub(crate) fn push(&mut self, elements: Option<&[u8]>) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(elements.unwrap_or_default());
        self.tensors.push(elements.map(|_| begin..self.bytes.len()));
    }
}

/// Everything that a rank recorded at one step.
#[derive(Default)]
pub(crate) struct StepBytes {
    /// The step.
    pub(crate) step: u64,
    /// Its scalars by name, each once.
    pub(crate) scalars: Vec<(String, f64)>,
    /// What the optimizer goes on with, where that is stored.
    pub(crate) moments: Vec<VectorBytes>,
    pub(super) vectors: Vec<VectorBytes>,
    /// How many of `vectors` are this step's; the others are kept for their memory.
    pub(super) count: usize,
}

impl StepBytes {
    /// The vectors in the order of their streams.
    pub(crate) fn vectors(&self) -> &[VectorBytes] {
        &self.vectors[..self.count]
    }

    /// Makes it a step that has nothing yet.
    pub(crate) fn begin(&mut self, step: u64) {
        (self.step, self.count) = (step, 0);
        self.scalars.clear();
        self.moments.clear();
    }

    /// Adds a vector that has no tensor yet; they come in the order of their streams.
    pub(crate) fn push(&mut self, stream: StreamId) -> &mut VectorBytes {
        if self.vectors.len() == self.count {
            self.vectors.push(VectorBytes::default());
        }
        let vector = &mut self.vectors[self.count];
        self.count += 1;
        vector.stream = stream;
        vector.bytes.clear();
        vector.tensors.clear();
        vector
    }
}

/// Consecutive chunks that one thread decodes.
struct Worker<'a> {
    run: &'a Run,
    reader: Reader,
    values: Vec<f32>,
    chunks: Vec<(&'a Chunk, Trajectory)>,
    /// By chunk and piece, whether it is absent in the vector at hand.
    absent: Vec<bool>,
    /// Stored bytes that were read.
    read: u64,
}

impl Worker<'_> {
    /// Decodes its chunks of a vector into the places of their pieces.
    fn decode(&mut self, window: &Window, step: u64, stream: StreamId, out: Vec<&mut [u8]>) -> Result<()> {
        self.absent.clear();
        let mut out = out.into_iter();
        for (chunk, trajectory) in &mut self.chunks {
            let chunk: &Chunk = chunk;
            let dtype = self.run.manifest.tensors[chunk.tensor].dtype;
            let mut source = self.reader.at(self.run, window, chunk);
            let values = trajectory.vector(step, stream, &mut source, &mut self.values)?;
            let some_absent = source.absent(step, stream);
            for ((place, piece), own) in chunk.pieces.iter().enumerate().zip(&mut out) {
                self.absent.push(values.is_none() || some_absent.has(place));
                match values {
                    Some(values) => put_bytes(dtype, &values[piece.range()], own),
                    None => own.fill(0),
                }
            }
            self.read += source.bytes;
        }
        Ok(())
    }
}

/// Ranges of these lengths that follow each other.
pub(super) fn one_after_the_other(lens: Vec<usize>) -> Vec<Range<usize>> {
    let mut at = 0;
    let range = |len: usize| {
        at += len;
        at - len..at
    };
    lens.into_iter().map(range).collect()
}

/// Reads the steps of one rank, from the first on.
pub(crate) struct StepReader<'a> {
    run: &'a Run,
    rank: u32,
    window: Window,
    workers: Vec<Worker<'a>>,
    /// By tensor: where its elements lie in a vector.
    pub(super) tensors: Vec<Range<usize>>,
    pub(super) steps: Range<u64>,
}

impl<'a> StepReader<'a> {
    /// For the steps of `rank` that count and were published without a gap before them.
    ///
    /// # Errors
    /// A decoder cannot be made.
    pub(crate) fn new(run: &'a Run, rank: u32) -> Result<StepReader<'a>> {
        let chunks: Vec<&Chunk> = run.table.of_rank(rank).iter().map(|&c| &run.table.chunks()[c]).collect();
        let mut lens = vec![0; run.manifest.tensors.len()];
        for piece in chunks.iter().flat_map(|c| &c.pieces) {
            lens[piece.tensor] += piece.len * run.manifest.tensors[piece.tensor].dtype.size();
        }
        let each = chunks.len().div_ceil(rayon::current_num_threads()).max(1);
        let worker = |own: &[&'a Chunk]| -> Result<Worker<'a>> {
            let largest = own.iter().map(|c| c.len).max().unwrap_or(0);
            Ok(Worker {
                run,
                reader: Reader::new(run)?,
                values: vec![0.0; largest],
                chunks: own.iter().map(|c| (*c, Trajectory::sized(1, c.len))).collect(),
                absent: Vec::new(),
                read: 0,
            })
        };
        let first = run.first_of_rank(rank);
        Ok(StepReader {
            run,
            rank,
            window: Window::default(),
            workers: chunks.chunks(each).map(worker).collect::<Result<_>>()?,
            tensors: one_after_the_other(lens),
            steps: first..run.end_of_rank(rank),
        })
    }

    /// Reads the next step into `out`; false after the last one.
    ///
    /// # Errors
    /// What was recorded is damaged or missing, or cannot be read.
    pub(crate) fn read(&mut self, out: &mut StepBytes) -> Result<bool> {
        let Some(step) = self.steps.next() else {
            return Ok(false);
        };
        self.window.slide(self.run, self.rank, step)?;
        let path = self.run.path.clone();
        let missing = Error::MissingShard { path, first: step, last: step, rank: self.rank };
        let shard = self.window.shard(step, self.rank).ok_or(missing)?;
        let all = shard.vectors();
        let from = all.partition_point(|v| v.step < step);
        let streams = all[from..].iter().take_while(|v| v.step == step).map(|v| v.stream);
        let (moments, streams): (Vec<StreamId>, Vec<StreamId>) = streams.partition(|s| s.is_moment());
        let value = |name: &String| Some((name.clone(), shard.scalar(step, name)?));
        out.scalars = shard.columns().iter().filter_map(value).collect();
        out.scalars.sort_by(|a, b| a.0.cmp(&b.0));
        out.scalars.dedup_by(|a, b| a.0 == b.0);
        (out.step, out.count) = (step, streams.len());
        out.vectors.resize_with(out.vectors.len().max(out.count), VectorBytes::default);
        for (vector, stream) in out.vectors.iter_mut().zip(streams) {
            vector.stream = stream;
            self.vector(step, vector)?;
        }
        out.moments.clear();
        for stream in moments {
            let mut vector = VectorBytes { stream, ..VectorBytes::default() };
            self.vector(step, &mut vector)?;
            out.moments.push(vector);
        }
        Ok(true)
    }

    /// The run that is read.
    pub(crate) fn run(&self) -> &'a Run {
        self.run
    }

    /// The rank whose steps are read.
    pub(crate) fn rank(&self) -> u32 {
        self.rank
    }

    /// Stored bytes that were read since this was asked last.
    pub(crate) fn take_read(&mut self) -> u64 {
        self.workers.iter_mut().map(|w| std::mem::take(&mut w.read)).sum()
    }

    fn vector(&mut self, step: u64, out: &mut VectorBytes) -> Result<()> {
        out.bytes.resize(self.tensors.last().map_or(0, |range| range.end), 0);
        let (window, stream) = (&self.window, out.stream);
        let mut rest = out.bytes.as_mut_slice();
        let mut places = HashMap::new();
        for piece in self.run.table.pieces_of(self.rank) {
            let len = piece.len * self.run.manifest.tensors[piece.tensor].dtype.size();
            let (own, after) = std::mem::take(&mut rest).split_at_mut(len);
            rest = after;
            places.insert(piece.number, own);
        }
        let mut parts = Vec::new();
        for worker in &mut self.workers {
            let pieces = worker.chunks.iter().flat_map(|(chunk, _)| &chunk.pieces);
            let own: Vec<_> = pieces.filter_map(|p| places.remove(&p.number)).collect();
            parts.push((worker, own));
        }
        parts.into_par_iter().try_for_each(|(worker, own)| worker.decode(window, step, stream, own))?;
        out.tensors.clear();
        out.tensors.extend(self.tensors.iter().cloned().map(Some));
        // Of moments some pieces may be absent, and are 0 then.
        if stream.is_moment() {
            return Ok(());
        }
        let mut known = vec![None; out.tensors.len()];
        for worker in &self.workers {
            let pieces = worker.chunks.iter().flat_map(|(chunk, _)| &chunk.pieces);
            for (piece, &absent) in pieces.zip(&worker.absent) {
                if known[piece.tensor].replace(absent).is_some_and(|before| before != absent) {
                    let path = self.window.shard(step, self.rank).map_or(&self.run.path, |s| &s.file.path);
                    return Err(half_absent(self.run, path, (step, stream), piece.tensor));
                }
                if absent {
                    out.tensors[piece.tensor] = None;
                }
            }
        }
        Ok(())
    }
}

/// The error for a tensor that is absent in a vector, and is not.
pub(super) fn half_absent(run: &Run, path: &Path, (step, stream): (u64, StreamId), tensor: usize) -> Error {
    let manifest = &run.manifest;
    let vector = Some((manifest.stream_name(stream).to_owned(), manifest.tensors[tensor].name.clone()));
    let place = Place { step: Some(step), vector, ..Place::default() };
    Error::damaged_at(path, place, "some chunks of the tensor are absent and others are not")
}
