//! What a writer expects the next iterate to be, and how it chooses between predictors.
//!
//! Holds the newest iterate, the one before, the gradient and the optimizer's moments of all chunks.
//! Choices are made on a sample of each chunk; whatever is chosen, the residual makes it exact. Chunks are taken in
//! any order, several at once: what they have in common does not change meanwhile.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::codec::{
    Coding, Encoder, FUSED, Lossy, Noise, Past, Pieces, Prediction, Predictions, Predictor, predict_blocks,
};
use crate::dtype::{DType, are_finite, put_bytes, values_of};
use crate::isa::Isa;
use crate::optimizer::replay::{Rule, predictors, rules};
use crate::order::CHUNK;
use crate::run::format::chunk::{Chunk, Piece};
use crate::run::format::manifest::{GRAD, Manifest, Precision};
use crate::run::format::vector_id::StreamId;
use crate::run::read::trajectory::Trajectory;
use crate::run::write::elements::{Elements, elements_of};
use crate::run::write::held::{Copied, Held, Kept};
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
enum Known {
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
#[derive(Debug, Default)]
struct Count {
    before: u64,
    /// Whether it has taken the one that led to the iterate at hand.
    now: AtomicBool,
}

impl Count {
    /// It has taken the step that led to the iterate at hand.
    fn step(&self) {
        // Chunks of a tensor may all say so; it is read when all are done.
        self.now.store(true, Ordering::Relaxed);
    }
}

/// A chunk as the forecast knows it.
#[derive(Debug)]
pub(crate) struct Place {
    chunk: Chunk,
    param_group: usize,
    dtype: DType,
    known: Moments,
    moments: [Vec<f32>; 2],
    /// Flags of the last replay that was chosen.
    flags: Option<u8>,
    /// The prediction at hand misses so little that no step of a quantizer could be smaller.
    close: bool,
    /// All elements of the newest gradient are finite.
    finite: bool,
    /// Gradients may lose something.
    lossy_gradient: bool,
    /// What a reader sees of vectors that lose something; empty where they do not.
    seen: Seen,
}

/// Vectors as a reader sees them.
#[derive(Debug, Default)]
struct Seen {
    x: Vec<f32>,
    before: Vec<f32>,
    gradient: Vec<f32>,
}

/// Memory for one chunk at a time.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    sample: Sample,
    views: [View; 3],
    decoded: Vec<f32>,
}

/// The values of a chunk, where they do not lie in a vector as they are.
#[derive(Debug, Default)]
pub(crate) struct View {
    gathered: Vec<u8>,
    values: Vec<f32>,
}

impl View {
    fn of<'a>(&'a mut self, kept: Option<&'a Kept>, dtype: DType, chunk: &Chunk) -> Option<&'a [f32]> {
        let kept = kept?;
        let bytes = elements_of(chunk, dtype, |tensor| kept.tensor(tensor), &mut self.gathered);
        Some(values_of(dtype, bytes, &mut self.values))
    }
}

/// The gradient of what has none.
static ZEROS: [f32; CHUNK] = [0.0; CHUNK];

/// What chunks have in common.
#[derive(Debug)]
pub(crate) struct Common {
    isa: Isa,
    /// How many moments the declared optimizer has whose steps are predicted: the most of several.
    moment_count: usize,
    /// Iterates may lose something, except keyframes.
    lossy: bool,
    /// By tensor: whether the gradient at the newest iterate is there.
    present: Vec<bool>,
    /// By tensor.
    counts: Vec<Count>,
    scalars: BTreeMap<String, f64>,
    rules: Vec<Option<Rule>>,
    newest: Newest,
    keyframe: u64,
    past: Known,
    history: History,
}

/// The newest vectors, as they were given.
#[derive(Debug, Default)]
struct History {
    x: Option<Kept>,
    before: Option<Kept>,
    gradient: Option<Kept>,
    /// Copies that are not needed any more.
    // What is given back to the system comes back as pages that have to be cleared.
    spare: Vec<Copied>,
}

