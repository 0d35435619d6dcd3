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
    /// Lower and upper end among values, of which there is one at least; sorts them where it must.
    pub(crate) fn ends(self, values: &mut [f64]) -> (f64, f64) {
        match self {
            Band::MinMax => least_and_most(values),
            Band::Quantiles(lo, hi) => {
                values.sort_unstable_by(f64::total_cmp);
                (quantile(values, lo / 100.0), quantile(values, hi / 100.0))
            }
        }
    }
}

fn least_and_most(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), &v| (lo.min(v), hi.max(v)))
}

/// The places of the smallest and the largest value, the first of each; `None` where none is a number.
pub(crate) fn extremes(values: &[f64]) -> Option<(usize, usize)> {
    let mut found: Option<(usize, usize)> = None;
    for (i, v) in values.iter().enumerate().filter(|(_, v)| !v.is_nan()) {
        let (least, most) = found.unwrap_or((i, i));
        found = Some((if *v < values[least] { i } else { least }, if *v > values[most] { i } else { most }));
    }
    found
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

/// The mean of values, of which there is one at least. It lies among them, and does not overflow.
pub(crate) fn mean(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let (lo, hi) = least_and_most(values);
    let sum: f64 = values.iter().sum();
    let mean = if sum.is_finite() { sum / n } else { values.iter().map(|v| v / n).sum() };
    mean.clamp(lo, hi)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_those_worked_out_by_hand() {
        let mut values = [3.0, -1.0, 2.0, 10.0, 0.0];
        assert_eq!(Band::MinMax.ends(&mut values), (-1.0, 10.0));
        // Sorted -1 0 2 3 10: 10 % is 0.4 of the way from -1 to 0, 75 % is 3.
        let (lo, hi) = Band::Quantiles(10.0, 75.0).ends(&mut values);
        assert!((lo + 0.6).abs() < 1e-15 && (hi - 3.0).abs() < 1e-15, "{lo} {hi}");
        assert_eq!(Band::Quantiles(10.0, 90.0).ends(&mut [7.5]), (7.5, 7.5));
        assert_eq!(Band::Quantiles(0.0, 100.0).ends(&mut values), (-1.0, 10.0));
    }

    #[test]
    fn extremes_are_the_first_of_their_kind() {
        let nan = f64::NAN;
        assert_eq!(extremes(&[nan, 2.0, 5.0, -1.0, 5.0, nan, -1.0]), Some((3, 2)));
        assert_eq!([extremes(&[nan, 0.0]), extremes(&[nan]), extremes(&[])], [Some((1, 1)), None, None]);
    }

    #[test]
    fn the_mean_lies_among_the_values() {
        let means = [mean(&[1.0, 2.0, 6.0]), mean(&[f64::MAX, f64::MAX]), mean(&[0.1; 3])];
        assert_eq!(means.map(f64::to_bits), [3.0, f64::MAX, 0.1].map(f64::to_bits));
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
