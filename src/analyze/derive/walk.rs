//! How streams enter references, and the second phase, backward: the response of each reference to
//! each gradient, and the squared length of the walk that is still to come.

use std::path::Path;

use crate::analyze::record::Record;
use crate::analyze::spool::Spool;
use crate::analyze::{Analysis, Measured, Options};
use crate::error::Result;
use crate::optimizer::Law;
use crate::optimizer::linear::{Adjoint, Update};
use crate::reference::Reference;
use crate::reference::weights::Weights;
use crate::stream::{Form, Part};

/// How a stream enters a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enters {
    /// Not at all: the reference is not made of this path.
    Not,
    /// As the optimizer's response says, by the walk of this number.
    Known(usize),
    /// As it enters the references of shadows.
    Shadowed,
    /// In an unknown way, so it is compared with a later iterate.
    Unknown,
}

/// A reference met by a direction that its path is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    pub(crate) reference: usize,
    pub(crate) direction: usize,
    /// The direction has its weight decay already.
    decayed: bool,
}

impl Walk {
    /// An update as the walk sees it.
    pub(crate) fn update(&self, u: &Update) -> Update {
        Update { weight_decay: if self.decayed { 0.0 } else { u.weight_decay }, ..*u }
    }
}

/// How each stream enters each reference, and the walks to take for it. `law` is the optimizer's; `decays` says
/// whether it adds weight decay to the gradient.
pub(crate) fn entering(
    references: &[Reference],
    options: &Options,
    law: &Law,
    decays: bool,
) -> (Vec<Vec<Enters>>, Vec<Walk>) {
    let knows = |part: Part| match (part, law) {
        (Part::None, _) | (_, Law::Unknown(_)) => false,
        (Part::Gradient, _) | (Part::DecayedGradient, Law::Linear) => true,
        // Element by element it is known of what the optimizer receives.
        (Part::DecayedGradient, Law::Elementwise) => !decays,
    };
    let mut walks = Vec::new();
    let mut all = Vec::new();
    for (reference, r) in references.iter().enumerate() {
        let mut line = Vec::new();
        for stream in &options.streams {
            let direction = stream.direction;
            let decayed = options.directions[direction].form == Form::Decayed;
            let walk = Walk { reference, direction, decayed };
            line.push(if r.weights == Weights::None {
                Enters::Not
            } else if !knows(stream.part) {
                Enters::Unknown
            } else {
                let known = walks.iter().position(|w| *w == walk);
                Enters::Known(known.unwrap_or_else(|| {
                    walks.push(walk);
                    walks.len() - 1
                }))
            });
        }
        all.push(line);
    }
    (all, walks)
}

/// What the backward pass found, by measured step.
pub(crate) struct Walked {
    /// By walk: whether the past lies between x_t and the reference too, by momentum, weight decay,
    /// or because the reference is an average.
    pub(crate) past: Vec<bool>,
    /// By walk: whether weight decay shrinks what was there before.
    pub(crate) decays: Vec<bool>,
    /// By walk: whether a parameter moves without a gradient, by momentum or weight decay.
    pub(crate) moves: Vec<bool>,
    spool: Spool,
    movers: usize,
    groups: usize,
    words: Vec<u64>,
}

/// What the backward pass found for one walk at one step.
pub(crate) struct Ahead<'a> {
    words: &'a [u64],
    movers: usize,
}

impl Ahead<'_> {
    /// The adjoint of a mover; where optimizers divide by the root of a second moment, that for a root of 1.
    pub(crate) fn adjoint(&self, mover: usize) -> Adjoint {
        let real = |i: usize| f64::from_bits(self.words[3 * mover + i]);
        Adjoint { h: real(0), a: real(1), c: real(2) }
    }

    /// Squared length of the walk from here on, for a group; NaN where it is not known.
    pub(crate) fn distance2(&self, group: usize) -> f64 {
        f64::from_bits(self.words[3 * self.movers + 1 + group])
    }

    /// Steps from here on enter by interpolated norms.
    pub(crate) fn sampled(&self) -> bool {
        self.words[3 * self.movers] == 1
    }
}

