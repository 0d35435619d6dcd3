//! Payload to elements.

use super::packed::Packed;
use super::planes::{bitmap_len, kept_elements, merge16, merge32};
use super::predict::{Past, Prediction, predict};
use super::residual::Residual;
use super::{Codec, Coding, DecodeError};
use crate::dtype::{DType, values, widen};
use crate::isa::Isa;
use crate::reduce::order::CHUNK;

/// Decodes chunks; reuses its buffers from one to the next.
pub struct Decoder {
    isa: Isa,
    zstd: zstd::bulk::Decompressor<'static>,
    exponent: Box<[u8]>,
    words: Vec<u16>,
    distances: Vec<u32>,
}

/// The planes of a payload, cut but not yet merged.
struct Cut<'a> {
    low: &'a [u8],
    high: &'a [u8],
    frame: &'a [u8],
    bitmap: &'a [u8],
}

impl Decoder {
    /// A new decoder that runs with `isa`.
    ///
    /// # Errors
    /// zstd could not allocate its context.
    pub fn new(isa: Isa) -> std::io::Result<Decoder> {
        Ok(Decoder {
            isa,
            zstd: zstd::bulk::Decompressor::new()?,
            exponent: vec![0; CHUNK].into_boxed_slice(),
            words: Vec::new(),
            distances: Vec::new(),
        })
    }

    /// Decodes a chunk of `out.len()` elements (at most 65,536), widened to `f32` exactly. A predicted
    /// one needs [`Self::decode_predicted`].
    ///
    /// # Errors
    /// The payload does not fit `coding`; `out` then holds nothing of use.
    pub fn decode(
        &mut self,
        dtype: DType,
        coding: Coding,
        payload: &[u8],
        out: &mut [f32],
    ) -> Result<(), DecodeError> {
        if dtype == DType::F32 {
            return self.decode32(coding, payload, out);
        }
        let mut words = std::mem::take(&mut self.words);
        words.resize(out.len(), 0);
        let result = self.decode16(dtype, coding, payload, &mut words);
        if result.is_ok() {
            widen(dtype, &words, out);
        }
        self.words = words;
        result
    }

    /// Decodes a chunk of which `past` is what came before. Its moments are taken a step further. Returns
    /// how it was predicted.
    ///
    /// # Errors
    /// The payload does not fit `coding`; `out` and the moments then hold nothing of use.
    pub fn decode_predicted(
        &mut self,
        dtype: DType,
        coding: Coding,
        payload: &[u8],
        past: &mut Past<'_>,
        out: &mut [f32],
    ) -> Result<Prediction, DecodeError> {
        let residual = Residual::read(coding.predictor, dtype, payload, out.len())?;
        predict(self.isa, &residual.prediction, past, out);
        residual.correct(self.isa, dtype, &mut self.exponent, &mut self.distances, out);
        Ok(residual.prediction)
    }

    /// Whether a payload of `n` elements that is predicted is one, without what came before.
    ///
    /// # Errors
    /// The payload does not fit `coding`.
    pub fn check_predicted(
        dtype: DType,
        coding: Coding,
        payload: &[u8],
        n: usize,
    ) -> Result<(), DecodeError> {
        Residual::read(coding.predictor, dtype, payload, n).map(drop)
    }

    fn decode32(&mut self, coding: Coding, payload: &[u8], out: &mut [f32]) -> Result<(), DecodeError> {
        match coding.codec {
            Codec::Raw => {
                expect_len("raw", payload, out.len() * 4)?;
                values(DType::F32, payload, out);
            }
            Codec::Zero => {
                expect_len("zero", payload, 0)?;
                out.fill(0.0);
            }
            Codec::Absent => return Err(DecodeError::Absent),
            Codec::Residual => return Err(DecodeError::Predicted),
            Codec::Planes | Codec::Packed => {
                let cut = self.cut(DType::F32, out.len(), coding, payload)?;
                let exponent = &self.exponent[..cut.high.len()];
                merge32(self.isa, exponent, cut.high, cut.low, cut.bitmap, out);
            }
        }
        Ok(())
    }

    fn decode16(
        &mut self,
        dtype: DType,
        coding: Coding,
        payload: &[u8],
        out: &mut [u16],
    ) -> Result<(), DecodeError> {
        match coding.codec {
            Codec::Raw => {
                expect_len("raw", payload, out.len() * 2)?;
                for (o, word) in out.iter_mut().zip(payload.as_chunks::<2>().0) {
                    *o = u16::from_le_bytes(*word);
                }
            }
            Codec::Zero => {
                expect_len("zero", payload, 0)?;
                out.fill(0);
            }
            Codec::Absent => return Err(DecodeError::Absent),
            Codec::Residual => return Err(DecodeError::Predicted),
            Codec::Planes | Codec::Packed => {
                let cut = self.cut(dtype, out.len(), coding, payload)?;
                let exponent = &self.exponent[..cut.high.len()];
                let bytes = dtype == DType::F16 && coding.codec == Codec::Planes;
                merge16(self.isa, bytes, exponent, cut.high, cut.bitmap, out);
            }
        }
        Ok(())
    }

    /// Cuts a planes payload of `n` elements and decompresses its exponents into `self.exponent`.
    fn cut<'p>(
        &mut self,
        dtype: DType,
        n: usize,
        coding: Coding,
        payload: &'p [u8],
    ) -> Result<Cut<'p>, DecodeError> {
        let bitmap_len = if coding.zero_blocks { bitmap_len(n) } else { 0 };
        let short = |expected| DecodeError::Length { codec: "planes", found: payload.len(), expected };
        let split = payload.len().checked_sub(bitmap_len).ok_or_else(|| short(bitmap_len))?;
        let (body, bitmap) = payload.split_at(split);
        let kept = if coding.zero_blocks { kept_elements(bitmap, n).ok_or(DecodeError::Bitmap)? } else { n };
        let raw_len = kept * (dtype.size() - 1);
        let expected = raw_len + coding.exponent_len as usize;
        if body.len() != expected || kept > self.exponent.len() {
            return Err(short(expected + bitmap_len));
        }
        let (raw, frame) = body.split_at(raw_len);
        let (low, high) = raw.split_at(raw_len - kept);
        let cut = Cut { low, high, frame, bitmap };
        if coding.codec == Codec::Packed {
            let mut rest = frame;
            let packed = Packed::take(&mut rest, kept)?;
            if !rest.is_empty() {
                return Err(DecodeError::Packed("it is longer than it says"));
            }
            packed.unpack(self.isa, &mut self.exponent[..kept]);
            return Ok(cut);
        }
        let written = self
            .zstd
            .decompress_to_buffer(cut.frame, &mut self.exponent[..kept])
            .map_err(|e| DecodeError::Exponents(e.to_string()))?;
        if written != kept {
            let what = format!("{written} exponents for {kept} elements");
            return Err(DecodeError::Exponents(what));
        }
        Ok(cut)
    }
}

fn expect_len(codec: &'static str, payload: &[u8], expected: usize) -> Result<(), DecodeError> {
    if payload.len() == expected {
        Ok(())
    } else {
        Err(DecodeError::Length { codec, found: payload.len(), expected })
    }
}
