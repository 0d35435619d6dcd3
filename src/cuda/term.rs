//! The vectors of a batch by their places: what is summed, and what an iterate is predicted from.

use crate::cuda::plan::Place;
use crate::reduce::Direction;

/// A direction at a step, by the places of its vectors in the batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term {
    /// How it is had from what is stored.
    pub direction: Direction,
    /// The stored direction.
    pub g: Place,
    /// x_t.
    pub x: Place,
    /// x_{t+1}.
    pub next: Place,
    /// The later iterate; any other where there is none, and its sum is of no use.
    pub later: Place,
}

/// What an iterate is predicted from, by places of the batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs {
    /// The iterate before it.
    pub x: Place,
    /// The one before that.
    pub before: Place,
    /// The gradient.
    pub g: Place,
    /// The optimizer's moments.
    pub moments: [Place; 2],
}
