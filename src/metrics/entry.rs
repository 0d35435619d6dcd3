//! What is known of how a direction enters a reference.

/// What is known of how a direction enters the reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Entry {
    /// It enters with known coefficients: `own` is their sum over tensors, weighted by the squared
    /// norms, and `walk2` the squared distance of a walk of orthogonal steps.
    Known {
        /// `sum h ||s||^2`.
        own: f64,
        /// `None` for directions that the path is not made of.
        walk2: Option<f64>,
    },
    /// It enters in an unknown way, which is over when the later iterate comes.
    Lagged,
    /// Nothing is known.
    Unknown,
}
