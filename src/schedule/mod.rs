//! A schedule of learning rates from a path: loLR, and what of it is beyond a walk, smoothed over windows of steps.
//!
//! Owns what is summed over each span of steps. Takes rows; how they are measured is not known here. `snippet` writes the
//! schedule as a program.

mod snippet;

use crate::error::{Result, Usage};
use crate::metrics::interval::Interval;
use crate::order::Neumaier;
use crate::row::{Row, Sink};
use crate::span::Spans;

pub(crate) use crate::schedule::snippet::snippet;

/// What is taken of a step.
#[derive(Clone, Copy, Debug)]
struct Taken {
    step: u64,
    epoch: Option<f64>,
    lr: Option<f64>,
    dot: f64,
    g2: f64,
    own: Option<f64>,
    /// Where loLR lies, if something was lost.
    lolr: Option<Interval>,
}

/// Takes the rows of one reference, stream and group.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    all: Vec<Taken>,
    reference: String,
}

impl Sink for Steps {
    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        let Row { step, scalars, sums, bias, .. } = row;
        if !sums.all_absent {
            let (epoch, lr) = (scalars.epoch, scalars.lr);
            if self.all.is_empty() {
                row.names.reference.clone_into(&mut self.reference);
            }
            let lolr = row.intervals.map(|i| i.lolr);
            self.all.push(Taken { step: *step, epoch, lr, dot: sums.dot, g2: sums.g2, own: bias.own, lolr });
        }
        Ok(())
    }
}

/// The schedule in a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rates {
    /// The first and the last step.
    pub steps: (u64, u64),
    /// Steps that were taken.
    pub count: u64,
    /// The epoch of the first one.
    pub epoch: Option<f64>,
    /// The mean of the learning rates that were used.
    pub lr: Option<f64>,
    /// `sum <g, x - r> / sum ||g||^2`: the one learning rate for all of these gradients, each at its own iterate, that
    /// comes closest to the reference.
    pub lolr: Option<f64>,
    /// Where it lies, if what was lost at each step is all to one side; `None` where nothing was.
    pub interval: Option<Interval>,
    /// `sum own / sum ||g||^2`: what it is of a walk that this optimizer makes of such gradients.
    pub walk: Option<f64>,
    /// The used learning rate times `lolr / walk`: that with which a walk would have this loLR.
    pub equivalent: Option<f64>,
}

impl Rates {
    /// What of loLR is beyond a walk.
    pub(crate) fn excess(&self) -> Option<f64> {
        Some(self.lolr? - self.walk?)
    }

    fn of(steps: &[Taken]) -> Option<Rates> {
        let (first, last) = (steps.first()?, steps.last()?);
        let sum = |of: &dyn Fn(&Taken) -> Option<f64>| {
            let mut sum = Neumaier::default();
            steps.iter().try_for_each(|step| of(step).map(|term| sum.add(term)))?;
            Some(sum.total())
        };
        let (dot, g2, own) = (sum(&|s| Some(s.dot)), sum(&|s| Some(s.g2)), sum(&|s| s.own));
        let ratio = |a: Option<f64>, b: Option<f64>| Some(a? / b?).filter(|r| r.is_finite());
        // Norms of gradients are known also where the gradients are not.
        let end = |of: fn(Interval) -> Option<f64>| {
            ratio(sum(&|s| Some(s.lolr.map_or(Some(s.dot / s.g2), of)? * s.g2).filter(|v| v.is_finite())), g2)
        };
        let is_estimate = steps.iter().any(|s| s.lolr.is_some());
        let lr = sum(&|s| s.lr).map(|sum| sum / steps.len() as f64);
        Some(Rates {
            steps: (first.step, last.step),
            count: steps.len() as u64,
            epoch: first.epoch,
            lr,
            lolr: ratio(dot, g2),
            interval: is_estimate.then(|| Interval { lo: end(|b| b.lo), hi: end(|b| b.hi) }),
            walk: ratio(own, g2),
            equivalent: ratio(dot, own).and_then(|r| Some(lr? * r)),
        })
    }
}

