//! What the distances between iterates say of a path.
//!
//! Pure functions of squared distances; what they are taken of is not known here.

use crate::metrics::growth::exponent;

/// Squared distances of steps to references, which are some of the steps, the first and the last among them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Distances<'a> {
    /// The steps, ascending.
    pub steps: &'a [u64],
    /// The steps of the references, ascending.
    pub references: &'a [u64],
    /// By step, then reference.
    pub d2: &'a [f64],
    /// By step: the square of the way from the step before; `None` where that is not known.
    pub moved: &'a [Option<f64>],
    /// What the optimizer keeps of a gradient from one step to the next; `None` where that is not known.
    pub memory: Option<f64>,
}

/// What a path is like as a whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    /// Length of the way, step by step; `None` where steps are missing.
    pub length: Option<f64>,
    /// Distance from the first iterate to the last.
    pub net: f64,
    /// The same of a walk whose steps have the lengths of the path's, and the directions that the optimizer makes of
    /// orthogonal gradients, as for all that is said of a walk here; `None` where one or the other is not known.
    pub walk_net: Option<f64>,
    /// Exponent of the mean squared displacement: `||x_{t+l} - x_t||^2 ~ l^exponent`.
    pub exponent: Option<f64>,
    /// The same of the walk.
    pub walk_exponent: Option<f64>,
    /// Mean of `cos(x_s - x_first, x_t - x_first)` over all pairs of different references but the first.
    pub mean_cos_first: Option<f64>,
    /// The same of the walk.
    pub walk_mean_cos_first: Option<f64>,
}

impl Distances<'_> {
    fn d2(&self, t: usize, k: usize) -> f64 {
        self.d2[t * self.references.len() + k]
    }

    /// `cos(x_t - x_first, x_k - x_first)`, of a step and a reference by place.
    pub(crate) fn cos_first(&self, t: usize, k: usize) -> Option<f64> {
        // The first reference is the first step.
        let first = self.d2(0, k);
        cosine(self.d2(t, 0), first, self.d2(t, k))
    }

    /// `cos(x_t - x_last, x_k - x_last)`.
    pub(crate) fn cos_last(&self, t: usize, k: usize) -> Option<f64> {
        let last = self.references.len() - 1;
        cosine(self.d2(t, last), self.d2(self.steps.len() - 1, k), self.d2(t, k))
    }

    /// The squared distances of a walk from its iterate at a place, by step. Two steps have the cosine b^l where l lies
    /// between them and b is what is kept: that of velocities which are made of orthogonal gradients.
    fn walk(&self, ways: &[f64], memory: f64, place: usize) -> Vec<f64> {
        let mut d2 = vec![0.0; self.steps.len()];
        let mut go = |way: &mut dyn Iterator<Item = (usize, f64)>| {
            let (mut sum, mut kept) = (0.0, 0.0);
            for (to, length) in way {
                sum += length * length + 2.0 * length * kept;
                kept = memory * (kept + length);
                d2[to] = sum;
            }
        };
        go(&mut (place..ways.len()).map(|t| (t + 1, ways[t])));
        go(&mut (0..place).rev().map(|t| (t, ways[t])));
        d2
    }

    /// The lengths of the ways from step to step; `None` where one is not known.
    fn ways(&self) -> Option<Vec<f64>> {
        self.moved.iter().skip(1).map(|m| m.map(f64::sqrt)).collect()
    }

    /// The places of the references among the steps.
    fn places(&self) -> Vec<usize> {
        self.references.iter().map(|k| self.steps.partition_point(|s| s < k)).collect()
    }

    /// The squared distances of a walk from its iterate at each reference, by reference, then step; `None` where the
    /// lengths of its steps or its memory are not known.
    pub(crate) fn walks(&self) -> Option<Vec<Vec<f64>>> {
        let (ways, memory) = (self.ways()?, self.memory?);
        Some(self.places().into_iter().map(|place| self.walk(&ways, memory, place)).collect())
    }

    /// The path as a whole.
    pub(crate) fn shape(&self) -> Shape {
        let ways = self.ways();
        let walk = |place: usize| Some(self.walk(ways.as_deref()?, self.memory?, place));
        let places = self.places();
        let last = self.steps.len() - 1;
        let longest = (self.steps[last] - self.steps[0]) / LONGEST_LAG;
        let nothing = || Displacements { bins: [(0.0, 0.0, 0.0); u64::BITS as usize] };
        let (mut displacements, mut of_walk) = (nothing(), nothing());
        let (mut cosines, mut cosines_of_walk) = (Vec::new(), Vec::new());
        let from_first = walk(0);
        for (k, &place) in places.iter().enumerate() {
            let walked = walk(place);
            for t in 0..self.steps.len() {
                let lag = self.steps[t].abs_diff(self.references[k]);
                if lag > 0 && lag <= longest {
                    displacements.add(lag, self.d2(t, k));
                    walked.iter().for_each(|w| of_walk.add(lag, w[t]));
                }
            }
            for &other in places.get(k + 1..).unwrap_or_default().iter().filter(|_| k > 0) {
                cosines.extend(self.cos_first(other, k));
                if let (Some(first), Some(walked)) = (&from_first, &walked) {
                    cosines_of_walk.extend(cosine(first[place], first[other], walked[other]));
                }
            }
        }
        Shape {
            length: ways.as_ref().map(|ways| ways.iter().sum()),
            net: self.d2(last, 0).sqrt(),
            walk_net: from_first.as_ref().map(|w| w[last].sqrt()),
            exponent: displacements.exponent(),
            walk_exponent: of_walk.exponent(),
            mean_cos_first: mean(&cosines),
            walk_mean_cos_first: mean(&cosines_of_walk),
        }
    }
}

