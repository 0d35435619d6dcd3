//! A set of open shards in which any vector of some steps can be found.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Place, Result};
use crate::run::Run;
use crate::run::format::chunk::Chunk;
use crate::run::format::manifest::GRAD;
use crate::run::format::vector_id::{StreamId, VectorId};
use crate::run::read::plan::WINDOW_BYTES;
use crate::run::read::shard::{Payload, Shard};

/// Stored bytes that are asked for at once. A larger window, which is that of a large model and reaches from
/// one keyframe to the next, is asked for chunk by chunk: it may be more than what memory holds.
const AT_ONCE: u64 = 2 * WINDOW_BYTES;

/// Open shards of all ranks, by step.
#[derive(Debug, Default)]
pub struct Window {
    /// Per rank: first step that counts to (last step that counts, shard).
    ranks: Vec<BTreeMap<u64, (u64, Shard)>>,
    /// Rank and first step of the shards that were opened, or could not be.
    tried: BTreeSet<(u32, u64)>,
    /// Shards that could not be opened, by their first step that counts.
    pub damaged: Vec<(RangeInclusive<u64>, Error)>,
    prefetch: Prefetch,
}

/// What the system is to read ahead of who walks a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// Nothing: little is looked at.
    Nothing,
    /// Of some chunks what is needed of each, when [`Window::prefetch_chunk`] says so.
    Chunks,
    /// All shards, where most of them is needed and it is not more than memory holds; as [`Ahead::Chunks`] elsewhere.
    All,
}

/// What the system was asked to read ahead.
#[derive(Debug, Default)]
enum Prefetch {
    /// All of it, or nothing.
    #[default]
    Over,
    /// Chunks, one by one: the steps that are decoded, and by chunk whether it was asked for.
    ByChunk { spans: Vec<RangeInclusive<u64>>, asked: Vec<AtomicBool> },
}

impl Window {
    /// Opens every shard that holds one of `steps` (in ascending order), and those that their iterates
    /// are decoded from. A damaged shard is left out and reported.
    ///
    /// # Errors
    /// Anything but damage.
    pub fn open(run: &Run, steps: &[u64], ahead: Ahead) -> Result<Window> {
        let mut window = Window::default();
        for rank in run.ranks() {
            window.ranks.push(BTreeMap::new());
            let mut rest = steps;
            while let Some(&step) = rest.first() {
                rest = match window.open_at(run, rank, step)? {
                    Some(last) => &rest[rest.partition_point(|&s| s <= last)..],
                    None => &rest[1..],
                };
                // What was opened says where decoding begins, which may be in shards before.
                let mut keyframe = window.shard(step, rank).and_then(|s| s.keyframe(step));
                while let Some(from) = keyframe.filter(|&from| from < step) {
                    // Behind a hole nothing can be decoded.
                    keyframe = window.open_at(run, rank, from)?.map(|last| last + 1);
                }
            }
        }
        match ahead {
            Ahead::Nothing => {}
            Ahead::Chunks => window.prefetch(run, steps, 0),
            Ahead::All => window.prefetch(run, steps, AT_ONCE),
        }
        Ok(window)
    }

    /// The same, where no shard may be left out.
    ///
    /// # Errors
    /// As [`Self::open`]; or a shard is damaged.
    pub(crate) fn whole(run: &Run, steps: &[u64], ahead: Ahead) -> Result<Window> {
        let mut window = Window::open(run, steps, ahead)?;
        window.damaged.pop().map_or(Ok(window), |(_, e)| Err(e))
    }

    fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.ranks.iter().flat_map(|shards| shards.values().map(|(_, shard)| shard))
    }

    /// Asks for all of it where it is at most so many bytes of which most are needed, or prepares for
    /// [`Self::prefetch_chunk`].
    fn prefetch(&mut self, run: &Run, steps: &[u64], at_once: u64) {
        let spans = self.spans(run, steps);
        let (all, needed) = self.shards().fold((0, 0), |(all, needed), shard| {
            let (size, name) = (shard.size(), shard.file.name);
            let (first, last) = (name.first, name.last);
            let steps = spans.iter().filter(|span| *span.start() <= last && first <= *span.end());
            let steps: u64 = steps.map(|s| (*s.end()).min(last) - (*s.start()).max(first) + 1).sum();
            (all + size, needed + u128::from(size) * u128::from(steps) / u128::from(last - first + 1))
        });
        if all <= at_once && 2 * needed >= u128::from(all) {
            self.shards().for_each(Shard::prefetch);
            return;
        }
        self.shards().for_each(Shard::expect_payloads);
        let asked = run.table.chunks().iter().map(|_| AtomicBool::new(false)).collect();
        self.prefetch = Prefetch::ByChunk { spans, asked };
    }

    /// The steps of which something is decoded, as ranges, ascending.
    fn spans(&self, run: &Run, steps: &[u64]) -> Vec<RangeInclusive<u64>> {
        let mut spans: Vec<RangeInclusive<u64>> = Vec::new();
        for &step in steps {
            let keyframe = |rank| self.shard(step, rank).and_then(|s| s.keyframe(step));
            let from = run.ranks().filter_map(keyframe).min().unwrap_or(step);
            match spans.last_mut() {
                Some(span) if from <= *span.end() + 1 => *span = (*span.start()).min(from)..=step,
                _ => spans.push(from..=step),
            }
        }
        spans
    }

    /// Asks for what is about to be read of a large window: chunk number `index` and the one after it, of the
    /// streams that are `wanted`; what iterates are decoded from is wanted anyway.
    pub fn prefetch_chunk(&self, run: &Run, index: usize, wanted: impl Fn(StreamId) -> bool) {
        let Prefetch::ByChunk { spans, asked } = &self.prefetch else { return };
        let is_decoded = |step: u64| {
            spans.get(spans.partition_point(|s| *s.end() < step)).is_some_and(|s| *s.start() <= step)
        };
        for (chunk, asked) in run.table.chunks().iter().zip(asked).skip(index).take(2) {
            if asked.swap(true, Ordering::Relaxed) {
                continue;
            }
            let shards = self.ranks.get(chunk.rank as usize).into_iter().flat_map(BTreeMap::values);
            for (_, shard) in shards {
                for (i, VectorId { step, stream }) in shard.vectors().iter().enumerate() {
                    let decoded = *stream == StreamId::Iterate || stream.is_moment();
                    let decoded = decoded || run.manifest.stream_id(GRAD) == Some(*stream);
                    if (decoded || wanted(*stream)) && is_decoded(*step) {
                        shard.prefetch_payload(i, chunk.place);
                    }
                }
            }
        }
    }

    /// Makes the shards of one rank be open that hold `step` and the one before, and no others. That is
    /// enough for who reads all steps in order.
    ///
    /// # Errors
    /// The shard of `step` is damaged or cannot be read.
    pub(crate) fn slide(&mut self, run: &Run, rank: u32, step: u64) -> Result<()> {
        let index = rank as usize;
        self.ranks.resize_with(self.ranks.len().max(index + 1), BTreeMap::new);
        self.ranks[index].retain(|_, (last, _)| *last + 1 >= step);
        let was_open = self.shard(step, rank).is_some();
        self.open_at(run, rank, step)?;
        if let Some(shard) = self.shard(step, rank).filter(|_| !was_open) {
            shard.prefetch();
        }
        self.damaged.pop().map_or(Ok(()), |(_, e)| Err(e))
    }

    /// Opens the shard of `rank` that holds `step`, if it is not open. Returns the last step of the
    /// shard; `None` where there is none.
    fn open_at(&mut self, run: &Run, rank: u32, step: u64) -> Result<Option<u64>> {
        let segments = run.segments(rank);
        let segment = segments.get(segments.partition_point(|s| s.last < step)).filter(|s| s.first <= step);
        let (Some(segment), Some(shards)) = (segment, self.ranks.get_mut(rank as usize)) else {
            return Ok(None);
        };
        let range = segment.first..=segment.last;
        if !self.tried.insert((rank, segment.first)) {
            return Ok(Some(segment.last));
        }
        match run.open_shard(&segment.file) {
            Ok(shard) => {
                shards.insert(segment.first, (segment.last, shard));
            }
            Err(e) if e.is_damage() => self.damaged.push((range, e)),
            Err(e) => return Err(e),
        }
        Ok(Some(segment.last))
    }

    /// The shard of `rank` that holds `step`.
    pub fn shard(&self, step: u64, rank: u32) -> Option<&Shard> {
        let (_, (last, shard)) = self.ranks.get(rank as usize)?.range(..=step).next_back()?;
        (step <= *last).then_some(shard)
    }

    /// Whether every rank has recorded this vector.
    pub fn has(&self, step: u64, stream: StreamId) -> bool {
        let world = u32::try_from(self.ranks.len()).unwrap_or(0);
        world > 0 && (0..world).all(|r| self.shard(step, r).is_some_and(|s| s.has(step, stream)))
    }

    /// The payload of a chunk, checked against its hash; `None` where it was not recorded.
    ///
    /// # Errors
    /// The bytes are not what was written. The error names the stream and the tensor.
    pub fn payload<'a>(
        &'a self,
        run: &Run,
        step: u64,
        stream: StreamId,
        chunk: &Chunk,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<Payload<'a>>> {
        let Some(shard) = self.shard(step, chunk.rank) else {
            return Ok(None);
        };
        read_payload(run, shard, VectorId { step, stream }, chunk, buffer)
    }

    /// The error for a payload that passed its checksum and yet does not decode.
    pub fn undecodable(
        &self,
        run: &Run,
        step: u64,
        stream: StreamId,
        chunk: &Chunk,
        offset: u64,
        what: &str,
    ) -> Error {
        let path = self.shard(step, chunk.rank).map_or(&run.path, |s| &s.file.path);
        damaged_vector(run, path, VectorId { step, stream }, chunk, offset, what)
    }

    /// A scalar of a step, as rank 0 recorded it.
    pub fn scalar(&self, step: u64, column: &str) -> Option<f64> {
        self.shard(step, 0)?.scalar(step, column)
    }
}

