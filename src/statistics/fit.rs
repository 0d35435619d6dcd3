//! A straight line through points, by least squares.

/// Points as they come, in one pass: means, and sums of products of what is left of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fit {
    count: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
    yy: f64,
}

impl Fit {
    /// Takes a point, if there is one.
    pub(crate) fn add(&mut self, point: Option<(f64, f64)>) {
        let Some((x, y)) = point else { return };
        self.count += 1.0;
        let (dx, dy) = (x - self.x, y - self.y);
        self.x += dx / self.count;
        self.y += dy / self.count;
        self.xx += dx * (x - self.x);
        self.xy += dx * (y - self.y);
        self.yy += dy * (y - self.y);
    }

    /// The slope; `None` with fewer than three points, or all at one place.
    pub(crate) fn slope(self) -> Option<f64> {
        Some(self.xy / self.xx).filter(|slope| self.count > 2.0 && slope.is_finite())
    }

    /// The standard error of the slope, if what lies beside the line is independent.
    pub(crate) fn error(self) -> Option<f64> {
        let beside = (self.yy - self.xy * self.xy / self.xx).max(0.0);
        self.slope().map(|_| (beside / ((self.count - 2.0) * self.xx)).sqrt())
    }

    /// The correlation of the points.
    pub(crate) fn correlation(self) -> Option<f64> {
        Some(self.xy / (self.xx.sqrt() * self.yy.sqrt())).filter(|r| self.count > 2.0 && r.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found() {
        let mut fit = Fit::default();
        // 3 x - 1, and what is left orthogonal to 1 and x.
        [(0.0, -1.0), (1.0, 2.0 + 0.5), (2.0, 5.0 - 1.0), (3.0, 8.0 + 0.5), (4.0, 11.0)]
            .into_iter()
            .for_each(|p| fit.add(Some(p)));
        fit.add(None);
        // By hand: mean x 2, mean y 5; sum dx^2 10, sum dx dy 30, sum dy^2 90 + 1.5 - 2 * 0.
        assert!((fit.slope().unwrap() - 3.0).abs() < 1e-14);
        let r = 30.0 / (10.0f64 * 91.5).sqrt();
        assert!((fit.correlation().unwrap() - r).abs() < 1e-14);
        // Squares of what is left: 1.5, of 3 free ones.
        assert!((fit.error().unwrap() - (1.5f64 / 3.0 / 10.0).sqrt()).abs() < 1e-14);
    }

    #[test]
    fn points_at_one_place_have_no_line() {
        let mut fit = Fit::default();
        (0..5).for_each(|i| fit.add(Some((2.0, f64::from(i)))));
        assert_eq!((fit.slope(), fit.correlation()), (None, None));
        assert_eq!(Fit::default().slope(), None);
    }
}