impl History {
    /// Keeps a vector that is `held` or else copied.
    fn keep(&mut self, held: Option<&Arc<dyn Held>>, elements: &Elements<'_>) -> Kept {
        if let Some(held) = held {
            return Kept::Held(Arc::clone(held));
        }
        let mut copied = self.spare.pop().unwrap_or_default();
        copied.take(elements);
        Kept::Copied(copied)
    }

    fn release(&mut self, kept: Option<Kept>) {
        if let Some(Kept::Copied(copied)) = kept {
            self.spare.push(copied);
        }
    }
}

/// The forecast of one rank's chunks.
#[derive(Debug)]
pub(crate) struct Forecast {
    common: Common,
    places: Vec<Place>,
}

impl Forecast {
    /// For the chunks of one rank, in the order in which it writes them.
    pub(crate) fn new(manifest: &Manifest, chunks: &[Chunk], isa: Isa) -> Forecast {
        let grad = manifest.stream_id(GRAD);
        let place = |chunk: &Chunk| {
            let info = &manifest.tensors[chunk.tensor];
            Place {
                chunk: chunk.clone(),
                param_group: info.param_group,
                dtype: info.dtype,
                known: Moments::Unknown,
                moments: [Vec::new(), Vec::new()],
                flags: None,
                close: false,
                finite: true,
                lossy_gradient: grad.is_some_and(|g| manifest.storage.of(g, info.dtype) != Precision::Exact),
                seen: Seen::default(),
            }
        };
        let most = predictors(manifest).into_iter().flatten().map(Predictor::moments).max();
        let lossy = manifest.loses(StreamId::Iterate);
        let common = Common {
            isa,
            // What loses something does not follow the optimizer closely enough.
            moment_count: most.filter(|_| !lossy).unwrap_or(0),
            lossy,
            present: vec![false; manifest.tensors.len()],
            counts: manifest.tensors.iter().map(|_| Count::default()).collect(),
            scalars: BTreeMap::new(),
            rules: Vec::new(),
            newest: Newest::Nothing,
            keyframe: 0,
            past: Known::Nothing,
            history: History::default(),
        };
        Forecast { common, places: chunks.iter().map(place).collect() }
    }

    /// How many vectors it holds: two iterates and a gradient, as far as they lose nothing.
    pub(crate) fn holds(&self) -> usize {
        let iterates = if self.common.lossy { 0 } else { 2 };
        iterates + usize::from(self.holds_gradient())
    }

    fn holds_gradient(&self) -> bool {
        self.places.iter().any(|p| !p.lossy_gradient)
    }

    /// What all chunks look at, and these.
    pub(crate) fn split(&mut self) -> (&Common, &mut [Place]) {
        (&self.common, &mut self.places)
    }

    /// Makes room for a recording that goes on after an interruption.
    pub(crate) fn resume(&mut self, slice_bytes: &[usize]) {
        let history = &mut self.common.history;
        for vector in [&mut history.x, &mut history.before, &mut history.gradient] {
            let mut copied = Copied::default();
            copied.lay_out(slice_bytes.iter().copied().map(Some));
            *vector = Some(Kept::Copied(copied));
        }
    }

