//! What two sketches tell of the vectors that they stand for, and how far off it may be.
//!
//! Owns the regression of one sketch on the other, and the law of its error. Which steps, references
//! and groups are meant is not known here, nor what metrics are made of it.
//!
//! Of a tensor, `||g||^2` is known. With d = a g + e and <g,e> = 0, the sketches give a and `||e||^2` as a
//! regression of the one on the other does, with as many observations as there are dimensions; so
//! `<g,d> = a ||g||^2` and `||d||^2 = a^2 ||g||^2 + ||e||^2`. The variance of `<g,e>` is
//! `||g||^2 ||e||^2 / k`, that of `||e||^2` is `2 ||e||^4 / k`, and they have no covariance.

use crate::reduce::spread::Spread;
use crate::sketch::layout::{Form, Layout};

/// How surely intervals hold what they should.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Confidence {
    /// The distance from the mean of a normal variable, in standard deviations, that is exceeded with what is left
    /// of the probability.
    normal: f64,
}

impl Confidence {
    /// With a probability between 0 and 1 - 1e-12; with the nearer of both where it is beyond.
    pub(crate) fn within(probability: f64) -> Confidence {
        let probability = probability.clamp(0.0, 1.0 - 1e-12);
        // What lies within z of the mean grows with z: halving finds it to the last bit.
        let (mut lower, mut upper) = (0.0, 8.0);
        for _ in 0..64 {
            let middle = 0.5 * (lower + upper);
            *if within(middle) < probability { &mut lower } else { &mut upper } = middle;
        }
        Confidence { normal: 0.5 * (lower + upper) }
    }

    /// That distance.
    pub(crate) fn normal(self) -> f64 {
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

/// How far off what the sketches of one tensor tell is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Law {
    /// Dimensions.
    dimensions: f64,
    /// Roundings of each, on the average: of the terms of a sum of a span, which is half of what it will be, and of
    /// what is stored of all.
    roundings: f64,
    /// By how much variances are larger that give the quantiles of a normal variable where Student's are due, since
    /// the variance is known from as many observations only as there are dimensions.
    inflation: f64,
}

/// Sums over the dimensions of a tensor, of the sketches of a vector v and of d = x - r.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Observed {
    /// `||v||^2`.
    pub(crate) square: f64,
    /// `<v, d>`.
    pub(crate) dot: f64,
    /// `||d||^2`.
    pub(crate) d2: f64,
    /// The largest size of v in one dimension.
    pub(crate) most: f64,
    /// The same of d.
    pub(crate) most_d: f64,
}

/// What follows for the vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Estimate {
    /// Without bias.
    pub(crate) value: f64,
    /// How far off it may be: `variance` that of its error, with Student's quantiles taken in; `squares` what rounding
    /// adds, at most; `offset` what one pair of elements that meet by chance can add, much where few elements are most
    /// of a tensor.
    pub(crate) spread: Spread,
}

impl Law {
    /// Of a tensor of a layout; `None` where it is kept exactly.
    pub(crate) fn of(layout: &Layout, tensor: usize, confidence: Confidence) -> Option<Law> {
        let Form::Sketched(rows) = layout.form(tensor) else { return None };
        let k = rows.dimensions() as f64;
        let student = confidence.student(1.0 / (k - 1.0)) / confidence.normal();
        Some(Law {
            dimensions: k,
            roundings: 0.5 * layout.span(tensor) as f64 / k + 1.0,
            inflation: student * student,
        })
    }

    /// `<v,d>` of a vector whose `||v||^2` is known. With d = a v + e and `<v,e>` = 0, the variance of what the sketches
    /// have of `<v,e>` is `||v||^2 ||e||^2 / k`.
    pub(crate) fn dot(&self, o: &Observed, square: f64) -> Estimate {
        let rest = self.rest(o);
        let variance = square * rest.unbiased / self.dimensions * self.inflation;
        let offset = o.most * rest.most;
        Estimate { value: rest.slope * square, spread: Spread { variance, squares: 0.0, offset } }
    }

    /// The same of a vector that has nothing beside its sketch.
    pub(crate) fn dot_alone(&self, o: &Observed) -> Estimate {
        let variance = (o.square * o.d2 + o.dot * o.dot) / self.dimensions * self.inflation;
        Estimate { value: o.dot, spread: Spread { variance, squares: 0.0, offset: o.most * o.most_d } }
    }

    /// `||d||^2` = `a^2 ||v||^2 + ||e||^2`, with v as in [`Self::dot`]; `x2` is the size of x, which rounding is a part
    /// of. The variance of what the sketch has of `||e||^2` is `2 ||e||^4 / k`, and there is no covariance of both.
    pub(crate) fn d2(&self, o: &Observed, square: f64, x2: f64) -> Estimate {
        let rest = self.rest(o);
        let k = self.dimensions;
        let along = 4.0 * rest.slope * rest.slope * square * rest.unbiased / k;
        let across = 2.0 * rest.unbiased * rest.unbiased / k;
        // r is within d of x.
        let r = x2.sqrt() + o.d2.sqrt();
        let squares = 2.0 * self.roundings * ROUNDED * (x2 + r * r);
        let offset = 2.0 * (rest.slope.abs() * o.most + rest.most) * rest.most;
        Estimate {
            value: rest.slope * rest.slope * square + rest.square,
            spread: Spread { variance: (along + across) * self.inflation, squares, offset },
        }
    }

    /// `||v||^2` of a vector that has nothing beside its sketch, made of iterates of squared length `x2`.
    pub(crate) fn square_alone(&self, o: &Observed, x2: f64) -> Estimate {
        let variance = 2.0 * o.square * o.square / self.dimensions * self.inflation;
        let squares = 4.0 * self.roundings * ROUNDED * x2;
        Estimate { value: o.square, spread: Spread { variance, squares, offset: 2.0 * o.most * o.most } }
    }

    fn rest(&self, o: &Observed) -> Rest {
        // What is not finite stays so.
        let slope = if o.square > 0.0 { o.dot / o.square } else { 0.0 * o.dot };
        let left = o.d2 - slope * o.dot;
        let square = if left < 0.0 { 0.0 } else { left };
        Rest {
            slope,
            square,
            unbiased: square * self.dimensions / (self.dimensions - 1.0),
            most: o.most_d + slope.abs() * o.most,
        }
    }
}

/// What d has besides a multiple of v.
struct Rest {
    slope: f64,
    square: f64,
    unbiased: f64,
    most: f64,
}
