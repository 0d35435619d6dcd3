//! What of a cosine is agreement, and what only the reference's being made of these gradients.
//!
//! A path of random, mutually orthogonal steps has a positive cosine with its own end. Here that
//! part is computed and taken off; `docs/metrics.md` has the derivations.

use crate::metrics::entry::Entry;
use crate::metrics::interval::{Interval, OUTWARD};
use crate::metrics::ratio;
use crate::sums::Sums;

/// The larger of two numbers; a NaN where there is one.
fn nan_or_larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// Fewest steps of a window whose `t_excess` is given.
pub(crate) const MIN_WINDOW: u64 = 10;

/// The bias kit of one row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bias {
    /// `sum over tensors of h ||g||^2`: what g_t itself put between x_t and r.
    pub own: Option<f64>,
    /// `own / (||g|| ||d||)`.
    pub cos_own: Option<f64>,
    /// `cos - cos_own`, the agreement with the other gradients; or, lagged,
    /// `<g_t, c x_{t+lag} - r> / (||g|| ||d||)`.
    pub cos_excess: Option<f64>,
    /// `(dot - own) / ||d||^2`; or, lagged, `<g_t, c x_{t+lag} - r> / ||d||^2`.
    pub rsi_excess: Option<f64>,
    /// `dot / own`: 1 where there is nothing beyond a random walk.
    pub lolr_ratio: Option<f64>,
    /// The cosine if all gradients were orthogonal to each other and to x_0.
    pub cos_walk: Option<f64>,
    /// `cos_excess sqrt(parameters)`, a standard normal variable for isotropic noise.
    pub z: Option<f64>,
    /// The excess is the lagged one.
    pub lagged: bool,
    /// What the reference holds of its own gradients is not modelled.
    pub unmodelled: bool,
}

/// How far a cosine of sums may lie beyond 1 by rounding.
const COSINE_ERROR: f64 = 1e-12;

impl Bias {
    /// `cos_excess` is no cosine: what later gradients took back of the path is longer than its distance.
    pub fn beyond(&self) -> bool {
        self.cos_excess.is_some_and(|c| c.abs() > 1.0 + COSINE_ERROR)
    }
}

/// The bias kit of a row of `parameters` parameters.
pub(crate) fn bias(s: &Sums, parameters: u64, entry: Entry) -> Bias {
    let lagged = entry == Entry::Lagged;
    if s.all_absent {
        return Bias { lagged, ..Bias::default() };
    }
    let norms = (s.g2 * s.d2).sqrt();
    let excess = match entry {
        Entry::Known { own, .. } => Some(s.dot - own),
        Entry::Lagged => s.dot_lag,
        Entry::Unknown => None,
    };
    let cos_excess = excess.and_then(|e| ratio(e, norms));
    let kit = Bias {
        cos_excess,
        rsi_excess: excess.and_then(|e| ratio(e, s.d2)),
        z: cos_excess.map(|c| c * (parameters as f64).sqrt()),
        lagged,
        unmodelled: entry == Entry::Unknown,
        ..Bias::default()
    };
    let Entry::Known { own, walk2 } = entry else {
        return kit;
    };
    let walk = |walk2: f64| {
        if own == 0.0 { Some(0.0) } else { ratio(own, (s.g2 * walk2).sqrt()).map(|c| c.clamp(-1.0, 1.0)) }
    };
    Bias {
        own: own.is_finite().then_some(own),
        cos_own: ratio(own, norms),
        lolr_ratio: ratio(s.dot, own),
        cos_walk: walk2.filter(|w| w.is_finite()).and_then(walk),
        ..kit
    }
}

/// Mean and standard deviation of the excess over the steps of a window (Welford's recurrence).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Window {
    count: u64,
    mean: f64,
    squares: f64,
    /// Means of the ends of the steps' intervals; NaN where one of them is unbounded.
    ends: [f64; 2],
    /// Sum of the squares of how far the steps can be off.
    off: f64,
}

impl Window {
    /// Adds a step with its interval; `None` is left out.
    pub(crate) fn add(&mut self, value: Option<f64>, interval: Interval) {
        if let Some(v) = value {
            self.count += 1;
            let from = v - self.mean;
            self.mean += from / self.count as f64;
            self.squares += from * (v - self.mean);
            let ends = [interval.lo, interval.hi].map(|end| end.unwrap_or(f64::NAN));
            for (mean, end) in self.ends.iter_mut().zip(ends) {
                *mean += (end - *mean) / self.count as f64;
            }
            self.off += ends.iter().map(|end| (end - v).powi(2)).fold(0.0, nan_or_larger);
        }
    }

    /// Adds a step that may have an excess, though what is stored has none: nothing bounds `t` then.
    pub(crate) fn spoil(&mut self) {
        self.off = f64::NAN;
    }

