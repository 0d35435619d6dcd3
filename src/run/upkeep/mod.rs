//! What keeps a directory in order: publishing, locks, leftovers, what is superseded, replacing.

pub(crate) mod gc;
pub(crate) mod hold;
pub(crate) mod leftover;
pub(crate) mod replace;
pub(crate) mod set_aside;
