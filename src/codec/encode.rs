//! Elements to payload.

use zstd::zstd_safe::{CParameter, ParamSwitch};

use crate::codec::huffman::Huffman;
use crate::codec::packed::pack;
use crate::codec::planes::{bitmap_len, is_kept, kept_elements, split16, split32};
use crate::codec::predict::{Past, Pieces, Predictions, predict_blocks};
use crate::codec::quantized::{halve, quantize, steps};
use crate::codec::residual;
use crate::codec::{Coding, Exponents, Noise, Plane, ZERO_BLOCK};
use crate::dtype::{DType, push_bytes};
use crate::isa::{Isa, multi_isa, prefetch};
use crate::order::CHUNK;

/// Exponents have no order to find matches in, so the level that hardly looks for any is the
/// fastest and loses nothing: Huffman-coded literals are all the gain there is.
const LEVEL: i32 = -131_072;

/// Encodes chunks; reuses its buffers from one to the next.
pub struct Encoder {
    isa: Isa,
    exponents: Exponents,
    huffman: Huffman,
    zstd: zstd::bulk::Compressor<'static>,
    exponent: Vec<u8>,
    bitmap: Vec<u8>,
    distances: Vec<u32>,
    bytes: Vec<u8>,
    random: Vec<u32>,
    steps: Vec<u16>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder")
            .field("isa", &self.isa)
            .field("exponents", &self.exponents)
            .finish_non_exhaustive()
    }
}

/// A vector's chunk that loses something.
#[derive(Debug)]
pub struct Lossy<'a> {
    /// What was recorded.
    pub values: &'a [f32],
    /// How it is rounded.
    pub noise: Noise,
    /// Becomes what a reader will see.
    pub decoded: &'a mut [f32],
}

