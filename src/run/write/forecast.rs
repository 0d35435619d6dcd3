//! What a writer expects the next iterate to be, and how it chooses between predictors.
//!
//! Holds the newest iterate, the one before, the gradient and the optimizer's moments of all chunks.
//! Choices are made on a sample of each chunk; whatever is chosen, the residual makes it exact.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::codec::{
    self, Coding, Encoder, FUSED, Lossy, Noise, Pieces, Prediction, Predictions, Predictor, predict_pieces,
};
use crate::dtype::{DType, largest};
use crate::isa::Isa;
use crate::optimizer::replay::{Rule, predictors, rules};
use crate::run::format::chunk::{Chunk, Piece};
use crate::run::format::manifest::Manifest;
use crate::run::format::vector_id::StreamId;
use crate::run::read::trajectory::Trajectory;
use crate::run::write::sample::{Sample, Trial};

// Moments go with keyframes and nowhere else: between them a reader makes them itself. Without them Adam's
// steps could not be predicted after a keyframe at all, and SGD's for 30 steps. A resumed recording reads
// them back from the last shard.
/// A step that is a multiple of this is a keyframe, so that those of several ranks meet.
pub(crate) const KEYFRAME_STEPS: u64 = 128;

/// What the moments of a chunk are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moments {
    /// Anything: steps are missing.
    Unknown,
    /// The optimizer's, though not what a reader has.
    Followed,
    /// The optimizer's, and a reader has them.
    Live,
}

/// What the iterate at hand can be predicted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Past {
    /// Nothing: the step before was not recorded.
    Nothing,
    /// Nothing, but the moments before it were given.
    Moments,
    /// A keyframe, behind which predictions do not look.
    Keyframe,
    /// The iterate before it, and the one before that.
    Iterates,
}

/// The newest step that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Newest {
    Nothing,
    Recorded(u64),
    /// It was recorded before an interruption.
    Resumed(u64),
}

impl Newest {
    fn step(self) -> Option<u64> {
        match self {
            Newest::Nothing => None,
            Newest::Recorded(step) | Newest::Resumed(step) => Some(step),
        }
    }
}

/// The steps that the optimizer has taken in a tensor.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    before: u64,
    /// Whether it has taken the one that led to the iterate at hand.
    now: bool,
}

/// A chunk as the forecast knows it.
#[derive(Debug)]
struct Place {
    range: Range<usize>,
    pieces: Vec<Piece>,
    /// Where each of these ends.
    ends: Vec<usize>,
    param_group: usize,
    dtype: DType,
    moments: Moments,
    /// Flags of the last replay that was chosen.
    flags: Option<u8>,
    /// The prediction at hand misses so little that no step of a quantizer could be smaller.
    close: bool,
}

/// The forecast of one rank's chunks.
#[derive(Debug)]
pub(crate) struct Forecast {
    isa: Isa,
    /// How many moments the declared optimizer has whose steps are predicted: the most of several.
    moment_count: usize,
    /// Iterates may lose something, except keyframes.
    lossy: bool,
    places: Vec<Place>,
    /// The iterate at hand, as far as it was taken; beyond that, and until then, the one two before it.
    // A third vector would say it more plainly, and take four bytes more a parameter from the training.
    x: Vec<f32>,
    /// The iterate before the one at hand.
    before: Vec<f32>,
    gradient: Vec<f32>,
    moments: [Vec<f32>; 2],
    /// By tensor: whether the gradient at the newest iterate is there.
    present: Vec<bool>,
    /// By tensor.
    counts: Vec<Count>,
    scalars: BTreeMap<String, f64>,
    rules: Vec<Option<Rule>>,
    newest: Newest,
    keyframe: u64,
    past: Past,
    sample: Sample,
    predicted: Vec<f32>,
    unused: Vec<f32>,
}

