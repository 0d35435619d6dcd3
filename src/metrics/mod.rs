//! Metrics: pure functions of sums. Null (`None`), never NaN, where a denominator is 0.

pub mod bias;
pub mod geometry;
pub mod response;
pub mod trust;