/// What multiples are taken above where there is nothing before.
pub(super) static ZEROS: [f32; CHUNK] = [0.0; CHUNK];

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
            huffman: Huffman::new(),
            zstd,
            exponent: Vec::new(),
            bitmap: Vec::new(),
            distances: Vec::new(),
            bytes: Vec::new(),
            random: Vec::new(),
            steps: Vec::new(),
        })
    }

    /// Appends the payload of `values` of `dtype` of which `predicted` is what `predictions` make.
    pub fn encode_residual(
        &mut self,
        dtype: DType,
        predictions: &Predictions,
        values: &[f32],
        predicted: &[f32],
        out: &mut Vec<u8>,
    ) -> Coding {
        self.distances.resize(values.len(), 0);
        let any = residual::distances(self.isa, dtype, values, predicted, &mut self.distances);
        residual::encode(self.isa, predictions, (&self.distances, any), &mut self.bytes, out);
        Coding::Residual(predictions.first.predictor)
    }

    /// The same of what `predictions` make of the past, whose moments go a step further.
    pub(crate) fn encode_predicted(
        &mut self,
        dtype: DType,
        predictions: &Predictions,
        (pieces, past): (Pieces<'_>, &mut Past<'_>),
        values: &[f32],
        out: &mut Vec<u8>,
    ) -> Coding {
        let (isa, mut any, distances) = (self.isa, 0, &mut self.distances);
        distances.clear();
        predict_blocks(isa, predictions, pieces, past, |begin, predicted| {
            let (own, next) = values[begin..].split_at(predicted.len());
            prefetch(&next[..next.len().min(own.len())]);
            // Most predictions hold, which is found out at once; zeros are written once it is known that others do not.
            if !differ(isa, own, predicted) {
                return;
            }
            distances.resize(begin + own.len(), 0);
            any |= residual::distances(isa, dtype, own, predicted, &mut distances[begin..]);
        });
        if any != 0 {
            distances.resize(values.len(), 0);
        }
        residual::encode(isa, predictions, (&self.distances, any), &mut self.bytes, out);
        Coding::Residual(predictions.first.predictor)
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
        if !is_some(elements) {
            return Ok(Coding::Zero);
        }
        let start = out.len();
        let coding = self.put_planes(dtype, elements, out)?;
        if out.len() - start >= elements.len() {
            out.truncate(start);
            out.extend_from_slice(elements);
            return Ok(Coding::Raw);
        }
        let (exponents, zero_blocks) = coding;
        Ok(Coding::Planes { exponents, zero_blocks })
    }

    /// Appends the payload of a chunk in multiples of a step, with `g2`, the sum of its squares. `None`
    /// where some value is not finite: it is then stored without loss.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_quantized(
        &mut self,
        lossy: Lossy<'_>,
        g2: f64,
        out: &mut Vec<u8>,
    ) -> std::io::Result<Option<Coding>> {
        let before = &ZEROS[..lossy.values.len()];
        let start = out.len();
        out.extend_from_slice(&g2.to_le_bytes());
        let plane = self.multiples(lossy, before, out)?;
        if plane.is_none() {
            out.truncate(start);
        }
        Ok(plane.map(Coding::Quantized))
    }

    /// The same of the distance to `before`, the iterate before as a reader sees it.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_delta(
        &mut self,
        lossy: Lossy<'_>,
        before: &[f32],
        out: &mut Vec<u8>,
    ) -> std::io::Result<Option<Coding>> {
        Ok(self.multiples(lossy, before, out)?.map(Coding::Delta))
    }

    fn multiples(
        &mut self,
        lossy: Lossy<'_>,
        before: &[f32],
        out: &mut Vec<u8>,
    ) -> std::io::Result<Option<Plane>> {
        if !steps(self.isa, lossy.values, before, &mut self.steps) {
            return Ok(None);
        }
        self.draw(&lossy);
        let Lossy { values, decoded, .. } = lossy;
        quantize(self.isa, &self.steps, values, before, &self.random, &mut self.exponent, decoded);
        out.extend(self.steps.iter().flat_map(|s| s.to_le_bytes()));
        Ok(Some(self.compress(out)?))
    }

    /// Appends the payload of a binary32 chunk rounded to bfloat16, with `g2`, the sum of its squares.
    /// `None` where some value is not finite, or would not be.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_rounded(
        &mut self,
        lossy: Lossy<'_>,
        g2: f64,
        out: &mut Vec<u8>,
    ) -> std::io::Result<Option<Coding>> {
        self.draw(&lossy);
        if !halve(lossy.values, &self.random, lossy.decoded) {
            return Ok(None);
        }
        let mut elements = std::mem::take(&mut self.bytes);
        elements.clear();
        push_bytes(DType::BF16, lossy.decoded, &mut elements);
        out.extend_from_slice(&g2.to_le_bytes());
        let (exponents, zero_blocks) = self.put_planes(DType::BF16, &elements, out)?;
        self.bytes = elements;
        Ok(Some(Coding::Rounded { exponents, zero_blocks }))
    }

    /// Draws the random numbers of a chunk.
    fn draw(&mut self, lossy: &Lossy<'_>) {
        self.random.resize(lossy.values.len(), 0);
        lossy.noise.fill(self.isa, &mut self.random);
    }

    /// Appends the plane in `self.exponent`, compressed.
    fn compress(&mut self, out: &mut Vec<u8>) -> std::io::Result<Plane> {
        let (plane, start) = (self.exponent.as_slice(), out.len());
        match self.exponents {
            Exponents::Huffman => {
                if !self.huffman.encode(self.isa, plane, out) {
                    out.resize(start + zstd::zstd_safe::compress_bound(plane.len()), 0);
                    let len = self.zstd.compress_to_buffer(plane, &mut out[start..])?;
                    out.truncate(start + len);
                }
            }
            Exponents::Packed => pack(self.isa, plane, out),
        }
        // A plane has at most 65,536 bytes, so the frame's length fits.
        let len = u32::try_from(out.len() - start).map_err(std::io::Error::other)?;
        Ok(Plane { how: self.exponents, len })
    }

    /// Appends the planes as they lie in a payload. Returns how the exponents are stored, and whether blocks of zeros
    /// are left out.
    fn put_planes(
        &mut self,
        dtype: DType,
        elements: &[u8],
        out: &mut Vec<u8>,
    ) -> std::io::Result<(Plane, bool)> {
        let start = out.len();
        self.split(dtype, elements, false, out);
        // Vectors come from the memory, so they are looked at again only where an exponent says that it is worth it.
        let zero_blocks = has_zero_block(self.isa, &self.exponent) && self.mark_blocks(dtype, elements);
        if zero_blocks {
            out.truncate(start);
            self.split(dtype, elements, true, out);
        }
        let plane = self.compress(out)?;
        if zero_blocks {
            out.extend_from_slice(&self.bitmap);
        }
        Ok((plane, zero_blocks))
    }

    /// Fills the bitmap of the blocks to keep; true where at least one can be left out.
    fn mark_blocks(&mut self, dtype: DType, elements: &[u8]) -> bool {
        let n = elements.len() / dtype.size();
        self.bitmap.clear();
        self.bitmap.resize(bitmap_len(n), 0);
        let mut dropped = false;
        for (b, block) in elements.chunks(ZERO_BLOCK * dtype.size()).enumerate() {
            if is_some(block) {
                self.bitmap[b / 8] |= 1 << (b % 8);
            } else {
                dropped = true;
            }
        }
        dropped
    }

    /// Appends the planes of the elements of the kept blocks, but the exponents, which are kept apart.
    fn split(&mut self, dtype: DType, elements: &[u8], dropped: bool, out: &mut Vec<u8>) {
        let size = dtype.size();
        let n = elements.len() / size;
        // The bitmap was made for these elements, so the blocks that it marks are inside.
        let kept = if dropped { kept_elements(&self.bitmap, n).unwrap_or(n) } else { n };
        self.exponent.resize(kept, 0);
        let start = out.len();
        out.reserve(kept * (size - 1));
        let planes = &mut out.spare_capacity_mut()[..kept * (size - 1)];
        let (low, high) = planes.split_at_mut(kept * (size - 2));
        let bytes = dtype == DType::F16 && self.exponents == Exponents::Huffman;
        let run = if dropped { ZERO_BLOCK * size } else { elements.len().max(1) };
        let mut at = 0;
        for (b, block) in elements.chunks(run).enumerate() {
            if dropped && !is_kept(&self.bitmap, b) {
                continue;
            }
            let end = at + block.len() / size;
            let (exponent, high) = (&mut self.exponent[at..end], &mut high[at..end]);
            match dtype {
                DType::F32 => split32(self.isa, block, exponent, high, &mut low[2 * at..2 * end]),
                DType::BF16 | DType::F16 => split16(self.isa, bytes, block, exponent, high),
            }
            at = end;
        }
        debug_assert_eq!(at, kept);
        if at == kept {
            // SAFETY: the capacity is there, and each block that is kept has written its part of both planes, from
            // element 0 to element `at` of all that are kept.
            unsafe { out.set_len(start + kept * (size - 1)) };
        }
    }
}

#[inline(always)]
fn differ_body(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).fold(0, |any, (a, b)| any | (a.to_bits() ^ b.to_bits())) != 0
}

multi_isa! {
    /// Whether two vectors differ in any bit.
    fn differ(a: &[f32], b: &[f32]) -> bool
    => portable differ_body, avx2 differ_body, avx512 differ_body
}

#[inline(always)]
fn has_zero_block_body(exponents: &[u8]) -> bool {
    exponents.chunks(ZERO_BLOCK).any(|block| block.iter().fold(0, |any, byte| any | byte) == 0)
}

multi_isa! {
    /// Whether the exponents of some block are all zero, as those of a block of zeros are.
    fn has_zero_block(exponents: &[u8]) -> bool
    => portable has_zero_block_body, avx2 has_zero_block_body, avx512 has_zero_block_body
}

/// Whether any byte is not zero.
fn is_some(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<32>();
    words.iter().any(|w| *w != [0; 32]) || rest.iter().any(|&b| b != 0)
}