    /// Goes on with a chunk of a recording that was interrupted after `step`, as it was read from the
    /// shards: with its `gradient`, of which pieces may be absent. The iterate that comes next is a keyframe all the
    /// same.
    pub(crate) fn resume_chunk(
        &mut self,
        place: usize,
        step: u64,
        trajectory: &Trajectory,
        (gradient, absent): (&[f32], &[bool]),
    ) {
        let (common, place) = (&mut self.common, &mut self.places[place]);
        let n = place.chunk.len;
        let Some(x) = trajectory.get(step, n) else { return };
        let before = step.checked_sub(1).and_then(|s| trajectory.get(s, n)).unwrap_or(x);
        let (moments, replay) = trajectory.optimizer(n);
        let history = &mut common.history;
        for (vector, own) in
            [(&mut history.x, x), (&mut history.before, before), (&mut history.gradient, gradient)]
        {
            put(vector, &place.chunk, place.dtype, own);
        }
        if common.lossy {
            (place.seen.x, place.seen.before) = (x.to_vec(), before.to_vec());
        }
        if place.lossy_gradient {
            place.seen.gradient = gradient.to_vec();
        }
        place.finite = are_finite(common.isa, gradient);
        for (all, own) in place.moments.iter_mut().zip(moments).take(common.moment_count) {
            *all = own.to_vec();
        }
        for (piece, absent) in place.chunk.pieces.iter().zip(absent) {
            common.present[piece.tensor] = !absent;
        }
        // What a keyframe goes with is known too, though nothing was replayed since.
        let stored = moments.iter().any(|m| m.iter().any(|v| *v != 0.0));
        place.known = if replay.is_some() || stored { Moments::Live } else { Moments::Unknown };
        place.flags = replay.map(|r| r.first.flags);
        let rule = common.rules.get(place.param_group).copied().flatten();
        for (at, piece) in place.chunk.pieces.iter().enumerate() {
            let counted = replay.zip(rule).and_then(|(replay, rule)| rule.count(&replay.of(at)));
            let count = &mut common.counts[piece.tensor].before;
            *count = counted.unwrap_or((*count).max(step));
        }
        common.newest = Newest::Resumed(step);
    }

    /// Begins with x_step, which may be the `last` one: returns the keyframe that it is decoded from,
    /// which may be itself.
    pub(crate) fn begin(&mut self, step: u64, last: bool) -> u64 {
        let common = &mut self.common;
        let follows = common.newest.step().is_some_and(|newest| newest + 1 == step);
        common.past = match (follows, common.at_keyframe()) {
            (false, _) => Known::Nothing,
            (true, true) => Known::Keyframe,
            (true, false) => Known::Iterates,
        };
        if !follows {
            // A training starts with an optimizer that has done nothing yet.
            let fresh = common.newest == Newest::Nothing && step == 0;
            let moments = if fresh { Moments::Live } else { Moments::Unknown };
            self.places.iter_mut().for_each(|p| p.known = moments);
        }
        // What everything is compared with loses nothing.
        let exact = last && common.lossy;
        let resumed = matches!(common.newest, Newest::Resumed(_));
        if !follows || resumed || exact || step.is_multiple_of(KEYFRAME_STEPS) {
            common.keyframe = step;
        }
        common.newest = Newest::Recorded(step);
        common.keyframe
    }

    /// How many moments help where the steps before the iterate at hand were not recorded.
    pub(crate) fn wanted_moments(&self) -> usize {
        if self.common.follows() { 0 } else { self.common.moment_count }
    }

    /// Takes one of the moments of a chunk before the step at hand, as the optimizer has it; zeros where
    /// it has none yet.
    pub(crate) fn give(&mut self, place: usize, which: usize, values: &[f32]) {
        let (common, place) = (&mut self.common, &mut self.places[place]);
        place.moments[which].clear();
        place.moments[which].extend_from_slice(values);
        (place.known, common.past) = (Moments::Live, Known::Moments);
        // Every step that the optimizer has taken has a number.
        let taken = common.newest.step().unwrap_or(0);
        place.chunk.pieces.iter().for_each(|p| common.counts[p.tensor].before = taken);
    }

    /// After the chunks of an iterate, which is `held` or else copied.
    pub(crate) fn end(&mut self, held: Option<&Arc<dyn Held>>, elements: &Elements<'_>) {
        let common = &mut self.common;
        for count in &mut common.counts {
            count.before += u64::from(std::mem::take(count.now.get_mut()));
        }
        common.present.fill(false);
        let history = &mut common.history;
        let (last, gradient) = (history.before.take(), history.gradient.take());
        history.release(last);
        history.release(gradient);
        history.before = history.x.take();
        if !common.lossy {
            history.x = Some(history.keep(held, elements));
        }
    }

