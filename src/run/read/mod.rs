//! Getting at what was recorded: shards, windows of them, and the vectors of a chunk through time.

pub mod absence;
pub mod catalog;
pub mod chunk_reader;
pub mod mapped;
pub mod plan;
pub mod shard;
pub(crate) mod step_reader;
pub mod trajectory;
pub mod vector;
pub mod walk;
pub mod window;
