//! How the mean squared displacement of a path grows with the lag.

/// p of `||x_{t+l} - x_t||^2 ~ l^p`: the slope of the mean square over the lag, both by their logarithms, of points
/// `(lag, mean square)`. `None` for fewer than three that are positive.
pub(crate) fn exponent(points: impl IntoIterator<Item = (f64, f64)>) -> Option<f64> {
    let there = points.into_iter().filter(|(_, square)| *square > 0.0 && square.is_finite());
    slope(&there.map(|(lag, square)| (lag.ln(), square.ln())).collect::<Vec<_>>())
}

/// The slope of the line with the least squares; `None` for fewer than three points.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / n;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / n;
    let xy: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let xx: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    (points.len() >= 3 && xx > 0.0).then(|| xy / xx)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_has_its_exponent() {
        let of = |lags: &[f64]| exponent(lags.iter().map(|l| (*l, 7.0 * l.powf(1.25))));
        assert!((of(&[1.0, 2.0, 5.0, 50.0]).unwrap() - 1.25).abs() < 1e-12);
        assert_eq!((of(&[1.0, 2.0]), of(&[1.0; 5])), (None, None));
        assert_eq!(exponent([(1.0, 0.0), (2.0, 1.0), (3.0, 1.0)]), None);
    }
}
