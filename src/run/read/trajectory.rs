//! The vectors of one chunk, decoded from the shards of a window.
//!
//! Streams are decoded by themselves. Iterates are predicted from those before, so they are decoded in
//! the order of steps, from a keyframe on; a [`Trajectory`] holds what that takes. Owns which vectors a
//! prediction looks at; the arithmetic is `codec`'s.

use crate::codec::{Coding, Past, Pieces, Prediction, Predictions, Predictor};
use crate::error::{Error, Place, Result};
use crate::order::CHUNK;
use crate::run::format::manifest::GRAD;
use crate::run::format::vector_id::{StreamId, VectorId};
use crate::run::read::chunk_reader::{ChunkReader, Decoded};
use crate::run::read::shard::AbsentPieces;
use crate::run::read::window::chunk_place;

/// How an iterate is stored, as far as that tells what the optimizer made of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Made {
    /// By itself, as keyframes are.
    Keyframe,
    /// By itself or as what another prediction missed, though the optimizer's step could have been one.
    Otherwise,
    /// As what the optimizer's step missed.
    Replayed {
        /// The step.
        prediction: Prediction,
        /// The sum of the squares of what it missed by more than two units of the last place; `None` where
        /// there is something, and the values are not at hand.
        missed: Option<f64>,
    },
}

/// How an iterate's chunk is stored, as [`Made`].
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stored {
    Keyframe,
    Otherwise,
    Replayed,
}

/// How the pieces of an iterate's chunk are stored.
#[derive(Clone, Copy, Debug)]
pub struct MadePieces<'a> {
    made: Stored,
    predictions: &'a Predictions,
    missed: &'a [f64],
    at_rest: AbsentPieces<'a>,
}

impl MadePieces<'_> {
    /// How the piece at `place` is.
    pub fn of(&self, place: usize) -> Made {
        match self.made {
            Stored::Keyframe => Made::Keyframe,
            Stored::Otherwise => Made::Otherwise,
            Stored::Replayed if self.at_rest.has(place) => Made::Otherwise,
            Stored::Replayed => Made::Replayed {
                prediction: self.predictions.of(place),
                missed: self.missed.get(place).copied(),
            },
        }
    }
}

/// Where a trajectory holds a vector of its chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The gradient that was decoded last.
    Gradient,
    /// The optimizer's momentum.
    Momentum,
    /// The optimizer's second moment.
    Second,
    /// An iterate, by number.
    Iterate(usize),
}

/// Holds the vectors of a trajectory and does the arithmetic on them.
pub trait Slots {
    /// Decodes the chunk of a stored vector that is not predicted into a slot; zeros where there is none.
    ///
    /// # Errors
    /// As [`ChunkReader::load`].
    fn load(
        &mut self,
        at: Slot,
        step: u64,
        stream: StreamId,
        source: &mut ChunkReader<'_>,
    ) -> Result<Decoded>;

    /// Makes the gradient, of `n` elements, zero: no stream of gradients was recorded.
    fn no_gradient(&mut self, n: usize);

    /// Decodes the iterate of `step` into the last of three slots of iterates, predicted from the first and
    /// from the one before that in the second, the gradient and the moments, which are taken a step further.
    /// Returns the prediction, and puts what it missed into `missed`, by piece, as [`Made::Replayed`] has it; nothing
    /// where that is not at hand.
    ///
    /// # Errors
    /// As [`ChunkReader::load`].
    fn predict(
        &mut self,
        step: u64,
        iterates: [usize; 3],
        missed: &mut Vec<f64>,
        source: &mut ChunkReader<'_>,
    ) -> Result<Predictions>;

    /// The values in a slot; empty where they are not at hand.
    fn values(&self, at: Slot, n: usize) -> &[f32];
}

/// Slots in memory.
#[derive(Debug)]
pub struct Memory {
    gradient: Vec<f32>,
    momentum: Vec<f32>,
    second: Vec<f32>,
    iterates: Vec<Vec<f32>>,
}

