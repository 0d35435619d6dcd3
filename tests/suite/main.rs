//! Tests of the `lpa` binary and of the library as its users see them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    missing_docs,
    unreachable_pub
)]

mod append;
mod bad_input;
mod batch;
mod bounds;
mod cli;
mod codec;
mod corpus;
mod crash;
mod cuda;
mod determinism;
#[cfg(target_arch = "x86_64")]
mod faults;
mod flips;
mod format_compat;
mod join;
mod kin;
mod layers;
mod long;
mod lossy;
mod machine;
mod maintenance;
mod pack;
mod parts;
mod path;
mod plot;
mod prediction;
mod question;
mod recording;
mod reference_files;
mod references;
mod support;
mod threads;
mod trust;
mod walks;
