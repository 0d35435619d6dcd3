//! The responses of the references to one chunk's gradients, walked backward through a segment of steps.
//!
//! Forward, while the steps are measured, the second moment is taken from step to step and held now and then;
//! backward, it is made again a few steps at a time. The arithmetic is `reduce::response`'s.

use super::influence::{Handed, Influence, NOTHING, Segment};
use crate::error::Result;
use crate::isa::Isa;
use crate::optimizer::Elementwise;
use crate::reduce::cpu::own_sums;
use crate::reduce::order::CHUNK;
use crate::reduce::response::{Back, back, back_coupled, bridge, decayed, inverse, second};
use crate::run::manifest::{GRAD, MOMENTS};
use crate::run::trajectory::{Decoded, Source};
use crate::sums::{Cells, Layout};

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

/// Working memory of one thread.
pub(super) struct Responses {
    /// The second moment after the newest step.
    v: Vec<f32>,
    /// A gradient with its weight decay.
    u: Vec<f32>,
    /// Second moments, held every so many steps: before the step, or after every one.
    held: Vec<Vec<f32>>,
    every: usize,
    noted: Vec<Noted>,
    /// Gradients and inverse roots of a few steps.
    block: Vec<[Vec<f32>; 2]>,
    h: Vec<f32>,
    /// By target: the responses to the buffer; with coupled weight decay those to the iterate follow.
    responses: Vec<Vec<f32>>,
    /// The inverse roots at the first step of the segment that was walked before.
    next_inverse: Vec<f32>,
    handed: Handed,
    bytes: Vec<u8>,
}

/// The arithmetic's own precision.
#[allow(clippy::cast_possible_truncation)]
fn single(v: f64) -> f32 {
    v as f32
}

impl Responses {
    /// For chunks of any length.
    pub(super) fn new(influence: &Influence<'_>) -> Responses {
        let vector = || vec![0.0f32; CHUNK];
        let every = if influence.coupled { 1 } else { HELD };
        let targets = influence.targets.len();
        let responses = if influence.coupled { 2 * targets } else { targets };
        Responses {
            v: vector(),
            u: if influence.coupled { vector() } else { Vec::new() },
            held: Vec::new(),
            every,
            noted: Vec::new(),
            block: (0..every).map(|_| [vector(), vector()]).collect(),
            h: vector(),
            responses: (0..responses).map(|_| vector()).collect(),
            next_inverse: if influence.gaps { vector() } else { Vec::new() },
            handed: Handed { doubts: Vec::new(), inverse: false },
            bytes: Vec::new(),
        }
    }

    /// Goes on with a chunk of `n` elements where the window behind left it.
    ///
    /// # Errors
    /// That cannot be read.
    pub(super) fn begin(&mut self, influence: &Influence<'_>, chunk: usize, n: usize) -> Result<()> {
        let vectors = self.responses.iter_mut().chain(std::iter::once(&mut self.next_inverse));
        let handed = influence.store().take(chunk, vectors.map(|v| &mut v[..n]), &mut self.bytes)?;
        self.handed = handed.unwrap_or_else(|| {
            self.responses.iter_mut().for_each(|v| v[..n].fill(0.0));
            // What lies behind the last step that is walked is not known.
            let doubt = |k| if influence.last(k) <= influence.end { 0.0 } else { 1.0 };
            Handed { doubts: (0..influence.targets.len()).map(doubt).collect(), inverse: false }
        });
        Ok(())
    }

