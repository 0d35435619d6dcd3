//! Which attempt a file is of: a number drawn when it begins.
//!
//! Copies of a run have the same id, and when both are continued, attempts of the same number. Their files differ in this.

use std::fmt::{Display, Formatter};
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Result, Tried};
use crate::hash::xxh3_64;

/// The key of the metadata of shards and of the final iterate.
pub(crate) const ATTEMPT_ID: &str = "attempt_id";

/// A number that no other attempt has, as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptId(u64);

impl AttemptId {
    /// Draws one.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub(crate) fn draw() -> Result<AttemptId> {
        random().map(|bytes| AttemptId(u64::from_le_bytes(bytes)))
    }

    /// The one that a text of 16 hexadecimal digits says.
    pub(crate) fn parse(text: &str) -> Option<AttemptId> {
        u64::from_str_radix(text, 16).ok().map(AttemptId).filter(|id| id.to_string() == text)
    }

    /// That of a run that is made of something else: the same of the same.
    pub(crate) fn of(made_of: &str) -> AttemptId {
        AttemptId(xxh3_64(made_of.as_bytes()))
    }
}

impl Display for AttemptId {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for AttemptId {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AttemptId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<AttemptId, D::Error> {
        let text = String::deserialize(deserializer)?;
        AttemptId::parse(&text).ok_or_else(|| serde::de::Error::custom("16 hexadecimal digits"))
    }
}

/// Random bytes.
///
/// # Errors
/// The system gives none.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; N];
    std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut bytes)).tried("read", path)?;
    Ok(bytes)
}
