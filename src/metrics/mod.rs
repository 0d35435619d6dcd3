//! Metrics: pure functions of sums. Null (`None`), never NaN, where a denominator is 0.

pub(crate) mod bias;
pub(crate) mod entry;
pub(crate) mod geometry;
pub(crate) mod growth;
pub(crate) mod interval;
#[cfg(test)]
mod noise;
pub(crate) mod skewness;
pub(crate) mod step;
pub(crate) mod trust;

/// A quotient; `None` where the denominator is 0 or the value is not finite.
fn ratio(numerator: f64, denominator: f64) -> Option<f64> {
    let value = numerator / denominator;
    (denominator != 0.0 && value.is_finite()).then_some(value)
}
