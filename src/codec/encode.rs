//! Elements to payload.

use zstd::zstd_safe::{CParameter, ParamSwitch};

use super::planes::{bitmap_len, is_kept, split16, split32};
use super::{Codec, Coding, ZERO_BLOCK};
use crate::dtype::DType;

/// Exponents have no order to find matches in, so the level that hardly looks for any is the
/// fastest and loses nothing: Huffman-coded literals are all the gain there is.
const LEVEL: i32 = -20;

/// Encodes chunks; reuses its buffers from one to the next.
pub struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
    exponent: Vec<u8>,
    high: Vec<u8>,
    low: Vec<u8>,
    bitmap: Vec<u8>,
    frame: Vec<u8>,
}

impl Encoder {
    /// A new encoder.
    ///
    /// # Errors
    /// zstd could not allocate its context.
    pub fn new() -> std::io::Result<Encoder> {
        let mut zstd = zstd::bulk::Compressor::new(LEVEL)?;
        zstd.set_parameter(CParameter::LiteralCompressionMode(ParamSwitch::Enable))?;
        Ok(Encoder {
            zstd,
            exponent: Vec::new(),
            high: Vec::new(),
            low: Vec::new(),
            bitmap: Vec::new(),
            frame: Vec::new(),
        })
    }

    /// Appends the payload of `elements` (little endian, at most 65,536 of `dtype`) to `out`.
    ///
    /// # Errors
    /// zstd failed, which for input of this size means that memory ran out.
    pub fn encode(
        &mut self,
        dtype: DType,
        elements: &[u8],
        out: &mut Vec<u8>,
    ) -> std::io::Result<Coding> {
        if elements.iter().all(|&b| b == 0) {
            return Ok(Coding::plain(Codec::Zero));
        }
        let dropped = self.mark_blocks(dtype, elements);
        self.split(dtype, elements);
        self.frame.clear();
        self.frame.resize(zstd::zstd_safe::compress_bound(self.exponent.len()), 0);
        let exponent_len = self.zstd.compress_to_buffer(&self.exponent, &mut self.frame)?;
        let bitmap: &[u8] = if dropped { &self.bitmap } else { &[] };
        let total = self.low.len() + self.high.len() + exponent_len + bitmap.len();
        if total >= elements.len() {
            out.extend_from_slice(elements);
            return Ok(Coding::plain(Codec::Raw));
        }
        out.extend_from_slice(&self.low);
        out.extend_from_slice(&self.high);
        out.extend_from_slice(&self.frame[..exponent_len]);
        out.extend_from_slice(bitmap);
        // A chunk has at most 65,536 exponents, so the frame's length fits.
        let exponent_len = u32::try_from(exponent_len).map_err(std::io::Error::other)?;
        Ok(Coding { codec: Codec::Planes, zero_blocks: dropped, exponent_len })
    }

    /// Fills the bitmap of the blocks to keep; true where at least one can be left out.
    fn mark_blocks(&mut self, dtype: DType, elements: &[u8]) -> bool {
        let n = elements.len() / dtype.size();
        self.bitmap.clear();
        self.bitmap.resize(bitmap_len(n), 0);
        let mut dropped = false;
        for (b, block) in elements.chunks(ZERO_BLOCK * dtype.size()).enumerate() {
            if block.iter().any(|&byte| byte != 0) {
                self.bitmap[b / 8] |= 1 << (b % 8);
            } else {
                dropped = true;
            }
        }
        dropped
    }

    fn split(&mut self, dtype: DType, elements: &[u8]) {
        self.exponent.clear();
        self.high.clear();
        self.low.clear();
        for (b, block) in elements.chunks(ZERO_BLOCK * dtype.size()).enumerate() {
            if !is_kept(&self.bitmap, b) {
                continue;
            }
            match dtype {
                DType::F32 => {
                    for word in block.as_chunks::<4>().0 {
                        let (e, h, l) = split32(u32::from_le_bytes(*word));
                        self.exponent.push(e);
                        self.high.push(h);
                        self.low.extend_from_slice(&l.to_le_bytes());
                    }
                }
                DType::BF16 | DType::F16 => {
                    for word in block.as_chunks::<2>().0 {
                        let (e, h) = split16(dtype, u16::from_le_bytes(*word));
                        self.exponent.push(e);
                        self.high.push(h);
                    }
                }
            }
        }
    }
}
