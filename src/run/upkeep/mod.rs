//! What keeps a directory in order: locks, leftovers, what is superseded or set aside, one run in the place of another.

pub(crate) mod gc;
pub(crate) mod hold;
pub(crate) mod holders;
pub(crate) mod leftover;
pub(crate) mod replace;
pub(crate) mod set_aside;
