//! What keeps a directory in order: publishing, locks, leftovers, what is superseded, replacing.

pub mod gc;
pub mod hold;
pub mod leftover;
pub(crate) mod replace;
pub(crate) mod set_aside;
