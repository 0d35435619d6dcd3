//! What sticks out of a series of positive numbers.
//!
//! Robust, since one spike must not hide the next, and local, since lengths and losses change by orders of magnitude
//! along a path.

/// Values on each side that a value is compared with.
const SIDE: usize = 25;
/// Fewest of them.
const FEWEST: usize = 5;
/// How many times the median of either side it must be.
const TIMES: f64 = 3.0;
/// How many scaled median absolute deviations of either side it must lie above the median, of logarithms.
const DEVIATIONS: f64 = 6.0;
/// What makes of the median absolute deviation of a normal distribution its standard deviation.
const SCALE: f64 = 1.4826;

/// A value that sticks out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spike {
    /// Its place.
    pub at: usize,
    /// The larger of the medians of both sides.
    pub usual: f64,
}

/// The values that are at least three times the median of the 25 before them and of the 25 behind, and whose
/// logarithms lie six deviations above those medians. Where a side has fewer than five values nothing is said.
pub(super) fn spikes(values: &[f64]) -> Vec<Spike> {
    let mut found = Vec::new();
    let mut scratch = Vec::with_capacity(SIDE);
    for (at, &value) in values.iter().enumerate() {
        let before = &values[at.saturating_sub(SIDE)..at];
        let behind = &values[at + 1..(at + 1 + SIDE).min(values.len())];
        if before.len() < FEWEST || behind.len() < FEWEST {
            continue;
        }
        // Cheap, and at nearly all values the end: a spike is three times as large as half of either side.
        let small = |side: &[f64]| 2 * side.iter().filter(|&&v| TIMES * v <= value).count() >= side.len();
        if !(small(before) && small(behind)) {
            continue;
        }
        let mut least: f64 = 0.0;
        let sticks_out = [before, behind].into_iter().all(|side| {
            let usual = median(side.iter().copied(), &mut scratch);
            least = least.max(usual);
            value >= TIMES * usual && {
                let deviation = median(side.iter().map(|v| (v.ln() - usual.ln()).abs()), &mut scratch);
                value.ln() - usual.ln() >= DEVIATIONS * SCALE * deviation
            }
        });
        if sticks_out {
            found.push(Spike { at, usual: least });
        }
    }
    found
}

/// The median: the mean of both middle values, where there are two.
fn median(values: impl Iterator<Item = f64>, scratch: &mut Vec<f64>) -> f64 {
    scratch.clear();
    scratch.extend(values);
    let middle = scratch.len() / 2;
    let even = scratch.len().is_multiple_of(2);
    let (below, &mut high, _) = scratch.select_nth_unstable_by(middle, f64::total_cmp);
    let low = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if even { f64::midpoint(low, high) } else { high }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(values: &[f64]) -> Vec<usize> {
        spikes(values).iter().map(|s| s.at).collect()
    }

    #[test]
    fn a_single_value_sticks_out() {
        let mut values: Vec<f64> = (0..200).map(|i| 1.0 + 0.1 * f64::from(i * 37 % 11)).collect();
        assert!(at(&values).is_empty());
        values[60] = 12.0;
        values[62] = 12.0;
        values[150] = 4.0;
        assert_eq!(at(&values), [60, 62]);
    }

    #[test]
    fn what_stays_or_falls_is_no_spike() {
        let step: Vec<f64> = (0..100).map(|i| if i < 50 { 1.0 } else { 10.0 }).collect();
        assert!(at(&step).is_empty());
        let decay: Vec<f64> = (0..100).map(|i| f64::from(100 - i).powi(3)).collect();
        assert!(at(&decay).is_empty());
    }

    #[test]
    fn medians_are_those_of_numpy() {
        let mut scratch = Vec::new();
        // numpy.median of each.
        for (values, expected) in [(&[3.0, 1.0, 2.0][..], 2.0), (&[4.0, 1.0, 3.0, 2.0], 2.5), (&[7.0], 7.0)] {
            assert!((median(values.iter().copied(), &mut scratch) - expected).abs() < 1e-15);
        }
    }
}
