//! From the elements of a step to the chunks of a shard.
//!
//! Owns which vectors are predicted and what goes with a keyframe; knows nothing of when a shard is
//! published.

use std::path::Path;

use super::Run;
use super::chunk::{Chunk, ChunkTable};
use super::forecast::Forecast;
use super::manifest::{GRAD, MOMENTS, Manifest};
use super::resume::restore;
use super::shard_writer::ShardWriter;
use super::writer::Elements;
use crate::codec::{Codec, Coding, Encoder, Exponents};
use crate::dtype::{DType, push_bytes, values};
use crate::error::{Result, Tried};
use crate::isa::Isa;

/// How vectors are stored, without loss in every profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// The smallest: exponents are Huffman-coded.
    #[default]
    Default,
    /// The fastest to read: no entropy coder, for 2 to 4 % more bytes.
    Fast,
}

impl std::str::FromStr for Profile {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Profile, String> {
        match name {
            "default" => Ok(Profile::Default),
            "fast" => Ok(Profile::Fast),
            _ => Err(format!("there is no profile '{name}'; there are 'default' and 'fast'")),
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
pub(super) struct VectorEncoder {
    encoder: Encoder,
    forecast: Option<Forecast>,
    chunks: Vec<Chunk>,
    grad: Option<u16>,
    payload: Vec<u8>,
    values: Vec<f32>,
}

impl VectorEncoder {
    /// For the chunks of `rank`. With `predict` iterates are predicted.
    ///
    /// # Errors
    /// zstd could not allocate its context.
    pub(super) fn new(
        manifest: &Manifest,
        table: &ChunkTable,
        rank: u32,
        profile: Profile,
        predict: bool,
    ) -> std::io::Result<VectorEncoder> {
        let isa = Isa::detect();
        let exponents = match profile {
            Profile::Default => Exponents::Huffman,
            Profile::Fast => Exponents::Packed,
        };
        let chunks: Vec<Chunk> = table.of_rank(rank).iter().map(|&c| table.chunks()[c]).collect();
        Ok(VectorEncoder {
            encoder: Encoder::new(isa, exponents)?,
            forecast: predict.then(|| Forecast::new(manifest, &chunks, isa)),
            chunks,
            grad: manifest.stream_id(GRAD),
            payload: Vec::new(),
            values: Vec::new(),
        })
    }

    /// Goes on after `step`, the last one that counts of a recording that was interrupted. What cannot be
    /// read is not gone on with, which costs bytes only.
    pub(super) fn resume(&mut self, run: &Run, rank: u32, step: u64) {
        if let Some(forecast) = &mut self.forecast
            && restore(forecast, run, rank, step).is_err()
        {
            *forecast = Forecast::new(&run.manifest, &self.chunks, Isa::detect());
        }
    }

    /// Appends the vectors of a step (ascending), and with a keyframe what the optimizer goes on with.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn step(
        &mut self,
        (manifest, run, step): (&Manifest, &Path, u64),
        vectors: &[(u16, &Elements<'_>)],
        scalars: &[(&str, f64)],
        shard: &mut ShardWriter,
    ) -> Result<()> {
        let mut moments = 0;
        for (id, elements) in vectors {
            let role = match id {
                0 => Role::Iterate,
                _ if Some(*id) == self.grad => Role::Gradient,
                _ => Role::Other,
            };
            let begin = |f: &mut Forecast| f.begin(step);
            let keyframe = self.forecast.as_mut().filter(|_| role == Role::Iterate).map(begin);
            shard.start_vector(*id, keyframe);
            self.vector((manifest, run), elements, role, shard)?;
            if let Some(forecast) = self.forecast.as_mut().filter(|_| role == Role::Iterate) {
                forecast.end();
                moments = forecast.stored_moments();
            }
        }
        if let Some(forecast) = &mut self.forecast {
            forecast.scalars(manifest, scalars);
        }
        for (which, stream) in MOMENTS.into_iter().enumerate().take(moments) {
            shard.start_vector(stream, None);
            self.moment(which, run, shard)?;
        }
        Ok(())
    }

    fn vector(
        &mut self,
        (manifest, run): (&Manifest, &Path),
        elements: &Elements<'_>,
        role: Role,
        shard: &mut ShardWriter,
    ) -> Result<()> {
        let mut at = vec![0usize; elements.len()];
        for (place, chunk) in self.chunks.iter().enumerate() {
            let dtype = manifest.tensors[chunk.tensor].dtype;
            self.payload.clear();
            let mut forecast = self.forecast.as_mut().filter(|_| role != Role::Other);
            let Some(bytes) = elements[chunk.tensor] else {
                if let Some(forecast) = &mut forecast {
                    forecast.gradient(place, false);
                }
                shard.chunk(Coding::plain(Codec::Absent), &self.payload)?;
                continue;
            };
            let begin = at[chunk.tensor];
            let end = begin + chunk.len * dtype.size();
            at[chunk.tensor] = end;
            let bytes = &bytes[begin..end];
            let mut coding = None;
            match (&mut forecast, role) {
                (Some(forecast), Role::Iterate) => {
                    self.values.resize(chunk.len, 0.0);
                    values(dtype, bytes, &mut self.values);
                    coding = forecast.take(place, &self.values, &mut self.encoder, &mut self.payload);
                }
                (Some(forecast), _) => values(dtype, bytes, forecast.gradient(place, true)),
                (None, _) => {}
            }
            let coding = match coding {
                Some(coding) => coding,
                None => self.encoder.encode(dtype, bytes, &mut self.payload).tried("compress for", run)?,
            };
            shard.chunk(coding, &self.payload)?;
        }
        Ok(())
    }

    /// One of the optimizer's moments; absent where it is not known.
    fn moment(&mut self, which: usize, run: &Path, shard: &mut ShardWriter) -> Result<()> {
        let mut bytes = Vec::new();
        for place in 0..self.chunks.len() {
            self.payload.clear();
            let mut coding = Coding::plain(Codec::Absent);
            if let Some(moment) = self.forecast.as_ref().and_then(|f| f.moment(place, which)) {
                bytes.clear();
                push_bytes(DType::F32, moment, &mut bytes);
                let stored = self.encoder.encode(DType::F32, &bytes, &mut self.payload);
                coding = stored.tried("compress for", run)?;
            }
            shard.chunk(coding, &self.payload)?;
        }
        Ok(())
    }
}
