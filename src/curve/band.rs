//! What a point of a curve says of the steps that it stands for: their mean, and where they lie.

use std::str::FromStr;

use crate::error::Usage;

/// The band around a mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Band {
    /// From the smallest to the largest value.
    MinMax,
    /// Between two quantiles, in percent.
    Quantiles(f64, f64),
}

impl FromStr for Band {
    type Err = Usage;

    fn from_str(text: &str) -> Result<Band, Usage> {
        let percent = |s: &str| s.strip_prefix('q')?.parse().ok().filter(|q| (0.0..=100.0).contains(q));
        let ends = text.split_once("..").and_then(|(lo, hi)| Some((percent(lo)?, percent(hi)?)));
        match ends {
            _ if text == "minmax" => Ok(Band::MinMax),
            Some((lo, hi)) if lo < hi => Ok(Band::Quantiles(lo, hi)),
            _ => Err(Usage(format!("--band {text}: write minmax, or two percentages as q10..q90"))),
        }
    }
}

impl std::fmt::Display for Band {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Band::MinMax => write!(f, "minimum to maximum"),
            Band::Quantiles(lo, hi) => write!(f, "{lo} % to {hi} % quantile"),
        }
    }
}

impl Band {
    /// Lower and upper end among values that are numbers or NaN, of which a digest was made.
    pub(crate) fn ends(self, values: &[f64], digest: &Digest) -> (f64, f64) {
        match self {
            Band::MinMax => (values[digest.least], values[digest.most]),
            Band::Quantiles(lo, hi) => {
                let mut values: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
                values.sort_unstable_by(f64::total_cmp);
                (quantile(&values, lo / 100.0), quantile(&values, hi / 100.0))
            }
        }
    }
}

/// What values have in common, of which some are NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Digest {
    /// How many are numbers.
    pub count: usize,
    /// Their mean. It lies among them, and does not overflow.
    pub mean: f64,
    /// Place of the (first) smallest.
    pub least: usize,
    /// Place of the (first) largest.
    pub most: usize,
}

impl Digest {
    /// Of some values; `None` where none is a number.
    pub(crate) fn of(values: &[f64]) -> Option<Digest> {
        let first = values.iter().position(|v| !v.is_nan())?;
        let (mut count, mut sum, mut least, mut most) = (0, 0.0, first, first);
        for (i, &v) in values.iter().enumerate().skip(first).filter(|(_, v)| !v.is_nan()) {
            count += 1;
            sum += v;
            if v < values[least] {
                least = i;
            }
            if v > values[most] {
                most = i;
            }
        }
        let n = count as f64;
        let parts = || values.iter().filter(|v| !v.is_nan()).map(|v| v / n).sum();
        let mean = if f64::is_finite(sum) { sum / n } else { parts() };
        Some(Digest { count, mean: mean.clamp(values[least], values[most]), least, most })
    }
}

/// The quantile of sorted values, linear between neighbours.
// The place is at most the number of values.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let place = q * last as f64;
    let below = (place.floor() as usize).min(last);
    let (a, b) = (sorted[below], sorted[(below + 1).min(last)]);
    let part = place - below as f64;
    a * (1.0 - part) + b * part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_those_worked_out_by_hand() {
        let values = [3.0, -1.0, f64::NAN, 2.0, 10.0, 0.0];
        let ends = |band: Band, values: &[f64]| band.ends(values, &Digest::of(values).unwrap());
        assert_eq!(ends(Band::MinMax, &values), (-1.0, 10.0));
        // Sorted -1 0 2 3 10: 10 % is 0.4 of the way from -1 to 0, 75 % is 3.
        let (lo, hi) = ends(Band::Quantiles(10.0, 75.0), &values);
        assert!((lo + 0.6).abs() < 1e-15 && (hi - 3.0).abs() < 1e-15, "{lo} {hi}");
        assert_eq!(ends(Band::Quantiles(10.0, 90.0), &[7.5]), (7.5, 7.5));
        assert_eq!(ends(Band::Quantiles(0.0, 100.0), &values), (-1.0, 10.0));
    }

    #[test]
    fn extremes_are_the_first_of_their_kind() {
        let nan = f64::NAN;
        let of = |values: &[f64]| Digest::of(values).map(|d| (d.count, d.least, d.most));
        assert_eq!(of(&[nan, 2.0, 5.0, -1.0, 5.0, nan, -1.0]), Some((5, 3, 2)));
        assert_eq!([of(&[nan, 0.0]), of(&[nan]), of(&[])], [Some((1, 1, 1)), None, None]);
    }

    #[test]
    fn the_mean_lies_among_the_values() {
        let mean = |values: &[f64]| Digest::of(values).unwrap().mean.to_bits();
        let means = [mean(&[1.0, 2.0, f64::NAN, 6.0]), mean(&[f64::MAX, f64::MAX]), mean(&[0.1; 3])];
        assert_eq!(means, [3.0, f64::MAX, 0.1].map(f64::to_bits));
    }

    #[test]
    fn a_band_is_named_in_one_of_two_ways() {
        assert_eq!("minmax".parse(), Ok(Band::MinMax));
        assert_eq!("q2.5..q97.5".parse(), Ok(Band::Quantiles(2.5, 97.5)));
        for wrong in ["q90..q10", "q10", "10..90", "q-1..q5", "qnan..q5", "sd", ""] {
            assert!(wrong.parse::<Band>().is_err(), "{wrong}");
        }
    }
}