impl Memory {
    fn slot(&mut self, at: Slot) -> &mut [f32] {
        match at {
            Slot::Gradient => &mut self.gradient,
            Slot::Momentum => &mut self.momentum,
            Slot::Second => &mut self.second,
            Slot::Iterate(i) => &mut self.iterates[i],
        }
    }
}

impl Slots for Memory {
    fn load(
        &mut self,
        at: Slot,
        step: u64,
        stream: StreamId,
        source: &mut ChunkReader<'_>,
    ) -> Result<Decoded> {
        let n = source.chunk.len;
        let values = &mut self.slot(at)[..n];
        let decoded = source.load(step, stream, values)?;
        if decoded != Decoded::Values {
            values.fill(0.0);
        }
        Ok(decoded)
    }

    fn no_gradient(&mut self, n: usize) {
        self.gradient[..n].fill(0.0);
    }

    fn predict(
        &mut self,
        step: u64,
        [x, before, out]: [usize; 3],
        missed: &mut Vec<f64>,
        source: &mut ChunkReader<'_>,
    ) -> Result<Predictions> {
        let (n, ends) = (source.chunk.len, source.chunk.ends.as_slice());
        missed.resize(ends.len(), 0.0);
        let mut miss = |element: usize, square: f64| {
            missed[ends.partition_point(|end| *end <= element)] += square;
        };
        let pieces = Pieces { ends, at_rest: source.without_gradient(step - 1).bits() };
        let mut values = std::mem::take(&mut self.iterates[out]);
        let (x, before) = (&self.iterates[x][..n], &self.iterates[before][..n]);
        let (momentum, second) = (&mut self.momentum[..n], &mut self.second[..n]);
        let mut past = Past { x, before, g: &self.gradient[..n], momentum, second };
        let mut predictions = Prediction::PREVIOUS.into();
        let decoded = source.decode(step, StreamId::Iterate, |decoder, dtype, coding, bytes| {
            let out = &mut values[..n];
            predictions =
                decoder.decode_predicted(dtype, coding, bytes, (&mut past, pieces), out, &mut miss)?;
            Ok(())
        });
        self.iterates[out] = values;
        decoded.map(|_| predictions)
    }

    fn values(&self, at: Slot, n: usize) -> &[f32] {
        match at {
            Slot::Gradient => &self.gradient[..n],
            Slot::Momentum => &self.momentum[..n],
            Slot::Second => &self.second[..n],
            Slot::Iterate(i) => &self.iterates[i][..n],
        }
    }
}

/// Iterates of one chunk that are held, and what the next one is predicted from.
#[derive(Debug)]
pub struct Trajectory<S = Memory> {
    slots: S,
    /// By slot of iterates: the step.
    steps: Vec<Option<u64>>,
    /// By slot of iterates: how it is stored.
    made: Vec<Stored>,
    /// By slot of iterates: how it was predicted.
    predictions: Vec<Predictions>,
    /// By slot of iterates and piece: what the optimizer's step missed; empty where that is not at hand.
    missed: Vec<Vec<f64>>,
    /// The newest iterate that was decoded.
    head: Option<u64>,
    /// The step of the gradient that is held, and what became of it.
    held: Option<(u64, Decoded)>,
    /// A keyframe and the step after it from which on nothing can be decoded.
    broken: Option<(u64, u64)>,
    /// The last replay of the optimizer's step.
    replay: Option<Predictions>,
}

impl Trajectory {
    /// Holds the newest iterate of any chunk and `past` before it.
    pub fn new(past: usize) -> Trajectory {
        Trajectory::sized(past, CHUNK)
    }

    /// The same for chunks of at most `len` elements.
    pub fn sized(past: usize, len: usize) -> Trajectory {
        let vector = || vec![0.0; len];
        // One more is predicted from.
        let iterates: Vec<Vec<f32>> = (0..past + 2).map(|_| vector()).collect();
        let count = iterates.len();
        Trajectory::over(Memory { gradient: vector(), momentum: vector(), second: vector(), iterates }, count)
    }

