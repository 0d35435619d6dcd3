//! What the name of a shard's file says.

use std::path::PathBuf;

use crate::run::format::attempt_id::AttemptId;

/// Steps are below this: a file name holds ten digits.
pub(crate) const MAX_STEPS: u64 = 10_000_000_000;

/// A shard has at most so many steps.
pub(crate) const MAX_SHARD_STEPS: u64 = 1_000_000;

/// What a shard's file name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShardName {
    /// First step.
    pub first: u64,
    /// Last step.
    pub last: u64,
    /// Attempt that wrote it.
    pub attempt: u32,
    /// Rank that wrote it.
    pub rank: u32,
}

impl ShardName {
    /// The directory below `steps/`.
    pub fn directory(self) -> String {
        format!("{:06}", self.first / 1000)
    }

    /// The file name.
    pub fn file_name(self) -> String {
        let ShardName { first, last, attempt, rank } = self;
        format!("s{first:010}-{last:010}.a{attempt}.r{rank}.safetensors")
    }

    /// Reads a file name; `None` where it is not exactly one that [`Self::file_name`] gives.
    pub fn parse(name: &str) -> Option<ShardName> {
        let body = name.strip_prefix('s')?.strip_suffix(".safetensors")?;
        let mut parts = body.split('.');
        let (steps, attempt, rank) = (parts.next()?, parts.next()?, parts.next()?);
        let (first, last) = steps.split_once('-')?;
        let parsed = ShardName {
            first: first.parse().ok()?,
            last: last.parse().ok()?,
            attempt: attempt.strip_prefix('a')?.parse().ok()?,
            rank: rank.strip_prefix('r')?.parse().ok()?,
        };
        let sane = parsed.first <= parsed.last
            && parsed.last < MAX_STEPS
            && parsed.last - parsed.first < MAX_SHARD_STEPS;
        (sane && parsed.file_name() == name).then_some(parsed)
    }
}

/// Whether a name below `steps/` is that of a directory of shards.
pub(crate) fn is_directory_name(name: &str) -> bool {
    name.len() >= 6 && name.bytes().all(|b| b.is_ascii_digit())
}

/// A shard found in the directory: its path and what its name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardFile {
    /// Path of the file.
    pub path: PathBuf,
    /// What the name says.
    pub name: ShardName,
    /// What the journal says that its header has.
    pub attempt_id: Option<AttemptId>,
}
