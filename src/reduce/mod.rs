//! Sums over the elements of one chunk, in the fixed order.
//!
//! Takes decoded vectors, returns sums; knows neither files nor metrics. The sums are defined in
//! `docs/numerics.md`: every term is formed in f64 from exactly widened elements and added with one
//! fused multiply-add.

pub(crate) mod cpu;
pub(crate) mod lagged;
pub(crate) mod products;
pub(crate) mod response;
mod simd;
pub(crate) mod spread;

/// How the elements of a direction s come from those of the stored vectors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Direction {
    /// `s = g`.
    Stored,
    /// `s = fma(weight_decay, x, g)`: a gradient with its weight decay.
    Decayed(f64),
    /// `s = x - x_next`: what the optimizer did.
    Update,
}

/// Sums over one chunk of iterates alone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct IterateSums {
    /// Sum of `x * x`.
    pub x2: f64,
    /// Sum of `(x - x_next)^2`.
    pub step2: f64,
    /// Sum of `(x - x_0)^2`.
    pub init2: f64,
}

/// Sums over one chunk of a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DirectionSums {
    /// Sum of `s * s`.
    pub g2: f64,
    /// Sum of `s * x`.
    pub gx: f64,
}

/// Sums over one chunk of a direction against a reference `r`, with `d = x - r`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReferenceSums {
    /// Sum of `s * d`.
    pub dot: f64,
    /// Sum of `d * d`.
    pub d2: f64,
    /// Sum of `s * (x_next - r)`.
    pub dot_next: f64,
}