impl Forecast {
    /// For the chunks of one rank, in the order in which it writes them.
    pub(crate) fn new(manifest: &Manifest, chunks: &[Chunk], isa: Isa) -> Forecast {
        let mut at = 0;
        let place = |chunk: &Chunk| {
            let info = &manifest.tensors[chunk.tensor];
            let range = at..at + chunk.len;
            at = range.end;
            let (pieces, ends) = (chunk.pieces.clone(), chunk.ends.clone());
            let (param_group, dtype) = (info.param_group, info.dtype);
            Place {
                range,
                pieces,
                ends,
                param_group,
                dtype,
                moments: Moments::Unknown,
                flags: None,
                close: false,
            }
        };
        let most = predictors(manifest).into_iter().flatten().map(Predictor::moments).max();
        let lossy = manifest.loses(StreamId::Iterate);
        Forecast {
            isa,
            // What loses something does not follow the optimizer closely enough.
            moment_count: most.filter(|_| !lossy).unwrap_or(0),
            lossy,
            places: chunks.iter().map(place).collect(),
            x: Vec::new(),
            before: Vec::new(),
            gradient: Vec::new(),
            moments: [Vec::new(), Vec::new()],
            present: vec![false; manifest.tensors.len()],
            counts: vec![Count::default(); manifest.tensors.len()],
            scalars: BTreeMap::new(),
            rules: Vec::new(),
            newest: Newest::Nothing,
            keyframe: 0,
            past: Past::Nothing,
            sample: Sample::default(),
            predicted: Vec::new(),
            unused: Vec::new(),
        }
    }

    fn len(&self) -> usize {
        self.places.last().map_or(0, |p| p.range.end)
    }

    /// Whether the iterate at hand comes right after one that is known.
    fn follows(&self) -> bool {
        matches!(self.past, Past::Keyframe | Past::Iterates)
    }

    /// Whether the iterate at hand is a keyframe.
    fn at_keyframe(&self) -> bool {
        self.newest.step() == Some(self.keyframe)
    }

    /// Goes on with a chunk of a recording that was interrupted after `step`, as it was read from the
    /// shards: with its `gradient`, of which pieces may be absent. The iterate that comes next is a keyframe all the
    /// same.
    pub(crate) fn resume(
        &mut self,
        chunk: usize,
        step: u64,
        trajectory: &Trajectory,
        (gradient, absent): (&[f32], &[bool]),
    ) {
        let range = self.places[chunk].range.clone();
        let n = range.len();
        let Some(x) = trajectory.get(step, n) else { return };
        let before = step.checked_sub(1).and_then(|s| trajectory.get(s, n)).unwrap_or(x);
        let (moments, replay) = trajectory.optimizer(n);
        let (len, count) = (self.len(), self.moment_count);
        for (all, own) in [(&mut self.x, x), (&mut self.before, before)] {
            all.resize(len, 0.0);
            all[range.clone()].copy_from_slice(own);
        }
        for (all, own) in self.moments.iter_mut().zip(moments).take(count) {
            all.resize(len, 0.0);
            all[range.clone()].copy_from_slice(own);
        }
        self.gradient(chunk, absent).copy_from_slice(gradient);
        // What a keyframe goes with is known too, though nothing was replayed since.
        let stored = moments.iter().any(|m| m.iter().any(|v| *v != 0.0));
        self.places[chunk].moments =
            if replay.is_some() || stored { Moments::Live } else { Moments::Unknown };
        self.places[chunk].flags = replay.map(|r| r.first.flags);
        let rule = self.rules.get(self.places[chunk].param_group).copied().flatten();
        for (place, piece) in self.places[chunk].pieces.iter().enumerate() {
            let counted = replay.zip(rule).and_then(|(replay, rule)| rule.count(&replay.of(place)));
            let count = &mut self.counts[piece.tensor].before;
            *count = counted.unwrap_or((*count).max(step));
        }
        self.newest = Newest::Resumed(step);
    }

    /// Begins with x_step, which may be the `last` one: returns the keyframe that it is decoded from,
    /// which may be itself.
    pub(crate) fn begin(&mut self, step: u64, last: bool) -> u64 {
        let follows = self.newest.step().is_some_and(|newest| newest + 1 == step);
        self.past = match (follows, self.at_keyframe()) {
            (false, _) => Past::Nothing,
            (true, true) => Past::Keyframe,
            (true, false) => Past::Iterates,
        };
        let len = self.len();
        if follows {
            std::mem::swap(&mut self.x, &mut self.before);
            self.gradient.resize(len, 0.0);
            for m in 0..self.moment_count {
                self.moments[m].resize(len, 0.0);
            }
        } else {
            // A training starts with an optimizer that has done nothing yet.
            let fresh = self.newest == Newest::Nothing && step == 0;
            let moments = if fresh { Moments::Live } else { Moments::Unknown };
            self.places.iter_mut().for_each(|p| p.moments = moments);
        }
        self.x.resize(len, 0.0);
        // What everything is compared with loses nothing.
        let exact = last && self.lossy;
        let resumed = matches!(self.newest, Newest::Resumed(_));
        if !follows || resumed || exact || step.is_multiple_of(KEYFRAME_STEPS) {
            self.keyframe = step;
        }
        self.newest = Newest::Recorded(step);
        self.keyframe
    }

