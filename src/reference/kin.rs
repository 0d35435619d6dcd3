//! How near a file lies to the path that it is to be a reference for.
//!
//! A file says nothing of where it comes from. If it is made of the path's iterates it holds the gradients that it is
//! compared with. `docs/metrics.md` (Files) has the rules and what they cannot tell.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::dtype::DType;

/// What lies between two recorded iterates has squared distances to them that add up to at most that of the two; so
/// many times that is still called so.
const DETOUR: f64 = 1.1;
/// With fewer recorded iterates there is no path to lie on.
pub(super) const PATH: usize = 3;
/// How near a file lies to a path, where it lies nearer than what is not made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kin {
    /// No further from an iterate than the file's type rounds.
    Rounding {
        /// The step of the iterate.
        nearest: u64,
        /// The type.
        dtype: DType,
    },
    /// Between two recorded iterates that follow each other, as far as distances tell.
    Between {
        /// The step of the first.
        before: u64,
        /// The step of the second.
        after: u64,
    },
    /// A mixture of iterates is much nearer than each of them.
    Mixture {
        /// The step of the nearest.
        nearest: u64,
    },
}

impl Kin {
    /// The step of an iterate next to it.
    pub(crate) fn nearest(self) -> u64 {
        match self {
            Kin::Rounding { nearest, .. } | Kin::Mixture { nearest } => nearest,
            Kin::Between { before, .. } => before,
        }
    }
}

impl fmt::Display for Kin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kin::Rounding { nearest, dtype } => {
                write!(f, "is no further from x_{nearest} of this run than {dtype} rounds")
            }
            Kin::Between { before, after } => {
                write!(
                    f,
                    "lies within a step or so of this path, between the recorded x_{before} and x_{after}"
                )
            }
            Kin::Mixture { nearest } => {
                write!(f, "is a weighted mean of iterates of this run, or nearly so: nearest x_{nearest}")
            }
        }
    }
}

/// Squared distances from the iterates of a path, one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Distances {
    nearest: Option<(u64, f64)>,
    last: Option<(u64, f64)>,
    count: usize,
    /// Two iterates that follow each other, and by how much the way over the file is longer than allowed.
    between: Option<(f64, u64, u64)>,
}

impl Distances {
    /// Adds the next iterate: its squared distance from the file, and from the iterate before.
    pub(crate) fn add(&mut self, step: u64, d2: f64, moved2: Option<f64>) {
        if !d2.is_finite() {
            return;
        }
        if self.nearest.is_none_or(|(_, least)| d2 < least) {
            self.nearest = Some((step, d2));
        }
        if let (Some((before, other)), Some(moved2)) = (self.last, moved2.filter(|m| *m > 0.0)) {
            let longer = d2 + other - DETOUR * moved2;
            if self.between.is_none_or(|(least, ..)| longer < least) {
                self.between = Some((longer, before, step));
            }
        }
        self.last = Some((step, d2));
        self.count += 1;
    }

    /// How near the path comes, for a file whose type rounds it by `rounding2` (squared).
    pub(crate) fn kin(&self, dtype: DType, rounding2: f64) -> Option<Kin> {
        let (nearest, least) = self.nearest?;
        if least <= rounding2 {
            return Some(Kin::Rounding { nearest, dtype });
        }
        // Rounding adds to both distances.
        let (longer, before, after) = self.between.filter(|_| self.count >= PATH)?;
        (longer <= 2.0 * rounding2).then_some(Kin::Between { before, after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The distances of a file at `at` from a path along a line, at 0, 1, 2, ... 9.
    fn along(at: f64, beside: f64) -> Distances {
        let mut distances = Distances::default();
        for step in 0..10u32 {
            let d2 = (f64::from(step) - at).powi(2) + beside * beside;
            distances.add(u64::from(step), d2, (step > 0).then_some(1.0));
        }
        distances
    }

    #[test]
    fn within_a_step_is_near_and_beside_the_path_is_not() {
        assert_eq!(along(4.3, 0.2).kin(DType::F32, 0.0), Some(Kin::Between { before: 4, after: 5 }));
        assert_eq!(along(4.3, 1.0).kin(DType::F32, 0.75), Some(Kin::Between { before: 4, after: 5 }));
        assert_eq!(along(4.3, 2.0).kin(DType::F32, 0.0), None);
        assert_eq!(along(12.0, 0.0).kin(DType::F32, 0.0), None);
        let dtype = DType::BF16;
        assert_eq!(along(4.0, 0.4).kin(dtype, 0.25), Some(Kin::Rounding { nearest: 4, dtype }));
        assert_eq!(Distances::default().kin(DType::F32, 1.0), None);
    }
}