    /// A vector of a step: x_step, or a stream, which is decoded into `buffer`; `None` where it is absent
    /// or was not recorded.
    ///
    /// # Errors
    /// As [`Self::recorded`] and [`ChunkReader::load`].
    pub(crate) fn vector<'t>(
        &'t mut self,
        step: u64,
        stream: StreamId,
        source: &mut ChunkReader<'_>,
        buffer: &'t mut [f32],
    ) -> Result<Option<&'t [f32]>> {
        if stream == StreamId::Iterate {
            return self.recorded(step, source).map(Some);
        }
        let values = &mut buffer[..source.chunk.len];
        Ok((source.load(step, stream, values)? == Decoded::Values).then_some(&*values))
    }

    /// Exchanges the gradient of a step, where it was decoded on the way to the newest iterate, with a buffer of the
    /// same length. What became of it.
    pub(crate) fn swap_gradient(&mut self, step: u64, with: &mut Vec<f32>) -> Option<Decoded> {
        let (_, decoded) = self.held.take_if(|(held, _)| *held == step)?;
        std::mem::swap(&mut self.slots.gradient, with);
        Some(decoded)
    }

    /// The optimizer's moments before the newest iterate's step, and the last replay of a step that was
    /// met on the way to it.
    pub(crate) fn optimizer(&self, n: usize) -> ([&[f32]; 2], Option<&Predictions>) {
        ([&self.slots.momentum[..n], &self.slots.second[..n]], self.replay.as_ref())
    }
}

impl<S: Slots> Trajectory<S> {
    /// Holds up to `count` iterates, at least three, in `slots`.
    pub fn over(slots: S, count: usize) -> Trajectory<S> {
        let (steps, made, missed) =
            (vec![None; count], vec![Stored::Keyframe; count], vec![Vec::new(); count]);
        let predictions = vec![Prediction::PREVIOUS.into(); count];
        Trajectory {
            slots,
            steps,
            made,
            predictions,
            missed,
            head: None,
            held: None,
            broken: None,
            replay: None,
        }
    }

    /// Forgets all: what follows is another chunk's, or another window's.
    pub fn clear(&mut self) {
        self.steps.fill(None);
        (self.head, self.held, self.broken, self.replay) = (None, None, None, None);
    }

    /// Makes x_step be held, with everything between the newest iterate so far and it; false where it
    /// was not recorded. A step before the newest one is held only while there is room.
    ///
    /// # Errors
    /// It, or a vector that x_step is decoded from, is damaged or cannot be read.
    pub fn reach(&mut self, step: u64, source: &mut ChunkReader<'_>) -> Result<bool> {
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
        self.steps.iter().position(|held| *held == Some(step))
    }

    /// x_step, of `n` elements, where it is held; empty where its values are not at hand.
    pub fn get(&self, step: u64, n: usize) -> Option<&[f32]> {
        self.slot(step).map(|slot| self.slots.values(Slot::Iterate(slot), n))
    }

    /// How the pieces of x_step are stored, where it is held.
    pub fn made<'t>(&'t self, step: u64, source: &ChunkReader<'t>) -> Option<MadePieces<'t>> {
        let slot = self.slot(step)?;
        let at_rest = step.checked_sub(1).map(|before| source.without_gradient(before)).unwrap_or_default();
        let (predictions, missed) = (&self.predictions[slot], self.missed[slot].as_slice());
        Some(MadePieces { made: self.made[slot], predictions, missed, at_rest })
    }

    /// x_step, which is there.
    ///
    /// # Errors
    /// As [`Self::reach`], and where it was not recorded.
    pub fn recorded(&mut self, step: u64, source: &mut ChunkReader<'_>) -> Result<&[f32]> {
        if self.reach(step, source)?
            && let Some(slot) = self.slot(step)
        {
            return Ok(self.slots.values(Slot::Iterate(slot), source.chunk.len));
        }
        Err(missing(source, step))
    }

