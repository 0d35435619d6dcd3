//! The responses of the references to the gradients of a chunk's pieces, walked backward through a segment of steps.
//!
//! Forward, while the steps are measured, the second moment is taken from step to step and held now and then;
//! backward, it is made again a few steps at a time. The arithmetic is `reduce::response`'s.

use std::ops::Range;

use crate::analyze::measure::course::{NOTHING, Segment};
use crate::analyze::measure::influence::{Handed, Influence};
use crate::analyze::measure::seconds::Running;
use crate::codec::Predictor;
use crate::dtype::single;
use crate::error::Result;
use crate::isa::Isa;
use crate::optimizer::{Elementwise, Moment};
use crate::order::BLOCK;
use crate::reduce::cpu::{Vectors, iterate_sums, own_sums};
use crate::reduce::response::{Back, back, back_coupled, bridge, inverse, second_and_inverse};
use crate::run::format::chunk::Chunk;
use crate::run::format::manifest::GRAD;
use crate::run::format::vector_id::StreamId;
use crate::run::read::chunk_reader::{ChunkReader, Decoded};
use crate::sums::Layout;

/// Steps between the second moments that are held on the way forward.
const HELD: usize = 12;

/// What a step of the segment was to the optimizer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Noted {
    /// It took a step.
    Step(Elementwise),
    /// There was no gradient, and nothing moved.
    Rest,
    /// That is not known.
    Unknown,
}

/// How a target goes one step back.
#[derive(Clone, Copy, Debug)]
enum Move {
    /// The step does not enter it.
    Nothing,
    /// Nothing moves, but the iterate has a weight.
    Rest { weight: f32 },
    /// By a step of the optimizer, after a gap. `known` says whether the response is.
    Step { back: Back, gap: Option<[f32; 3]>, decay: f32, weight: f32, known: bool },
    /// It is not known how.
    Unknown,
}

/// Where the second moments within a segment come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// From the replay by which its iterates are decoded.
    Replay,
    /// They are taken from step to step here.
    Own,
}

/// What is known of a piece on the way.
struct Walk {
    noted: Vec<Noted>,
    /// The buffer that the running moments have is that before the newest step.
    buffered: bool,
    /// What the newest step missed: the sum of squares ([`Running::missed`]), where that was looked at.
    missed: Option<f64>,
    handed: Handed,
}

/// What a gradient put into a reference.
pub(crate) struct OwnSums {
    /// The step.
    pub(crate) step: u64,
    /// The reference, by number.
    pub(crate) reference: usize,
    /// `sum h g^2` and `sum (h g)^2`.
    pub(crate) own: [f64; 2],
}

/// Working memory of one thread.
pub(crate) struct Responses {
    /// Elements of a chunk at most.
    len: usize,
    /// The second moment after the newest step.
    running: Running,
    /// Second moments, held every so many steps: before the step, or after every one.
    held: Vec<Vec<f32>>,
    every: usize,
    seconds: Origin,
    /// By piece of the chunk.
    walks: Vec<Walk>,
    /// By step of the segment: the exponents of its gradient, where they took a while to decode.
    exponents: Vec<Vec<u8>>,
    /// Gradients of a few steps.
    gradients: Vec<Vec<f32>>,
    /// Inverse roots of these steps, of one block of elements.
    inverse: Vec<[f32; BLOCK]>,
    h: [f32; BLOCK],
    /// By target: the responses to the buffer; with coupled weight decay those to the iterate follow.
    responses: Vec<Vec<f32>>,
    /// The inverse roots at the first step of the segment that was walked before.
    next_inverse: Vec<f32>,
    bytes: Vec<u8>,
}

