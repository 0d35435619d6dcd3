//! Decoding the vectors of one chunk, and keeping the iterates that a walk meets more than once.

use crate::codec::{Codec, Decoder};
use crate::error::{Error, Result};
use crate::reduce::order::CHUNK;
use crate::run::Run;
use crate::run::chunk::Chunk;
use crate::run::window::Window;

/// What became of a vector's chunk.
pub(super) enum Decoded {
    /// It was decoded.
    Values,
    /// There is no gradient.
    Absent,
    /// It was not recorded.
    Missing,
}

/// Decodes vectors of one chunk.
pub(super) struct Loader<'a> {
    pub(super) run: &'a Run,
    pub(super) window: &'a Window,
    pub(super) chunk: &'a Chunk,
    pub(super) decoder: &'a mut Decoder,
    pub(super) file: &'a mut Vec<u8>,
    /// Stored bytes that were read.
    pub(super) bytes: u64,
}

impl Loader<'_> {
    /// Decodes a vector's chunk into `out`.
    ///
    /// # Errors
    /// The bytes are not what was written, or cannot be read.
    pub(super) fn load(&mut self, step: u64, stream: u16, out: &mut [f32]) -> Result<Decoded> {
        let Some(payload) = self.window.payload(self.run, step, stream, self.chunk, self.file)? else {
            return Ok(Decoded::Missing);
        };
        self.bytes += payload.bytes.len() as u64;
        if payload.coding.codec == Codec::Absent {
            return Ok(Decoded::Absent);
        }
        let dtype = self.run.manifest.tensors[self.chunk.tensor].dtype;
        self.decoder.decode(dtype, payload.coding, payload.bytes, out).map_err(|e| {
            let (run, offset) = (self.run, payload.offset);
            self.window.undecodable(run, step, stream, self.chunk, offset, &e.to_string())
        })?;
        Ok(Decoded::Values)
    }
}

/// Iterates of one chunk by step, so many as a walk needs at once.
pub(super) struct Iterates {
    slots: Vec<(Option<u64>, Vec<f32>)>,
}

impl Iterates {
    /// Room for `count` iterates.
    pub(super) fn new(count: usize) -> Iterates {
        Iterates { slots: (0..count).map(|_| (None, vec![0.0; CHUNK])).collect() }
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.slots.iter_mut().for_each(|(step, _)| *step = None);
    }

    /// Keeps a copy of an iterate that is known.
    pub(super) fn keep(&mut self, step: u64, values: &[f32]) {
        if let Some((held, slot)) = self.slots.first_mut() {
            *held = Some(step);
            slot[..values.len()].copy_from_slice(values);
        }
    }

    /// The slot of x_step, decoded if it is not held; `None` where it was not recorded. The walk is
    /// at step `now` and will not come back before it.
    ///
    /// # Errors
    /// As [`Loader::load`].
    pub(super) fn ensure(&mut self, now: u64, step: u64, loader: &mut Loader<'_>) -> Result<Option<usize>> {
        if let Some(slot) = self.slots.iter().position(|(held, _)| *held == Some(step)) {
            return Ok(Some(slot));
        }
        // There are as many slots as steps from `now` to the last one that is asked for.
        let free = self.slots.iter().position(|(held, _)| held.is_none_or(|s| s < now)).unwrap_or(0);
        let (held, values) = &mut self.slots[free];
        *held = None;
        let decoded = loader.load(step, 0, &mut values[..loader.chunk.len])?;
        *held = matches!(decoded, Decoded::Values).then_some(step);
        Ok(held.map(|_| free))
    }

    /// The first `n` values of a slot.
    pub(super) fn get(&self, slot: usize, n: usize) -> &[f32] {
        &self.slots[slot].1[..n]
    }
}

/// Passes damage on to be collected; anything else ends the analysis.
pub(super) fn keep(e: Error) -> Result<Error> {
    if e.is_damage() { Ok(e) } else { Err(e) }
}
