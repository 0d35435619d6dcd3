//! What of a cosine is agreement, and what only the reference's being made of these gradients.
//!
//! A path of random, mutually orthogonal steps has a positive cosine with its own end. Here that
//! part is computed and taken off; `docs/metrics.md` has the derivations.

use super::ratio;
use crate::sums::Sums;

/// Steps between a direction and the iterate that it is compared with where the optimizer's
/// response is not known. The direct effect of a direction is over by then: a momentum of 0.9
/// keeps 0.5 % of it.
pub const LAG: u64 = 51;
/// Fewest steps of a window whose `t_excess` is given.
pub const MIN_WINDOW: u64 = 10;

/// What is known of how a direction enters the reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Entry {
    /// It enters with known coefficients: `own` is their sum over tensors, weighted by the squared
    /// norms, and `walk2` the squared distance of a walk of orthogonal steps.
    Known {
        /// `sum h ||s||^2`.
        own: f64,
        /// `None` for directions that the path is not made of.
        walk2: Option<f64>,
    },
    /// It enters in an unknown way, over by [`LAG`] steps later.
    Lagged,
    /// Nothing is known.
    Unknown,
}

/// The bias kit of one row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bias {
    /// `sum over tensors of h ||g||^2`: what g_t itself put between x_t and r.
    pub own: Option<f64>,
    /// `own / (||g|| ||d||)`.
    pub cos_own: Option<f64>,
    /// `cos - cos_own`, the agreement with the other gradients; or, lagged,
    /// `<g_t, x_{t+51} - r> / (||g|| ||d||)`.
    pub cos_excess: Option<f64>,
    /// `(dot - own) / ||d||^2`; or, lagged, `<g_t, x_{t+51} - r> / ||d||^2`.
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

/// The bias kit of a row of `parameters` parameters.
pub fn bias(s: &Sums, parameters: u64, entry: Entry) -> Bias {
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

/// Mean and spread of the excess over the steps of a window (Welford's recurrence).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Spread {
    /// Adds a step; `None` is left out.
    pub fn add(&mut self, value: Option<f64>) {
        if let Some(v) = value {
            self.count += 1;
            let from = v - self.mean;
            self.mean += from / self.count as f64;
            self.squares += from * (v - self.mean);
        }
    }

    /// `mean sqrt(m) / sd`; `None` below [`MIN_WINDOW`] steps, or where all values are equal.
    pub fn t(&self) -> Option<f64> {
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
        let mut s = Spread::default();
        (1..=12).for_each(|v| s.add(Some(f64::from(v))));
        s.add(None);
        assert!((s.t().unwrap() - 6.5 * (12.0f64 / 13.0).sqrt()).abs() < 1e-14);
        let mut few = Spread::default();
        (1..=9).for_each(|v| few.add(Some(f64::from(v))));
        assert_eq!(few.t(), None);
        let mut equal = Spread::default();
        (0..12).for_each(|_| equal.add(Some(0.5)));
        assert_eq!(equal.t(), None);
    }
}
