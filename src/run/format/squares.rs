//! The names of the scalars that stand beside sketches: what of a vector is known exactly.

/// What they begin with.
const PREFIX: &str = "lpa/square/";

/// The name of the scalar that is `||v||^2` of a tensor, by its number, of a vector v: a stream, or the iterate.
pub fn square_name(stream: &str, tensor: usize) -> String {
    format!("{PREFIX}{stream}/{tensor}")
}

/// Whether a scalar is one of these, which say nothing to a person.
pub(crate) fn is_square(name: &str) -> bool {
    name.starts_with(PREFIX)
}
