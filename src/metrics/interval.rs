//! Where the metrics of what was recorded lie, where vectors were stored with loss.
//!
//! All metrics grow or fall in each of the sums that they are made of, so their bounds are found at the
//! corners of the box that the sums lie in. `docs/numerics.md` (Lossy runs) has the derivation.

use crate::metrics::entry::Entry;
use crate::metrics::geometry::angle;
use crate::reduce::spread::Spread;
use crate::sums::{Spreads, Sums};

/// The probability that some interval of a row does not hold what it should, at most.
pub(crate) const FAILURE: f64 = 1e-9;
/// Sums of a row that can be off: `<s,d>`, `||s||^2`, `||d||^2`, and `own` or the later `<s,d>`.
const EVENTS: f64 = 4.0;
/// Chances are drawn with 31 bits, which is off by 2^-31 of a width. Of at most 2^40 elements that is
/// no more than this in units of a spread's root.
const COARSE: f64 = 1.0 / 2048.0;

/// The same where sketches are all there is.
pub(crate) const SKETCHED_FAILURE: f64 = 1e-3;

/// The law of one sum of a row of sketches.
pub(crate) fn sketched() -> crate::sketch::Confidence {
    crate::sketch::Confidence::within(1.0 - SKETCHED_FAILURE / EVENTS)
}

/// From a variance to a distance that is exceeded with a known probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Confidence {
    /// Errors have bounds: the exponent of Hoeffding's inequality.
    Bounded(f64),
    /// Errors are those of sketches, near normal: so many standard deviations.
    Sketched(f64),
}

impl Confidence {
    /// Where the widths of errors do not depend on other errors: Hoeffding's inequality.
    pub(crate) fn independent() -> Confidence {
        Confidence::Bounded((2.0 * EVENTS / FAILURE).ln())
    }

    /// Where they may, as those of quantized differences to an iterate that was quantized itself. The
    /// inequality then holds for a given slope of its exponent only, so it is asked for 2,048 slopes, one
    /// of which is within a factor of the square root of 2 of the best.
    pub(crate) fn adaptive() -> Confidence {
        const SLOPES: f64 = 2048.0;
        let off = (2.0f64.sqrt() + 0.5f64.sqrt()) / 2.0;
        Confidence::Bounded((2.0 * EVENTS * SLOPES / FAILURE).ln() * off * off)
    }

    /// Where sketches are all there is.
    pub(crate) fn sketched() -> Confidence {
        Confidence::Sketched(sketched().normal())
    }

    /// The distance on either side that is not due to products of errors.
    fn distance(self, variance: f64) -> f64 {
        variance.sqrt()
            * match self {
                Confidence::Bounded(exponent) => (exponent / 2.0).sqrt() + COARSE,
                Confidence::Sketched(deviations) => deviations,
            }
    }
}

/// A closed interval; a side is `None` where nothing bounds it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub lo: Option<f64>,
    /// Upper end.
    pub hi: Option<f64>,
}

/// The next smaller and larger numbers but a few, so that rounding takes nothing off.
pub(super) const OUTWARD: f64 = 8.0 * f64::EPSILON;
/// What adding up can make of a sum of squares.
const ROUNDINGS: f64 = 32.0 * f64::EPSILON;

impl Interval {
    /// From finite ends, a little wider than they are.
    fn new(lo: f64, hi: f64) -> Interval {
        let end = |v: f64, by: f64| v.is_finite().then_some(v + by * OUTWARD * v.abs());
        Interval { lo: end(lo, -1.0), hi: end(hi, 1.0) }
    }

    /// Whether it holds 0.
    pub fn holds_zero(self) -> bool {
        self.lo.is_none_or(|lo| lo <= 0.0) && self.hi.is_none_or(|hi| hi >= 0.0)
    }

    fn map(self, f: impl Fn(f64) -> f64) -> Interval {
        Interval { lo: self.lo.map(&f), hi: self.hi.map(&f) }
    }
}

/// A range of a sum, with infinite ends where nothing bounds it.
#[derive(Clone, Copy, Debug)]
struct Range {
    lo: f64,
    hi: f64,
}

