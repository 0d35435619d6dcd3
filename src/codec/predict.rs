//! What an iterate is expected to be, from the one before it and the gradient there.
//!
//! The arithmetic is a part of the format (`docs/format.md`, Predictors): binary32, one rounding for
//! each operation written here, in this order. It need not be the optimizer's own, since what a
//! prediction misses is stored; but the reader must come to the same bits as the writer.

use std::ops::Range;

use crate::isa::{Isa, multi_isa, prefetch};

/// Elements that are predicted before something is made of them.
const BLOCK: usize = 1024;

/// How an iterate is predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Predictor {
    /// As the iterate before.
    Previous = 1,
    /// A fitted combination of the step before, the iterate and the gradient.
    Linear = 2,
    /// A step of SGD, with its momentum buffer.
    Sgd = 3,
    /// A step of Adam or AdamW, with its two moments.
    Adam = 4,
}

impl Predictor {
    /// The predictor with this id in an index record.
    pub fn from_id(id: u16) -> Option<Predictor> {
        [Predictor::Previous, Predictor::Linear, Predictor::Sgd, Predictor::Adam]
            .into_iter()
            .find(|p| p.id() == id)
    }

    /// The id in an index record.
    pub const fn id(self) -> u16 {
        self as u16
    }

    /// The name that `lpa inspect` shows.
    pub const fn name(self) -> &'static str {
        match self {
            Predictor::Previous => "previous",
            Predictor::Linear => "linear",
            Predictor::Sgd => "sgd",
            Predictor::Adam => "adam",
        }
    }

    /// How many coefficients it has.
    pub const fn coefficients(self) -> usize {
        match self {
            Predictor::Previous => 0,
            Predictor::Linear => 3,
            Predictor::Sgd => 5,
            Predictor::Adam => 8,
        }
    }

    /// Flags that it knows.
    pub const fn flags(self) -> u8 {
        match self {
            Predictor::Previous | Predictor::Linear => 0,
            Predictor::Sgd => NESTEROV | FUSED,
            Predictor::Adam => COUPLED,
        }
    }

    /// How many vectors of the optimizer's own it goes on with: the momentum, the second moment.
    pub const fn moments(self) -> usize {
        match self {
            Predictor::Previous | Predictor::Linear => 0,
            Predictor::Sgd => 1,
            Predictor::Adam => 2,
        }
    }
}

/// The most coefficients that there are.
pub(super) const MAX_COEFFICIENTS: usize = 8;
/// Flag of SGD: the step is Nesterov's.
pub const NESTEROV: u8 = 1;
/// Flag of SGD: momentum and buffer are multiplied in the fused operation.
pub const FUSED: u8 = 2;
/// Flag of Adam: weight decay is added to the gradient.
pub const COUPLED: u8 = 1;

// Coefficients are stored, not derived: a reader needs neither the optimizer's name nor its hyperparameters
// to decode, and a new rule for choosing them needs no new format.
/// A predictor with its coefficients.
///
/// - Linear: `[c0, c1, c2]`, of the step before, the iterate and the gradient.
/// - SGD: `[weight_decay, momentum, 1 - dampening, lr, scale]`; the gradient is multiplied by the scale.
/// - Adam: `[1 - beta1, beta2, 1 - beta2, lr / (1 - beta1^k), sqrt(1 - beta2^k), eps, decay, scale]`,
///   `decay` being the weight decay where it is coupled and `1 - lr * weight_decay` where it is not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// The predictor.
    pub predictor: Predictor,
    /// Its flags.
    pub flags: u8,
    /// Its coefficients; 0 beyond those that it has.
    pub coefficients: [f32; 8],
}

impl Prediction {
    /// The iterate before stands for the next one.
    pub const PREVIOUS: Prediction =
        Prediction { predictor: Predictor::Previous, flags: 0, coefficients: [0.0; MAX_COEFFICIENTS] };

    /// A prediction with these coefficients, as many as the predictor has.
    pub fn new(predictor: Predictor, flags: u8, given: &[f32]) -> Prediction {
        let mut coefficients = [0.0; MAX_COEFFICIENTS];
        coefficients.iter_mut().zip(given).for_each(|(c, given)| *c = *given);
        Prediction { predictor, flags, coefficients }
    }
}

/// What a prediction looks at, all of the chunk's length. What the predictor does not use may be
/// shorter, or empty.
#[derive(Debug)]
pub struct Past<'a> {
    /// The iterate x_t.
    pub x: &'a [f32],
    /// x_{t-1}; x_t itself where it is not known.
    pub before: &'a [f32],
    /// The gradient at x_t; zeros where there is none.
    pub g: &'a [f32],
    /// The optimizer's momentum before step t; after it when the prediction is made.
    pub momentum: &'a mut [f32],
    /// The optimizer's second moment, likewise.
    pub second: &'a mut [f32],
}