    /// How many moments help where the steps before the iterate at hand were not recorded.
    pub(crate) fn wanted_moments(&self) -> usize {
        if self.follows() { 0 } else { self.moment_count }
    }

    /// Takes one of the moments of a chunk before the step at hand, as the optimizer has it; zeros where
    /// it has none yet.
    pub(crate) fn give(&mut self, chunk: usize, which: usize, values: &[f32]) {
        let (len, place) = (self.len(), &mut self.places[chunk]);
        self.moments[which].resize(len, 0.0);
        self.moments[which][place.range.clone()].copy_from_slice(values);
        (place.moments, self.past) = (Moments::Live, Past::Moments);
        // Every step that the optimizer has taken has a number.
        let taken = self.newest.step().unwrap_or(0);
        place.pieces.iter().for_each(|p| self.counts[p.tensor].before = taken);
    }

    /// Takes the iterate at hand of a chunk. Where it is predicted, appends to `out` what the prediction
    /// missed and returns how that is stored.
    ///
    /// # Errors
    /// As [`Encoder::encode_delta`].
    pub(crate) fn take(
        &mut self,
        chunk: usize,
        values: &[f32],
        noise: Noise,
        encoder: &mut Encoder,
        out: &mut Vec<u8>,
    ) -> std::io::Result<Option<Coding>> {
        let (range, dtype) = (self.places[chunk].range.clone(), self.places[chunk].dtype);
        let keyframe = self.at_keyframe();
        let mut coding = None;
        if self.follows() {
            let at_rest = self.at_rest(chunk);
            let (predictions, shadow) = self.choose(chunk, values, encoder);
            let pieces = Pieces { ends: &self.places[chunk].ends, at_rest: &at_rest };
            self.predicted.resize(values.len(), 0.0);
            let x = &self.before[range.clone()];
            let before = if self.past == Past::Keyframe { x } else { &self.x[range.clone()] };
            let g = &self.gradient[range.clone()];
            let mut past = past(&mut self.moments, &range, [x, before, g]);
            predict_pieces(self.isa, &predictions, pieces, &mut past, &mut self.predicted);
            if let Some(shadow) = shadow {
                self.unused.resize(values.len(), 0.0);
                predict_pieces(self.isa, &shadow, pieces, &mut past, &mut self.unused);
            }
            // A difference is taken to the iterate before, not to a prediction from lossy gradients, whose error is as
            // large. Where a prediction does better than 6 bits a value, as it does late, nothing has to be lost.
            let lossy = self.lossy && dtype == DType::F32 && !keyframe && !self.places[chunk].close;
            if lossy {
                let lossy = Lossy { values, noise, decoded: &mut self.predicted };
                coding = encoder.encode_delta(lossy, &self.before[range.clone()], out)?;
            }
            if coding.is_some() {
                // What a reader has, so that errors do not add up.
                self.x[range].copy_from_slice(&self.predicted);
                return Ok(coding);
            }
            if !keyframe {
                let start = out.len();
                let stored = encoder.encode_residual(dtype, &predictions, values, &self.predicted, out);
                // The moments of a replay have gone on, and so must a reader's.
                let large = 8 * (out.len() - start) > 7 * values.len() * dtype.size();
                if large && predictions.first.predictor.moments() == 0 {
                    out.truncate(start);
                } else {
                    coding = Some(stored);
                }
            }
        }
        self.x[range].copy_from_slice(values);
        Ok(coding)
    }

    /// After the chunks of an iterate.
    pub(crate) fn end(&mut self) {
        for count in &mut self.counts {
            count.before += u64::from(std::mem::take(&mut count.now));
        }
        self.present.fill(false);
    }

    /// How many moments go with the iterate at hand: none, except with a keyframe.
    pub(crate) fn stored_moments(&self) -> usize {
        // At the first step of a training they are all 0, which is what a reader takes them for.
        if self.past != Past::Nothing
            && self.at_keyframe()
            && self.places.iter().any(|p| p.moments == Moments::Live)
        {
            self.moment_count
        } else {
            0
        }
    }

