//! Which process something belongs to.
//!
//! A forked process has copies of all objects, but none of the threads; the files that they hold are the same
//! ones, with one place in each. What a copy does when it goes out of use would be done to the original.

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    /// The one that asks.
    pub(crate) fn this() -> Process {
        Process(std::process::id())
    }

    /// Whether it is the one that asks.
    pub(crate) fn is_this(self) -> bool {
        self == Process::this()
    }
}
