//! What lies on the disk: the manifest, the journal, safetensors containers, and how tensors are cut into chunks.

pub mod chunk;
pub mod container;
pub mod journal;
pub mod manifest;
pub(crate) mod record;
pub mod shard_name;
pub mod vector_id;