impl Walk {
    /// How a target goes one step back. `after` is its response to the iterate after the step, and then to the one
    /// before.
    fn one(
        &mut self,
        influence: &Influence<'_>,
        mover: usize,
        (k, step, place): (usize, u64, usize),
        gap: Option<[f64; 3]>,
        after: &mut f64,
    ) -> Move {
        if step >= influence.course.last(k) {
            return Move::Nothing;
        }
        let doubt = &mut self.handed.doubts[k];
        let weight = influence.course.weight(k, step + 1);
        if gap.is_some() && influence.course.coupled {
            *doubt = f64::INFINITY;
        }
        let e = match self.noted[place] {
            Noted::Step(e) => e,
            Noted::Rest => {
                *after += weight;
                // Between the roots before and after a gap there is none to go by.
                *doubt = if gap.is_some() { doubt.max(1.0) } else { *doubt };
                return Move::Rest { weight: single(weight) };
            }
            Noted::Unknown => {
                let shrink = influence.course.update(mover, step).map_or(0.0, |e| e.linear.shrink);
                *after = (1.0 - shrink) * (*after + weight);
                *doubt = if influence.course.coupled { f64::INFINITY } else { 1.0 };
                return Move::Unknown;
            }
        };
        let gap = gap.filter(|_| !influence.course.coupled).map(|[keep, before, behind]| {
            *doubt *= keep;
            match self.handed.inverse {
                true => [keep, before, behind].map(single),
                // Nothing is walked behind: the root stays.
                false => [keep, before + behind, 0.0].map(single),
            }
        });
        let u = e.linear;
        // With coupled decay the response to the iterate is a vector.
        let response = if influence.course.coupled { 1.0 } else { *after + weight };
        let back = Back {
            into_buffer: single(u.into_buffer),
            momentum: single(u.momentum),
            from_buffer: single(u.from_buffer * response),
            into_step: single(u.into_step * response),
        };
        *after = (1.0 - u.shrink) * (*after + weight);
        let known = *doubt <= NOTHING;
        *doubt *= u.momentum;
        Move::Step { back, gap, decay: single(u.weight_decay), weight: single(weight), known }
    }
}

impl Responses {
    /// For chunks of at most `len` elements.
    pub(crate) fn new(influence: &Influence<'_>, len: usize) -> Responses {
        let vector = || vec![0.0f32; len];
        let every = if influence.course.holds_all() { 1 } else { HELD };
        let targets = influence.course.targets.len();
        let responses = if influence.course.coupled { 2 * targets } else { targets };
        Responses {
            len,
            running: Running::new(&influence.course, len),
            held: Vec::new(),
            every,
            seconds: Origin::Own,
            walks: Vec::new(),
            exponents: Vec::new(),
            gradients: (0..every).map(|_| vector()).collect(),
            inverse: vec![[0.0; BLOCK]; every],
            h: [0.0; BLOCK],
            responses: (0..responses).map(|_| vector()).collect(),
            next_inverse: if influence.course.gaps { vector() } else { Vec::new() },
            bytes: Vec::new(),
        }
    }

    /// Goes on with a chunk where the window behind left it.
    ///
    /// # Errors
    /// That cannot be read.
    pub(crate) fn begin(&mut self, influence: &Influence<'_>, chunk: &Chunk) -> Result<()> {
        self.walks.clear();
        for piece in &chunk.pieces {
            let vectors = self.responses.iter_mut().chain(std::iter::once(&mut self.next_inverse));
            let vectors = vectors.map(|v| v.get_mut(piece.range()).unwrap_or_default());
            let handed = influence.store.take(piece.number, vectors, &mut self.bytes)?;
            let handed = handed.unwrap_or_else(|| {
                self.responses.iter_mut().for_each(|v| v[piece.range()].fill(0.0));
                // What lies behind the last step that is walked is not known.
                let doubt = |k| if influence.course.last(k) <= influence.course.end { 0.0 } else { 1.0 };
                Handed { doubts: (0..influence.course.targets.len()).map(doubt).collect(), inverse: false }
            });
            self.walks.push(Walk { noted: Vec::new(), buffered: false, missed: None, handed });
        }
        Ok(())
    }

