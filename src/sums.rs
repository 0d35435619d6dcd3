//! Sums of a group at one step: all that is measured. Metrics are derived from these.

use crate::reduce::order::Neumaier;
use crate::reduce::{ReferenceSums, VectorSums};

/// What one chunk contributes at one step.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChunkSums {
    /// Sums that need no reference.
    pub vector: VectorSums,
    /// Sums against the reference.
    pub reference: ReferenceSums,
    /// The gradient is absent here; its part of every sum is 0.
    pub absent: bool,
    /// x_{t+1} is not there, so `step2` and `dot_next` mean nothing.
    pub no_next: bool,
    /// x_0 is not there, so `init2` means nothing.
    pub no_init: bool,
    /// g_t or x_t is damaged, so nothing here means anything.
    pub damaged: bool,
}

/// The sums of a group of tensors at one step against one reference, folded in the fixed order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sums {
    /// `<g, d>` with d = x - r.
    pub dot: f64,
    /// `||g||^2`.
    pub g2: f64,
    /// `||d||^2`.
    pub d2: f64,
    /// `||x||^2`.
    pub x2: f64,
    /// `<g, x>`.
    pub gx: f64,
    /// `||x_t - x_{t+1}||^2`; `None` where x_{t+1} was not recorded.
    pub step2: Option<f64>,
    /// `||x_t - x_0||^2`; `None` where x_0 was not recorded.
    pub init2: Option<f64>,
    /// `<g_t, x_{t+1} - r>`; `None` where x_{t+1} was not recorded.
    pub dot_next: Option<f64>,
    /// The gradient of a tensor is absent.
    pub absent: bool,
    /// The gradient of every tensor is absent.
    pub all_absent: bool,
}

/// Folds terms of [`ChunkSums`] or [`Sums`], one compensated accumulator a sum.
#[derive(Default)]
pub struct Fold {
    sums: [Neumaier; 8],
    terms: usize,
    absent: usize,
    no_next: bool,
    no_init: bool,
}

impl Fold {
    /// Adds the next chunk of a tensor.
    pub fn chunk(&mut self, c: &ChunkSums) {
        let (v, r) = (&c.vector, &c.reference);
        self.add([r.dot, v.g2, r.d2, v.x2, v.gx, v.step2, v.init2, r.dot_next]);
        self.absent += usize::from(c.absent);
        self.no_next |= c.no_next;
        self.no_init |= c.no_init;
    }

    /// Adds the next tensor of a group.
    pub fn tensor(&mut self, s: &Sums) {
        let or_zero = |v: Option<f64>| v.unwrap_or(0.0);
        let (step2, init2) = (or_zero(s.step2), or_zero(s.init2));
        self.add([s.dot, s.g2, s.d2, s.x2, s.gx, step2, init2, or_zero(s.dot_next)]);
        self.absent += usize::from(s.absent);
        self.no_next |= s.step2.is_none();
        self.no_init |= s.init2.is_none();
    }

    fn add(&mut self, terms: [f64; 8]) {
        for (sum, term) in self.sums.iter_mut().zip(terms) {
            sum.add(term);
        }
        self.terms += 1;
    }

    /// The sums.
    pub fn total(&self) -> Sums {
        let [dot, g2, d2, x2, gx, step2, init2, dot_next] = self.sums.map(Neumaier::total);
        let next = !self.no_next;
        Sums {
            dot,
            g2,
            d2,
            x2,
            gx,
            step2: next.then_some(step2),
            init2: (!self.no_init).then_some(init2),
            dot_next: next.then_some(dot_next),
            absent: self.absent > 0,
            all_absent: self.terms > 0 && self.absent == self.terms,
        }
    }
}
