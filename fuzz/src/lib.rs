//! What of lpa is fuzzed, and what must hold for any input.
//!
//! A target makes files, payloads or vectors of some bytes and hands them to lpa. What comes back is looked at twice, in
//! different ways: mapped and read, with every instruction set, written again and read again. An input that breaks a
//! promise panics. How inputs are found is the engine's (`main.rs`); the suite runs each target over `corpus/`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::missing_panics_doc
)]

mod codecs;
mod files;
pub mod sections;
pub mod seeds;
mod targets;

use std::fmt::{Debug, Formatter};

/// Something of lpa that takes bytes of others.
#[derive(Clone, Copy)]
pub struct Target {
    /// Name of its folder in `corpus/`.
    pub name: &'static str,
    /// Hands an input to lpa.
    ///
    /// # Panics
    /// A promise does not hold.
    pub run: fn(&[u8]),
    /// How its inputs are changed.
    pub input: Input,
}

/// What an input is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Bytes.
    Bytes,
    /// [Sections](sections), which are changed one by one.
    Sections,
}

impl Debug for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All there are.
pub const TARGETS: [Target; 9] = [
    Target { name: "manifest", run: targets::manifest::run, input: Input::Bytes },
    Target { name: "journal", run: targets::journal::run, input: Input::Bytes },
    Target { name: "shard", run: targets::shard::run, input: Input::Sections },
    Target { name: "payload", run: targets::payload::run, input: Input::Bytes },
    Target { name: "round_trip", run: targets::round_trip::run, input: Input::Bytes },
    Target { name: "reference", run: targets::reference::run, input: Input::Sections },
    Target { name: "seal", run: targets::seal::run, input: Input::Sections },
    Target { name: "parts", run: targets::parts::run, input: Input::Sections },
    Target { name: "path", run: targets::path::run, input: Input::Sections },
];

/// The target of a name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|t| t.name == name)
}