    /// The interval of `t`, which holds where those of all steps do.
    pub(crate) fn t_interval(&self) -> Interval {
        let n = self.count as f64;
        // A standard deviation is a norm: it moves by no more than that of the errors.
        let (sd, by) = ((self.squares / (n - 1.0)).sqrt(), (self.off / (n - 1.0)).sqrt());
        let end = |mean: f64, towards: f64| {
            let sd = if mean * towards >= 0.0 { sd - by } else { sd + by };
            let t = mean * n.sqrt() / sd;
            (sd > 0.0 && t.is_finite()).then_some(t + towards * OUTWARD * t.abs())
        };
        if self.t().is_none() {
            return Interval::default();
        }
        Interval { lo: end(self.ends[0], -1.0), hi: end(self.ends[1], 1.0) }
    }

    /// `mean sqrt(m) / sd`; `None` below [`MIN_WINDOW`] steps, or where all values are equal.
    pub(crate) fn t(&self) -> Option<f64> {
        let n = self.count as f64;
        let sd = (self.squares / (n - 1.0)).sqrt();
        (self.count >= MIN_WINDOW).then(|| ratio(self.mean * n.sqrt(), sd)).flatten()
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;
    use crate::sums::tests::sums;

    #[test]
    fn what_a_gradient_put_there_itself_is_taken_off() {
        // g = (3, 4), d = (5, 0): cos 3/5. Of dot = 15, own = 10.
        let entry = Entry::Known { own: 10.0, walk2: Some(16.0) };
        let b = bias(&sums(15.0, 25.0, 25.0), 4, entry);
        assert_eq!((b.own, b.cos_own, b.cos_excess), (Some(10.0), Some(0.4), Some(0.2)));
        assert_eq!((b.rsi_excess, b.lolr_ratio, b.z), (Some(0.2), Some(1.5), Some(0.4)));
        assert_eq!(b.cos_walk, Some(0.5));
    }

    #[test]
    fn a_reference_without_the_gradient_has_no_bias() {
        let b = bias(&sums(15.0, 25.0, 25.0), 4, Entry::Known { own: 0.0, walk2: Some(0.0) });
        assert_eq!((b.cos_own, b.cos_excess, b.cos_walk), (Some(0.0), Some(0.6), Some(0.0)));
        assert_eq!(b.lolr_ratio, None);
    }

    #[test]
    fn what_later_gradients_took_back_is_no_cosine() {
        // g = (1, 0) put 10 of it there, and the others took 9 back: d = (1, 0), cos 1, cos_own 10.
        let b = bias(&sums(1.0, 1.0, 1.0), 4, Entry::Known { own: 10.0, walk2: Some(100.0) });
        assert_eq!((b.cos_own, b.cos_excess, b.beyond()), (Some(10.0), Some(-9.0), true));
        let at = |own| bias(&sums(1.0, 1.0, 1.0), 4, Entry::Known { own, walk2: None }).beyond();
        assert_eq!([at(2.0), at(2.0 + 1e-11), at(0.0)], [false, true, false]);
    }

    #[test]
    fn an_unknown_optimizer_is_measured_later() {
        let s = Sums { dot_lag: Some(5.0), ..sums(15.0, 25.0, 25.0) };
        let b = bias(&s, 4, Entry::Lagged);
        assert_eq!((b.own, b.cos_walk, b.lagged), (None, None, true));
        assert_eq!((b.cos_excess, b.rsi_excess), (Some(0.2), Some(0.2)));
        assert_eq!(bias(&sums(15.0, 25.0, 25.0), 4, Entry::Lagged).cos_excess, None);
    }

    #[test]
    fn the_statistic_of_a_window() {
        // 1 to 12: mean 6.5, sample variance 13, so t = 6.5 sqrt(12/13).
        let no = Interval::default();
        let mut s = Window::default();
        (1..=12).for_each(|v| s.add(Some(f64::from(v)), no));
        s.add(None, no);
        assert!((s.t().unwrap() - 6.5 * (12.0f64 / 13.0).sqrt()).abs() < 1e-14);
        let mut few = Window::default();
        (1..=9).for_each(|v| few.add(Some(f64::from(v)), no));
        assert_eq!(few.t(), None);
        let mut equal = Window::default();
        (0..12).for_each(|_| equal.add(Some(0.5), no));
        assert_eq!(equal.t(), None);
        assert_eq!((s.t_interval(), equal.t_interval()), (no, no));
    }

    #[test]
    fn the_statistic_lies_in_its_interval_whatever_the_steps_were() {
        let t_of = |values: &[f64], half: f64| {
            let mut window = Window::default();
            for v in values {
                window.add(Some(*v), Interval { lo: Some(v - half), hi: Some(v + half) });
            }
            (window.t().unwrap(), window.t_interval())
        };
        for shift in [-9.0, 0.0, 2.0] {
            let values: Vec<f64> = (1..=12).map(|v| f64::from(v) - 6.5 + shift).collect();
            let (_, interval) = t_of(&values, 0.25);
            for pattern in 0..64u32 {
                let moved =
                    |(i, v): (usize, &f64)| v + if pattern >> (i % 6) & 1 == 1 { 0.25 } else { -0.25 };
                let moved: Vec<f64> = values.iter().enumerate().map(moved).collect();
                let (t, _) = t_of(&moved, 0.0);
                assert!(interval.lo.unwrap() <= t && t <= interval.hi.unwrap(), "{t} {interval:?}");
            }
        }
    }
}
