//! What two sketches tell of the vectors that they stand for, and how far off it may be.
//!
//! Owns the regression of one sketch on the other, the law of its error, and intervals. Which steps, references
//! and groups are meant is not known here.
//!
//! Of a tensor, `||g||^2` is known. With d = a g + e and <g,e> = 0, the sketches give a and `||e||^2` as a
//! regression of the one on the other does, with as many observations as there are dimensions; so
//! `<g,d> = a ||g||^2` and `||d||^2 = a^2 ||g||^2 + ||e||^2`. The variance of `<g,e>` is
//! `||g||^2 ||e||^2 / k`, that of `||e||^2` is `2 ||e||^4 / k`, and they have no covariance.

use crate::order::{LANES, fold_lanes};
use crate::sketch::Sketch;
use crate::sketch::layout::{Form, Layout};

/// How surely intervals hold what they should.
#[derive(Clone, Copy, Debug)]
pub struct Confidence {
    /// The distance from the mean of a normal variable, in standard deviations, that is exceeded with what is left
    /// of the probability.
    normal: f64,
}

impl Confidence {
    /// With a probability between 0 and 1; at most 1 - 1e-12. `None` where it is not.
    pub fn new(probability: f64) -> Option<Confidence> {
        if !(probability > 0.0 && probability <= 1.0 - 1e-12) {
            return None;
        }
        // What lies within z of the mean grows with z: halving finds it to the last bit.
        let (mut lower, mut upper) = (0.0, 8.0);
        for _ in 0..64 {
            let middle = 0.5 * (lower + upper);
            *if within(middle) < probability { &mut lower } else { &mut upper } = middle;
        }
        Some(Confidence { normal: 0.5 * (lower + upper) })
    }

    #[cfg(test)]
    pub(super) fn normal(self) -> f64 {
        self.normal
    }

    /// The same of Student's t, from the inverse of its degrees of freedom, of which there are 63 at least
    /// (Abramowitz and Stegun, 26.7.5).
    fn student(self, coarseness: f64) -> f64 {
        let z = self.normal;
        let s = z * z;
        let terms = [
            z * (s + 1.0) / 4.0,
            z * ((5.0 * s + 16.0) * s + 3.0) / 96.0,
            z * (((3.0 * s + 19.0) * s + 17.0) * s - 15.0) / 384.0,
            z * ((((79.0 * s + 776.0) * s + 1482.0) * s - 1920.0) * s - 945.0) / 92_160.0,
        ];
        z + terms.iter().rev().fold(0.0, |sum, term| (sum + term) * coarseness)
    }
}

/// The probability that a normal variable lies within z standard deviations of its mean.
fn within(z: f64) -> f64 {
    let (mut term, mut sum, mut odd) = (z, z, 1.0);
    while term > sum * f64::EPSILON {
        odd += 2.0;
        term *= z * z / odd;
        sum += term;
    }
    sum * (-0.5 * z * z).exp() * (2.0 / std::f64::consts::PI).sqrt()
}

/// The mean square of what a float32 sum is off by when a term is added, as a share of its square: 2^-50.6.
const ROUNDED: f64 = 6e-16;

/// What the sketches of g and d tell of one tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Part {
    g2: f64,
    dot: f64,
    d2: f64,
    /// The multiple of g in d.
    slope: f64,
    error: Error,
}

/// How far off the two estimates of a tensor are. All is 0 where it is kept exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Error {
    /// Variances of `<g,e>` and `||e||^2`.
    variance: [f64; 2],
    /// What one pair of elements that meet by chance can add to either: much, where few elements are most of a tensor.
    once: [f64; 2],
    /// What rounding adds to `||e||^2`, at most; much, where x is next to r.
    rounding: f64,
    /// Of the pairs of elements, the share that can meet.
    meeting: f64,
    /// The inverse of the degrees of freedom with which the variances are known.
    coarseness: f64,
}

