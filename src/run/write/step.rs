//! What a recording is given of one step.

use std::sync::Arc;

use crate::run::write::elements::Elements;
use crate::run::write::held::Held;

/// Everything recorded at one step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Step<'a> {
    /// The iterate x_t before update t.
    pub iterate: Option<&'a Elements<'a>>,
    /// Streams by name.
    pub streams: &'a [(&'a str, &'a Elements<'a>)],
    /// Scalars by name.
    pub scalars: &'a [(&'a str, f64)],
    /// What the optimizer goes on with, as it is before the step: the momentum of SGD; both moments of
    /// Adam. Looked at where the step before was not recorded; without them what follows takes more bytes.
    pub moments: &'a [&'a Elements<'a>],
    /// It is the final one, whose iterate is stored without loss.
    pub last: bool,
    /// The same vectors, where they are in buffers that may be held until the next ones are there. They are copied
    /// else.
    pub held: HeldVectors<'a>,
}

/// Vectors of a step that may be held.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeldVectors<'a> {
    /// The iterate.
    pub iterate: Option<&'a Arc<dyn Held>>,
    /// The gradient.
    pub gradient: Option<&'a Arc<dyn Held>>,
}