/// The mean; `None` of nothing.
fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The cosine of two sides of a triangle, from the squares of them and of the third.
fn cosine(a2: f64, b2: f64, c2: f64) -> Option<f64> {
    let lengths = a2.sqrt() * b2.sqrt();
    (lengths > 0.0).then(|| ((a2 + b2 - c2) / (2.0 * lengths)).clamp(-1.0, 1.0))
}

/// Lags go up to this part of a path: of longer ones there are too few pairs that do not share most of their steps.
const LONGEST_LAG: u64 = 4;

/// Squared displacements by lag, in bins that double.
struct Displacements {
    /// By bin: pairs, and the sums of their lags and squares.
    bins: [(f64, f64, f64); u64::BITS as usize],
}

impl Displacements {
    fn add(&mut self, lag: u64, d2: f64) {
        let (pairs, lags, squares) = &mut self.bins[lag.ilog2() as usize];
        (*pairs, *lags, *squares) = (*pairs + 1.0, *lags + lag as f64, *squares + d2);
    }

    /// Of the mean square over the mean lag.
    fn exponent(&self) -> Option<f64> {
        let there = self.bins.iter().filter(|(pairs, ..)| *pairs > 0.0);
        exponent(there.map(|(pairs, lags, squares)| (lags / pairs, squares / pairs)))
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;

    /// Distances of a path on a line, each step against every second one and the last.
    fn shape(x: &[f64]) -> Shape {
        let steps: Vec<u64> = (0..x.len() as u64).collect();
        let last = x.len() - 1;
        let references: Vec<u64> =
            steps.iter().copied().filter(|k| k % 2 == 0 || *k == last as u64).collect();
        let at = |k: u64| x[usize::try_from(k).unwrap()];
        let d2: Vec<f64> =
            steps.iter().flat_map(|t| references.iter().map(move |k| (at(*t) - at(*k)).powi(2))).collect();
        let moved: Vec<Option<f64>> =
            steps.iter().map(|t| Some(if *t == 0 { 0.0 } else { (at(*t) - at(*t - 1)).powi(2) })).collect();
        Distances { steps: &steps, references: &references, d2: &d2, moved: &moved, memory: Some(0.0) }
            .shape()
    }

    #[test]
    fn a_line_is_straight_and_its_walk_is_not() {
        let found = shape(&(0..41).map(f64::from).collect::<Vec<_>>());
        assert_eq!((found.length, found.net, found.walk_net), (Some(40.0), 40.0, Some(40f64.sqrt())));
        assert!((found.exponent.unwrap() - 2.0).abs() < 0.05, "{found:?}");
        assert!((found.walk_exponent.unwrap() - 1.0).abs() < 1e-12, "{found:?}");
        assert_eq!(found.mean_cos_first, Some(1.0));
        // All pairs of 2, 4, .., 40: the mean of sqrt(j/k).
        let pairs: Vec<f64> =
            (1..21).flat_map(|k| (1..k).map(move |j| f64::from(j) / f64::from(k))).collect();
        let mean = pairs.iter().map(|r| r.sqrt()).sum::<f64>() / pairs.len() as f64;
        assert!((found.walk_mean_cos_first.unwrap() - mean).abs() < 1e-12);
    }

    #[test]
    fn steps_of_a_walk_with_momentum_are_those_of_its_velocity() {
        let (ways, steps) = ([1.0, 2.0, 1.0, 3.0], [0, 1, 2, 3, 4]);
        let distances =
            Distances { steps: &steps, references: &[0, 4], d2: &[], moved: &[], memory: Some(0.5) };
        let expected = |from: usize, to: usize| -> f64 {
            let pairs = (from..to).flat_map(|i| (from..to).map(move |j| (i, j)));
            pairs.map(|(i, j)| ways[i] * ways[j] * 0.5f64.powi(i32::try_from(i.abs_diff(j)).unwrap())).sum()
        };
        for place in 0..5 {
            let walk = distances.walk(&ways, 0.5, place);
            for (t, d2) in walk.into_iter().enumerate() {
                assert!((d2 - expected(place.min(t), place.max(t))).abs() < 1e-12, "{place} {t}");
            }
        }
    }

    #[test]
    fn what_goes_to_and_fro_goes_nowhere() {
        let found = shape(&(0..41).map(|t| f64::from(t % 2)).collect::<Vec<_>>());
        assert_eq!((found.length, found.net), (Some(40.0), 0.0));
        // From even steps to even ones nothing, to odd ones 1.
        assert!(found.exponent.unwrap().abs() < 0.5, "{found:?}");
        assert_eq!(found.mean_cos_first, None);
    }

    #[test]
    fn a_path_of_one_iterate_has_no_shape() {
        let found = shape(&[1.0]);
        assert_eq!(
            (found.length, found.net, found.exponent, found.mean_cos_first),
            (Some(0.0), 0.0, None, None)
        );
    }
}
