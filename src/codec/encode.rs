//! Elements to payload.

use zstd::zstd_safe::{CParameter, ParamSwitch};

use super::packed::pack;
use super::planes::{bitmap_len, is_kept, kept_elements, split16, split32};
use super::predict::Prediction;
use super::residual;
use super::{Codec, Coding, Exponents, Predictor, ZERO_BLOCK};
use crate::dtype::DType;
use crate::isa::Isa;

/// Exponents have no order to find matches in, so the level that hardly looks for any is the
/// fastest and loses nothing: Huffman-coded literals are all the gain there is.
const LEVEL: i32 = -131_072;

/// Encodes chunks; reuses its buffers from one to the next.
pub struct Encoder {
    isa: Isa,
    exponents: Exponents,
    zstd: zstd::bulk::Compressor<'static>,
    exponent: Vec<u8>,
    high: Vec<u8>,
    low: Vec<u8>,
    bitmap: Vec<u8>,
    frame: Vec<u8>,
    distances: Vec<u32>,
    bytes: Vec<u8>,
}

impl Encoder {
    /// A new encoder that runs with `isa` and stores exponents as told.
    ///
    /// # Errors
    /// zstd could not allocate its context.
    pub fn new(isa: Isa, exponents: Exponents) -> std::io::Result<Encoder> {
        let mut zstd = zstd::bulk::Compressor::new(LEVEL)?;
        zstd.set_parameter(CParameter::LiteralCompressionMode(ParamSwitch::Enable))?;
        Ok(Encoder {
            isa,
            exponents,
            zstd,
            exponent: Vec::new(),
            high: Vec::new(),
            low: Vec::new(),
            bitmap: Vec::new(),
            frame: Vec::new(),
            distances: Vec::new(),
            bytes: Vec::new(),
        })
    }

    /// Appends the payload of `values` of `dtype` of which `predicted` is what `prediction` makes.
    pub fn encode_residual(
        &mut self,
        dtype: DType,
        prediction: &Prediction,
        values: &[f32],
        predicted: &[f32],
        out: &mut Vec<u8>,
    ) -> Coding {
        self.distances.resize(values.len(), 0);
        residual::distances(self.isa, dtype, values, predicted, &mut self.distances);
        residual::encode(self.isa, prediction, &self.distances, &mut self.bytes, out);
        Coding { predictor: prediction.predictor, ..Coding::plain(Codec::Residual) }
    }

    /// Bits that the residual of `values` takes, about.
    pub fn residual_bits(&mut self, dtype: DType, values: &[f32], predicted: &[f32]) -> u64 {
        self.distances.resize(values.len(), 0);
        residual::distances(self.isa, dtype, values, predicted, &mut self.distances);
        self.distances.iter().map(|z| u64::from(u32::BITS - z.leading_zeros())).sum()
    }

    /// Appends the payload of `elements` (little endian, at most 65,536 of `dtype`) to `out`.
    ///
    /// # Errors
    /// zstd failed, which for input of this size means that memory ran out.
    pub fn encode(&mut self, dtype: DType, elements: &[u8], out: &mut Vec<u8>) -> std::io::Result<Coding> {
        if elements.iter().all(|&b| b == 0) {
            return Ok(Coding::plain(Codec::Zero));
        }
        let dropped = self.mark_blocks(dtype, elements);
        self.split(dtype, elements, dropped);
        self.frame.clear();
        let codec = match self.exponents {
            Exponents::Huffman => {
                self.frame.resize(zstd::zstd_safe::compress_bound(self.exponent.len()), 0);
                let len = self.zstd.compress_to_buffer(&self.exponent, &mut self.frame)?;
                self.frame.truncate(len);
                Codec::Planes
            }
            Exponents::Packed => {
                pack(self.isa, &self.exponent, &mut self.frame);
                Codec::Packed
            }
        };
        let exponent_len = self.frame.len();
        let bitmap: &[u8] = if dropped { &self.bitmap } else { &[] };
        let total = self.low.len() + self.high.len() + exponent_len + bitmap.len();
        if total >= elements.len() {
            out.extend_from_slice(elements);
            return Ok(Coding::plain(Codec::Raw));
        }
        out.extend_from_slice(&self.low);
        out.extend_from_slice(&self.high);
        out.extend_from_slice(&self.frame);
        out.extend_from_slice(bitmap);
        // A chunk has at most 65,536 exponents, so the frame's length fits.
        let exponent_len = u32::try_from(exponent_len).map_err(std::io::Error::other)?;
        Ok(Coding { codec, predictor: Predictor::None, zero_blocks: dropped, exponent_len })
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

    /// Fills the planes with the elements of the kept blocks.
    fn split(&mut self, dtype: DType, elements: &[u8], dropped: bool) {
        let size = dtype.size();
        let n = elements.len() / size;
        // The bitmap was made for these elements, so the blocks that it marks are inside.
        let kept = if dropped { kept_elements(&self.bitmap, n).unwrap_or(n) } else { n };
        self.exponent.resize(kept, 0);
        self.high.resize(kept, 0);
        self.low.resize(kept * (size - 2), 0);
        let bytes = dtype == DType::F16 && self.exponents == Exponents::Huffman;
        let run = if dropped { ZERO_BLOCK * size } else { elements.len() };
        let mut at = 0;
        for (b, block) in elements.chunks(run).enumerate() {
            if dropped && !is_kept(&self.bitmap, b) {
                continue;
            }
            let end = at + block.len() / size;
            let (exponent, high) = (&mut self.exponent[at..end], &mut self.high[at..end]);
            match dtype {
                DType::F32 => split32(self.isa, block, exponent, high, &mut self.low[2 * at..2 * end]),
                DType::BF16 | DType::F16 => split16(self.isa, bytes, block, exponent, high),
            }
            at = end;
        }
    }
}