    /// Before the chunks of the gradient at the newest iterate.
    pub(crate) fn begin_gradient(&mut self, elements: &Elements<'_>) {
        for (present, elements) in self.common.present.iter_mut().zip(elements) {
            *present = elements.is_some();
        }
    }

    /// After them: it is `held`, or else copied.
    pub(crate) fn end_gradient(&mut self, held: Option<&Arc<dyn Held>>, elements: &Elements<'_>) {
        if self.holds_gradient() {
            let history = &mut self.common.history;
            history.gradient = Some(history.keep(held, elements));
        }
    }

    /// How many moments go with the iterate at hand: none, except with a keyframe.
    pub(crate) fn stored_moments(&self) -> usize {
        let common = &self.common;
        // At the first step of a training they are all 0, which is what a reader takes them for.
        if common.past != Known::Nothing
            && common.at_keyframe()
            && self.places.iter().any(|p| p.known == Moments::Live)
        {
            common.moment_count
        } else {
            0
        }
    }

    /// Takes the scalars of the step at hand.
    pub(crate) fn scalars(&mut self, manifest: &Manifest, scalars: &[(&str, f64)]) {
        let common = &mut self.common;
        common.scalars.extend(scalars.iter().map(|(name, value)| ((*name).to_owned(), *value)));
        common.rules = rules(manifest, &common.scalars);
    }
}

impl Common {
    /// Whether the iterate at hand comes right after one that is known.
    fn follows(&self) -> bool {
        matches!(self.past, Known::Keyframe | Known::Iterates)
    }

    /// Whether the iterate at hand is a keyframe.
    fn at_keyframe(&self) -> bool {
        self.newest.step() == Some(self.keyframe)
    }

    /// A bit for each piece of a chunk that had no gradient at the newest iterate; empty where all had one, or none.
    fn at_rest(&self, pieces: &[Piece]) -> Vec<u8> {
        let resting = pieces.iter().filter(|p| !self.present[p.tensor]).count();
        if resting == 0 || resting == pieces.len() {
            return Vec::new();
        }
        let bit = |bits: u8, p: &Piece| bits << 1 | u8::from(!self.present[p.tensor]);
        pieces.chunks(8).map(|of_byte| of_byte.iter().rev().fold(0, bit)).collect()
    }

    /// Counts a step in the pieces that had a gradient.
    fn count_gradients(&self, pieces: &[Piece]) {
        pieces.iter().filter(|p| self.present[p.tensor]).for_each(|p| self.counts[p.tensor].step());
    }
}

impl Place {
    /// One of the moments before the step at hand; `None` where it is not known.
    pub(crate) fn moment(&self, which: usize) -> Option<&[f32]> {
        (self.known == Moments::Live && self.moments[which].len() == self.chunk.len)
            .then_some(self.moments[which].as_slice())
    }

    /// Takes the gradient at the newest iterate, as a reader sees it.
    pub(crate) fn take_gradient(&mut self, common: &Common, values: &[f32]) {
        self.finite = are_finite(common.isa, values);
        if self.lossy_gradient {
            self.seen.gradient.clear();
            self.seen.gradient.extend_from_slice(values);
        }
    }

