//! The steps of one chunk that are summed, and those before that they meet.

use std::collections::VecDeque;

/// The vectors of a step.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The iterate.
    pub x: Vec<f32>,
    /// The gradient; zeros where there is none.
    pub g: Vec<f32>,
}

/// Consecutive steps that are read, by place.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Place of the first one.
    first: usize,
    held: VecDeque<Held>,
}

impl History {
    /// Place of the first step that is held.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    /// The steps that are held, in their order.
    pub(super) fn held(&self) -> impl ExactSizeIterator<Item = &Held> {
        self.held.iter()
    }

    /// Takes the next step.
    pub(super) fn push(&mut self, step: Held) {
        self.held.push_back(step);
    }

    /// Lets the steps before a place go; their memory is `spare` then.
    pub(super) fn forget(&mut self, place: usize, spare: &mut Vec<Held>) {
        let count = place.saturating_sub(self.first).min(self.held.len());
        spare.extend(self.held.drain(..count));
        self.first = place;
    }
}
