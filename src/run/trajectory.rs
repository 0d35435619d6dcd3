//! The vectors of one chunk, decoded from the shards of a window.
//!
//! Streams are decoded by themselves. Iterates are predicted from those before, so they are decoded in
//! the order of steps, from a keyframe on; a [`Trajectory`] holds what that takes. Owns which vectors a
//! prediction looks at; the arithmetic is `codec`'s.

use super::Run;
use super::chunk::Chunk;
use super::manifest::{GRAD, MOMENTS};
use super::window::Window;
use crate::codec::{Codec, Coding, DecodeError, Decoder, Past, Prediction, Predictor};
use crate::dtype::DType;
use crate::error::{Error, Place, Result};
use crate::float_environment::Exact;
use crate::reduce::order::CHUNK;

/// What became of a vector's chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// It was decoded.
    Values,
    /// There is no gradient.
    Absent,
    /// It was not recorded.
    Missing,
}

/// Where the vectors of one chunk come from.
pub struct Source<'a> {
    /// The run.
    pub run: &'a Run,
    /// Open shards, those of the keyframes before included.
    pub window: &'a Window,
    /// The chunk.
    pub chunk: &'a Chunk,
    /// Decodes it.
    pub decoder: &'a mut Decoder,
    /// Used where shards are read and not mapped.
    pub file: &'a mut Vec<u8>,
    /// Stored bytes that were read.
    pub bytes: u64,
}

impl Source<'_> {
    /// Decodes the chunk of a vector that is not predicted into `out`, which has its length.
    ///
    /// # Errors
    /// The bytes are not what was written, or cannot be read.
    pub fn load(&mut self, step: u64, stream: u16, out: &mut [f32]) -> Result<Decoded> {
        self.decode(step, stream, |decoder, dtype, coding, bytes| decoder.decode(dtype, coding, bytes, out))
    }

    /// Fills `widths` with bounds of the errors of a vector that was decoded to `values`, as
    /// [`Decoder::widths`], which also says what is returned. Zeros where there is no such vector.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn widths(
        &mut self,
        step: u64,
        stream: u16,
        values: &[f32],
        widths: &mut [f32],
    ) -> Result<Option<f64>> {
        // They were counted when they were decoded.
        let (mut g2, bytes) = (None, self.bytes);
        let decoded = self.decode(step, stream, |_, _, coding, payload| {
            g2 = Decoder::widths(coding, payload, values, widths)?;
            Ok(())
        })?;
        self.bytes = bytes;
        if decoded != Decoded::Values {
            widths.fill(0.0);
        }
        Ok(g2)
    }

    fn decode(
        &mut self,
        step: u64,
        stream: u16,
        how: impl FnOnce(&mut Decoder, DType, Coding, &[u8]) -> std::result::Result<(), DecodeError>,
    ) -> Result<Decoded> {
        let Some(payload) = self.window.payload(self.run, step, stream, self.chunk, self.file)? else {
            return Ok(Decoded::Missing);
        };
        self.bytes += payload.bytes.len() as u64;
        if payload.coding.codec == Codec::Absent {
            return Ok(Decoded::Absent);
        }
        let dtype = self.run.manifest.dtype_of(stream, self.chunk.tensor);
        how(self.decoder, dtype, payload.coding, payload.bytes).map_err(|e| {
            let offset = payload.offset;
            self.window.undecodable(self.run, step, stream, self.chunk, offset, &e.to_string())
        })?;
        Ok(Decoded::Values)
    }

    /// How the chunk of x_step is stored; `None` where it was not recorded.
    fn coding(&self, step: u64) -> Option<Coding> {
        self.window.shard(step, self.chunk.rank)?.coding(step, 0, self.chunk.place)
    }

    /// The step from which x_step is decoded.
    fn keyframe(&self, step: u64) -> Option<u64> {
        self.window.shard(step, self.chunk.rank)?.keyframe(step)
    }
}