    /// One of the moments of a chunk before the step at hand; `None` where it is not known.
    pub(crate) fn moment(&self, chunk: usize, which: usize) -> Option<&[f32]> {
        let place = &self.places[chunk];
        (place.moments == Moments::Live).then(|| &self.moments[which][place.range.clone()])
    }

    /// Where the gradient of a chunk at the newest iterate goes, zeros in pieces that are `absent`.
    pub(crate) fn gradient(&mut self, chunk: usize, absent: &[bool]) -> &mut [f32] {
        let (place, len) = (&self.places[chunk], self.len());
        self.gradient.resize(len, 0.0);
        for (piece, absent) in place.pieces.iter().zip(absent) {
            self.present[piece.tensor] = !absent;
        }
        &mut self.gradient[place.range.clone()]
    }

    /// A bit for each piece of a chunk that had no gradient at the newest iterate; empty where all had one, or none.
    fn at_rest(&self, chunk: usize) -> Vec<u8> {
        let pieces = &self.places[chunk].pieces;
        let resting = pieces.iter().filter(|p| !self.present[p.tensor]).count();
        if resting == 0 || resting == pieces.len() {
            return Vec::new();
        }
        let bit = |bits: u8, p: &Piece| bits << 1 | u8::from(!self.present[p.tensor]);
        pieces.chunks(8).map(|of_byte| of_byte.iter().rev().fold(0, bit)).collect()
    }

    /// Takes the scalars of the step at hand.
    pub(crate) fn scalars(&mut self, manifest: &Manifest, scalars: &[(&str, f64)]) {
        self.scalars.extend(scalars.iter().map(|(name, value)| ((*name).to_owned(), *value)));
        self.rules = rules(manifest, &self.scalars);
    }

    /// The predictor that takes the fewest bits on a sample; at a tie, the optimizer's own step. Where that is
    /// not it, its moments are followed in the shadow, so that it can be taken up at a keyframe, with
    /// which they are stored: what was wrong with them fades.
    fn choose(
        &mut self,
        chunk: usize,
        values: &[f32],
        encoder: &mut Encoder,
    ) -> (Predictions, Option<Predictions>) {
        let keyframe = self.at_keyframe();
        let place = &mut self.places[chunk];
        let range = place.range.clone();
        let x = &self.before[range.clone()];
        let before = if self.past == Past::Keyframe { x } else { &self.x[range.clone()] };
        let present = place.pieces.iter().any(|p| self.present[p.tensor]);
        if !present {
            // What the gradient was before says nothing.
            self.gradient[range.clone()].fill(0.0);
        }
        let g = &self.gradient[range.clone()];
        let rule = self.rules.get(place.param_group).copied().flatten();
        let can = present && !self.lossy && largest(g) < f32::INFINITY.to_bits();
        let own = rule.filter(|_| can).map(|r| steps(&r, &place.pieces, &self.present, &self.counts));
        let is_other = |at: usize| own.as_ref().is_some_and(|o| o.of.get(at).is_some_and(|n| *n > 0));
        let left_out = |(at, p): &(usize, &Piece)| present && (!self.present[p.tensor] || is_other(*at));
        let left_out: Vec<Range<usize>> =
            place.pieces.iter().enumerate().filter(left_out).map(|(_, p)| p.range()).collect();
        self.sample.take(values, &past(&mut self.moments, &range, [x, before, g]), &left_out);
        let replay = own.as_ref().filter(|_| place.moments == Moments::Live || keyframe);
        let mut trial = Trial { isa: self.isa, dtype: place.dtype, sample: &mut self.sample, encoder };
        let mut best = (u64::MAX, Prediction::PREVIOUS);
        if keyframe && place.moments != Moments::Unknown {
            // It is stored whole, and with it the moments, whatever would have told it best.
            place.moments = Moments::Live;
            if let Some(own) = replay {
                let flags = place.flags.unwrap_or(own.first.flags);
                place.flags = Some(flags);
                count_gradients(&place.pieces, &self.present, &mut self.counts);
                return (own.clone().with_flags(flags), None);
            }
        }
        let mut there = place.pieces.iter().filter(|p| self.present[p.tensor]);
        let is_second = there.all(|p| self.counts[p.tensor].before == 1);
        if let Some(own) = replay {
            let own = Prediction { flags: place.flags.unwrap_or(own.first.flags), ..own.first };
            trial.compare(own, &mut best);
            let other = Prediction { flags: own.flags ^ FUSED, ..own };
            if own.predictor == Predictor::Sgd && !trial.is_good(best.0) {
                trial.compare(other, &mut best);
            } else if own.predictor == Predictor::Sgd && best.0 > 0 && is_second {
                // At a tensor's second step both have the same buffer still. Later, one that would be exact has a
                // buffer in which the other has gone astray.
                let mut exact = (1, best.1);
                trial.compare(other, &mut exact);
                if exact.0 == 0 {
                    best = exact;
                }
            }
        }
        if !trial.is_good(best.0) {
            trial.compare(Prediction::PREVIOUS, &mut best);
            if let Some(linear) = trial.sample.fit() {
                trial.compare(linear, &mut best);
            }
        }
        let close = trial.is_close(best.0);
        place.close = close;
        let chosen = best.1;
        if chosen.predictor.moments() > 0 {
            (place.flags, place.moments) = (Some(chosen.flags), Moments::Live);
            count_gradients(&place.pieces, &self.present, &mut self.counts);
            if let Some(own) = own {
                return (own.with_flags(chosen.flags), None);
            }
        } else if values.iter().zip(x).any(|(v, x)| v.to_bits() != x.to_bits()) {
            // Something else held the iterate. Moments that go on are the optimizer's, but not what a reader has.
            let known = place.moments != Moments::Unknown && own.is_some();
            place.moments = if known { Moments::Followed } else { Moments::Unknown };
            let moved = |range: Range<usize>| {
                values[range.clone()].iter().zip(&x[range]).any(|(v, x)| v.to_bits() != x.to_bits())
            };
            let counts = &mut self.counts;
            place.pieces.iter().filter(|p| moved(p.range())).for_each(|p| counts[p.tensor].now = true);
            return (chosen.into(), own);
        }
        (chosen.into(), None)
    }
}

