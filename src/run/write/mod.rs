//! Recording: steps to shards, in the foreground or behind the training.

pub mod background;
pub(crate) mod finish;
pub(crate) mod forecast;
pub(crate) mod process;
pub mod reference_file;
pub(crate) mod resume;
pub(crate) mod sample;
pub(crate) mod shard_writer;
pub mod step;
pub(crate) mod vector_encoder;
pub mod writer;
