//! A set of open shards in which any vector of some steps can be found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Run;
use super::chunk::Chunk;
use super::shard::{Payload, Shard};
use crate::error::{Error, Place, Result};

/// Open shards of all ranks, by step.
#[derive(Default)]
pub struct Window {
    /// Per rank: first step that counts to (last step that counts, shard).
    ranks: Vec<BTreeMap<u64, (u64, Shard)>>,
    /// Rank and first step of the shards that were opened, or could not be.
    tried: BTreeSet<(u32, u64)>,
    /// Shards that could not be opened, by their first step that counts.
    pub damaged: Vec<(std::ops::RangeInclusive<u64>, Error)>,
}

impl Window {
    /// Opens every shard that holds one of `steps` (in ascending order), and those that their iterates
    /// are decoded from. A damaged shard is left out and reported.
    ///
    /// # Errors
    /// Anything but damage.
    pub fn open(run: &Run, steps: &[u64], prefetch: bool) -> Result<Window> {
        let mut window = Window::default();
        for rank in 0..run.manifest.world {
            window.ranks.push(BTreeMap::new());
            let mut rest = steps;
            while let Some(&step) = rest.first() {
                rest = match window.open_at(run, rank, step, prefetch)? {
                    Some(last) => &rest[rest.partition_point(|&s| s <= last)..],
                    None => &rest[1..],
                };
                // What was opened says where decoding begins, which may be in shards before.
                let mut keyframe = window.shard(step, rank).and_then(|s| s.keyframe(step));
                while let Some(from) = keyframe.filter(|&from| from < step) {
                    // Behind a hole nothing can be decoded.
                    keyframe = window.open_at(run, rank, from, prefetch)?.map(|last| last + 1);
                }
            }
        }
        Ok(window)
    }

    /// Makes the shards of one rank be open that hold `step` and the one before, and no others. That is
    /// enough for who reads all steps in order.
    ///
    /// # Errors
    /// The shard of `step` is damaged or cannot be read.
    pub(super) fn slide(&mut self, run: &Run, rank: u32, step: u64) -> Result<()> {
        let index = rank as usize;
        self.ranks.resize_with(self.ranks.len().max(index + 1), BTreeMap::new);
        self.ranks[index].retain(|_, (last, _)| *last + 1 >= step);
        self.open_at(run, rank, step, true)?;
        self.damaged.pop().map_or(Ok(()), |(_, e)| Err(e))
    }

    /// Opens the shard of `rank` that holds `step`, if it is not open. Returns the last step of the
    /// shard; `None` where there is none.
    fn open_at(&mut self, run: &Run, rank: u32, step: u64, prefetch: bool) -> Result<Option<u64>> {
        let segments = run.segments(rank);
        let segment = segments.get(segments.partition_point(|s| s.last < step)).filter(|s| s.first <= step);
        let (Some(segment), Some(shards)) = (segment, self.ranks.get_mut(rank as usize)) else {
            return Ok(None);
        };
        let range = segment.first..=segment.last;
        if !self.tried.insert((rank, segment.first)) {
            return Ok(Some(segment.last));
        }
        match run.open_shard(&segment.file, prefetch) {
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
    pub fn has(&self, step: u64, stream: u16) -> bool {
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
        stream: u16,
        chunk: &Chunk,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<Payload<'a>>> {
        let Some(shard) = self.shard(step, chunk.rank) else {
            return Ok(None);
        };
        read_payload(run, shard, (step, stream), chunk, buffer)
    }

    /// The error for a payload that passed its checksum and yet does not decode.
    pub fn undecodable(
        &self,
        run: &Run,
        step: u64,
        stream: u16,
        chunk: &Chunk,
        offset: u64,
        what: &str,
    ) -> Error {
        let path = self.shard(step, chunk.rank).map_or(&run.path, |s| &s.file.path);
        damaged_vector(run, path, (step, stream), chunk, offset, what)
    }

    /// A scalar of a step, as rank 0 recorded it.
    pub fn scalar(&self, step: u64, column: &str) -> Option<f64> {
        self.shard(step, 0)?.scalar(step, column)
    }
}

/// The payload of a chunk in a shard, checked against its hash; `None` where it was not recorded.
///
/// # Errors
/// The bytes are not what was written. The error names the stream and the tensor.
pub fn read_payload<'a>(
    run: &Run,
    shard: &'a Shard,
    (step, stream): (u64, u16),
    chunk: &Chunk,
    buffer: &'a mut Vec<u8>,
) -> Result<Option<Payload<'a>>> {
    shard.payload(step, stream, chunk.place, buffer).map_err(|e| match e {
        Error::Damaged { path, place, what } => {
            let offset = place.offset.unwrap_or(0);
            damaged_vector(run, &path, (step, stream), chunk, offset, &what)
        }
        other => other,
    })
}

/// The error for damage to a chunk of a vector, given by its step and stream.
pub fn damaged_vector(
    run: &Run,
    path: &Path,
    (step, stream): (u64, u16),
    chunk: &Chunk,
    offset: u64,
    what: &str,
) -> Error {
    let tensor = run.manifest.tensors.get(chunk.tensor).map_or("?", |t| &t.name);
    let vector = Some((run.manifest.stream_name(stream).to_owned(), tensor.to_owned()));
    Error::damaged_at(path, Place { step: Some(step), vector, offset: Some(offset) }, what)
}
