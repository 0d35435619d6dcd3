//! Whole steps of all ranks, read in order: of what each rank recorded, whole tensors.
//!
//! Owns where the elements of ranks lie in a tensor. A vector that a rank lacks is there for none; scalars are those of
//! rank 0. Memory: that of a reader for each rank, and once more the elements of all vectors of one step.

use std::ops::Range;

use crate::error::Result;
use crate::run::Run;
use crate::run::format::vector_id::StreamId;
use crate::run::read::step_reader::{StepBytes, StepReader, VectorBytes, half_absent, one_after_the_other};

/// Bytes of a piece: whose, of which tensor, where in the rank's vector, and where in the whole one.
struct Place {
    rank: usize,
    tensor: usize,
    from: Range<usize>,
    to: Range<usize>,
}

/// Reads steps of all ranks.
pub(crate) struct WholeSteps<'a> {
    run: &'a Run,
    readers: Vec<StepReader<'a>>,
    parts: Vec<StepBytes>,
    places: Vec<Place>,
    /// By tensor: where its elements lie in a whole vector.
    tensors: Vec<Range<usize>>,
}

impl<'a> WholeSteps<'a> {
    /// For `steps`, which all ranks have published.
    ///
    /// # Errors
    /// A decoder cannot be made.
    pub(crate) fn new(run: &'a Run, steps: Range<u64>) -> Result<WholeSteps<'a>> {
        let mut readers: Vec<StepReader<'a>> =
            run.ranks().map(|rank| StepReader::new(run, rank)).collect::<Result<_>>()?;
        readers.iter_mut().for_each(|r| r.steps = steps.clone());
        let size = |tensor: usize| run.manifest.tensors[tensor].dtype.size();
        let mut lens = vec![0; run.manifest.tensors.len()];
        run.table.pieces().for_each(|p| lens[p.tensor] += p.len * size(p.tensor));
        let tensors = one_after_the_other(lens);
        let (mut places, mut ends) = (Vec::new(), vec![0; tensors.len()]);
        for piece in run.table.pieces() {
            let rank = run.table.chunks()[run.table.chunk_of(piece)].rank as usize;
            let (tensor, len) = (piece.tensor, piece.len * size(piece.tensor));
            let from = readers[rank].tensors[tensor].start + piece.skip * size(tensor);
            // Pieces come in the order of the elements, without gaps.
            let to = tensors[tensor].start + ends[tensor];
            ends[tensor] += len;
            places.push(Place { rank, tensor, from: from..from + len, to: to..to + len });
        }
        let parts = readers.iter().map(|_| StepBytes::default()).collect();
        Ok(WholeSteps { run, readers, parts, places, tensors })
    }

    /// Reads the next step into `out`; false after the last one.
    ///
    /// # Errors
    /// As [`StepReader::read`]; or a tensor is absent for some ranks only.
    pub(crate) fn read(&mut self, out: &mut StepBytes) -> Result<bool> {
        if let [only] = self.readers.as_mut_slice() {
            return only.read(out);
        }
        for (reader, part) in self.readers.iter_mut().zip(&mut self.parts) {
            if !reader.read(part)? {
                return Ok(false);
            }
        }
        let Some(first) = self.parts.first_mut() else {
            return Ok(false);
        };
        (out.step, out.scalars) = (first.step, std::mem::take(&mut first.scalars));
        let streams = |vectors: fn(&StepBytes) -> &[VectorBytes]| -> Vec<StreamId> {
            let has = |part: &StepBytes, stream| vectors(part).iter().any(|v| v.stream == stream);
            let of_first = self.parts.first().map(vectors).unwrap_or_default().iter().map(|v| v.stream);
            of_first.filter(|s| self.parts.iter().all(|part| has(part, *s))).collect()
        };
        let (directions, moments) = (streams(StepBytes::vectors), streams(|step| &step.moments));
        out.count = directions.len();
        out.vectors.resize_with(out.vectors.len().max(out.count), VectorBytes::default);
        for (vector, stream) in out.vectors.iter_mut().zip(directions) {
            self.gather(stream, StepBytes::vectors, out.step, vector)?;
        }
        out.moments.clear();
        for stream in moments {
            let mut vector = VectorBytes::default();
            self.gather(stream, |step| &step.moments, out.step, &mut vector)?;
            out.moments.push(vector);
        }
        Ok(true)
    }

    /// The run that is read.
    pub(crate) fn run(&self) -> &'a Run {
        self.run
    }

    /// Stored bytes that were read since this was asked last.
    pub(crate) fn take_read(&mut self) -> u64 {
        self.readers.iter_mut().map(StepReader::take_read).sum()
    }

    /// Puts a vector together of what all ranks have of it.
    fn gather(
        &self,
        stream: StreamId,
        vectors: fn(&StepBytes) -> &[VectorBytes],
        step: u64,
        out: &mut VectorBytes,
    ) -> Result<()> {
        let of_ranks = self.parts.iter().filter_map(|p| vectors(p).iter().find(|v| v.stream == stream));
        let of_ranks: Vec<&VectorBytes> = of_ranks.collect();
        out.stream = stream;
        out.bytes.resize(self.tensors.last().map_or(0, |range| range.end), 0);
        out.tensors.clear();
        out.tensors.extend(self.tensors.iter().cloned().map(Some));
        let mut known = vec![None; self.tensors.len()];
        for Place { rank, tensor, from, to } in &self.places {
            let part = of_ranks[*rank];
            let absent = part.tensors[*tensor].is_none();
            if known[*tensor].replace(absent).is_some_and(|before| before != absent) {
                return Err(half_absent(self.run, &self.run.path, (step, stream), *tensor));
            }
            if absent {
                out.tensors[*tensor] = None;
            } else {
                out.bytes[to.clone()].copy_from_slice(&part.bytes[from.clone()]);
            }
        }
        Ok(())
    }
}