impl Range {
    /// Of a sum whose error is 0 on the average but for products of errors of either sign.
    fn signed(value: f64, spread: Spread, confidence: Confidence) -> Range {
        let by = confidence.distance(spread.variance) + spread.squares + spread.offset;
        Range { lo: value - by, hi: value + by }
    }

    /// Of a sum of squares: the squares of the errors were added to it.
    fn square(value: f64, spread: Spread, confidence: Confidence) -> Range {
        let rounding = if spread == Spread::default() { 0.0 } else { ROUNDINGS * value };
        let by = confidence.distance(spread.variance) + spread.offset + rounding;
        if let Confidence::Sketched(_) = confidence {
            // The error is a share of what the sum should be, not of what was found.
            let share = if value > 0.0 { by / value } else { 0.0 };
            let hi = if share < 1.0 { value / (1.0 - share) } else { f64::INFINITY };
            return Range { lo: (value - spread.squares).max(0.0) / (1.0 + share), hi };
        }
        Range { lo: (value - by - spread.squares).max(0.0), hi: value + by }
    }

    fn minus(self, other: Range) -> Range {
        Range { lo: self.lo - other.hi, hi: self.hi - other.lo }
    }

    /// Divided by a range of positive numbers.
    fn over(self, by: Range) -> Range {
        let divided = |v: f64, small: f64, large: f64| {
            let quotient = v / if v >= 0.0 { small } else { large };
            // A sign that is known stays so, whatever it is divided by.
            if quotient == 0.0 && v != 0.0 { f64::MIN_POSITIVE.copysign(v) } else { quotient }
        };
        Range { lo: divided(self.lo, by.hi, by.lo), hi: divided(self.hi, by.lo, by.hi) }
    }

    fn interval(self) -> Interval {
        Interval::new(self.lo, self.hi)
    }
}

/// The intervals of a row's metrics. Where a metric is null, so are the ends of its interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Intervals {
    /// Of `rsi`.
    pub rsi: Interval,
    /// Of `eb`.
    pub eb: Interval,
    /// Of `cos`.
    pub cos: Interval,
    /// Of `kappa`; unbounded where that of `cos` holds 0.
    pub kappa: Interval,
    /// Of `angle_deg`.
    pub angle_deg: Interval,
    /// Of `lolr`.
    pub lolr: Interval,
    /// Of `dist`.
    pub dist: Interval,
    /// Of `own`.
    pub own: Interval,
    /// Of `cos_own`.
    pub cos_own: Interval,
    /// Of `cos_excess`.
    pub cos_excess: Interval,
    /// Of `rsi_excess`.
    pub rsi_excess: Interval,
    /// Of `lolr_ratio`.
    pub lolr_ratio: Interval,
    /// Of `z`.
    pub z: Interval,
}

impl Intervals {
    /// Those of a row whose `cos_excess` is no cosine, and null.
    #[must_use]
    pub fn without_excess(self) -> Intervals {
        Intervals { cos_excess: Interval::default(), z: Interval::default(), ..self }
    }
}

