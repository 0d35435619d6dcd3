//! What lies on the disk: the manifest, the journal, safetensors containers, and how tensors are cut into chunks.

pub(crate) mod attempt_id;
pub(crate) mod chunk;
pub(crate) mod container;
pub(crate) mod elements;
pub(crate) mod in_full;
pub(crate) mod journal;
pub(crate) mod manifest;
pub(crate) mod record;
pub(crate) mod shard_name;
pub(crate) mod sketched;
pub(crate) mod sketching;
pub(crate) mod squares;
pub(crate) mod vector_id;