impl Part {
    /// Of a tensor, from the sketches of g, x and r, where d = x - r, and the exact `||g||^2`.
    pub fn of(layout: &Layout, tensor: usize, g: &Sketch, x: &Sketch, r: &Sketch, g2: f64) -> Part {
        let [g, x, r] = [g, x, r].map(|sketch| sketch.tensor(layout, tensor));
        let d = Difference { x, r };
        let [dot] = sums(g.len(), |i| [g[i] * d.at(i)]);
        let rows = match layout.form(tensor) {
            Form::Exact => {
                let [d2] = sums(g.len(), |i| [d.at(i) * d.at(i)]);
                return Part { g2, dot, d2, ..Part::default() };
            }
            Form::Sketched(rows) => rows,
        };
        let [gg] = sums(g.len(), |i| [g[i] * g[i]]);
        let slope = if gg > 0.0 { dot / gg } else { 0.0 };
        let rest = |i: usize| d.at(i) - slope * g[i];
        let [e2] = sums(g.len(), |i| [rest(i) * rest(i)]);
        let [x2, r2] = sums(g.len(), |i| [x[i] * x[i], r[i] * r[i]]);
        let most = |of: &dyn Fn(usize) -> f64| (0..g.len()).fold(0.0, |most: f64, i| most.max(of(i).abs()));
        let (most_g, most_e) = (most(&|i| g[i]), most(&rest));
        let k = rows.dimensions() as f64;
        let unbiased = e2 * k / (k - 1.0);
        // Terms of a sum of a span, which is half of what it will be on the average, and what is stored of all.
        let roundings = 0.5 * layout.span(tensor) as f64 / k + 1.0;
        Part {
            g2,
            dot: slope * g2,
            d2: slope * slope * g2 + e2,
            slope,
            error: Error {
                variance: [g2 * unbiased / k, 2.0 * unbiased * unbiased / k],
                once: [most_g * most_e, 2.0 * most_e * most_e],
                rounding: 2.0 * roundings * ROUNDED * (x2 + r2),
                meeting: 1.0 - k / layout.elements(tensor) as f64,
                coarseness: 1.0 / (k - 1.0),
            },
        }
    }
}

/// The sketch of x - r.
#[derive(Clone, Copy)]
struct Difference<'a> {
    x: &'a [f64],
    r: &'a [f64],
}

impl Difference<'_> {
    fn at(&self, i: usize) -> f64 {
        self.x[i] - self.r[i]
    }
}

/// Sums over dimensions, in lanes.
fn sums<const N: usize>(count: usize, term: impl Fn(usize) -> [f64; N]) -> [f64; N] {
    let mut lanes = [[0.0; LANES]; N];
    for i in 0..count {
        for (lanes, term) in lanes.iter_mut().zip(term(i)) {
            lanes[i % LANES] += term;
        }
    }
    lanes.map(fold_lanes)
}

/// An estimate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Without bias but for ratios, where it is at most the value divided by the dimensions.
    pub value: f64,
    /// The standard deviation of its error.
    pub deviation: f64,
    /// The lower end of its interval.
    pub low: f64,
    /// The upper end; `None` where nothing bounds it.
    pub high: Option<f64>,
}

/// What the sketches tell of a group of tensors. A ratio is `None` where its denominator is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimates {
    /// `<g,d>`.
    pub dot: Estimate,
    /// `||d||^2`.
    pub d2: Estimate,
    /// `||d||`.
    pub dist: Estimate,
    /// `<g,d> / (||g|| ||d||)`.
    pub cos: Option<Estimate>,
    /// `<g,d> / ||d||^2`.
    pub rsi: Option<Estimate>,
    /// `<g,d> / ||g||^2`.
    pub lolr: Option<Estimate>,
}

/// How far an estimate is off.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    deviation: f64,
    half: f64,
    /// What rounding can have added.
    rounding: f64,
}

