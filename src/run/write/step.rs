//! What a recording is given of one step.

/// The elements of every tensor that this rank writes, in the manifest's order: little endian, as
/// long as the rank's slices. `None` is an absent vector (no gradient), which is not zero.
pub type Elements<'a> = [Option<&'a [u8]>];

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
}