    /// The gradient of a step, where it was decoded on the way to the newest iterate.
    pub fn gradient(&self, step: u64, n: usize) -> Option<(&[f32], Decoded)> {
        let (_, decoded) = self.held.filter(|(held, _)| *held == step)?;
        Some((self.slots.values(Slot::Gradient, n), decoded))
    }

    /// The second moment after a step, where the iterate after it is the newest one. It is the optimizer's where all
    /// iterates since the keyframe are replays.
    pub fn second_after(&self, step: u64, n: usize) -> Option<&[f32]> {
        (self.head == Some(step + 1)).then(|| self.slots.values(Slot::Second, n))
    }

    /// Decodes x_step, which follows the newest iterate or is a keyframe.
    fn advance(&mut self, step: u64, keyframe: u64, source: &mut ChunkReader<'_>) -> Result<()> {
        let recorded = source.coding(step);
        let coding = recorded.ok_or_else(|| missing(source, step))?;
        let previous = step.checked_sub(1).filter(|_| step > keyframe).and_then(|p| self.slot(p));
        // The iterate before the last is looked at by one predictor only.
        let looks_back = coding.predictor() == Some(Predictor::Linear);
        let before = step.checked_sub(2).filter(|p| looks_back && *p >= keyframe).and_then(|p| self.slot(p));
        let oldest = |i: &usize| self.steps[*i].map_or(0, |s| s + 1);
        let free =
            (0..self.steps.len()).filter(|i| Some(*i) != previous && Some(*i) != before).min_by_key(oldest);
        let free = free.unwrap_or(0);
        self.steps[free] = None;
        let made = self.decode(step, coding, [previous, before], free, source)?;
        self.made[free] = if step == keyframe { Stored::Keyframe } else { made };
        if step == keyframe {
            for (stream, moment) in StreamId::MOMENTS.into_iter().zip([Slot::Momentum, Slot::Second]) {
                self.slots.load(moment, step, stream, source)?;
            }
        }
        self.steps[free] = Some(step);
        self.head = Some(step);
        Ok(())
    }

    fn decode(
        &mut self,
        step: u64,
        coding: Coding,
        [previous, before]: [Option<usize>; 2],
        out: usize,
        source: &mut ChunkReader<'_>,
    ) -> Result<Stored> {
        if !coding.follows() {
            return self
                .slots
                .load(Slot::Iterate(out), step, StreamId::Iterate, source)
                .map(|_| Stored::Otherwise);
        }
        let previous = previous.ok_or_else(|| missing(source, step.saturating_sub(1)))?;
        if coding.predictor() != Some(Predictor::Previous) {
            self.held = None;
            let decoded = match source.run.manifest.stream_id(GRAD) {
                Some(stream) => self.slots.load(Slot::Gradient, step - 1, stream, source)?,
                None => {
                    self.slots.no_gradient(source.chunk.len);
                    Decoded::Missing
                }
            };
            self.held = Some((step - 1, decoded));
        }
        let before = before.unwrap_or(previous);
        self.missed[out].clear();
        let predictions = self.slots.predict(step, [previous, before, out], &mut self.missed[out], source)?;
        if predictions.first.predictor.moments() == 0 {
            return Ok(Stored::Otherwise);
        }
        self.replay = Some(predictions.clone());
        self.predictions[out] = predictions;
        Ok(Stored::Replayed)
    }
}

/// The error for an iterate that is decoded from a damaged one.
fn follows_damage(source: &ChunkReader<'_>, step: u64, at: u64, why: &str) -> Error {
    let path = source.window.shard(step, source.chunk.rank).map_or(&source.run.path, |s| &s.file.path);
    let place = chunk_place(source.run, VectorId { step, stream: StreamId::Iterate }, source.chunk);
    let place = Place { since: Some(at), ..place };
    let what = format!("it is decoded from those before, of which step {at} cannot be read ({why})");
    Error::damaged_at(path, place, what)
}

fn missing(source: &ChunkReader<'_>, step: u64) -> Error {
    Error::MissingShard { path: source.run.path.clone(), first: step, last: step, rank: source.chunk.rank }
}
