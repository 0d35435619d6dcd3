//! Numbers as text in a page: bytes of equal significance side by side, deflated (zlib), in base64.
//!
//! `numbers.js` takes them apart again.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::ZlibEncoder;

use crate::error::{Result, Tried};

/// Arrays of numbers, one after the other. The page's header says how many there are, and how long and wide.
#[derive(Clone, Debug, Default)]
pub(super) struct Block {
    bytes: Vec<u8>,
}

impl Block {
    /// Adds numbers as float64, or as float32 where they are not `wide`. What is not there is NaN.
    pub(super) fn push(&mut self, numbers: &[f64], wide: bool) {
        if wide {
            self.shuffle(&numbers.iter().map(|v| v.to_le_bytes()).collect::<Vec<_>>());
        } else {
            #[allow(clippy::cast_possible_truncation)]
            self.shuffle(&numbers.iter().map(|v| (*v as f32).to_le_bytes()).collect::<Vec<_>>());
        }
    }

    fn shuffle<const N: usize>(&mut self, all: &[[u8; N]]) {
        (0..N).for_each(|byte| self.bytes.extend(all.iter().map(|bytes| bytes[byte])));
    }

    /// The text.
    ///
    /// # Errors
    /// None: memory does not refuse.
    pub(super) fn text(&self) -> Result<String> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        let deflated = encoder.write_all(&self.bytes).and_then(|()| encoder.finish());
        Ok(STANDARD.encode(deflated.tried("deflate", "the page".as_ref())?))
    }
}

/// True if float32 would make an infinity or 0 of a number, or take away more than a rounding.
pub(super) fn is_wide(numbers: &[f64]) -> bool {
    let fits = |v: f64| (f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX)).contains(&v.abs());
    numbers.iter().any(|&v| !v.is_nan() && v != 0.0 && !fits(v))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn bytes_of_equal_significance_lie_side_by_side() {
        let mut block = Block::default();
        block.push(&[1.0, -2.0], false);
        block.push(&[1e-300], true);
        let deflated = STANDARD.decode(block.text().unwrap()).unwrap();
        let mut bytes = Vec::new();
        flate2::read::ZlibDecoder::new(&deflated[..]).read_to_end(&mut bytes).unwrap();
        // 1.0 is 3f80_0000, -2.0 is c000_0000.
        assert_eq!(bytes[..8], [0, 0, 0, 0, 0x80, 0, 0x3f, 0xc0]);
        assert_eq!(bytes[8..], 1e-300f64.to_le_bytes());
    }

    #[test]
    fn numbers_that_float32_has_not_are_wide() {
        let wide = [1e39, -1e-39, 5e-324].map(|v| is_wide(&[0.0, f64::NAN, v]));
        assert_eq!(wide, [true; 3]);
        assert!(!is_wide(&[0.0, f64::NAN, -3.4e38, 1.2e-38]));
    }
}