/// Moments of h over steps without recorded vectors: sums of h^2, h^2 u and h^2 u^2, with u steps
/// up to the next recorded one. With them norms that lie on a line need not be summed one by one.
#[derive(Clone, Copy, Debug, Default)]
struct Between {
    moments: [f64; 3],
    steps: u64,
}

impl Between {
    fn add(&mut self, h: f64, u: u64) {
        let u = u as f64;
        let h2 = h * h;
        self.moments[0] += h2;
        self.moments[1] += h2 * u;
        self.moments[2] += h2 * u * u;
        self.steps += 1;
    }

    /// The sum of h^2 norm^2 with norms on the line from `upper` (u = 0) to `lower` (u = length).
    fn sum(&self, upper: f64, lower: f64, length: u64) -> f64 {
        let slope = (lower - upper) / length as f64;
        let [m0, m1, m2] = self.moments;
        upper * upper * m0 + 2.0 * upper * slope * m1 + slope * slope * m2
    }
}

/// The backward state of one walk.
#[derive(Debug)]
struct State {
    adjoints: Vec<Adjoint>,
    /// By group.
    ahead: Vec<f64>,
    /// By mover.
    between: Vec<Between>,
    /// The next recorded step, and the norms there by group and part.
    upper: Option<(u64, Vec<Vec<f64>>)>,
    /// The largest distance of recorded steps.
    largest_gap: u64,
    sampled: bool,
    decays: bool,
    moves: bool,
}

impl Analysis<'_> {
    /// The updates of step t by mover.
    pub(crate) fn updates(&self, step: u64) -> Vec<Update> {
        let update = |m| self.movers.update(&self.hyperparameters, m, step).unwrap_or_default();
        (0..self.movers.len()).map(update).collect()
    }

    /// Norms by group and part of the direction that a walk is made of. Element by element, where the adjoint is
    /// for a root of 1: of the direction divided by the roots, as the reference answers to it.
    pub(crate) fn norms(
        &self,
        record: &Record<'_>,
        walk: &Walk,
        adjoint: impl Fn(usize) -> Adjoint,
    ) -> Vec<Vec<f64>> {
        let norm = |group: usize, part: &crate::analyze::record::Part| match self.law {
            Law::Elementwise => {
                let put = record.own2(group, part, walk.reference).sqrt();
                if put == 0.0 { 0.0 } else { put / adjoint(part.mover).h.abs() }
            }
            Law::Linear | Law::Unknown(_) => record.g2(group, part, walk.direction).sqrt(),
        };
        let of_group = |(g, parts): (usize, &Vec<_>)| parts.iter().map(|p| norm(g, p)).collect();
        record.shape.parts.iter().enumerate().map(of_group).collect()
    }

    /// Walks from the references back to the first measured step.
    pub(crate) fn walk_back(&self, measured: &mut Measured, scratch: &Path) -> Result<Walked> {
        let (movers, groups) = (self.movers.len(), self.options.groups.len());
        let state = |walk: &Walk| State {
            adjoints: vec![Adjoint::default(); movers],
            ahead: vec![0.0; groups],
            between: vec![Between::default(); movers],
            upper: None,
            largest_gap: largest_gap(measured, walk.direction),
            sampled: false,
            decays: false,
            moves: false,
        };
        let mut states: Vec<State> = self.walks.iter().map(state).collect();
        let mut spool = Spool::new(self.walks.len() * (3 * movers + 1 + groups), scratch);
        let last = |w: &Walk| self.references[w.reference].weights.last();
        let mut at = self.walks.iter().filter_map(last).max().unwrap_or(0);
        let (mut words, mut out) = (Vec::new(), Vec::new());
        let steps = if self.walks.is_empty() { 0 } else { measured.steps.len() };
        for i in (0..steps).rev() {
            measured.spool.read(i, &mut words)?;
            let record = Record { shape: &self.shape, words: &words };
            let step = record.step();
            // `at` is the step whose state is known; go down to this one.
            for t in (step..at).rev() {
                self.back_one(t, &record, &mut states);
            }
            at = step.min(at);
            out.clear();
            for state in &states {
                out.extend(state.adjoints.iter().flat_map(|a| [a.h, a.a, a.c].map(f64::to_bits)));
                out.push(u64::from(state.sampled));
                out.extend(state.ahead.iter().map(|v| v.to_bits()));
            }
            spool.push(&out)?;
        }
        let average = |w: &Walk| self.references[w.reference].weights.single().is_none();
        let past = self.walks.iter().zip(&states).map(|(w, s)| s.moves || average(w)).collect();
        let decays = states.iter().map(|s| s.decays).collect();
        let moves = states.iter().map(|s| s.moves).collect();
        Ok(Walked { past, decays, moves, spool, movers, groups, words: Vec::new() })
    }

    /// One step back, to step t; `record` is the highest recorded one that is not above t.
    fn back_one(&self, t: u64, record: &Record<'_>, states: &mut [State]) {
        let updates = self.updates(t);
        for (walk, state) in self.walks.iter().zip(states) {
            let weights = &self.references[walk.reference].weights;
            let Some(last) = weights.last().filter(|&last| t < last) else { continue };
            let weight = weights.at(t + 1);
            for (adjoint, update) in state.adjoints.iter_mut().zip(&updates) {
                let update = walk.update(update);
                *adjoint = adjoint.before(&update, weight);
                if update != Update::NOTHING {
                    state.decays |= update.decays();
                    state.moves |= update.remembers();
                }
            }
            if t == record.step() && record.recorded(walk.direction) {
                let norms = self.norms(record, walk, |m| state.adjoints[m]);
                state.arrive(t, norms, record);
            } else {
                let upper = state.upper.as_ref().map_or(last, |(step, _)| *step);
                for (between, adjoint) in state.between.iter_mut().zip(&state.adjoints) {
                    between.add(adjoint.h, upper - t);
                }
                state.sampled = true;
            }
        }
    }
}