    /// Keeps what the window before goes on from.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn end(&mut self, influence: &Influence<'_>, chunk: usize, n: usize) -> Result<()> {
        let vectors = self.responses.iter().chain(std::iter::once(&self.next_inverse));
        influence.store().put(chunk, self.handed.clone(), vectors.map(|v| &v[..n]), &mut self.bytes)
    }

    /// Begins the way forward through a segment.
    pub(super) fn forward(&mut self, segment: &Segment, source: &mut Source<'_>) {
        self.noted.clear();
        let (first, v) = (segment.steps.start, &mut self.v[..source.chunk.len]);
        match source.load(first, MOMENTS[1], v) {
            Ok(Decoded::Values) => {}
            // Before its first step the optimizer has none.
            Ok(Decoded::Absent | Decoded::Missing) if first == 0 => v.fill(0.0),
            _ => {
                let steps = segment.steps.end - segment.steps.start;
                self.noted.extend((0..steps).map(|_| Noted::Unknown));
            }
        }
    }

    /// Takes the next step of the segment with what became of its gradient; `None` where it cannot be read.
    pub(super) fn note(
        &mut self,
        influence: &Influence<'_>,
        (segment, step): (&Segment, u64),
        (isa, mover): (Isa, usize),
        gradient: Option<(&[f32], Decoded)>,
        x: &[f32],
    ) {
        let at = self.noted.len() as u64;
        if segment.steps.start + at != step {
            return;
        }
        let noted = match (gradient, influence.update(mover, step)) {
            (Some((g, Decoded::Values)), Some(e)) => {
                self.hold(x.len(), !influence.coupled);
                self.advance(isa, &e, g, influence.coupled.then_some(x));
                self.hold(x.len(), influence.coupled);
                Noted::Step(e)
            }
            (Some((_, Decoded::Absent)), _) => {
                self.hold(x.len(), true);
                Noted::Rest
            }
            _ => Noted::Unknown,
        };
        self.noted.push(noted);
        if noted == Noted::Unknown {
            // From here on the second moment is not known.
            self.noted.extend((step + 1..segment.steps.end).map(|_| Noted::Unknown));
        }
    }

    /// Holds the second moment at hand, where it is `time` to.
    fn hold(&mut self, n: usize, time: bool) {
        if time && self.noted.len().is_multiple_of(self.every) {
            let place = self.noted.len() / self.every;
            if self.held.len() <= place {
                self.held.resize_with(place + 1, || vec![0.0; CHUNK]);
            }
            self.held[place][..n].copy_from_slice(&self.v[..n]);
        }
    }

    /// Takes the second moment a step on.
    fn advance(&mut self, isa: Isa, e: &Elementwise, g: &[f32], x: Option<&[f32]>) {
        let v = &mut self.v[..g.len()];
        let factors = e.second.map(single);
        match x {
            None => second(isa, factors, g, v),
            Some(x) => {
                let u = &mut self.u[..g.len()];
                decayed(isa, single(e.linear.weight_decay), x, g, u);
                second(isa, factors, u, v);
            }
        }
    }

    /// Walks the segment backward and puts the sums of the `wanted` steps into their rows.
    pub(super) fn back(
        &mut self,
        influence: &Influence<'_>,
        segment: &Segment,
        (isa, mover): (Isa, usize),
        (wanted, layout, cells): (&[u64], Layout, &mut Cells),
        source: &mut Source<'_>,
    ) {
        let n = source.chunk.len;
        let mut after = segment.after[mover].clone();
        let mut gap = self.gap(influence, segment, mover, &mut after);
        for block in (0..self.noted.len().div_ceil(self.every)).rev() {
            let places = block * self.every..((block + 1) * self.every).min(self.noted.len());
            self.load(segment, (isa, places.clone()), source);
            for (at, place) in places.enumerate().rev() {
                let step = segment.steps.start + place as u64;
                let row = wanted.binary_search(&step).ok();
                let gap = std::mem::take(&mut gap);
                for (k, after) in after.iter_mut().enumerate() {
                    let bridge = gap.get(k).copied();
                    let own = self.back_one(influence, (isa, mover, n), (k, step, place, at), bridge, after);
                    if let Some(row) = row {
                        let first = layout.own(influence.targets[k]);
                        cells.values_mut(row)[first..first + 2].copy_from_slice(&own);
                    }
                }
            }
        }
        self.handed.inverse = influence.gaps && matches!(self.noted.first(), Some(Noted::Step(_)));
        if self.handed.inverse {
            self.next_inverse[..n].copy_from_slice(&self.block[0][1][..n]);
        }
    }

    /// One step back for a target: what the gradient put into it. `after` is the response to the iterate after the
    /// step, and then to the one before.
    fn back_one(
        &mut self,
        influence: &Influence<'_>,
        (isa, mover, n): (Isa, usize, usize),
        (k, step, place, at): (usize, u64, usize, usize),
        gap: Option<[f64; 3]>,
        after: &mut f64,
    ) -> [f64; 2] {
        if step >= influence.last(k) {
            return [0.0; 2];
        }
        let weight = influence.weight(k, step + 1);
        let (buffers, iterates) = self.responses.split_at_mut(influence.targets.len());
        let (c, h) = (&mut buffers[k][..n], &mut self.h[..n]);
        let doubt = &mut self.handed.doubts[k];
        if gap.is_some() && influence.coupled {
            *doubt = f64::INFINITY;
        }
        let e = match self.noted[place] {
            Noted::Step(e) => e,
            Noted::Rest => {
                *after += weight;
                iterates.iter_mut().skip(k).take(1).for_each(|a| a[..n].iter_mut().for_each(|a| *a += single(weight)));
                // Between the roots before and after a gap there is none to go by.
                *doubt = if gap.is_some() { 1.0 } else { *doubt };
                return [0.0; 2];
            }
            Noted::Unknown => {
                let shrink = influence.update(mover, step).map_or(0.0, |e| e.linear.shrink);
                *after = (1.0 - shrink) * (*after + weight);
                *doubt = if influence.coupled { f64::INFINITY } else { 1.0 };
                return [f64::NAN; 2];
            }
        };
        let [g, here] = &self.block[at];
        let (g, here) = (&g[..n], &here[..n]);
        if let Some([keep, before, behind]) = gap.filter(|_| !influence.coupled) {
            let (next, factors) = match self.handed.inverse {
                true => (&self.next_inverse[..n], [keep, before, behind]),
                // Nothing is walked behind: the root stays.
                false => (here, [keep, before + behind, 0.0]),
            };
            bridge(isa, factors.map(single), [here, next], c);
            *doubt *= keep;
        }
        let u = e.linear;
        let (into_buffer, momentum) = (single(u.into_buffer), single(u.momentum));
        let numbers = |a: f64| Back {
            into_buffer,
            momentum,
            from_buffer: single(u.from_buffer * a),
            into_step: single(u.into_step * a),
        };
        let response = *after + weight;
        match iterates.get_mut(k) {
            None => back(isa, numbers(response), here, c, h),
            Some(a) => {
                let step = (numbers(1.0), single(u.weight_decay), single(weight));
                back_coupled(isa, step, here, [&mut a[..n], c, h]);
            }
        }
        *after = (1.0 - u.shrink) * response;
        let known = *doubt <= NOTHING;
        *doubt *= u.momentum;
        if known { own_sums(isa, h, g) } else { [f64::NAN; 2] }
    }

    /// What lies between a segment and the step that is walked after it: by target, what is left of the responses to
    /// the buffer, and what the steps between put there for a root as before, and as behind. Takes the responses
    /// `after` back over these steps.
    fn gap(&self, influence: &Influence<'_>, segment: &Segment, mover: usize, after: &mut [f64]) -> Vec<[f64; 3]> {
        let (end, next) = (segment.steps.end, segment.next);
        if end == next {
            return Vec::new();
        }
        let mut all = vec![[1.0, 0.0, 0.0]; after.len()];
        for s in (end..next).rev() {
            let share = (s + 1 - end) as f64 / (next + 1 - end) as f64;
            let e = influence.update(mover, s);
            for (k, (after, [keep, before, behind])) in after.iter_mut().zip(&mut all).enumerate() {
                if s >= influence.last(k) {
                    continue;
                }
                *after += influence.weight(k, s + 1);
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

    /// Makes gradients and inverse roots of a few steps again.
    fn load(&mut self, segment: &Segment, (isa, places): (Isa, std::ops::Range<usize>), source: &mut Source<'_>) {
        let n = source.chunk.len;
        let Some(grad) = source.run.manifest.stream_id(GRAD) else { return };
        let v = &mut self.v[..n];
        if self.every > 1
            && let Some(held) = self.held.get(places.start / self.every)
        {
            v.copy_from_slice(&held[..n]);
        }
        let mut known = true;
        for (at, place) in places.enumerate() {
            let Noted::Step(e) = self.noted[place] else { continue };
            let [g, out] = &mut self.block[at];
            let (g, out) = (&mut g[..n], &mut out[..n]);
            let loaded = source.load(segment.steps.start + place as u64, grad, g);
            known &= matches!(loaded, Ok(Decoded::Values));
            if !known {
                self.noted[place] = Noted::Unknown;
                continue;
            }
            let v = if self.every > 1 {
                second(isa, e.second.map(single), g, v);
                &*v
            } else {
                &self.held[place][..n]
            };
            inverse(isa, [single(e.root), single(e.eps)], v, out);
        }
    }
}
