//! The second phase, forward: what the gradients before a step have left behind, for each walk.

use crate::analyze::Analysis;
use crate::analyze::derive::walk::Walked;
use crate::analyze::record::{Part, Record};
use crate::optimizer::linear::{Past, Update};

// The length of a walk needs the coefficient of every gradient in every d_t, T^2 numbers. For a linear
// optimizer three numbers a gradient obey a recursion, and six second moments of them are enough.
/// The pasts of all walks at a step.
pub(crate) struct Pasts {
    /// By walk, group and part.
    states: Vec<Vec<Vec<Past>>>,
    /// By walk: the last recorded step, and the norms there by group and part.
    lower: Vec<Option<(u64, Vec<Vec<f64>>)>>,
    /// By walk: whether the past matters at all.
    matters: Vec<bool>,
    /// By walk: steps have entered by interpolated norms.
    sampled: Vec<bool>,
    /// `||x_0||^2` by tensor; `None` where it is not recorded.
    start: Option<Vec<f64>>,
}

impl Pasts {
    /// Before the first step. `matters` says for which walks the past lies between x_t and r; `start` is
    /// `||x_0||^2` by tensor, where it is known.
    pub(crate) fn new(analysis: &Analysis<'_>, matters: Vec<bool>, start: Option<Vec<f64>>) -> Pasts {
        let of_group = |parts: &Vec<Part>| vec![Past::default(); parts.len()];
        let of_walk = || analysis.shape.parts.iter().map(of_group).collect();
        Pasts {
            states: matters.iter().map(|_| of_walk()).collect(),
            lower: vec![None; matters.len()],
            sampled: vec![false; matters.len()],
            matters,
            start,
        }
    }

    /// The state of a walk, by part of a group; `None` where the past does not matter.
    pub(crate) fn of(&self, walk: usize, group: usize) -> Option<&[Past]> {
        self.matters[walk].then(|| self.states[walk][group].as_slice())
    }

    /// Whether steps of the past have entered by interpolated norms.
    pub(crate) fn sampled(&self, walk: usize) -> bool {
        self.matters[walk] && self.sampled[walk]
    }

    /// Whether x_0 was recorded.
    pub(crate) fn knows_start(&self) -> bool {
        self.start.is_some()
    }

    /// Goes up to the step of `record`, through steps that were not recorded, with norms between
    /// those of the recorded steps around them.
    pub(crate) fn reach(&mut self, analysis: &Analysis<'_>, walked: &Walked, record: &Record<'_>) {
        let step = record.step();
        for w in 0..self.states.len() {
            let walk = &analysis.walks[w];
            if !self.matters[w] || !record.recorded(walk.direction) {
                continue;
            }
            let upper = analysis.norms(record, walk, |mover| walked.ahead(w).adjoint(mover));
            let (from, lower) = match self.lower[w].take() {
                Some((last, lower)) => (last + 1, lower),
                None => {
                    self.begin(analysis, w);
                    (analysis.catalog.steps.start, upper.clone())
                }
            };
            for s in from..step {
                self.sampled[w] = true;
                let share = (s + 1 - from) as f64 / (step + 1 - from) as f64;
                let between = |g: usize, p: usize| lower[g][p] + share * (upper[g][p] - lower[g][p]);
                self.after(analysis, w, s, &analysis.updates(s), between);
            }
            self.lower[w] = Some((step, upper));
        }
    }

    /// Before the first step there is only x_0.
    fn begin(&mut self, analysis: &Analysis<'_>, w: usize) {
        let weight = analysis.references[analysis.walks[w].reference].weights.at(0);
        for (g, parts) in analysis.shape.parts.iter().enumerate() {
            for (p, part) in parts.iter().enumerate() {
                let x2 = self.start.as_ref().map_or(0.0, |s| part.tensors.iter().map(|&t| s[t]).sum());
                self.states[w][g][p] = Past::start(x2, weight);
            }
        }
    }

    /// Takes in the recorded step itself.
    pub(crate) fn take_in(&mut self, analysis: &Analysis<'_>, record: &Record<'_>) {
        let updates = analysis.updates(record.step());
        for w in 0..self.states.len() {
            if let Some((step, norms)) = self.lower[w].clone()
                && step == record.step()
            {
                self.after(analysis, w, step, &updates, |g, p| norms[g][p]);
            }
        }
    }

    /// Update s, with norms by group and part.
    fn after(
        &mut self,
        analysis: &Analysis<'_>,
        w: usize,
        s: u64,
        updates: &[Update],
        norm: impl Fn(usize, usize) -> f64,
    ) {
        let walk = &analysis.walks[w];
        let weight = analysis.references[walk.reference].weights.at(s + 1);
        for (g, parts) in analysis.shape.parts.iter().enumerate() {
            for (p, part) in parts.iter().enumerate() {
                let state = &mut self.states[w][g][p];
                let update = walk.update(&updates[part.mover]);
                *state = state.after(&update, weight, norm(g, p).powi(2));
            }
        }
    }
}
