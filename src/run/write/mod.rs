//! Recording: steps to shards, in the foreground or behind the training.

pub(crate) mod background;
pub(crate) mod block_file;
pub(crate) mod elements;
pub(crate) mod finish;
pub(crate) mod forecast;
pub(crate) mod full_reference;
pub(crate) mod held;
pub(crate) mod process;
pub(crate) mod reference_file;
pub(crate) mod resume;
pub(crate) mod sample;
pub(crate) mod shard_writer;
pub(crate) mod step;
pub(crate) mod vector_encoder;
pub(crate) mod writer;
