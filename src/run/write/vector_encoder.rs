//! From the elements of a step to the chunks of a shard.
//!
//! Owns which vectors are predicted and what goes with a keyframe; knows nothing of when a shard is
//! published.

use std::path::Path;

use crate::codec::{Coding, Encoder, Exponents, Lossy, Noise};
use crate::dtype::{DType, push_bytes, values};
use crate::error::{Result, Tried, Usage};
use crate::hash::xxh3_64;
use crate::isa::Isa;
use crate::reduce::Direction;
use crate::reduce::cpu::{Vectors, direction_sums};
use crate::run::Run;
use crate::run::format::chunk::{Chunk, ChunkTable, Piece};
use crate::run::format::manifest::{GRAD, Manifest, Precision};
use crate::run::format::vector_id::{StreamId, VectorId};
use crate::run::write::forecast::Forecast;
use crate::run::write::resume::restore;
use crate::run::write::shard_writer::ShardWriter;
use crate::run::write::step::{Elements, Step};

/// How vectors are stored. What is lost, if anything, is not a profile's business.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// The smallest: exponents are Huffman-coded.
    #[default]
    Default,
    /// The fastest to read: no entropy coder, for 2 to 4 % more bytes.
    Fast,
}

impl std::str::FromStr for Profile {
    type Err = Usage;

    fn from_str(name: &str) -> std::result::Result<Profile, Usage> {
        match name {
            "default" => Ok(Profile::Default),
            "fast" => Ok(Profile::Fast),
            _ => Err(Usage(format!("there is no profile '{name}'; there are 'default' and 'fast'"))),
        }
    }
}

/// What a vector is to the forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Iterate,
    Gradient,
    Other,
}

/// Encodes the vectors of one rank, step by step.
#[derive(Debug)]
pub(crate) struct VectorEncoder {
    encoder: Encoder,
    forecast: Option<Forecast>,
    isa: Isa,
    chunks: Vec<Chunk>,
    /// By chunk: its number in the run.
    numbers: Vec<u32>,
    seed: u64,
    grad: Option<StreamId>,
    payload: Vec<u8>,
    /// The elements of several pieces, one after the other, with zeros for those that are absent.
    gathered: Vec<u8>,
    /// By piece of the chunk at hand, whether it is absent.
    absent: Vec<bool>,
    values: Vec<f32>,
    decoded: Vec<f32>,
}

impl VectorEncoder {
    /// For the chunks of `rank`. With `predict` iterates are predicted.
    ///
    /// # Errors
    /// zstd could not allocate its context.
    pub(crate) fn new(
        manifest: &Manifest,
        table: &ChunkTable,
        rank: u32,
        (profile, predict): (Profile, bool),
        isa: Isa,
    ) -> std::io::Result<VectorEncoder> {
        let exponents = match profile {
            Profile::Default => Exponents::Huffman,
            Profile::Fast => Exponents::Packed,
        };
        let chunks: Vec<Chunk> = table.of_rank(rank).iter().map(|&c| table.chunks()[c].clone()).collect();
        let numbers =
            table.of_rank(rank).iter().map(|&c| u32::try_from(c)).collect::<std::result::Result<_, _>>();
        Ok(VectorEncoder {
            encoder: Encoder::new(isa, exponents)?,
            forecast: predict.then(|| Forecast::new(manifest, &chunks, isa)),
            isa,
            chunks,
            numbers: numbers.map_err(std::io::Error::other)?,
            seed: xxh3_64(manifest.run_id.as_bytes()),
            grad: manifest.stream_id(GRAD),
            payload: Vec::new(),
            gathered: Vec::new(),
            absent: Vec::new(),
            values: Vec::new(),
            decoded: Vec::new(),
        })
    }

    /// Goes on after `step`, the last one that counts of a recording that was interrupted. What cannot be
    /// read is not gone on with, which costs bytes only.
    pub(crate) fn resume(&mut self, run: &Run, rank: u32, step: u64) {
        if let Some(forecast) = &mut self.forecast
            && restore(forecast, run, rank, step).is_err()
        {
            *forecast = Forecast::new(&run.manifest, &self.chunks, self.isa);
        }
    }