/// How far a function of the sums is off, from how it grows with `<g,e>` and `||e||^2` of each part.
fn doubt(parts: &[Part], confidence: Confidence, slopes: impl Fn(&Part) -> [f64; 2]) -> Doubt {
    let own = |part: &Part| {
        let [a, b] = slopes(part);
        a * a * part.error.variance[0] + b * b * part.error.variance[1]
    };
    let variance: f64 = parts.iter().map(own).sum();
    let (mut meeting, mut coarseness, mut once, mut rounding) = (0.0, 0.0, 0.0f64, 0.0);
    for part in parts {
        let ([a, b], error) = (slopes(part), part.error);
        let share = if variance > 0.0 { own(part) / variance } else { 0.0 };
        meeting += share * error.meeting;
        coarseness += share * share * error.coarseness;
        once = once.max(a.abs() * error.once[0] + b.abs() * error.once[1]);
        rounding += b.abs() * error.rounding;
    }
    // Satterthwaite's degrees of freedom, of which no part has fewer.
    let quantile = confidence.student(coarseness);
    // Pairs in a row never meet, which takes off a share that is known where elements are alike; the interval
    // does without.
    Doubt { deviation: (variance * meeting).sqrt(), half: quantile * variance.sqrt() + once, rounding }
}

impl Doubt {
    fn around(self, value: f64) -> Estimate {
        let half = self.half + self.rounding;
        Estimate { value, deviation: self.deviation, low: value - half, high: Some(value + half) }
    }

    /// Around a sum of squares, which is off by a share of what it should be.
    fn share(self, value: f64) -> Estimate {
        let share = if value > 0.0 { self.half / value } else { 0.0 };
        let high = (share < 1.0).then(|| value / (1.0 - share));
        let low = (value - self.rounding).max(0.0) / (1.0 + share);
        Estimate { value, deviation: self.deviation, low, high }
    }
}

impl Estimates {
    /// Of the tensors whose parts are given. `None` where some vector has an element that is not finite, or one
    /// so large that squares are not.
    pub fn of(parts: &[Part], confidence: Confidence) -> Option<Estimates> {
        let sum = |of: fn(&Part) -> f64| parts.iter().map(of).sum::<f64>();
        let (g2, dot, d2) = (sum(|p| p.g2), sum(|p| p.dot), sum(|p| p.d2));
        let products = parts.iter().map(|p| p.error.variance[0] + p.error.variance[1]).sum::<f64>();
        if ![g2, dot, d2, g2 * d2, d2 * d2, products].iter().all(|v| v.is_finite()) {
            return None;
        }
        let around =
            |value: f64, slopes: &dyn Fn(&Part) -> [f64; 2]| doubt(parts, confidence, slopes).around(value);
        let squared = doubt(parts, confidence, |p| [2.0 * p.slope, 1.0]).share(d2);
        let dist = Estimate {
            value: d2.sqrt(),
            deviation: if d2 > 0.0 { squared.deviation / (2.0 * d2.sqrt()) } else { 0.0 },
            low: squared.low.sqrt(),
            high: squared.high.map(f64::sqrt),
        };
        let norms = (g2 * d2).sqrt();
        Some(Estimates {
            dot: around(dot, &|_| [1.0, 0.0]),
            d2: squared,
            dist,
            cos: (norms > 0.0).then(|| {
                let cos = dot / norms;
                let found = around(cos, &|p| [1.0 / norms - cos * p.slope / d2, -0.5 * cos / d2]);
                Estimate { low: found.low.max(-1.0), high: found.high.map(|high| high.min(1.0)), ..found }
            }),
            rsi: (d2 > 0.0).then(|| {
                let rsi = dot / d2;
                around(rsi, &|p| [(1.0 - 2.0 * p.slope * rsi) / d2, -rsi / d2])
            }),
            lolr: (g2 > 0.0).then(|| around(dot / g2, &|_| [1.0 / g2, 0.0])),
        })
    }
}
