//! Files of a run's directory: how they appear, what is done below it, and what lies beside it.

pub(crate) mod beside;
pub(crate) mod inside;
pub(crate) mod publish;

/// File name inside the run directory.
pub(crate) const MANIFEST: &str = "manifest.json";
