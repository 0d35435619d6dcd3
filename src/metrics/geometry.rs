//! RSI, EB, cosine and loLR of one step ("No Wrong Turns", arXiv 2306.11922, section 3).

use crate::metrics::ratio;
use crate::sums::Sums;

/// Where the reference lies as seen from x_t, and how the direction g_t points there.
///
/// With `d = x_t - r`. A value is `None` where its denominator is 0 or a sum is not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Geometry {
    /// `<g,d> / ||d||^2`: local lower restricted secant inequality constant.
    pub rsi: Option<f64>,
    /// `||g|| / ||d||`: local upper error bound constant.
    pub eb: Option<f64>,
    /// `<g,d> / (||g|| ||d||)`: cosine between -g and r - x_t, the paper's gamma; `rsi / eb`.
    pub cos: Option<f64>,
    /// `1 / cos`: local condition number.
    pub kappa: Option<f64>,
    /// The angle whose cosine is `cos`, in degrees.
    pub angle_deg: Option<f64>,
    /// `<g,d> / ||g||^2`: locally optimal learning rate; `rsi / eb^2`.
    pub lolr: Option<f64>,
    /// `||d||`: distance to the reference.
    pub dist: Option<f64>,
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// The geometry that the sums describe. Where all gradients are absent only `dist` is there.
pub(crate) fn geometry(s: &Sums) -> Geometry {
    let dist = finite(s.d2).map(f64::sqrt);
    if s.all_absent || !(s.dot.is_finite() && s.g2.is_finite() && s.d2.is_finite()) {
        return Geometry { dist, ..Geometry::default() };
    }
    // Sums of squares of float32 values lie between 1e-90 and 1e90 or are 0, so the product
    // neither overflows nor underflows.
    let norms = (s.g2 * s.d2).sqrt();
    Geometry {
        rsi: ratio(s.dot, s.d2),
        eb: ratio(s.g2, s.d2).map(f64::sqrt),
        cos: ratio(s.dot, norms).map(|c| c.clamp(-1.0, 1.0)),
        kappa: ratio(norms, s.dot).filter(|_| norms > 0.0),
        angle_deg: (norms > 0.0).then(|| angle(s.dot, s.g2, s.d2).to_degrees()).and_then(finite),
        lolr: ratio(s.dot, s.g2),
        dist,
    }
}

/// The angle between -g and r - x_t, in radians.
///
/// The arc cosine would lose half of the digits near 0 and 180 degrees. `g2 d2 - dot^2`, which is
/// what the sine needs, is formed with the rounding errors of both products.
pub(super) fn angle(dot: f64, g2: f64, d2: f64) -> f64 {
    let norms = g2 * d2;
    let norms_error = g2.mul_add(d2, -norms);
    let squared = dot * dot;
    let dot_error = dot.mul_add(dot, -squared);
    let cross = (norms - squared) + (norms_error - dot_error);
    cross.max(0.0).sqrt().atan2(dot)
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;
    use crate::sums::tests::sums;

    #[test]
    fn a_three_four_five_triangle() {
        // g = (3, 4), d = (5, 0): dot 15, g2 25, d2 25; cosine 3/5.
        let g = geometry(&sums(15.0, 25.0, 25.0));
        assert_eq!((g.rsi, g.eb, g.cos, g.lolr), (Some(0.6), Some(1.0), Some(0.6), Some(0.6)));
        assert_eq!((g.kappa, g.dist), (Some(25.0 / 15.0), Some(5.0)));
        assert!((g.angle_deg.unwrap() - 53.130_102_354_155_98).abs() < 1e-13);
    }

    #[test]
    fn zero_denominators_give_null() {
        let at_reference = geometry(&sums(0.0, 4.0, 0.0));
        assert_eq!(at_reference, Geometry { lolr: Some(0.0), dist: Some(0.0), ..Geometry::default() });
        let no_gradient = geometry(&sums(0.0, 0.0, 4.0));
        assert_eq!((no_gradient.rsi, no_gradient.eb), (Some(0.0), Some(0.0)));
        assert_eq!((no_gradient.cos, no_gradient.lolr, no_gradient.angle_deg), (None, None, None));
        let orthogonal = geometry(&sums(0.0, 1.0, 1.0));
        assert_eq!((orthogonal.cos, orthogonal.kappa, orthogonal.angle_deg), (Some(0.0), None, Some(90.0)));
    }

    #[test]
    fn what_is_not_finite_is_null() {
        for s in [sums(f64::NAN, 1.0, 1.0), sums(1.0, f64::INFINITY, 1.0)] {
            assert_eq!(geometry(&s), Geometry { dist: Some(1.0), ..Geometry::default() });
        }
    }

    #[test]
    fn small_angles_keep_their_digits() {
        // cos = 1 - 2^-50: the angle is sqrt(2^-49) (1 + 2^-50/12 + ...) by the series of arccos.
        let c = 1.0 - 1.0 / (1u64 << 50) as f64;
        let expected = (2.0f64.powi(-49)).sqrt().to_degrees();
        let got = geometry(&sums(c, 1.0, 1.0)).angle_deg.unwrap();
        assert!((got / expected - 1.0).abs() < 1e-15, "{got} {expected}");
    }
}