    /// Keeps what the window before goes on from.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn end(&mut self, influence: &Influence<'_>, chunk: &Chunk) -> Result<()> {
        for (piece, walk) in chunk.pieces.iter().zip(&self.walks) {
            let vectors = self.responses.iter().chain(std::iter::once(&self.next_inverse));
            let vectors = vectors.map(|v| v.get(piece.range()).unwrap_or_default());
            influence.store.put(piece.number, walk.handed.clone(), vectors, &mut self.bytes)?;
        }
        Ok(())
    }

    /// Begins the way forward through a segment of a chunk.
    ///
    /// # Errors
    /// Second moments that wait in a file cannot be read.
    pub(crate) fn forward(
        &mut self,
        influence: &Influence<'_>,
        segment: &Segment,
        layout: Layout,
        source: &mut ChunkReader<'_>,
    ) -> Result<()> {
        self.walks.iter_mut().for_each(|walk| walk.noted.clear());
        self.exponents.iter_mut().for_each(Vec::clear);
        let replayed = |step| source.coding(step).is_some_and(|c| c.predictor() == Some(Predictor::Adam));
        let all = (segment.steps.start + 1..segment.steps.end).all(replayed);
        // Who looks further ahead is not at hand when a step is noted.
        let at_hand = all && layout.lag.is_none() && influence.course.moment == Moment::Recorded;
        self.seconds = if at_hand { Origin::Replay } else { Origin::Own };
        let first = segment.steps.start;
        let recorded = first > 0 && influence.seconds.is_none() && {
            let to = self.running.newest(0..source.chunk.len);
            matches!(source.load(first, StreamId::MOMENTS[1], to), Ok(Decoded::Values))
        };
        let buffered = !influence.course.buffered || {
            let to = self.running.buffer(0..source.chunk.len);
            recorded && matches!(source.load(first, StreamId::MOMENTS[0], to), Ok(Decoded::Values))
        };
        for (piece, walk) in source.chunk.pieces.iter().zip(&mut self.walks) {
            let known = if first == 0 {
                let mover = influence.course.movers.of(piece.tensor);
                self.running.begin(piece.range(), influence.course.first_moment(mover));
                true
            } else if let Some(seconds) = &influence.seconds {
                let vectors = self.running.vectors(piece.range());
                seconds.read((segment.number, piece.number), vectors, &mut self.bytes)?
            } else {
                recorded
            };
            (walk.buffered, walk.missed) = (first == 0 || influence.seconds.is_some() || buffered, None);
            if !known {
                walk.noted.extend(segment.steps.clone().map(|_| Noted::Unknown));
            }
        }
        Ok(())
    }

    /// Takes the next step of the segment with what became of its gradient; `None` where it cannot be read. With it
    /// come x, the next iterate where it is at hand, and where that is a replay the second moment after the step.
    pub(crate) fn note(
        &mut self,
        influence: &Influence<'_>,
        (segment, step): (&Segment, u64),
        isa: Isa,
        gradient: Option<(&[f32], Decoded)>,
        [x, next, replayed]: [&[f32]; 3],
        source: &ChunkReader<'_>,
    ) {
        let lacks = self.seconds == Origin::Replay && replayed.is_empty() && step + 1 < segment.steps.end;
        let absent = source.without_gradient(step);
        self.keep_exponents(segment, step, source);
        for (place, piece) in source.chunk.pieces.iter().enumerate() {
            let walk = &mut self.walks[place];
            let (at, buffered) = (walk.noted.len(), walk.buffered);
            walk.missed = None;
            if segment.steps.start + at as u64 != step {
                continue;
            }
            let (range, mover) = (piece.range(), influence.course.movers.of(piece.tensor));
            let of_piece =
                gradient.map(|(g, decoded)| (g, if absent.has(place) { Decoded::Absent } else { decoded }));
            let mut missed = None;
            let noted = match (of_piece, influence.course.update(mover, step)) {
                (Some((g, Decoded::Values)), Some(e)) if !lacks => {
                    self.hold(at, range.clone(), self.every > 1);
                    // What is held of the last step is that after it, which the next keyframe has of its own.
                    let last = self.every == 1 && step + 1 == segment.steps.end;
                    match self.seconds {
                        Origin::Replay if !last => self.follow(at, range.clone(), replayed),
                        origin => {
                            let (g, x) = (&g[range.clone()], &x[range.clone()]);
                            let coupled = influence.course.coupled;
                            self.running.advance(isa, &e, (g, Some(x).filter(|_| coupled)), range.clone());
                            match next.get(range.clone()) {
                                _ if origin == Origin::Replay => {}
                                Some(next) if buffered => {
                                    missed = Some(self.running.missed(isa, &e, [g, x, next], range.clone()));
                                }
                                _ => self.running.carry(isa, &e, g, range.clone()),
                            }
                        }
                    }
                    self.hold(at, range, self.every == 1);
                    Noted::Step(e)
                }
                (Some((_, Decoded::Absent)), _) if !lacks => {
                    self.hold(at, range.clone(), true);
                    match (self.seconds, next.get(range.clone())) {
                        (Origin::Replay, _) => self.follow(at, range, replayed),
                        (Origin::Own, Some(next)) => {
                            let x = &x[range];
                            missed = Some(iterate_sums(isa, &Vectors { g: x, x, next, init: x }).step2);
                        }
                        (Origin::Own, None) => {}
                    }
                    Noted::Rest
                }
                _ => Noted::Unknown,
            };
            let walk = &mut self.walks[place];
            walk.missed = missed;
            walk.noted.push(noted);
            if noted == Noted::Unknown {
                // From here on the second moment is not known.
                walk.noted.extend((step + 1..segment.steps.end).map(|_| Noted::Unknown));
            }
        }
    }

    /// By piece: what the newest step that was taken missed, where its moments and the next iterate are known; storage tells
    /// where they are not taken from step to step here.
    pub(crate) fn missed(&self) -> impl Iterator<Item = Option<f64>> {
        self.walks.iter().map(|walk| walk.missed)
    }

    /// Keeps the exponents of a step's gradient, which is loaded once more on the way back.
    fn keep_exponents(&mut self, segment: &Segment, step: u64, source: &ChunkReader<'_>) {
        let place = step.checked_sub(segment.steps.start).and_then(|place| usize::try_from(place).ok());
        let (Some(place), Some(grad)) = (place, source.run.manifest.stream_id(GRAD)) else { return };
        let exponents = source.exponents(step, grad);
        if exponents.is_empty() {
            return;
        }
        if self.exponents.len() <= place {
            self.exponents.resize_with(place + 1, Vec::new);
        }
        self.exponents[place].extend_from_slice(exponents);
    }

    /// Takes the second moment of a piece after the step at place `at` from the replay, where it is held before the
    /// next one.
    fn follow(&mut self, at: usize, range: Range<usize>, replayed: &[f32]) {
        if (at + 1).is_multiple_of(self.every)
            && let Some(own) = replayed.get(range.clone())
        {
            self.running.newest(range).copy_from_slice(own);
        }
    }

    /// Holds the second moment of a piece at hand at the step at place `at`, where it is `time` to.
    fn hold(&mut self, at: usize, range: Range<usize>, time: bool) {
        if time && at.is_multiple_of(self.every) {
            let place = at / self.every;
            if self.held.len() <= place {
                self.held.resize_with(place + 1, || vec![0.0; self.len]);
            }
            self.held[place][range.clone()].copy_from_slice(self.running.divisor(range));
        }
    }

    /// Walks the segment backward, and puts the sums of each step with the place of their piece.
    pub(crate) fn back(
        &mut self,
        influence: &Influence<'_>,
        segment: &Segment,
        isa: Isa,
        source: &mut ChunkReader<'_>,
        mut put: impl FnMut(usize, OwnSums),
    ) {
        // What was not noted could not be read.
        let steps = usize::try_from(segment.steps.end - segment.steps.start).unwrap_or(0);
        let (course, mut ways) = (&influence.course, Vec::new());
        for (piece, walk) in source.chunk.pieces.iter().zip(&mut self.walks) {
            walk.noted.resize(steps, Noted::Unknown);
            let mover = course.movers.of(piece.tensor);
            let mut after = segment.after[mover].clone();
            let gap = gap(influence, segment, mover, &mut after);
            ways.push((mover, after, gap));
        }
        for block in (0..steps.div_ceil(self.every)).rev() {
            let places = block * self.every..((block + 1) * self.every).min(steps);
            self.load(segment, places.clone(), source);
            for (p, (piece, (mover, after, gap))) in source.chunk.pieces.iter().zip(&mut ways).enumerate() {
                let mut moves = Vec::new();
                for place in places.clone().rev() {
                    let step = segment.steps.start + place as u64;
                    let gap = std::mem::take(gap);
                    for (k, after) in after.iter_mut().enumerate() {
                        let at = (k, step, place);
                        moves.push(self.walks[p].one(influence, *mover, at, gap.get(k).copied(), after));
                    }
                }
                let sums = self.go_back(influence, isa, places.clone(), &moves, (p, piece.range()));
                for (sums, place) in sums.chunks(course.targets.len().max(1)).zip(places.clone().rev()) {
                    let step = segment.steps.start + place as u64;
                    for (&reference, &own) in course.targets.iter().zip(sums) {
                        put(p, OwnSums { step, reference, own });
                    }
                }
            }
        }
        for walk in &mut self.walks {
            walk.handed.inverse = course.gaps && matches!(walk.noted.first(), Some(Noted::Step(_)));
        }
    }

    /// Goes back over a few steps, a block of elements at a time, and sums what the gradients put into each target.
    fn go_back(
        &mut self,
        influence: &Influence<'_>,
        isa: Isa,
        places: Range<usize>,
        moves: &[Move],
        (piece, all): (usize, Range<usize>),
    ) -> Vec<[f64; 2]> {
        let targets = influence.course.targets.len();
        let unknown = |m: &Move| matches!(m, Move::Unknown | Move::Step { known: false, .. });
        let mut sums: Vec<[f64; 2]> =
            moves.iter().map(|m| if unknown(m) { [f64::NAN; 2] } else { [0.0; 2] }).collect();
        for begin in all.clone().step_by(BLOCK) {
            let range = begin..(begin + BLOCK).min(all.end);
            let len = range.len();
            for (at, place) in places.clone().enumerate() {
                let Noted::Step(e) = self.walks[piece].noted[place] else { continue };
                let (numbers, out) = ([single(1.0 / e.root), single(e.eps)], &mut self.inverse[at][..len]);
                if self.every > 1 {
                    let g = &self.gradients[at][range.clone()];
                    let v = self.running.newest(range.clone());
                    second_and_inverse(isa, e.second.map(single), numbers, g, v, out);
                } else {
                    inverse(isa, numbers, &self.held[place][range.clone()], out);
                }
            }
            for (i, m) in moves.iter().enumerate() {
                let (at, k) = (places.len() - 1 - i / targets, i % targets);
                let (buffers, iterates) = self.responses.split_at_mut(targets);
                match *m {
                    Move::Nothing | Move::Unknown => {}
                    Move::Rest { weight } => {
                        let response = iterates.get_mut(k).map(|a| &mut a[range.clone()]);
                        response.into_iter().flatten().for_each(|a| *a += weight);
                    }
                    Move::Step { back: step, gap, decay, weight, known } => {
                        let (c, h) = (&mut buffers[k][range.clone()], &mut self.h[..len]);
                        let here = &self.inverse[at][..len];
                        if let Some(factors) = gap {
                            // Where nothing is walked behind its factor is 0, and any vector will do.
                            let behind = self.next_inverse.get(range.clone()).unwrap_or(here);
                            bridge(isa, factors, [here, behind], c);
                        }
                        match iterates.get_mut(k) {
                            None => back(isa, step, here, c, h),
                            Some(a) => {
                                back_coupled(isa, (step, decay, weight), here, [&mut a[range.clone()], c, h]);
                            }
                        }
                        if known {
                            let [own, squares] = own_sums(isa, h, &self.gradients[at][range.clone()]);
                            sums[i] = [sums[i][0] + own, sums[i][1] + squares];
                        }
                    }
                }
            }
            if places.start == 0 && influence.course.gaps {
                self.next_inverse[range].copy_from_slice(&self.inverse[0][..len]);
            }
        }
        sums
    }

    /// Decodes the gradients of a few steps again, and goes back to the second moments before them.
    fn load(&mut self, segment: &Segment, places: Range<usize>, source: &mut ChunkReader<'_>) {
        let n = source.chunk.len;
        let Some(grad) = source.run.manifest.stream_id(GRAD) else { return };
        if self.every > 1
            && let Some(held) = self.held.get(places.start / self.every)
        {
            self.running.newest(0..n).copy_from_slice(&held[..n]);
        }
        let steps = |walk: &Walk, place: usize| matches!(walk.noted[place], Noted::Step(_));
        let mut known = true;
        for (at, place) in places.enumerate() {
            if !self.walks.iter().any(|walk| steps(walk, place)) {
                continue;
            }
            let g = &mut self.gradients[at][..n];
            let exponents = self.exponents.get(place).map_or(&[][..], Vec::as_slice);
            let step = segment.steps.start + place as u64;
            known &= matches!(source.load_again(step, grad, exponents, g), Ok(Decoded::Values));
            if !known {
                let lost = self.walks.iter_mut().filter(|walk| steps(walk, place));
                lost.for_each(|walk| walk.noted[place] = Noted::Unknown);
            }
        }
    }
}

/// What lies between a segment and the step that is walked after it: by target, what is left of the responses to
/// the buffer, and what the steps between put there for a root as before, and as behind. Takes the responses
/// `after` back over these steps.
fn gap(influence: &Influence<'_>, segment: &Segment, mover: usize, after: &mut [f64]) -> Vec<[f64; 3]> {
    let (end, next) = (segment.steps.end, segment.next);
    if end == next {
        return Vec::new();
    }
    let mut all = vec![[1.0, 0.0, 0.0]; after.len()];
    for s in (end..next).rev() {
        let share = (s + 1 - end) as f64 / (next + 1 - end) as f64;
        let e = influence.course.update(mover, s);
        for (k, (after, [keep, before, behind])) in after.iter_mut().zip(&mut all).enumerate() {
            if s >= influence.course.last(k) {
                continue;
            }
            *after += influence.course.weight(k, s + 1);
            let Some(Elementwise { linear: u, .. }) = e else { continue };
            let push = u.from_buffer * *after;
            *keep *= u.momentum;
            *before = u.momentum * (*before + push * (1.0 - share));
            *behind = u.momentum * (*behind + push * share);
            *after *= 1.0 - u.shrink;
        }
    }
    all
}
