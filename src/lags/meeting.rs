//! Two steps that meet: their sums, and how far their gradients agree.
//!
//! Pure functions of sums; which steps they are of is not known here.

use crate::reduce::lagged::{LaggedSums, OwnSums};

/// The part of `||g||^2` that has to be orthogonal to d, for its direction to be known.
// A sum over a block of 4,096 elements is off by at most some 500 roundings, 6e-14, of the product of the two lengths,
// and the product of orthogonal parts is made of four such sums.
const ORTHOGONAL: f64 = 1e-6;

/// The sums of a step, with d = x - r.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StepSums {
    /// `||g||^2` and `<g, d>`; `None` where there is no gradient.
    pub gradient: Option<GradientSums>,
    /// `||d||^2`.
    pub d2: f64,
}

/// The sums of a step that has a gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct GradientSums {
    /// `||g||^2`.
    pub g2: f64,
    /// `<g, d>`.
    pub dot: f64,
}

impl StepSums {
    /// Of sums in which a gradient that is not there is 0.
    pub(super) fn new(OwnSums { g2, dot, d2 }: OwnSums, has_gradient: bool) -> StepSums {
        StepSums { gradient: has_gradient.then_some(GradientSums { g2, dot }), d2 }
    }

    /// The g and d of the part of g along d, `dot / ||d||^2` times d, and the square of what is orthogonal to it.
    fn split(&self) -> Option<(f64, f64)> {
        let GradientSums { g2, dot } = self.gradient?;
        let along = dot / self.d2;
        let orthogonal = g2 - along * dot;
        (orthogonal > ORTHOGONAL * g2).then_some((along, orthogonal))
    }
}

/// A step t and a later one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Meeting {
    /// The step t.
    pub step: u64,
    /// How much later the other one is.
    pub lag: u64,
    /// Sums of the step t.
    pub earlier: StepSums,
    /// Sums of the later step.
    pub later: StepSums,
    /// Sums of both.
    pub(super) both: LaggedSums,
}

impl Meeting {
    /// `<g_t, g_{t+k}>`; `None` where one of them is not there.
    pub(crate) fn gg(&self) -> Option<f64> {
        self.earlier.gradient.and(self.later.gradient).map(|_| self.both.gg)
    }

    /// `<g_t, d_{t+k}>`; `None` where there is no g_t.
    pub(crate) fn gd(&self) -> Option<f64> {
        self.earlier.gradient.map(|_| self.both.gd)
    }

    /// `<d_t, g_{t+k}>`; `None` where there is no g_{t+k}.
    pub(crate) fn dg(&self) -> Option<f64> {
        self.later.gradient.map(|_| self.both.dg)
    }

    /// `<d_t, d_{t+k}>`.
    pub(crate) fn dd(&self) -> f64 {
        self.both.dd
    }

    /// `||x_{t+k} - x_t||^2`.
    pub(crate) fn moved2(&self) -> f64 {
        self.both.moved2
    }

    /// `||x_{t+k} - x_t||`.
    pub(crate) fn moved(&self) -> f64 {
        self.both.moved2.sqrt()
    }

    /// `cos(g_t, g_{t+k})`.
    pub(crate) fn cos(&self) -> Option<f64> {
        let lengths = self.earlier.gradient?.g2.sqrt() * self.later.gradient?.g2.sqrt();
        (lengths > 0.0).then_some(self.both.gg / lengths)
    }

    /// The same of the parts of both that are orthogonal to their own d. `None` also where rounding may have made them.
    pub(crate) fn cos_perp(&self) -> Option<f64> {
        let ((a, g2), (b, g2_later)) = (self.earlier.split()?, self.later.split()?);
        let LaggedSums { gg, gd, dg, dd, .. } = self.both;
        let product = (gg - a * dg) - b * (gd - a * dd);
        Some(product / (g2.sqrt() * g2_later.sqrt()))
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;

    fn meeting(g: [[f64; 2]; 2], d: [[f64; 2]; 2]) -> Meeting {
        let dot = |a: [f64; 2], b: [f64; 2]| a[0] * b[0] + a[1] * b[1];
        let step = |t: usize| {
            StepSums::new(OwnSums { g2: dot(g[t], g[t]), dot: dot(g[t], d[t]), d2: dot(d[t], d[t]) }, true)
        };
        let way = [d[1][0] - d[0][0], d[1][1] - d[0][1]];
        let both = LaggedSums {
            gg: dot(g[0], g[1]),
            gd: dot(g[0], d[1]),
            dg: dot(d[0], g[1]),
            dd: dot(d[0], d[1]),
            moved2: dot(way, way),
        };
        Meeting { step: 0, lag: 1, earlier: step(0), later: step(1), both }
    }

    #[test]
    fn the_part_along_the_distance_is_taken_away() {
        // Orthogonal to d are (0, 2) and (-3, 0), whatever lies along it.
        let m = meeting([[5.0, 2.0], [-3.0, 7.0]], [[2.0, 0.0], [0.0, 4.0]]);
        assert_eq!((m.cos_perp(), m.moved2()), (Some(0.0), 20.0));
        assert_eq!(m.cos(), Some(-1.0 / (29f64.sqrt() * 58f64.sqrt())));
        let m = meeting([[5.0, 2.0], [1.0, -3.0]], [[2.0, 0.0], [4.0, 0.0]]);
        assert_eq!(m.cos_perp(), Some(-1.0));
    }

    #[test]
    fn what_is_not_there_or_not_certain_is_null() {
        // Along d; at r; zero; a thousandth of it across.
        let d = [[2.0, 0.0], [4.0, 0.0]];
        assert_eq!(meeting([[5.0, 0.0], [1.0, -3.0]], d).cos_perp(), None);
        assert_eq!(meeting([[5.0, 2.0], [1.0, -3.0]], [d[0], [0.0; 2]]).cos_perp(), None);
        let zero = meeting([[0.0; 2], [1.0, -3.0]], d);
        assert_eq!((zero.cos(), zero.cos_perp()), (None, None));
        assert_eq!(meeting([[1.0, 0.9e-3], [1.0, -3.0]], d).cos_perp(), None);
        assert!((meeting([[1.0, 1.1e-3], [1.0, -3.0]], d).cos_perp().unwrap() + 1.0).abs() < 1e-6);
        let mut m = meeting([[5.0, 2.0], [1.0, -3.0]], d);
        m.later.gradient = None;
        assert_eq!((m.cos(), m.cos_perp(), m.gg(), m.dg(), m.gd()), (None, None, None, None, Some(20.0)));
    }
}
