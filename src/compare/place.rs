//! Places: what steps of several paths are put together by.

use std::num::NonZeroU64;

use crate::compare::USUAL;
use crate::curve::Along;
use crate::error::Usage;
use crate::reading::Reading;
use crate::span::{Spans, Which};

/// Places of distances in which it doubles.
const A_DOUBLING: f64 = 4.0;

/// How steps are put to places, which are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Places {
    /// So many steps each, from step 0 on.
    Steps(NonZeroU64),
    /// An epoch.
    Epoch,
    /// So many parts of the path, as equal as whole steps can be.
    Parts(NonZeroU64),
    /// A quarter of a doubling of the distance to the reference.
    Distances,
}

impl Places {
    /// The places along something, of paths of which the longest has so many steps.
    pub(super) fn new(along: Along, window: Option<NonZeroU64>, longest: u64) -> Places {
        let usual = NonZeroU64::new(longest.div_ceil(USUAL.get())).unwrap_or(NonZeroU64::MIN);
        match along {
            Along::Step => Places::Steps(window.unwrap_or(usual)),
            Along::Epoch => Places::Epoch,
            Along::Fraction => Places::Parts(USUAL),
            Along::Dist => Places::Distances,
        }
    }

    /// The number of the place of a row; `None` where it has no place.
    ///
    /// # Errors
    /// Places are epochs, and the row has none.
    pub(super) fn of(self, row: &Reading, (first, last): (u64, u64)) -> Result<Option<i64>, Usage> {
        let number = |which: Which| match which {
            Which::Number(n) => i64::try_from(n).ok(),
            Which::Epoch(epoch) => whole(epoch),
        };
        let spans = match self {
            Places::Steps(n) => return Ok(number(Which::Number(row.step / n))),
            Places::Epoch if row.epoch.is_none() => {
                let what = format!("step {} has no epoch; put the runs together by --x step", row.step);
                return Err(Usage(what));
            }
            Places::Epoch => Spans::Epoch,
            Places::Parts(n) => Spans::Parts(n),
            Places::Distances => {
                let distance = row.d2.filter(|d2| *d2 > 0.0).map(|d2| d2.log2() / 2.0 * A_DOUBLING);
                return Ok(distance.and_then(|d| whole(d.floor())));
            }
        };
        Ok(number(spans.which(row.step, row.epoch, first, last - first + 1)?))
    }

    /// Where a place lies: its first step, its epoch, the part of the path before it, or its least distance.
    pub(super) fn x(self, number: i64) -> f64 {
        let number = number as f64;
        match self {
            Places::Steps(n) => number * n.get() as f64,
            Places::Epoch => number,
            Places::Parts(n) => number / n.get() as f64,
            Places::Distances => (number / A_DOUBLING).exp2(),
        }
    }

    /// What they lie along, as a column is called.
    pub(super) fn along(self) -> &'static str {
        match self {
            Places::Steps(_) => "step",
            Places::Epoch => "epoch",
            Places::Parts(_) => "fraction",
            Places::Distances => "dist",
        }
    }

    /// What one is, in words.
    pub(super) fn words(self) -> String {
        match self {
            Places::Steps(n) if n.get() == 1 => "by step".to_owned(),
            Places::Steps(n) => format!("by step, {n} at a place"),
            Places::Epoch => "by epoch".to_owned(),
            Places::Parts(n) => format!("by the part of the path, {n} places"),
            Places::Distances => "by the distance to the reference, four places a doubling".to_owned(),
        }
    }
}

/// A whole number, if it is one that can be counted with.
fn whole(number: f64) -> Option<i64> {
    const MOST: f64 = 9e15;
    // It has no fraction, and is far from the ends of what 64 bits hold.
    #[allow(clippy::cast_possible_truncation)]
    (number.abs() < MOST).then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64, d2: f64) -> Reading {
        Reading { step, d2: Some(d2), epoch: Some(step as f64 / 10.0), ..Reading::default() }
    }

    #[test]
    fn places_are_the_same_for_paths_of_any_length() {
        let steps = Places::new(Along::Step, None, 500);
        assert_eq!(steps, Places::Steps(NonZeroU64::new(10).unwrap()));
        assert_eq!(steps.of(&row(19, 1.0), (15, 90)).unwrap(), Some(1));
        let parts = Places::new(Along::Fraction, None, 500);
        assert_eq!(parts.of(&row(50, 1.0), (0, 99)).unwrap(), Some(25));
        assert_eq!(parts.of(&row(100, 1.0), (0, 199)).unwrap(), Some(25));
        assert!((parts.x(25) - 0.5).abs() < 1e-15);
        assert_eq!(Places::Epoch.of(&row(19, 1.0), (0, 99)).unwrap(), Some(1));
    }

    #[test]
    fn distances_lie_above_their_place() {
        for distance in [1e-9, 0.3, 1.0, 1.5, 2.0, 77.0, 1e9] {
            let number = Places::Distances.of(&row(0, distance * distance), (0, 9)).unwrap().unwrap();
            let (from, to) = (Places::Distances.x(number), Places::Distances.x(number + 1));
            assert!(from <= distance * (1.0 + 1e-15) && distance < to, "{distance}: {from}..{to}");
        }
        assert_eq!(Places::Distances.of(&row(0, 0.0), (0, 9)).unwrap(), None);
    }
}
