//! Metrics: pure functions of sums. Null (`None`), never NaN, where a denominator is 0.

pub mod geometry;
pub mod trust;