/// What a chunk, which has this range of all elements, is predicted from.
fn past<'a>(
    [momentum, second]: &'a mut [Vec<f32>; 2],
    range: &Range<usize>,
    [x, before, g]: [&'a [f32]; 3],
) -> codec::Past<'a> {
    let momentum = momentum.get_mut(range.clone()).unwrap_or_default();
    let second = second.get_mut(range.clone()).unwrap_or_default();
    codec::Past { x, before, g, momentum, second }
}

/// The next step of the optimizer in the pieces that have a gradient: by most of their elements first, and others where
/// pieces have taken another number of steps and that still matters.
fn steps(rule: &Rule, pieces: &[Piece], present: &[bool], counts: &[Count]) -> Predictions {
    let there = || pieces.iter().filter(|p| present[p.tensor]);
    let mut elements: Vec<(u64, usize)> = Vec::new();
    for p in there() {
        let taken = counts[p.tensor].before;
        match elements.iter_mut().find(|(count, _)| *count == taken) {
            Some((_, elements)) => *elements += p.len,
            None => elements.push((taken, p.len)),
        }
    }
    elements.sort_by_key(|(_, elements)| std::cmp::Reverse(*elements));
    let mut all: Vec<Prediction> = Vec::new();
    let mut numbers: BTreeMap<u64, u16> = BTreeMap::new();
    for (taken, _) in elements {
        let prediction = rule.prediction(taken + 1);
        let known = all.iter().position(|p| *p == prediction).unwrap_or(all.len());
        if known == all.len() {
            all.push(prediction);
        }
        // Fewer than pieces, of which a chunk has at most 65,536.
        numbers.insert(taken, u16::try_from(known).unwrap_or(0));
    }
    let first = if all.is_empty() { rule.prediction(1) } else { all.remove(0) };
    let number = |p: &Piece| numbers.get(&counts[p.tensor].before).copied().unwrap_or(0);
    let of = if all.is_empty() { Vec::new() } else { pieces.iter().map(number).collect() };
    Predictions { first, others: all, of }
}

/// Counts a step in the pieces that had a gradient.
fn count_gradients(pieces: &[Piece], present: &[bool], counts: &mut [Count]) {
    pieces.iter().filter(|p| present[p.tensor]).for_each(|p| counts[p.tensor].now = true);
}
