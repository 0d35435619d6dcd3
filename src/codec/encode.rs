//! Elements to payload.

use zstd::zstd_safe::{CParameter, ParamSwitch};

use crate::codec::packed::pack;
use crate::codec::planes::{bitmap_len, is_kept, kept_elements, split16, split32};
use crate::codec::predict::Predictions;
use crate::codec::quantized::{halve, quantize, steps};
use crate::codec::residual;
use crate::codec::{Coding, Exponents, Noise, Plane, ZERO_BLOCK};
use crate::dtype::{DType, push_bytes};
use crate::isa::Isa;
use crate::order::CHUNK;

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
            zstd,
            exponent: Vec::new(),
            high: Vec::new(),
            low: Vec::new(),
            bitmap: Vec::new(),
            frame: Vec::new(),
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
        residual::distances(self.isa, dtype, values, predicted, &mut self.distances);
        residual::encode(self.isa, predictions, &self.distances, &mut self.bytes, out);
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
        if elements.iter().all(|&b| b == 0) {
            return Ok(Coding::Zero);
        }
        let zero_blocks = self.mark_blocks(dtype, elements);
        self.split(dtype, elements, zero_blocks);
        let exponents = self.compress()?;
        let bitmap = if zero_blocks { self.bitmap.len() } else { 0 };
        if self.low.len() + self.high.len() + self.frame.len() + bitmap >= elements.len() {
            out.extend_from_slice(elements);
            return Ok(Coding::Raw);
        }
        self.put_planes(zero_blocks, out);
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
        let plane = self.compress()?;
        out.extend(self.steps.iter().flat_map(|s| s.to_le_bytes()));
        out.extend_from_slice(&self.frame);
        Ok(Some(plane))
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
        let zero_blocks = self.mark_blocks(DType::BF16, &elements);
        self.split(DType::BF16, &elements, zero_blocks);
        self.bytes = elements;
        let exponents = self.compress()?;
        out.extend_from_slice(&g2.to_le_bytes());
        self.put_planes(zero_blocks, out);
        Ok(Some(Coding::Rounded { exponents, zero_blocks }))
    }

    /// Draws the random numbers of a chunk.
    fn draw(&mut self, lossy: &Lossy<'_>) {
        self.random.resize(lossy.values.len(), 0);
        lossy.noise.fill(self.isa, &mut self.random);
    }

    /// Compresses the plane in `self.exponent` into `self.frame`.
    fn compress(&mut self) -> std::io::Result<Plane> {
        self.frame.clear();
        match self.exponents {
            Exponents::Huffman => {
                self.frame.resize(zstd::zstd_safe::compress_bound(self.exponent.len()), 0);
                let len = self.zstd.compress_to_buffer(&self.exponent, &mut self.frame)?;
                self.frame.truncate(len);
            }
            Exponents::Packed => pack(self.isa, &self.exponent, &mut self.frame),
        }
        // A plane has at most 65,536 bytes, so the frame's length fits.
        let len = u32::try_from(self.frame.len()).map_err(std::io::Error::other)?;
        Ok(Plane { how: self.exponents, len })
    }

    /// Appends the planes as they lie in a payload.
    fn put_planes(&self, zero_blocks: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.low);
        out.extend_from_slice(&self.high);
        out.extend_from_slice(&self.frame);
        if zero_blocks {
            out.extend_from_slice(&self.bitmap);
        }
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
        let run = if dropped { ZERO_BLOCK * size } else { elements.len().max(1) };
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
