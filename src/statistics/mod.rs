//! Quantiles, ranks and lines.

mod fit;

pub(crate) use crate::statistics::fit::Fit;

/// The values in order.
pub(crate) fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut all: Vec<f64> = values.collect();
    all.sort_by(f64::total_cmp);
    all
}

/// The quantile `q` of values in order, linear between them.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = q * last as f64;
    // Both lie in the list.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    let (a, b) = (*sorted.get(low)?, *sorted.get(high)?);
    Some((b - a).mul_add(at - at.floor(), a))
}

/// The median.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    quantile(&sorted(values), 0.5)
}

/// Ranks from 1; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for tied in order.chunk_by(|&a, &b| values[a].total_cmp(&values[b]).is_eq()) {
        let rank = first as f64 + (tied.len() as f64 + 1.0) / 2.0;
        tied.iter().for_each(|&i| ranks[i] = rank);
        first += tied.len();
    }
    ranks
}

fn fit(points: impl Iterator<Item = (f64, f64)>) -> Fit {
    let mut fit = Fit::default();
    points.for_each(|p| fit.add(Some(p)));
    fit
}

/// Pearson's correlation; `None` of fewer than three points, or where one side does not change.
pub(crate) fn pearson(points: &[(f64, f64)]) -> Option<f64> {
    fit(points.iter().copied()).correlation()
}

/// Spearman's correlation of values with their order.
pub(crate) fn rise(values: &[f64]) -> Option<f64> {
    fit(ranks(values).into_iter().enumerate().map(|(i, rank)| (i as f64, rank))).correlation()
}

/// A slope, and half of its interval of 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Slope {
    /// The slope.
    pub value: f64,
    /// Half of its interval.
    pub half: f64,
}

/// The slope of a line through points; the interval is that of least squares with normal residuals. `None` of fewer
/// than three.
pub(crate) fn slope(points: &[(f64, f64)]) -> Option<Slope> {
    let fit = fit(points.iter().copied());
    let (value, error) = (fit.slope()?, fit.error()?);
    // All at one height are no finding.
    fit.correlation()?;
    Some(Slope { value, half: student(points.len() - 2) * error })
}

/// Where 97.5 % of Student's distribution lie below, for so many degrees of freedom; rounded up where it is not listed.
fn student(free: usize) -> f64 {
    const UP_TO_TEN: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    match free {
        0 => f64::INFINITY,
        1..=10 => UP_TO_TEN[free - 1],
        11..=19 => 2.201,
        20..=59 => 2.086,
        _ => 2.000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: Option<f64>, b: f64) {
        assert!((a.unwrap() - b).abs() < 1e-12, "{a:?} {b}");
    }

    #[test]
    fn quantiles_are_linear_between_values() {
        let all = sorted([3.0, 1.0, 2.0, 10.0].into_iter());
        // By hand: at 0.75 of the way from 3 to 10 is 3 + 7 * 0.25.
        near(quantile(&all, 0.75), 4.75);
        near(median([5.0, 1.0].into_iter()), 3.0);
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn ranks_rise() {
        near(rise(&[1.0, 2.0, 30.0, 31.0]), 1.0);
        near(rise(&[4.0, 3.0, 2.0]), -1.0);
        // Ranks 1, 2.5, 2.5, 4 along 0..3: covariance 4.5, variances 5 and 4.5.
        near(rise(&[1.0, 2.0, 2.0, 5.0]), 4.5 / (5.0f64 * 4.5).sqrt());
        assert_eq!(rise(&[1.0, 1.0, 1.0]), None);
    }

    #[test]
    fn a_slope_has_an_interval() {
        // Residuals 1, -2, 1 about y = 3 x: SSE 6, Sxx 2, so the error is sqrt(6 / 1 / 2).
        let s = slope(&[(0.0, 1.0), (1.0, 1.0), (2.0, 7.0)]).unwrap();
        near(Some(s.value), 3.0);
        near(Some(s.half), 12.706 * 3.0f64.sqrt());
    }
}