    /// Takes the iterate at hand of a chunk. Where it is predicted, appends to `out` what the prediction
    /// missed and returns how that is stored.
    ///
    /// # Errors
    /// As [`Encoder::encode_delta`].
    pub(crate) fn take(
        &mut self,
        common: &Common,
        (values, noise): (&[f32], Noise),
        encoder: &mut Encoder,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> std::io::Result<Option<Coding>> {
        let mut coding = None;
        if common.follows() {
            let seen = std::mem::take(&mut self.seen);
            let predicted = self.predicted((common, &seen), (values, noise), encoder, scratch, out);
            self.seen = seen;
            coding = predicted?;
        }
        if common.lossy {
            std::mem::swap(&mut self.seen.x, &mut self.seen.before);
            self.seen.x.clear();
            // What a reader has, so that errors do not add up.
            let is_lossy = matches!(coding, Some(Coding::Delta(_)));
            self.seen.x.extend_from_slice(if is_lossy { &scratch.decoded } else { values });
        }
        Ok(coding)
    }

    fn predicted(
        &mut self,
        (common, seen): (&Common, &Seen),
        (values, noise): (&[f32], Noise),
        encoder: &mut Encoder,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> std::io::Result<Option<Coding>> {
        let (n, keyframe) = (self.chunk.len, common.at_keyframe());
        for moment in self.moments.iter_mut().take(common.moment_count) {
            moment.resize(n, 0.0);
        }
        let Scratch { sample, views: [of_x, of_before, of_g], decoded } = scratch;
        let history = &common.history;
        let [x, before] = [(&history.x, &seen.x, of_x), (&history.before, &seen.before, of_before)].map(
            |(kept, seen, view)| match common.lossy {
                true => seen.as_slice(),
                false => view.of(kept.as_ref(), self.dtype, &self.chunk).unwrap_or_default(),
            },
        );
        // Behind a keyframe predictions do not look.
        let before = if common.past == Known::Keyframe { x } else { before };
        // What the gradient was before says nothing.
        let present = self.chunk.pieces.iter().any(|p| common.present[p.tensor]);
        let g = match self.lossy_gradient {
            _ if !present => None,
            true => Some(seen.gradient.as_slice()),
            false => of_g.of(history.gradient.as_ref(), self.dtype, &self.chunk),
        };
        let g = g.unwrap_or(&ZEROS[..n]);
        let at_rest = common.at_rest(&self.chunk.pieces);
        let (predictions, shadow) = self.choose(common, values, [x, before, g], sample, encoder);
        let pieces = Pieces { ends: &self.chunk.ends, at_rest: &at_rest };
        let [momentum, second] = &mut self.moments;
        let mut past = Past { x, before, g, momentum, second };
        let mut coding = None;
        // A difference is taken to the iterate before, not to a prediction from lossy gradients, whose error is as
        // large. Where a prediction does better than 6 bits a value, as it does late, nothing has to be lost.
        if common.lossy && self.dtype == DType::F32 && !keyframe && !self.close {
            decoded.resize(n, 0.0);
            coding = encoder.encode_delta(Lossy { values, noise, decoded }, x, out)?;
        }
        let has_moments = predictions.first.predictor.moments() > 0;
        if keyframe && has_moments {
            predict_blocks(common.isa, &predictions, pieces, &mut past, |_, _| ());
        } else if !keyframe && coding.is_none() {
            let start = out.len();
            let stored = encoder.encode_predicted(self.dtype, &predictions, (pieces, &mut past), values, out);
            let large = 8 * (out.len() - start) > 7 * values.len() * self.dtype.size();
            // The moments of a replay have gone on, and so must a reader's.
            if large && !has_moments {
                out.truncate(start);
            } else {
                coding = Some(stored);
            }
        }
        if let Some(shadow) = shadow {
            predict_blocks(common.isa, &shadow, pieces, &mut past, |_, _| ());
        }
        Ok(coding)
    }

    /// The predictor that takes the fewest bits on a sample; at a tie, the optimizer's own step. Where that is
    /// not it, its moments are followed in the shadow, so that it can be taken up at a keyframe, with
    /// which they are stored: what was wrong with them fades.
    fn choose(
        &mut self,
        common: &Common,
        values: &[f32],
        [x, before, g]: [&[f32]; 3],
        sample: &mut Sample,
        encoder: &mut Encoder,
    ) -> (Predictions, Option<Predictions>) {
        let (keyframe, pieces) = (common.at_keyframe(), self.chunk.pieces.as_slice());
        let present = pieces.iter().any(|p| common.present[p.tensor]);
        let rule = common.rules.get(self.param_group).copied().flatten();
        let can = present && !common.lossy && self.finite;
        let own = rule.filter(|_| can).map(|r| steps(&r, pieces, common));
        let is_other = |at: usize| own.as_ref().is_some_and(|o| o.of.get(at).is_some_and(|n| *n > 0));
        let left_out = |(at, p): &(usize, &Piece)| present && (!common.present[p.tensor] || is_other(*at));
        let left_out: Vec<Range<usize>> =
            pieces.iter().enumerate().filter(left_out).map(|(_, p)| p.range()).collect();
        let [momentum, second] = &mut self.moments;
        sample.take(values, &Past { x, before, g, momentum, second }, &left_out);
        let replay = own.as_ref().filter(|_| self.known == Moments::Live || keyframe);
        let mut trial = Trial { isa: common.isa, dtype: self.dtype, sample, encoder };
        let mut best = (u64::MAX, Prediction::PREVIOUS);
        if keyframe && self.known != Moments::Unknown {
            // It is stored whole, and with it the moments, whatever would have told it best.
            self.known = Moments::Live;
            if let Some(own) = replay {
                let flags = self.flags.unwrap_or(own.first.flags);
                self.flags = Some(flags);
                common.count_gradients(pieces);
                return (own.clone().with_flags(flags), None);
            }
        }
        let mut there = pieces.iter().filter(|p| common.present[p.tensor]);
        let is_second = there.all(|p| common.counts[p.tensor].before == 1);
        if let Some(own) = replay {
            let own = Prediction { flags: self.flags.unwrap_or(own.first.flags), ..own.first };
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
        self.close = close;
        let chosen = best.1;
        if chosen.predictor.moments() > 0 {
            (self.flags, self.known) = (Some(chosen.flags), Moments::Live);
            common.count_gradients(pieces);
            if let Some(own) = own {
                return (own.with_flags(chosen.flags), None);
            }
        } else if values.iter().zip(x).any(|(v, x)| v.to_bits() != x.to_bits()) {
            // Something else held the iterate. Moments that go on are the optimizer's, but not what a reader has.
            let known = self.known != Moments::Unknown && own.is_some();
            self.known = if known { Moments::Followed } else { Moments::Unknown };
            let moved = |range: Range<usize>| {
                values[range.clone()].iter().zip(&x[range]).any(|(v, x)| v.to_bits() != x.to_bits())
            };
            pieces.iter().filter(|p| moved(p.range())).for_each(|p| common.counts[p.tensor].step());
            return (chosen.into(), own);
        }
        (chosen.into(), None)
    }
}

/// The next step of the optimizer in the pieces that have a gradient: by most of their elements first, and others where
/// pieces have taken another number of steps and that still matters.
fn steps(rule: &Rule, pieces: &[Piece], common: &Common) -> Predictions {
    let there = || pieces.iter().filter(|p| common.present[p.tensor]);
    let mut elements: Vec<(u64, usize)> = Vec::new();
    for p in there() {
        let taken = common.counts[p.tensor].before;
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
    let number = |p: &Piece| numbers.get(&common.counts[p.tensor].before).copied().unwrap_or(0);
    let of = if all.is_empty() { Vec::new() } else { pieces.iter().map(number).collect() };
    Predictions { first, others: all, of }
}

/// Puts the elements of a chunk into a copy of a vector.
fn put(vector: &mut Option<Kept>, chunk: &Chunk, dtype: DType, values: &[f32]) {
    let Some(Kept::Copied(copied)) = vector else { return };
    for piece in &chunk.pieces {
        let (from, len) = (piece.skip * dtype.size(), piece.len * dtype.size());
        if let Some(bytes) = copied.part(piece.tensor, from..from + len) {
            put_bytes(dtype, &values[piece.range()], bytes);
        }
    }
}