impl Past<'_> {
    /// Some of its elements.
    fn part(&mut self, range: Range<usize>) -> Past<'_> {
        let [momentum, second] =
            [&mut *self.momentum, &mut *self.second].map(|m| m.get_mut(range.clone()).unwrap_or_default());
        let [x, before, g] = [self.x, self.before, self.g].map(|v| v.get(range.clone()).unwrap_or_default());
        Past { x, before, g, momentum, second }
    }
}

/// Where a prediction is no number, the iterate before stands for it: which NaN an operation gives is
/// the processor's choice.
#[inline(always)]
fn or_previous(predicted: f32, x: f32) -> f32 {
    if predicted.is_nan() { x } else { predicted }
}

#[inline(always)]
fn linear_body(c: [f32; MAX_COEFFICIENTS], past: &mut Past<'_>, out: &mut [f32]) {
    let n = out.len();
    let [c0, c1, c2, ..] = c;
    let (x, before, g) = (&past.x[..n], &past.before[..n], &past.g[..n]);
    for i in 0..n {
        let step = c2.mul_add(g[i], c1.mul_add(x[i], c0 * (x[i] - before[i])));
        out[i] = or_previous(x[i] + step, x[i]);
    }
}

#[inline(always)]
fn sgd_body<const NESTEROV: bool, const FUSED: bool>(
    c: [f32; MAX_COEFFICIENTS],
    past: &mut Past<'_>,
    out: &mut [f32],
) {
    let n = out.len();
    let [decay, momentum, keep, lr, scale, ..] = c;
    let (x, g, m) = (&past.x[..n], &past.g[..n], &mut past.momentum[..n]);
    for i in 0..n {
        let u = decay.mul_add(x[i], scale * g[i]);
        let new = if FUSED { momentum.mul_add(m[i], keep * u) } else { keep.mul_add(u, momentum * m[i]) };
        m[i] = new;
        let s = if NESTEROV { momentum.mul_add(new, u) } else { new };
        out[i] = or_previous((-lr).mul_add(s, x[i]), x[i]);
    }
}

#[inline(always)]
fn adam_body<const COUPLED: bool>(c: [f32; MAX_COEFFICIENTS], past: &mut Past<'_>, out: &mut [f32]) {
    let n = out.len();
    let [new_part, beta2, new_square, step, root, eps, decay, scale] = c;
    let (x, g) = (&past.x[..n], &past.g[..n]);
    let (m, v) = (&mut past.momentum[..n], &mut past.second[..n]);
    for i in 0..n {
        let h = scale * g[i];
        let (u, y) = if COUPLED { (decay.mul_add(x[i], h), x[i]) } else { (h, decay * x[i]) };
        m[i] = new_part.mul_add(u - m[i], m[i]);
        v[i] = (new_square * u).mul_add(u, beta2 * v[i]);
        let denominator = v[i].sqrt() / root + eps;
        out[i] = or_previous(y + (-step * m[i]) / denominator, x[i]);
    }
}

macro_rules! rule {
    ($name:ident, $body:expr) => {
        multi_isa! {
            fn $name(c: [f32; MAX_COEFFICIENTS], past: &mut Past<'_>, out: &mut [f32])
            => portable $body, avx2 $body, avx512 $body
        }
    };
}
rule!(linear, linear_body);
rule!(sgd, sgd_body::<false, false>);
rule!(sgd_nesterov, sgd_body::<true, false>);
rule!(sgd_fused, sgd_body::<false, true>);
rule!(sgd_nesterov_fused, sgd_body::<true, true>);
rule!(adam, adam_body::<false>);
rule!(adam_coupled, adam_body::<true>);

/// How a chunk is predicted. Its pieces can have taken different numbers of steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// That of most elements.
    pub first: Prediction,
    /// Others, with the same predictor and flags.
    pub others: Vec<Prediction>,
    /// By piece: the number of its own, 0 being the first; empty where there are no others.
    pub of: Vec<u16>,
}

impl From<Prediction> for Predictions {
    fn from(first: Prediction) -> Predictions {
        Predictions { first, others: Vec::new(), of: Vec::new() }
    }
}

impl Predictions {
    /// That of the piece at `place`.
    pub fn of(&self, place: usize) -> Prediction {
        let number = self.of.get(place).map_or(0, |n| usize::from(*n));
        number.checked_sub(1).and_then(|n| self.others.get(n)).copied().unwrap_or(self.first)
    }

