//! Every operation with a file that can fail, be interrupted, be cut short or be the last: of a recording, and of commands
//! that write.
//!
//! Here some of them; with `LPA_TORTURE=1` each (`make torture`). x86-64 only.

mod commands;
mod disk;
mod full;
mod recording;
mod tracer;

use crate::faults::tracer::{Fault, Operation};

/// Of so many operations one has a fault, where not each has.
fn some_of(every: usize) -> usize {
    if std::env::var_os("LPA_TORTURE").is_some() { 1 } else { every }
}

/// Where a fault was, as an assertion says it.
fn place(what: &str, fault: Fault, at: usize, hit: &Operation) -> String {
    format!("{what}: {fault:?} at operation {at}, {hit}")
}
