//! How far the numbers of a row can be trusted.

use crate::sums::Sums;

/// Below this `ulp_ratio` the distance itself is made of rounding.
pub(crate) const LOW_PRECISION: f64 = 1e3;

/// Trust in one row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trust {
    /// How many times larger the distance is than what rounding can have moved it by: `u ||x||` with the unit
    /// roundoff u of the iterates' type, and the same of a reference whose type is coarser. Tensors in which x_t
    /// is the reference are left out.
    pub ulp_ratio: Option<f64>,
    /// `ulp_ratio` is below 1,000.
    pub low_precision: bool,
    /// x_t equals the reference in every element.
    pub x_eq_ref: bool,
    /// The gradient is there and 0 in every element.
    pub zero_grad: bool,
    /// One of the sums is an infinity or a NaN, because a value that it is made of is.
    pub nonfinite: bool,
}

/// Trust in a row in which rounding can have moved x_t - r by `rounding`.
pub(crate) fn trust(s: &Sums, rounding: f64) -> Trust {
    let ratio = s.d2.sqrt() / rounding;
    let ulp_ratio = (rounding > 0.0 && ratio.is_finite()).then_some(ratio);
    let later = s.dot_lag.filter(|_| !s.all_absent);
    let (all, next) = ([s.dot, s.g2, s.d2, s.x2, s.gx], [s.step2, s.init2, s.dot_next, later]);
    Trust {
        ulp_ratio,
        low_precision: ulp_ratio.is_some_and(|r| r < LOW_PRECISION),
        x_eq_ref: s.d2 == 0.0,
        zero_grad: s.g2 == 0.0 && !s.all_absent,
        nonfinite: !(all.iter().all(|v| v.is_finite()) && next.iter().flatten().all(|v| v.is_finite())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sums::tests::sums;

    #[test]
    fn a_distance_of_a_thousand_roundings_is_the_limit() {
        let at = |distance: f64| sums(0.0, 1.0, distance * distance);
        assert!(trust(&at(999.0), 1.0).low_precision);
        assert!(!trust(&at(1001.0), 1.0).low_precision);
        assert_eq!(trust(&at(1001.0), 2.0).ulp_ratio, Some(500.5));
        assert!(trust(&at(0.0), 1.0).x_eq_ref);
    }
}
