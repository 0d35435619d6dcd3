//! The safetensors container: building headers and reading them without trust.
//!
//! Owns the framing (length, JSON, padding); knows nothing of what the tensors mean.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result, Tried};

// Stock tools open every file, and truncation shows at once. In it lie one index and one payload tensor.
/// Data of a file that lpa writes starts at a multiple of this, so that it can be mapped, read
/// directly and copied to devices in whole pages.
pub(crate) const DATA_ALIGN: usize = 4096;
/// Largest header that is read. The safetensors format allows 100 MB.
pub(crate) const MAX_HEADER: u64 = 100_000_000;

/// One tensor of a header to build: name, safetensors type, shape, bytes.
pub(crate) struct Entry<'a> {
    /// Name.
    pub name: &'a str,
    /// Type as safetensors spells it.
    pub dtype: &'a str,
    /// Shape.
    pub shape: Vec<u64>,
    /// Bytes of data.
    pub len: u64,
}

/// A header whose tensors lie one after the other in the order of `entries`, padded with spaces so
/// that the data starts at a multiple of [`DATA_ALIGN`].
pub(crate) fn build_header(metadata: &[(&str, String)], entries: &[Entry<'_>]) -> Vec<u8> {
    let mut map = Map::new();
    let metadata: Map<String, Value> = metadata.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
    map.insert("__metadata__".to_owned(), Value::Object(metadata));
    let mut at = 0;
    for e in entries {
        let offsets = [at, at + e.len];
        at += e.len;
        let value = json!({"dtype": e.dtype, "shape": e.shape, "data_offsets": offsets});
        map.insert(e.name.to_owned(), value);
    }
    let text = Value::Object(map).to_string();
    let total = (8 + text.len()).next_multiple_of(DATA_ALIGN);
    let mut header = Vec::with_capacity(total);
    header.extend_from_slice(&((total - 8) as u64).to_le_bytes());
    header.extend_from_slice(text.as_bytes());
    header.resize(total, b' ');
    header
}

/// A header that was read, and that fits the file that it heads.
#[derive(Debug)]
pub struct Header {
    metadata: Metadata,
    /// The header's bytes with its length field.
    pub bytes: Vec<u8>,
    /// Size of the file.
    pub file_len: u64,
}

impl Header {
    /// Reads and checks the header of `file`. `path` is for messages.
    ///
    /// # Errors
    /// The file is no safetensors file, or its size is not what the header says.
    pub fn read(file: &File, path: &Path) -> Result<Header> {
        let bad = |what: String| Error::damaged(path, what);
        let file_len = file.metadata().tried("read", path)?.len();
        let mut len = [0u8; 8];
        if file_len < 8 {
            return Err(bad(format!("{file_len} bytes are too few for a safetensors file")));
        }
        file.read_exact_at(&mut len, 0).tried("read", path)?;
        let len = u64::from_le_bytes(len);
        if len > MAX_HEADER || len + 8 > file_len {
            return Err(bad(format!("a header of {len} bytes in a file of {file_len}")));
        }
        let size = usize::try_from(len + 8).map_err(|e| bad(e.to_string()))?;
        let mut bytes = vec![0u8; size];
        file.read_exact_at(&mut bytes, 0).tried("read", path)?;
        let metadata: Metadata = serde_json::from_slice(&bytes[8..])
            .map_err(|e| bad(format!("the header is no safetensors header ({e})")))?;
        let expected = len + 8 + metadata.data_len() as u64;
        if expected != file_len {
            return Err(bad(format!("the header calls for {expected} bytes, but the file has {file_len}")));
        }
        Ok(Header { metadata, bytes, file_len })
    }

    /// A value of `__metadata__`.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// The keys of `__metadata__`.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.metadata().iter().flat_map(|all| all.keys()).map(String::as_str)
    }

    /// The names of all tensors.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// Type, shape and place in the file (offset, length) of a tensor.
    pub fn tensor(&self, name: &str) -> Option<(Dtype, &[usize], u64, u64)> {
        let info = self.metadata.info(name)?;
        let (begin, end) = info.data_offsets;
        let offset = self.bytes.len() as u64 + begin as u64;
        Some((info.dtype, &info.shape, offset, (end - begin) as u64))
    }
}
