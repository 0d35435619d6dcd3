//! A set of open shards in which any vector of some steps can be found.

use std::collections::BTreeMap;
use std::path::Path;

use super::Run;
use super::chunk::Chunk;
use super::shard::{Payload, Shard};
use crate::codec::Decoder;
use crate::error::{Error, Place, Result};

/// Open shards of all ranks, by step.
#[derive(Default)]
pub struct Window {
    /// Per rank: first step that counts to (last step that counts, shard).
    ranks: Vec<BTreeMap<u64, (u64, Shard)>>,
    /// Shards that could not be opened, by their first step that counts.
    pub damaged: Vec<(std::ops::RangeInclusive<u64>, Error)>,
}

impl Window {
    /// Opens every shard that holds one of `steps` (in ascending order). A damaged
    /// shard is left out and reported.
    ///
    /// # Errors
    /// Anything but damage.
    pub fn open(run: &Run, steps: &[u64], prefetch: bool) -> Result<Window> {
        let mut window = Window::default();
        for rank in 0..run.manifest.world {
            let mut shards = BTreeMap::new();
            let segments = run.segments(rank);
            let mut rest = steps;
            while let Some(&step) = rest.first() {
                let Some(segment) = segments.get(segments.partition_point(|s| s.last < step)) else {
                    break;
                };
                if segment.first > step {
                    rest = &rest[rest.partition_point(|&s| s < segment.first)..];
                    continue;
                }
                rest = &rest[rest.partition_point(|&s| s <= segment.last)..];
                let shard = match run.open_shard(&segment.file, prefetch) {
                    Ok(shard) => shard,
                    Err(e) if e.is_damage() => {
                        window.damaged.push((segment.first..=segment.last, e));
                        continue;
                    }
                    Err(e) => return Err(e),
                };
                shards.insert(segment.first, (segment.last, shard));
            }
            window.ranks.push(shards);
        }
        Ok(window)
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

    /// Decodes x_step of a chunk into `out`, which is resized.
    ///
    /// # Errors
    /// It is damaged, or was not recorded.
    pub fn iterate(
        &self,
        run: &Run,
        step: u64,
        chunk: &Chunk,
        decoder: &mut Decoder,
        buffer: &mut Vec<u8>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let missing =
            || Error::MissingShard { path: run.path.clone(), first: step, last: step, rank: chunk.rank };
        let payload = self.payload(run, step, 0, chunk, buffer)?.ok_or_else(missing)?;
        out.resize(chunk.len, 0.0);
        let dtype = run.manifest.tensors[chunk.tensor].dtype;
        decoder
            .decode(dtype, payload.coding, payload.bytes, out)
            .map_err(|e| self.undecodable(run, step, 0, chunk, payload.offset, &e.to_string()))
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
