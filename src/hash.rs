//! xxh3, the one hash of the format. It finds damage; it is no defence against forgery.

use twox_hash::{XxHash3_64, XxHash3_128};

/// xxh3_64 of some bytes.
pub fn xxh3_64(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// xxh3_128 of some bytes.
pub(crate) fn xxh3_128(bytes: &[u8]) -> u128 {
    XxHash3_128::oneshot(bytes)
}

/// xxh3_64 of bytes that come in pieces.
#[derive(Default)]
pub struct Xxh3(XxHash3_64);

impl std::fmt::Debug for Xxh3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Xxh3").finish_non_exhaustive()
    }
}

impl Xxh3 {
    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        std::hash::Hasher::write(&mut self.0, bytes);
    }

    /// The hash of all pieces.
    pub fn digest(&self) -> u64 {
        std::hash::Hasher::finish(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_the_xxhash_specification() {
        // xxh3_64 and xxh3_128 of no bytes, as `xxhsum -H3` and `xxhsum -H2` print them.
        assert_eq!(xxh3_64(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(xxh3_128(b""), 0x99aa_06d3_0147_98d8_6001_c324_468d_497f);
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let mut pieces = Xxh3::default();
        bytes.chunks(7).for_each(|p| pieces.update(p));
        assert_eq!(pieces.digest(), xxh3_64(&bytes));
    }
}
