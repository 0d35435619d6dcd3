//! What `lpa doctor` runs: comparisons with the definition of the sums, and measurements.

pub(crate) mod conformance;
pub(crate) mod decoding;
pub(crate) mod device;
mod lane_sums;
mod packing;
mod predicting;