    /// Appends the vectors of a step (ascending), and with a keyframe what the optimizer goes on with.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn step(
        &mut self,
        (manifest, run, step): (&Manifest, &Path, u64),
        vectors: &[(StreamId, &Elements<'_>)],
        given: &Step<'_>,
        shard: &mut ShardWriter,
    ) -> Result<()> {
        let mut moments = 0;
        for (id, elements) in vectors {
            let role = match id {
                StreamId::Iterate => Role::Iterate,
                _ if Some(*id) == self.grad => Role::Gradient,
                _ => Role::Other,
            };
            let begin = |f: &mut Forecast| f.begin(step, given.last);
            let keyframe = self.forecast.as_mut().filter(|_| role == Role::Iterate).map(begin);
            if keyframe.is_some() {
                self.take_moments(manifest, given.moments);
            }
            shard.start_vector(*id, keyframe);
            self.vector((manifest, run), VectorId { step, stream: *id }, elements, role, shard)?;
            if let Some(forecast) = self.forecast.as_mut().filter(|_| role == Role::Iterate) {
                forecast.end();
                moments = forecast.stored_moments();
            }
        }
        if let Some(forecast) = &mut self.forecast {
            forecast.scalars(manifest, given.scalars);
        }
        for (which, stream) in StreamId::MOMENTS.into_iter().enumerate().take(moments) {
            shard.start_vector(stream, None);
            self.moment(which, run, shard)?;
        }
        Ok(())
    }

    fn vector(
        &mut self,
        (manifest, run): (&Manifest, &Path),
        VectorId { step, stream }: VectorId,
        elements: &Elements<'_>,
        role: Role,
        shard: &mut ShardWriter,
    ) -> Result<()> {
        for (place, chunk) in self.chunks.iter().enumerate() {
            let dtype = manifest.tensors[chunk.tensor].dtype;
            self.payload.clear();
            let mut forecast = self.forecast.as_mut().filter(|_| role != Role::Other);
            self.absent.clear();
            self.absent.extend(chunk.pieces.iter().map(|p| elements[p.tensor].is_none()));
            let absent = &self.absent;
            if absent.iter().all(|a| *a) {
                if let Some(forecast) = &mut forecast {
                    forecast.gradient(place, absent).fill(0.0);
                }
                shard.chunk(Coding::Absent, &self.payload, &[])?;
                continue;
            }
            let some_absent = if absent.iter().any(|a| *a) { absent.as_slice() } else { &[] };
            let bytes = elements_of(chunk, dtype, elements, &mut self.gathered);
            let noise = Noise { seed: self.seed, step, stream: stream.number(), chunk: self.numbers[place] };
            let precision = manifest.storage.of(stream, dtype);
            let mut coding = None;
            match (&mut forecast, role) {
                (Some(forecast), Role::Iterate) => {
                    self.values.resize(chunk.len, 0.0);
                    values(dtype, bytes, &mut self.values);
                    let (encoder, payload) = (&mut self.encoder, &mut self.payload);
                    let taken = forecast.take(place, &self.values, noise, encoder, payload);
                    coding = taken.tried("compress for", run)?;
                }
                (None, Role::Iterate) => {}
                (forecast, _) if precision != Precision::Exact => {
                    self.values.resize(chunk.len, 0.0);
                    values(dtype, bytes, &mut self.values);
                    self.decoded.clear();
                    self.decoded.extend_from_slice(&self.values);
                    let g = self.values.as_slice();
                    let own = Vectors { g, x: g, next: g, init: g };
                    let g2 = direction_sums(self.isa, Direction::Stored, &own).g2;
                    let lossy = Lossy { values: &self.values, noise, decoded: &mut self.decoded };
                    let stored = match precision {
                        Precision::Bf16 => self.encoder.encode_rounded(lossy, g2, &mut self.payload),
                        _ => self.encoder.encode_quantized(lossy, g2, &mut self.payload),
                    };
                    coding = stored.tried("compress for", run)?;
                    let seen = if coding.is_some() { &self.decoded } else { &self.values };
                    if let Some(forecast) = forecast {
                        // What a reader predicts from.
                        forecast.gradient(place, absent).copy_from_slice(seen);
                    }
                }
                (Some(forecast), _) => values(dtype, bytes, forecast.gradient(place, absent)),
                (None, _) => {}
            }
            let coding = match coding {
                Some(coding) => coding,
                None => {
                    let stored = manifest.dtype_of(stream, chunk.tensor);
                    let mut wide = Vec::new();
                    if stored != dtype {
                        push_bytes(stored, &self.values, &mut wide);
                    }
                    let bytes = if stored == dtype { bytes } else { &wide };
                    self.encoder.encode(stored, bytes, &mut self.payload).tried("compress for", run)?
                }
            };
            shard.chunk(coding, &self.payload, some_absent)?;
        }
        Ok(())
    }

    /// Takes what the optimizer goes on with, where it could not be followed.
    fn take_moments(&mut self, manifest: &Manifest, moments: &[&Elements<'_>]) {
        let Some(forecast) = self.forecast.as_mut().filter(|f| f.wanted_moments() == moments.len()) else {
            return;
        };
        for (which, elements) in moments.iter().enumerate() {
            for (place, chunk) in self.chunks.iter().enumerate() {
                let dtype = manifest.tensors[chunk.tensor].dtype;
                self.values.resize(chunk.len, 0.0);
                values(dtype, elements_of(chunk, dtype, elements, &mut self.gathered), &mut self.values);
                forecast.give(place, which, &self.values);
            }
        }
    }

    /// One of the optimizer's moments; absent where it is not known.
    fn moment(&mut self, which: usize, run: &Path, shard: &mut ShardWriter) -> Result<()> {
        let mut bytes = Vec::new();
        for place in 0..self.chunks.len() {
            self.payload.clear();
            let mut coding = Coding::Absent;
            if let Some(moment) = self.forecast.as_ref().and_then(|f| f.moment(place, which)) {
                bytes.clear();
                push_bytes(DType::F32, moment, &mut bytes);
                let stored = self.encoder.encode(DType::F32, &bytes, &mut self.payload);
                coding = stored.tried("compress for", run)?;
            }
            shard.chunk(coding, &self.payload, &[])?;
        }
        Ok(())
    }
}

/// The elements of a chunk, which are in several tensors if it has several pieces: `gathered` then, and where they are
/// absent zeros.
fn elements_of<'a>(
    chunk: &Chunk,
    dtype: DType,
    elements: &'a Elements<'_>,
    gathered: &'a mut Vec<u8>,
) -> &'a [u8] {
    let own = |p: &Piece| {
        let (from, len) = (p.skip * dtype.size(), p.len * dtype.size());
        elements[p.tensor].map(|bytes| &bytes[from..from + len])
    };
    if let [only] = chunk.pieces.as_slice()
        && let Some(bytes) = own(only)
    {
        return bytes;
    }
    gathered.clear();
    for piece in &chunk.pieces {
        match own(piece) {
            Some(bytes) => gathered.extend_from_slice(bytes),
            None => gathered.resize(gathered.len() + piece.len * dtype.size(), 0),
        }
    }
    gathered
}