/// Iterates of one chunk that are held, and what the next one is predicted from.
pub struct Trajectory {
    slots: Vec<(Option<u64>, Vec<f32>)>,
    /// The newest iterate that was decoded.
    head: Option<u64>,
    gradient: Vec<f32>,
    /// The step of the gradient that is held, and what became of it.
    held: Option<(u64, Decoded)>,
    momentum: Vec<f32>,
    second: Vec<f32>,
    /// A keyframe and the step after it from which on nothing can be decoded.
    broken: Option<(u64, u64)>,
    /// The last replay of the optimizer's step.
    replay: Option<Prediction>,
}

impl Trajectory {
    /// Holds the newest iterate of any chunk and `past` before it.
    pub fn new(past: usize) -> Trajectory {
        Trajectory::sized(past, CHUNK)
    }

    /// The same for chunks of at most `len` elements.
    pub fn sized(past: usize, len: usize) -> Trajectory {
        // One more is predicted from.
        let slot = || (None, vec![0.0; len]);
        let vector = || vec![0.0; len];
        Trajectory {
            slots: (0..past + 2).map(|_| slot()).collect(),
            head: None,
            gradient: vector(),
            held: None,
            momentum: vector(),
            second: vector(),
            broken: None,
            replay: None,
        }
    }

    /// Forgets all: what follows is another chunk's, or another window's.
    pub fn clear(&mut self) {
        self.slots.iter_mut().for_each(|(step, _)| *step = None);
        (self.head, self.held, self.broken, self.replay) = (None, None, None, None);
    }

    /// Makes x_step be held, with everything between the newest iterate so far and it; false where it
    /// was not recorded. A step before the newest one is held only while there is room.
    ///
    /// # Errors
    /// As [`Source::load`], also where the damage lies in a vector that x_step is decoded from.
    pub fn reach(&mut self, step: u64, source: &mut Source<'_>) -> Result<bool> {
        let _exact = Exact::new();
        if self.slot(step).is_some() {
            return Ok(true);
        }
        let Some(keyframe) = source.keyframe(step) else {
            return Ok(false);
        };
        if let Some((from, at)) = self.broken
            && from == keyframe
            && step >= at
        {
            return Err(follows_damage(source, step, at, "it is damaged"));
        }
        let mut at = match self.head {
            Some(head) if head >= keyframe && head < step => head + 1,
            _ => keyframe,
        };
        while at <= step {
            if let Err(e) = self.advance(at, keyframe, source) {
                self.head = None;
                self.broken = Some((keyframe, at));
                let own = at == step || !e.is_damage();
                return Err(if own { e } else { follows_damage(source, step, at, &e.to_string()) });
            }
            at += 1;
        }
        Ok(true)
    }

    fn slot(&self, step: u64) -> Option<usize> {
        self.slots.iter().position(|(held, _)| *held == Some(step))
    }

    /// x_step, of `n` elements, where it is held.
    pub fn get(&self, step: u64, n: usize) -> Option<&[f32]> {
        self.slot(step).map(|slot| &self.slots[slot].1[..n])
    }

    /// x_step, which is there.
    ///
    /// # Errors
    /// As [`Self::reach`], and where it was not recorded.
    pub fn recorded(&mut self, step: u64, source: &mut Source<'_>) -> Result<&[f32]> {
        if self.reach(step, source)?
            && let Some(slot) = self.slot(step)
        {
            return Ok(&self.slots[slot].1[..source.chunk.len]);
        }
        Err(missing(source, step))
    }