    /// The same with other flags.
    pub(crate) fn with_flags(mut self, flags: u8) -> Predictions {
        self.first.flags = flags;
        self.others.iter_mut().for_each(|p| p.flags = flags);
        self
    }
}

/// The pieces of a chunk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pieces<'a> {
    /// Where each ends; may be empty where there is one.
    pub ends: &'a [usize],
    /// A bit for each, that it has no gradient though others have: a step of the optimizer leaves it and its moments
    /// where they are. Empty where all have one, or none.
    pub at_rest: &'a [u8],
}

impl Pieces<'_> {
    /// Whether the one at `place` is at rest.
    fn rests(&self, place: usize) -> bool {
        self.at_rest.get(place / 8).is_some_and(|bits| bits >> (place % 8) & 1 == 1)
    }
}

/// The parts of a chunk of `n` elements that are predicted alike, in order, each with how: `None` where it is at rest.
fn parts(predictions: &Predictions, pieces: Pieces<'_>, n: usize) -> Vec<(Range<usize>, Option<Prediction>)> {
    let alike = predictions.of.is_empty() && pieces.at_rest.is_empty();
    if alike || predictions.first.predictor.moments() == 0 {
        return vec![(0..n, Some(predictions.first))];
    }
    let how = |place: usize| (!pieces.rests(place)).then(|| predictions.of(place));
    let mut parts: Vec<(Range<usize>, Option<Prediction>)> = Vec::new();
    for (place, &end) in pieces.ends.iter().enumerate() {
        let own = how(place);
        match parts.last_mut() {
            Some((range, last)) if *last == own => range.end = end,
            last => {
                let begin = last.map_or(0, |(range, _)| range.end);
                parts.push((begin..end, own));
            }
        }
    }
    parts
}

/// Predicts x_{t+1} into `out`, of the chunk's length, piece by piece, and takes the moments a step further.
pub(crate) fn predict_pieces(
    isa: Isa,
    predictions: &Predictions,
    pieces: Pieces<'_>,
    past: &mut Past<'_>,
    out: &mut [f32],
) {
    for (range, how) in parts(predictions, pieces, out.len()) {
        match how {
            Some(prediction) => predict(isa, &prediction, &mut past.part(range.clone()), &mut out[range]),
            None => out[range.clone()].copy_from_slice(&past.x[range]),
        }
    }
}

/// Predicts x_{t+1} as [`predict_pieces`], a block after the other while it is in the first cache: `take` is told where
/// a block begins, and what was predicted.
pub(crate) fn predict_blocks(
    isa: Isa,
    predictions: &Predictions,
    pieces: Pieces<'_>,
    past: &mut Past<'_>,
    mut take: impl FnMut(usize, &[f32]),
) {
    let mut block = [0.0; BLOCK];
    for (range, how) in parts(predictions, pieces, past.x.len()) {
        for begin in range.clone().step_by(BLOCK) {
            let end = range.end.min(begin + BLOCK);
            // Vectors of a model come from the memory, and a block is too short for the processor to foresee the next.
            let next = end..range.end.min(end + BLOCK);
            for vector in [past.x, past.g, past.momentum, past.second] {
                prefetch(vector.get(next.clone()).unwrap_or_default());
            }
            let out = &mut block[..end - begin];
            match how {
                Some(prediction) => predict(isa, &prediction, &mut past.part(begin..end), out),
                None => out.copy_from_slice(&past.x[begin..end]),
            }
            take(begin, out);
        }
    }
}

/// Predicts x_{t+1} into `out`, of the chunk's length, and takes the moments a step further.
pub fn predict(isa: Isa, prediction: &Prediction, past: &mut Past<'_>, out: &mut [f32]) {
    let c = prediction.coefficients;
    let has = |flag| prediction.flags & flag != 0;
    match prediction.predictor {
        Predictor::Previous => out.copy_from_slice(&past.x[..out.len()]),
        Predictor::Linear => linear(isa, c, past, out),
        Predictor::Sgd => match (has(NESTEROV), has(FUSED)) {
            (false, false) => sgd(isa, c, past, out),
            (true, false) => sgd_nesterov(isa, c, past, out),
            (false, true) => sgd_fused(isa, c, past, out),
            (true, true) => sgd_nesterov_fused(isa, c, past, out),
        },
        Predictor::Adam if has(COUPLED) => adam_coupled(isa, c, past, out),
        Predictor::Adam => adam(isa, c, past, out),
    }
}
