//! The sums of some steps of one chunk against all references.
//!
//! Owns how a sum of differences is had from products: against a centre among the iterates at hand, so that what
//! cancels is as small as the path between them. Where a pair is nearer than that allows it is summed by itself.

use crate::isa::Isa;
use crate::order::CHUNK;
use crate::reduce::Direction;
use crate::reduce::cpu::{Vectors, reference_sums, step_sums};
use crate::reduce::products::{Columns, Left, Products};

/// Steps that are held at a time. With the steps that are asked for it says which centre each has, so it is a part of
/// the order of sums.
// As far as keyframes usually lie apart, so that a window that begins with a panel begins with one.
pub(super) const STEPS: usize = 128;

// A distance of which less than this part is left after cancelling has lost six bits of what the products have.
/// Pairs are summed by themselves where their squared distance is less than this part of the squares that it is made
/// of.
const NEAR: f64 = 1.0 / 64.0;

/// The sums of a step over one chunk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StepSums {
    /// `||g_t||^2`; `None` where no gradient was recorded.
    pub g2: Option<f64>,
    /// `||x_t - x_{t-1}||^2`, where x_{t-1} is at hand.
    pub moved: Option<f64>,
}

/// The sums of consecutive steps over one chunk.
#[derive(Debug, Default)]
pub(super) struct PanelSums {
    /// By step.
    pub steps: Vec<StepSums>,
    /// `<g_t, x_t - x_k>` by step, then reference; zero where there is no gradient.
    pub dot: Vec<f64>,
    /// `||x_t - x_k||^2`.
    pub d2: Vec<f64>,
}

/// A step that is held.
#[derive(Debug)]
struct Held {
    step: u64,
    has_gradient: bool,
    /// Whether the step before is the one held before.
    follows: bool,
}

/// Steps of one chunk.
#[derive(Debug)]
pub(super) struct Panel {
    isa: Isa,
    /// Elements of the chunk.
    n: usize,
    held: Vec<Held>,
    iterates: Vec<f32>,
    gradients: Vec<f32>,
    /// x_t of the last step before those held.
    before: Option<u64>,
    last: Vec<f32>,
    near: Vec<f32>,
    products: Products,
}

impl Panel {
    /// For any chunk.
    pub(super) fn new(isa: Isa) -> Panel {
        let steps = || vec![0.0; STEPS * CHUNK];
        let one = || vec![0.0; CHUNK];
        let (iterates, gradients, last, near) = (steps(), steps(), one(), one());
        let (held, products) = (Vec::new(), Products::default());
        Panel { isa, n: 0, held, iterates, gradients, before: None, last, near, products }
    }

    /// Begins with a chunk of `n` elements. Its iterate before the first step goes where this returns, if it is
    /// `before` any.
    pub(super) fn begin(&mut self, n: usize, before: Option<u64>) -> &mut [f32] {
        self.held.clear();
        (self.n, self.before) = (n, before);
        &mut self.last[..n]
    }

    /// Takes the iterate of the next step.
    pub(super) fn push(&mut self, step: u64, x: &[f32]) {
        let place = self.held.len();
        let before = self.held.last().map(|h| h.step).or(self.before);
        self.iterates[place * self.n..][..self.n].copy_from_slice(x);
        self.held.push(Held { step, has_gradient: false, follows: before.is_some_and(|b| b + 1 == step) });
    }

    /// Where the gradient of the newest step goes; what is said of it by [`Self::has_gradient`].
    pub(super) fn gradient(&mut self) -> &mut [f32] {
        let place = self.held.len().saturating_sub(1);
        &mut self.gradients[place * self.n..][..self.n]
    }

    /// The gradient of the newest step is there.
    pub(super) fn has_gradient(&mut self) {
        self.held.last_mut().into_iter().for_each(|held| held.has_gradient = true);
    }

    /// Whether no other step can be taken.
    pub(super) fn is_full(&self) -> bool {
        self.held.len() == STEPS
    }

    /// Sums what is held against the iterates of `references` in `columns`, adds that to `out`, and lets it go.
    pub(super) fn flush(&mut self, references: &[u64], columns: &Columns, out: &mut PanelSums) {
        let (n, isa, count) = (self.n, self.isa, self.held.len());
        if count == 0 {
            return;
        }
        let x = |place: usize| &self.iterates[place * n..][..n];
        let g = |place: usize| &self.gradients[place * n..][..n];
        let centre = x(count / 2);
        let iterates = (0..count).map(|t| Left::Centred(x(t)));
        let graded = (0..count).filter(|&t| self.held[t].has_gradient);
        let left: Vec<Left<'_>> = iterates.chain(graded.map(|t| Left::Plain(g(t)))).collect();
        self.products.take(isa, &left, columns, centre);
        let mut products = self.products.products.chunks_exact(references.len());
        let of_iterates: Vec<&[f64]> = products.by_ref().take(count).collect();
        for (t, held) in self.held.iter().enumerate() {
            let x = x(t);
            let before = if t == 0 { &self.last[..n] } else { &self.iterates[(t - 1) * n..][..n] };
            let g = if held.has_gradient { g(t) } else { x };
            let v = Vectors { g, x, next: before, init: x };
            let (of_iterate, of_direction, to_centre) = step_sums(isa, &v, centre);
            let moved = held.follows.then_some(of_iterate.step2);
            let g2 = held.has_gradient.then_some(of_direction.g2);
            let of_gradient = if held.has_gradient { products.next() } else { None };
            for (k, &reference) in references.iter().enumerate() {
                let square = self.products.squares[k];
                let d2 = to_centre.d2 - 2.0 * of_iterates[t][k] + square;
                // Also where it is no number.
                let is_near = d2.is_nan() || d2 < NEAR * (to_centre.d2 + square);
                let (dot, d2) = if is_near {
                    let place = self.held.binary_search_by_key(&reference, |h| h.step);
                    let r = match place {
                        Ok(place) => &self.iterates[place * n..][..n],
                        Err(_) => {
                            columns.get(k, &mut self.near[..n]);
                            &self.near[..n]
                        }
                    };
                    let sums = reference_sums(isa, Direction::Stored, &v, r);
                    (sums.dot, sums.d2)
                } else {
                    (to_centre.dot - of_gradient.map_or(0.0, |p| p[k]), d2)
                };
                out.dot.push(if held.has_gradient { dot } else { 0.0 });
                out.d2.push(d2);
            }
            out.steps.push(StepSums { g2, moved });
        }
        self.before = self.held.last().map(|h| h.step);
        self.last[..n].copy_from_slice(&self.iterates[(count - 1) * n..][..n]);
        self.held.clear();
    }
}
