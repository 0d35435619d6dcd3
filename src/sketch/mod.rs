//! Linear sketches: a few thousand numbers in the place of a vector, from which inner products follow.
//!
//! Owns which dimensions stand for which tensor ([`layout`]), what an element adds to which of them ([`span`]),
//! and what two sketches tell of the vectors, with intervals ([`estimate`]). Everything here but the sums of
//! estimates is a part of the format: numbers that were sketched otherwise have nothing to do with each other.
//! Files, ranks, threads and steps are not known here.
//!
//! A sketch is a linear map, drawn once for all vectors of a layout: sketches of sums are sums of sketches,
//! and those of the slices of a vector add up to that of the whole.

pub(crate) mod estimate;
pub(crate) mod layout;
pub(crate) mod span;

pub use estimate::{Confidence, Estimate, Estimates, Part};
pub use layout::{Layout, SEED};
pub use span::{Partial, Span};

/// The sketch of one vector, or of what was added of it so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Sketch(Vec<f64>);

impl Sketch {
    /// Of the vector 0.
    pub fn zero(layout: &Layout) -> Sketch {
        Sketch(vec![0.0; layout.dimensions()])
    }

    /// Adds what one span's elements amount to. The sums are rounded, so their order is a part of the result:
    /// spans of a slice are added as [`Layout::spans`] has them.
    pub fn add(&mut self, layout: &Layout, partial: &Partial) {
        partial.add_to(&mut self.0[layout.range(partial.tensor())]);
    }

    /// Adds another sketch of the same layout. Those of ranks are added in the order of the ranks.
    pub fn merge(&mut self, other: &Sketch) {
        for (sum, term) in self.0.iter_mut().zip(&other.0) {
            *sum += term;
        }
    }

    /// What is stored of it: its dimensions in binary32.
    pub fn stored(&self) -> impl Iterator<Item = f32> {
        self.0.iter().map(|&v| crate::dtype::single(v))
    }

    /// From what was stored. `None` where it is not as long as the layout has it.
    pub fn from_stored(layout: &Layout, stored: &[f32]) -> Option<Sketch> {
        (stored.len() == layout.dimensions()).then(|| Sketch(stored.iter().map(|&v| f64::from(v)).collect()))
    }

    /// The dimensions of one tensor.
    pub fn tensor(&self, layout: &Layout, tensor: usize) -> &[f64] {
        &self.0[layout.range(tensor)]
    }
}

#[cfg(test)]
mod tests;