    /// A vector of a step: x_step, or a stream, which is decoded into `buffer`; `None` where it is absent
    /// or was not recorded.
    ///
    /// # Errors
    /// As [`Self::recorded`] and [`Source::load`].
    pub(crate) fn vector<'t>(
        &'t mut self,
        step: u64,
        stream: u16,
        source: &mut Source<'_>,
        buffer: &'t mut [f32],
    ) -> Result<Option<&'t [f32]>> {
        if stream == 0 {
            return self.recorded(step, source).map(Some);
        }
        let values = &mut buffer[..source.chunk.len];
        Ok((source.load(step, stream, values)? == Decoded::Values).then_some(&*values))
    }

    /// The optimizer's moments before the newest iterate's step, and the last replay of a step that was
    /// met on the way to it.
    pub(super) fn optimizer(&self, n: usize) -> ([&[f32]; 2], Option<Prediction>) {
        ([&self.momentum[..n], &self.second[..n]], self.replay)
    }

    /// The gradient of a step, where it was decoded on the way to the newest iterate.
    pub fn gradient(&self, step: u64, n: usize) -> Option<(&[f32], Decoded)> {
        let (_, decoded) = self.held.filter(|(held, _)| *held == step)?;
        Some((&self.gradient[..n], decoded))
    }

    /// Decodes x_step, which follows the newest iterate or is a keyframe.
    fn advance(&mut self, step: u64, keyframe: u64, source: &mut Source<'_>) -> Result<()> {
        let n = source.chunk.len;
        let recorded = source.coding(step);
        let coding = recorded.ok_or_else(|| missing(source, step))?;
        let previous = step.checked_sub(1).filter(|_| step > keyframe).and_then(|p| self.slot(p));
        // The iterate before the last is looked at by one predictor only.
        let looks_back = coding.predictor == Predictor::Linear;
        let before = step.checked_sub(2).filter(|p| looks_back && *p >= keyframe).and_then(|p| self.slot(p));
        let oldest = |i: &usize| self.slots[*i].0.map_or(0, |s| s + 1);
        let free =
            (0..self.slots.len()).filter(|i| Some(*i) != previous && Some(*i) != before).min_by_key(oldest);
        let free = free.unwrap_or(0);
        let mut values = std::mem::take(&mut self.slots[free].1);
        self.slots[free].0 = None;
        let decoded = self.decode(step, coding, previous, before, source, &mut values[..n]);
        self.slots[free].1 = values;
        decoded?;
        if step == keyframe {
            for (stream, moment) in MOMENTS.into_iter().zip([&mut self.momentum, &mut self.second]) {
                if source.load(step, stream, &mut moment[..n])? != Decoded::Values {
                    moment[..n].fill(0.0);
                }
            }
        }
        self.slots[free].0 = Some(step);
        self.head = Some(step);
        Ok(())
    }

    fn decode(
        &mut self,
        step: u64,
        coding: Coding,
        previous: Option<usize>,
        before: Option<usize>,
        source: &mut Source<'_>,
        out: &mut [f32],
    ) -> Result<()> {
        let n = out.len();
        if !coding.codec.follows() {
            source.load(step, 0, out)?;
            return Ok(());
        }
        let previous = previous.ok_or_else(|| missing(source, step.saturating_sub(1)))?;
        let grad = source.run.manifest.stream_id(GRAD);
        if coding.predictor != Predictor::Previous {
            self.held = None;
            let decoded = match grad {
                Some(stream) => source.load(step - 1, stream, &mut self.gradient[..n])?,
                None => Decoded::Missing,
            };
            if decoded != Decoded::Values {
                self.gradient[..n].fill(0.0);
            }
            self.held = Some((step - 1, decoded));
        }
        let x = &self.slots[previous].1[..n];
        let before = before.map_or(x, |slot| &self.slots[slot].1[..n]);
        let g = &self.gradient[..n];
        let (momentum, second) = (&mut self.momentum[..n], &mut self.second[..n]);
        let mut past = Past { x, before, g, momentum, second };
        let mut prediction = Prediction::PREVIOUS;
        source.decode(step, 0, |decoder, dtype, coding, bytes| {
            prediction = decoder.decode_predicted(dtype, coding, bytes, &mut past, out)?;
            Ok(())
        })?;
        if prediction.predictor.moments() > 0 {
            self.replay = Some(prediction);
        }
        Ok(())
    }
}

/// The error for an iterate that is decoded from a damaged one.
fn follows_damage(source: &Source<'_>, step: u64, at: u64, why: &str) -> Error {
    let path = source.window.shard(step, source.chunk.rank).map_or(&source.run.path, |s| &s.file.path);
    let name = &source.run.manifest.tensors[source.chunk.tensor].name;
    let vector = Some((source.run.manifest.stream_name(0).to_owned(), name.clone()));
    let place = Place { step: Some(step), vector, offset: None };
    let what = format!("it is decoded from those before, of which step {at} cannot be read ({why})");
    Error::damaged_at(path, place, what)
}

fn missing(source: &Source<'_>, step: u64) -> Error {
    Error::MissingShard { path: source.run.path.clone(), first: step, last: step, rank: source.chunk.rank }
}
