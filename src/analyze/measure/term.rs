//! One direction at one step of one piece: what is summed.

use std::ops::Range;

use crate::isa::Isa;
use crate::reduce::Direction;
use crate::reduce::cpu::{
    Vectors, direction_sums, iterate_sums, lagged_sum, reference_sums, step_sums, three_reference_sums,
};
use crate::run::format::vector_id::StreamId;
use crate::sums::{Part, SumRowMut};

/// Where the stored vector of a direction is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Supply {
    /// It was read from a stream.
    Read(StreamId),
    /// The next iterate was predicted from it, so it was at hand.
    AtHand(StreamId),
    /// The direction is made of iterates.
    Iterates,
    /// It was not recorded. Zeros stand for it.
    Absent,
}

/// A direction at a step, and what is recorded around it.
pub(crate) struct Term<'a> {
    /// Its number among those that are measured.
    pub(crate) number: usize,
    pub(crate) step: u64,
    pub(crate) direction: Direction,
    pub(crate) supply: Supply,
    /// Where there is no x_{t+1} or x_0, x_t stands for it.
    pub(crate) vectors: Vectors<'a>,
    /// Whether x_{t+1} is recorded.
    pub(crate) has_next: bool,
    /// The later iterate that the direction meets, and its step, where it is recorded.
    pub(crate) later: Option<(u64, &'a [f32])>,
}

impl Supply {
    /// The stream, where there are values of one.
    pub(crate) fn stream(self) -> Option<StreamId> {
        match self {
            Supply::Read(stream) | Supply::AtHand(stream) => Some(stream),
            Supply::Iterates | Supply::Absent => None,
        }
    }
}

impl Term<'_> {
    /// Puts all sums into their row; with the first direction also those of the iterates alone. The piece lies at
    /// `at` in `references`.
    pub(crate) fn sum(&self, isa: Isa, references: &[Vec<f32>], at: Range<usize>, row: &mut SumRowMut<'_>) {
        let (d, direction, v) = (self.number, self.direction, &self.vectors);
        let own = |k: usize| &references[k][at.clone()];
        let mut rest = 0;
        if d == 0 && direction == Direction::Stored && !references.is_empty() {
            // The main job, in one pass.
            let (iterates, along, first) = step_sums(isa, v, own(0));
            row.put(Part::Iterates(iterates));
            row.put(Part::Along(d, along));
            row.put(Part::Against(d, 0, first));
            rest = 1;
        } else {
            if d == 0 {
                row.put(Part::Iterates(iterate_sums(isa, v)));
            }
            row.put(Part::Along(d, direction_sums(isa, direction, v)));
        }
        while rest + 3 <= references.len() {
            let three = [rest, rest + 1, rest + 2];
            let sums = three_reference_sums(isa, direction, v, three.map(own));
            three.into_iter().zip(sums).for_each(|(k, sums)| row.put(Part::Against(d, k, sums)));
            rest += 3;
        }
        for k in rest..references.len() {
            row.put(Part::Against(d, k, reference_sums(isa, direction, v, own(k))));
        }
        if let Some((_, later)) = self.later {
            for k in 0..references.len() {
                row.put(Part::Lagged(d, k, lagged_sum(isa, direction, v, later, own(k))));
            }
        }
    }
}