/// The intervals of a row of `parameters` parameters. `own` is the spread of what is known of its entry.
pub(crate) fn intervals(
    s: &Sums,
    spreads: &Spreads,
    parameters: u64,
    entry: Entry,
    own: Spread,
    confidence: Confidence,
) -> Intervals {
    let d2 = Range::square(s.d2, spreads.d2, confidence);
    let dist = Range { lo: d2.lo.sqrt(), hi: d2.hi.sqrt() }.interval();
    if s.all_absent || !(s.dot.is_finite() && s.g2.is_finite() && s.d2.is_finite()) {
        return Intervals { dist, ..Intervals::default() };
    }
    let dot = Range::signed(s.dot, spreads.dot, confidence);
    let g2 = Range::square(s.g2, spreads.g2, confidence);
    let norms = Range { lo: (g2.lo * d2.lo).sqrt(), hi: (g2.hi * d2.hi).sqrt() };
    let unit = |r: Range| {
        let Interval { lo, hi } = Range { lo: r.lo.max(-1.0), hi: r.hi.min(1.0) }.interval();
        Interval { lo: lo.map(|v| v.max(-1.0)), hi: hi.map(|v| v.min(1.0)) }
    };
    let there = |condition: bool, interval: Interval| if condition { interval } else { Interval::default() };
    let (at_reference, still) = (s.d2 == 0.0, s.g2 == 0.0);
    let cos = there(!at_reference && !still, unit(dot.over(norms)));
    let kappa = if dot.lo <= 0.0 && dot.hi >= 0.0 {
        Interval::default()
    } else if dot.lo > 0.0 {
        Range { lo: norms.lo / dot.hi, hi: norms.hi / dot.lo }.interval()
    } else {
        Range { lo: norms.hi / dot.hi, hi: norms.lo / dot.lo }.interval()
    };
    // The angle where a cosine is at its largest (1), or at its smallest (-1). Near 0 and 180 degrees a
    // rounding of the norms counts.
    let degrees = |dot: f64, towards: f64| {
        let norms = if dot * towards > 0.0 { norms.lo * (1.0 - OUTWARD) } else { norms.hi * (1.0 + OUTWARD) };
        if dot == 0.0 || norms.is_infinite() { 90.0 } else { angle(dot, norms, norms).to_degrees() }
    };
    let angle_deg = Interval::new(degrees(dot.hi, 1.0), degrees(dot.lo, -1.0));
    let mut all = Intervals {
        rsi: there(!at_reference, dot.over(d2).interval()),
        eb: there(!at_reference, {
            let squares = g2.over(d2);
            Range { lo: squares.lo.sqrt(), hi: squares.hi.sqrt() }.interval()
        }),
        cos,
        kappa: there(!at_reference && !still, kappa),
        angle_deg: there(!at_reference && !still, angle_deg),
        lolr: there(!still, dot.over(g2).interval()),
        dist,
        ..Intervals::default()
    };
    let excess = match entry {
        Entry::Known { own: value, .. } => {
            let own = Range::signed(value, own, confidence);
            all.own = own.interval();
            all.cos_own = there(!at_reference && !still, own.over(norms).interval());
            if value != 0.0 && own.lo * own.hi > 0.0 {
                let signed = if value > 0.0 { dot } else { Range { lo: -dot.hi, hi: -dot.lo } };
                let size = Range { lo: own.lo.abs().min(own.hi.abs()), hi: own.lo.abs().max(own.hi.abs()) };
                all.lolr_ratio = signed.over(size).interval();
            }
            Some(dot.minus(own))
        }
        Entry::Lagged => s.dot_lag.map(|lag| Range::signed(lag, spreads.dot_lag, confidence)),
        Entry::Unknown => None,
    };
    if let Some(excess) = excess {
        all.cos_excess = there(!at_reference && !still, excess.over(norms).interval());
        all.rsi_excess = there(!at_reference, excess.over(d2).interval());
        all.z = all.cos_excess.map(|c| c * (parameters as f64).sqrt());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::bias::bias;
    use crate::metrics::geometry::geometry;
    use crate::sums::tests::sums;

    fn inside(interval: Interval, value: Option<f64>) -> bool {
        let Some(value) = value else { return true };
        interval.lo.is_none_or(|lo| lo <= value) && interval.hi.is_none_or(|hi| value <= hi)
    }

    #[test]
    fn half_widths_are_those_of_hoeffding() {
        // P(|sum| > t) <= 2 exp(-2 t^2 / V) = 1e-9 / 4 at t = sqrt(V ln(8e9) / 2) = 3.3764 sqrt(V); with
        // 2,048 slopes sqrt(V ln(1.6384e13) / 2) 3 / sqrt(8) = 4.1370 sqrt(V).
        let t = Confidence::independent().distance(4.0) / 2.0;
        assert!((t - 3.3764).abs() < 1e-3, "{t}");
        let t = Confidence::adaptive().distance(4.0) / 2.0;
        assert!((t - 4.137).abs() < 1e-3, "{t}");
    }

    #[test]
    fn what_lost_nothing_is_a_point() {
        let s = sums(15.0, 25.0, 25.0);
        let entry = Entry::Known { own: 10.0, walk2: None };
        let all = intervals(&s, &Spreads::default(), 4, entry, Spread::default(), Confidence::independent());
        let near = |i: Interval, v: f64| {
            (i.lo.unwrap() - v).abs() < 1e-13 * v.abs() && (i.hi.unwrap() - v).abs() < 1e-13 * v.abs()
        };
        assert!(near(all.rsi, 0.6) && near(all.cos, 0.6) && near(all.cos_excess, 0.2));
        assert!(near(all.angle_deg, 53.130_102_354_155_98) && near(all.kappa, 25.0 / 15.0));
        assert!(near(all.lolr_ratio, 1.5) && near(all.own, 10.0) && near(all.z, 0.4));
    }

    #[test]
    fn every_corner_of_the_box_is_inside() {
        let spread = |variance: f64, squares: f64| Spread { variance, squares, offset: 0.01 };
        let c = Confidence::independent();
        for (dot, own_value) in [(15.0, 10.0), (-15.0, 4.0), (0.5, -3.0), (-0.5, 0.0)] {
            let s = sums(dot, 25.0, 30.0);
            let spreads = Spreads {
                dot: Spread { squares: 0.0, ..spread(0.1, 0.0) },
                g2: spread(0.2, 0.01),
                d2: spread(0.3, 0.03),
                dot_lag: Spread::default(),
            };
            let own = spread(0.01, 0.0);
            let entry = Entry::Known { own: own_value, walk2: None };
            let all = intervals(&s, &spreads, 9, entry, own, c);
            for corner in 0..16u32 {
                let at = |bit: u32, value: f64, s: Spread, down: f64| {
                    let by = c.distance(s.variance) + s.offset;
                    if corner >> bit & 1 == 1 { value + by } else { value - by - down }
                };
                let of = sums(
                    at(0, dot, spreads.dot, 0.0),
                    at(1, 25.0, spreads.g2, spreads.g2.squares),
                    at(2, 30.0, spreads.d2, spreads.d2.squares),
                );
                let g = geometry(&of);
                let b = bias(&of, 9, Entry::Known { own: at(3, own_value, own, 0.0), walk2: None });
                let pairs = [
                    (all.rsi, g.rsi),
                    (all.eb, g.eb),
                    (all.cos, g.cos),
                    (all.kappa, g.kappa),
                    (all.angle_deg, g.angle_deg),
                    (all.lolr, g.lolr),
                    (all.dist, g.dist),
                    (all.own, b.own),
                    (all.cos_own, b.cos_own),
                    (all.cos_excess, b.cos_excess),
                    (all.rsi_excess, b.rsi_excess),
                    (all.lolr_ratio, b.lolr_ratio),
                    (all.z, b.z),
                ];
                for (i, (interval, value)) in pairs.into_iter().enumerate() {
                    assert!(inside(interval, value), "{dot}: metric {i}, {interval:?} without {value:?}");
                }
            }
            assert_eq!(all.cos.holds_zero(), dot.abs() < 1.0);
            assert_eq!(all.kappa.lo.is_none(), dot.abs() < 1.0);
        }
    }

    #[test]
    fn what_is_orthogonal_beside_what_may_not_move_at_all_is_at_a_right_angle() {
        let spreads = Spreads { d2: Spread { variance: 100.0, ..Spread::default() }, ..Spreads::default() };
        for dot in [0.0, -0.0] {
            let s = sums(dot, 1.0, 1.0);
            let c = Confidence::independent();
            let all = intervals(&s, &spreads, 9, Entry::Unknown, Spread::default(), c);
            assert!(inside(all.angle_deg, Some(90.0)), "{:?}", all.angle_deg);
        }
    }

    #[test]
    fn a_distance_that_may_be_zero_bounds_nothing() {
        let spreads = Spreads { d2: Spread { variance: 100.0, ..Spread::default() }, ..Spreads::default() };
        let entry = Entry::Unknown;
        let s = sums(0.5, 1.0, 1.0);
        let all = intervals(&s, &spreads, 9, entry, Spread::default(), Confidence::independent());
        assert_eq!((all.rsi.hi, all.eb.hi, all.cos.hi, all.dist.lo), (None, None, Some(1.0), Some(0.0)));
        assert!(all.rsi.lo.unwrap() > 0.0 && all.cos.lo.unwrap() > 0.0);
    }
}
