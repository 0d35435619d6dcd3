//! How far the numbers of a row can be trusted.

use crate::dtype::DType;
use crate::sums::Sums;

/// Below this `ulp_ratio` the distance itself is made of rounding.
pub const LOW_PRECISION: f64 = 1e3;

/// Trust in one row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trust {
    /// `dist / (u ||x||)` with the unit roundoff u of the iterates' type: how many times larger the
    /// distance is than the rounding of the iterates.
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

/// Trust in a row whose iterates have the (coarsest) type `dtype`.
pub fn trust(s: &Sums, dtype: DType) -> Trust {
    let scale = dtype.unit_roundoff() * s.x2.sqrt();
    let ratio = s.d2.sqrt() / scale;
    let ulp_ratio = (scale > 0.0 && ratio.is_finite()).then_some(ratio);
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
        let u = DType::F32.unit_roundoff();
        let at = |ratio: f64| Sums { x2: 4.0, ..sums(0.0, 1.0, (ratio * u * 2.0).powi(2)) };
        assert!(trust(&at(999.0), DType::F32).low_precision);
        assert!(!trust(&at(1001.0), DType::F32).low_precision);
        assert!(trust(&at(1001.0), DType::BF16).low_precision);
        assert!(trust(&at(0.0), DType::F32).x_eq_ref);
    }
}
