//! What a reference is made of: weights on iterates of the path.

/// Weights on the iterates of the analyzed run. They add up to 1, or there are none.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Weights {
    /// Not made of iterates of this run.
    None,
    /// The same weight on each of these steps, ascending.
    Equal(Vec<u64>),
    /// `(1 - beta) beta^(n - 1 - i) / (1 - beta^n)` on the i-th of these n steps, ascending.
    Ema {
        /// The steps.
        steps: Vec<u64>,
        /// The decay.
        beta: f64,
    },
}

impl Weights {
    /// The steps, ascending.
    pub(crate) fn steps(&self) -> &[u64] {
        match self {
            Weights::None => &[],
            Weights::Equal(steps) | Weights::Ema { steps, .. } => steps,
        }
    }

    /// Whether x_step is among them.
    pub(crate) fn has(&self, step: u64) -> bool {
        self.steps().binary_search(&step).is_ok()
    }

    /// The weight of x_step.
    pub(crate) fn at(&self, step: u64) -> f64 {
        let Ok(i) = self.steps().binary_search(&step) else {
            return 0.0;
        };
        let n = self.steps().len();
        match self {
            Weights::None => 0.0,
            Weights::Equal(_) => 1.0 / n as f64,
            Weights::Ema { beta, .. } => {
                let power = |e: usize| beta.powi(i32::try_from(e).unwrap_or(i32::MAX));
                (1.0 - beta) * power(n - 1 - i) / (1.0 - power(n))
            }
        }
    }

    /// The step after which nothing enters any more.
    pub(crate) fn last(&self) -> Option<u64> {
        self.steps().last().copied()
    }

    /// The single step, where there is one.
    pub(crate) fn single(&self) -> Option<u64> {
        self.last().filter(|_| self.steps().len() == 1)
    }

    /// The sum of the weights of the iterates of `range`.
    pub(crate) fn mass(&self, range: std::ops::Range<u64>) -> f64 {
        let steps = self.steps();
        let from = steps.partition_point(|&s| s < range.start);
        let to = steps.partition_point(|&s| s < range.end).max(from);
        match self {
            Weights::None => 0.0,
            Weights::Equal(_) => (to - from) as f64 / steps.len() as f64,
            Weights::Ema { .. } => steps[from..to].iter().map(|&s| self.at(s)).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_add_up_to_one() {
        let steps: Vec<u64> = (3..40).collect();
        for w in [Weights::Equal(steps.clone()), Weights::Ema { steps, beta: 0.9 }] {
            assert!((w.mass(0..100) - 1.0).abs() < 1e-14);
            assert!(w.at(2) == 0.0 && w.at(40) == 0.0 && w.at(39) > 0.0);
            assert!((w.mass(3..20) + w.mass(20..41) - 1.0).abs() < 1e-14);
        }
    }
}
