//! Means over thirds of a path, and how certain they are.
//!
//! Pure functions of numbers by step; what they are is not known here.

/// Consecutive parts of a third whose means say how certain its own is.
const PARTS: usize = 10;

/// Values from which on that is said.
pub(super) const LEAST: usize = 2 * PARTS;

/// A mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mean {
    /// The mean.
    pub value: f64,
    /// Its standard error, from means of consecutive parts; `None` where there are too few values.
    pub error: Option<f64>,
}

/// The means of the first, second and last third of the steps, of values in the order of steps.
pub(super) fn means(values: &[(u64, f64)]) -> [Option<Mean>; 3] {
    let (Some((first, _)), Some((last, _))) = (values.first(), values.last()) else { return [None; 3] };
    let length = last - first + 1;
    let third = |step: u64| (step - first) * 3 / length;
    let mut means = [None; 3];
    for part in values.chunk_by(|a, b| third(a.0) == third(b.0)) {
        let number = usize::try_from(third(part[0].0)).unwrap_or(0);
        means[number] = Some(Mean::of(part));
    }
    means
}

// Neighbours share a gradient and a part of the path, so that their scatter alone would say too little.
impl Mean {
    fn of(values: &[(u64, f64)]) -> Mean {
        let mean = |values: &[(u64, f64)]| values.iter().map(|(_, v)| v).sum::<f64>() / values.len() as f64;
        let parts: Vec<f64> = (0..PARTS)
            .map(|p| mean(&values[p * values.len() / PARTS..(p + 1) * values.len() / PARTS]))
            .collect();
        let error = (values.len() >= LEAST).then(|| {
            let (count, middle) = (PARTS as f64, parts.iter().sum::<f64>() / PARTS as f64);
            let squares: f64 = parts.iter().map(|m| (m - middle).powi(2)).sum();
            (squares / (count - 1.0) / count).sqrt()
        });
        Mean { value: mean(values), error }
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;

    #[test]
    fn each_third_has_its_mean() {
        let values: Vec<(u64, f64)> =
            (0..60).map(|t| (t, if t < 20 { 1.0 } else { (t % 2) as f64 })).collect();
        let [early, middle, late] = means(&values).map(Option::unwrap);
        assert_eq!((early.value, early.error), (1.0, Some(0.0)));
        assert_eq!((middle.value, middle.error, late.value), (0.5, Some(0.0), 0.5));
        // Ten parts of two: 0.5, 2.5, ..., 18.5, whose variance is 110 / 3.
        let values: Vec<(u64, f64)> = (0..20).map(|t| (100 + t / 20, t as f64)).collect();
        let [early, middle, late] = means(&values);
        assert!((early.unwrap().error.unwrap() - (110.0f64 / 30.0).sqrt()).abs() < 1e-12);
        assert_eq!((middle, late), (None, None));
    }

    #[test]
    fn few_values_have_no_error() {
        assert_eq!(means(&[]), [None; 3]);
        assert_eq!(means(&[(5, 2.0)]), [Some(Mean { value: 2.0, error: None }), None, None]);
        let of_gaps = means(&[(0, 1.0), (1, 3.0), (8, 5.0)]);
        assert_eq!(of_gaps.map(|m| m.map(|m| m.value)), [Some(2.0), None, Some(5.0)]);
    }
}