impl Steps {
    /// Name of the reference.
    pub(crate) fn reference(&self) -> &str {
        &self.reference
    }

    /// The schedule.
    ///
    /// # Errors
    /// There are no epochs to smooth over.
    pub(crate) fn rates(&self, spans: Spans) -> std::result::Result<Vec<Rates>, Usage> {
        let all = &self.all;
        let (first, last) = (all.first().map_or(0, |s| s.step), all.last().map_or(0, |s| s.step));
        let which = |s: &Taken| spans.which(s.step, s.epoch, first, last + 1 - first);
        all.iter().try_for_each(|s| which(s).map(drop))?;
        Ok(all.chunk_by(|a, b| which(a) == which(b)).filter_map(Rates::of).collect())
    }
}

/// What belongs to every schedule, in lines.
pub(crate) const WARNING: &str = "\
Against an iterate of its own path a random walk has just the schedule of its steps (lr_equivalent = lr), so a curve
like the one that was used is no evidence for it. Only lolr_excess is beyond a walk, and it holds for the steps that
followed here. Whether another schedule is better, a new training has to show.";

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;

    fn taken(step: u64, epoch: f64, lr: f64, dot: f64, own: Option<f64>) -> Taken {
        Taken { step, epoch: Some(epoch), lr: Some(lr), dot, g2: 4.0, own, lolr: None }
    }

    #[test]
    fn a_window_is_a_ratio_of_sums() {
        let all = vec![
            taken(3, 0.0, 0.5, 6.0, Some(2.0)),
            taken(4, 0.5, 0.5, 2.0, Some(2.0)),
            taken(5, 1.0, 0.25, -1.0, Some(1.0)),
            taken(9, 1.5, 0.75, 5.0, None),
        ];
        let steps = Steps { all, ..Steps::default() };
        let rates = steps.rates("2".parse().unwrap()).unwrap();
        let seen: Vec<_> = rates.iter().map(|r| (r.steps, r.lolr, r.walk, r.equivalent)).collect();
        assert_eq!(
            seen,
            [
                ((3, 4), Some(1.0), Some(0.5), Some(1.0)),
                ((5, 5), Some(-0.25), Some(0.25), Some(-0.25)),
                ((9, 9), Some(1.25), None, None),
            ]
        );
        assert_eq!(rates[0].excess(), Some(0.5));
        let rates = steps.rates(Spans::Epoch).unwrap();
        assert_eq!((rates.len(), rates[1].count, rates[1].lr, rates[1].lolr), (2, 2, Some(0.5), Some(0.5)));
        assert_eq!(steps.rates(Spans::default()).unwrap().len(), 4);
    }

    #[test]
    fn ends_are_those_of_all_steps_on_one_side() {
        let estimate = |t: Taken, lo, hi| Taken { lolr: Some(Interval { lo, hi }), ..t };
        let all = vec![
            estimate(taken(0, 0.0, 0.5, 6.0, None), Some(1.25), Some(2.0)),
            estimate(Taken { g2: 12.0, ..taken(1, 0.0, 0.5, 3.0, None) }, Some(-0.25), None),
            taken(2, 0.0, 0.5, 3.0, None),
        ];
        let steps = Steps { all, ..Steps::default() };
        let rates = steps.rates("2".parse().unwrap()).unwrap();
        // (1.25 x 4 - 0.25 x 12) / 16.
        assert_eq!(rates[0].interval, Some(Interval { lo: Some(0.125), hi: None }));
        assert_eq!(rates[1].interval, None);
    }

    #[test]
    fn without_epochs_there_are_no_windows_of_them() {
        let all = vec![Taken { epoch: None, ..taken(0, 0.0, 1.0, 1.0, None) }];
        let steps = Steps { all, ..Steps::default() };
        assert!(steps.rates(Spans::Epoch).unwrap_err().0.contains("--window N"));
        assert_eq!(Steps::default().rates(Spans::default()).unwrap(), []);
    }
}