/// The largest distance between measured steps at which a direction was recorded.
fn largest_gap(measured: &Measured, direction: usize) -> u64 {
    let all = measured.steps.iter().zip(&measured.recorded);
    let steps: Vec<u64> = all.filter(|(_, r)| **r >> direction & 1 == 1).map(|(s, _)| *s).collect();
    steps.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(1)
}

impl State {
    /// Takes in a recorded step, and the steps between it and the recorded one above.
    fn arrive(&mut self, t: u64, norms: Vec<Vec<f64>>, record: &Record<'_>) {
        let between = self.between.first().map_or(0, |b| b.steps);
        for (g, parts) in record.shape.parts.iter().enumerate() {
            for (p, part) in parts.iter().enumerate() {
                let (here, mover) = (norms[g][p], part.mover);
                if between > 0 {
                    let (upper, length) = match &self.upper {
                        Some((step, above)) => (above[g][p], step - t),
                        // Little is missing up to the reference: the norm stays.
                        None if between < self.largest_gap => (here, 1),
                        None => (f64::NAN, 1),
                    };
                    self.ahead[g] += self.between[mover].sum(upper, here, length);
                }
                self.ahead[g] += (self.adjoints[mover].h * here).powi(2);
            }
        }
        self.between.fill(Between::default());
        self.upper = Some((t, norms));
    }
}

impl Walked {
    /// Reads what was found at the measured step `index` of `count`.
    ///
    /// # Errors
    /// The scratch file cannot be read.
    pub(crate) fn read(&mut self, index: usize, count: usize) -> Result<()> {
        if self.past.is_empty() { Ok(()) } else { self.spool.read(count - 1 - index, &mut self.words) }
    }

    /// What was found for a walk at the step that was read.
    pub(crate) fn ahead(&self, walk: usize) -> Ahead<'_> {
        let size = 3 * self.movers + 1 + self.groups;
        Ahead { words: &self.words[walk * size..(walk + 1) * size], movers: self.movers }
    }
}