/// The payload of a chunk in a shard, checked against its hash; `None` where it was not recorded.
///
/// # Errors
/// The run was stopped, or the bytes are not what was written. The error names the stream and the tensor.
pub(crate) fn read_payload<'a>(
    run: &Run,
    shard: &'a Shard,
    VectorId { step, stream }: VectorId,
    chunk: &Chunk,
    buffer: &'a mut Vec<u8>,
) -> Result<Option<Payload<'a>>> {
    run.check_stop()?;
    shard.payload(step, stream, chunk.place, buffer).map_err(|e| match e {
        Error::Damaged { path, place, what } => {
            let offset = place.offset.unwrap_or(0);
            damaged_vector(run, &path, VectorId { step, stream }, chunk, offset, &what)
        }
        other => other,
    })
}

/// Where a chunk of a vector is, as errors say it.
pub(crate) fn chunk_place(run: &Run, VectorId { step, stream }: VectorId, chunk: &Chunk) -> Place {
    let tensor = run.manifest.tensors.get(chunk.tensor).map_or("?", |t| &t.name);
    let vector = Some((run.manifest.stream_name(stream).to_owned(), tensor.to_owned()));
    Place { step: Some(step), vector, more: chunk.pieces.len() - 1, ..Place::default() }
}

/// The error for damage to a chunk of a vector, given by its step and stream.
pub(crate) fn damaged_vector(
    run: &Run,
    path: &Path,
    VectorId { step, stream }: VectorId,
    chunk: &Chunk,
    offset: u64,
    what: &str,
) -> Error {
    let place = chunk_place(run, VectorId { step, stream }, chunk);
    Error::damaged_at(path, Place { offset: Some(offset), ..place }, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::run::Access;
    use crate::run::format::manifest::{Manifest, TensorInfo};
    use crate::run::write::step::Step;
    use crate::run::write::writer::{Writer, WriterOptions};

    #[test]
    fn a_large_window_is_asked_for_from_its_keyframes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        // Of parameter groups of their own, so that they share no chunk.
        let tensor = |g| TensorInfo { param_group: g, ..TensorInfo::new(&format!("t{g}"), &[9], DType::F32) };
        let manifest = Manifest::new((0..4).map(tensor).collect(), Vec::new()).unwrap();
        let options = WriterOptions { shard_steps: 20, ..WriterOptions::default() };
        let mut writer = Writer::create(&path, manifest, options).unwrap();
        for step in 0..134u8 {
            let bytes = [step; 36];
            let x = [Some(&bytes[..]); 4];
            writer.step(&Step { iterate: Some(&x), ..Step::default() }).unwrap();
        }
        writer.stop().unwrap();
        let run = Run::open(&path, Access::default()).unwrap();
        let steps = [0, 130, 131, 132];
        let all: Vec<u64> = (0..134).collect();
        let mut window = Window::open(&run, &all, Ahead::All).unwrap();
        assert!(matches!(window.prefetch, Prefetch::Over), "it is small");
        window.prefetch(&run, &all, 1000);
        assert!(matches!(window.prefetch, Prefetch::ByChunk { .. }), "it is large");
        // A few steps of it.
        let window = Window::open(&run, &steps, Ahead::All).unwrap();
        let chunks = run.table.len();
        let count = |window: &Window| {
            let Prefetch::ByChunk { spans, asked } = &window.prefetch else { unreachable!() };
            assert_eq!((spans.as_slice(), asked.len()), (&[0..=0, 128..=132][..], chunks));
            asked.iter().filter(|a| a.load(Ordering::Relaxed)).count()
        };
        assert_eq!(count(&window), 0);
        window.prefetch_chunk(&run, 1, |_| false);
        assert_eq!(count(&window), 2);
        window.prefetch_chunk(&run, chunks - 1, |_| true);
        assert_eq!(count(&window), 3);
    }
}
