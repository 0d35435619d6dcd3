//! Getting at what was recorded: shards, windows of them, and the vectors of a chunk through time.

pub(crate) mod absence;
pub(crate) mod catalog;
pub(crate) mod chunk_reader;
pub(crate) mod in_full;
pub(crate) mod mapped;
pub(crate) mod plan;
pub(crate) mod shard;
pub(crate) mod step_reader;
pub(crate) mod trajectory;
pub(crate) mod vector;
pub(crate) mod walk;
pub(crate) mod whole_steps;
pub(crate) mod window;
