//! What a manifest says of sketches.
//!
//! Owns how vectors are sketched, and what a parameter was of which there is a sketch; what follows for a manifest is
//! `sketched`'s.

use serde::{Deserialize, Serialize};

use crate::dtype::DType;

/// In the metadata of a run that `lpa sketch` has made: the id of the run of which.
pub(crate) const SKETCH_OF: &str = "sketch_of";
/// What a run requires whose vectors are sketches.
pub(crate) const SKETCH: &str = "sketch";

/// A parameter of which a run has sketches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its shape in the model.
    pub shape: Vec<u64>,
    /// Its element type there.
    pub dtype: DType,
}

/// How the vectors of a run are sketched; which dimensions stand for which parameter follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sketching {
    /// Dimensions of all tensors that were asked for.
    pub dimensions: u64,
    /// What keys, shifts and signs are drawn with.
    pub seed: u64,
}

impl std::fmt::Display for Sketching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} dimensions, seed {:#018x}", self.dimensions, self.seed)
    }
}
