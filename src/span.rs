//! Spans: steps that follow each other and are spoken of together.

use std::num::NonZeroU64;
use std::str::FromStr;

use crate::error::Usage;

/// Spans that there are about where nothing is said of them.
const USUAL: NonZeroU64 = NonZeroU64::new(50).unwrap();

/// How steps are cut into spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spans {
    /// So many parts of the path, as equal as whole steps can be.
    Parts(NonZeroU64),
    /// So many steps each.
    Steps(NonZeroU64),
    /// All steps of an epoch.
    Epoch,
}

impl Default for Spans {
    fn default() -> Spans {
        Spans::Parts(USUAL)
    }
}

impl FromStr for Spans {
    type Err = Usage;

    fn from_str(text: &str) -> Result<Spans, Usage> {
        let refused = || Usage(format!("'{text}' is no window; write a number of steps, or epoch"));
        if text == "epoch" {
            Ok(Spans::Epoch)
        } else {
            Ok(Spans::Steps(text.parse().map_err(|_| refused())?))
        }
    }
}

/// Which span a step lies in: of steps that follow each other, those with equal ones are in the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Which {
    Number(u64),
    Epoch(f64),
}

impl Spans {
    /// The span of a step of a path whose first step is `first` and which has `length` steps.
    ///
    /// # Errors
    /// The spans are epochs, and the step has none.
    pub(crate) fn which(
        self,
        step: u64,
        epoch: Option<f64>,
        first: u64,
        length: u64,
    ) -> Result<Which, Usage> {
        let offset = step.saturating_sub(first);
        match self {
            // A product of two counts of steps may be larger than 64 bits.
            Spans::Parts(n) => {
                let part = u128::from(offset) * u128::from(n.get()) / u128::from(length.max(1));
                Ok(Which::Number(u64::try_from(part).unwrap_or(u64::MAX)))
            }
            Spans::Steps(n) => Ok(Which::Number(offset / n)),
            Spans::Epoch => epoch.map(|e| Which::Epoch(e.floor())).ok_or_else(|| {
                Usage("not all steps have an epoch; take a number of steps: --window N".to_owned())
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(spans: Spans, steps: &[u64]) -> Vec<usize> {
        let (first, length) = (steps[0], steps[steps.len() - 1] + 1 - steps[0]);
        let which: Vec<Which> =
            steps.iter().map(|&t| spans.which(t, Some(t as f64 / 4.0), first, length).unwrap()).collect();
        which.chunk_by(|a, b| a == b).map(<[Which]>::len).collect()
    }

    #[test]
    fn steps_are_cut() {
        let of = |text: &str| text.parse::<Spans>().unwrap();
        assert_eq!(cut(of("2"), &[3, 4, 5, 9]), [2, 1, 1]);
        assert_eq!(cut(of("epoch"), &[3, 4, 5, 9]), [1, 2, 1]);
        assert_eq!(cut(Spans::Parts(NonZeroU64::new(3).unwrap()), &[5, 6, 7, 8, 9, 10, 11]), [3, 2, 2]);
        let all: Vec<u64> = (0..1000).collect();
        assert_eq!(cut(Spans::default(), &all), [20; 50]);
        assert_eq!(cut(Spans::default(), &all[..7]), [1; 7]);
    }

    #[test]
    fn what_is_no_span_is_refused() {
        assert!("0".parse::<Spans>().is_err() && "week".parse::<Spans>().is_err());
        assert!(Spans::Epoch.which(3, None, 0, 9).unwrap_err().0.contains("--window N"));
    }
}
