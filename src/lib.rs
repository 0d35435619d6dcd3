//! lpa analyzes optimization paths: from a recorded training to RSI, EB, cosine and loLR per step.
//!
//! Data flows one way: shard bytes, [`codec`], vectors, [`reduce`], [`sums`], [`metrics`], [`row`],
//! [`table`]. `docs/architecture.md` is the map.

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!("lpa runs on 64-bit Linux on x86-64 (tested) or aarch64 (written, not tested).");

pub mod analyze;
pub mod cli;
pub mod codec;
pub mod cuda;
pub mod doctor;
pub mod dtype;
pub mod error;
pub mod estimate;
pub mod export;
pub mod float_environment;
pub mod group;
pub mod hash;
pub mod isa;
pub mod meter;
pub mod metrics;
pub mod optimizer;
pub mod order;
pub mod pack;
pub mod question;
pub mod recover;
pub mod reduce;
pub mod reference;
pub mod report;
pub mod row;
pub mod run;
pub mod simulate;
pub mod step_set;
pub mod stream;
pub mod summary;
pub mod sums;
pub mod table;
pub mod text;
pub mod verify;

pub use error::{Error, ErrorKind, Result};
