//! Sums over the elements of one chunk, in the fixed order.
//!
//! Takes decoded vectors, returns sums; knows neither files nor metrics. The sums are defined in
//! `docs/numerics.md`: every term is formed in f64 from exactly widened elements and added with one
//! fused multiply-add.

pub mod cpu;
pub mod order;

/// Sums over one chunk that need no reference iterate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VectorSums {
    /// Sum of `g * g`.
    pub g2: f64,
    /// Sum of `g * x`.
    pub gx: f64,
    /// Sum of `x * x`.
    pub x2: f64,
    /// Sum of `(x - x_next)^2`.
    pub step2: f64,
    /// Sum of `(x - x_0)^2`.
    pub init2: f64,
}

/// Sums over one chunk against a reference `r`, with `d = x - r`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReferenceSums {
    /// Sum of `g * d`.
    pub dot: f64,
    /// Sum of `d * d`.
    pub d2: f64,
    /// Sum of `g * (x_next - r)`.
    pub dot_next: f64,
}
