//! Payload to elements.

use crate::codec::encode::ZEROS;
use crate::codec::packed::Packed;
use crate::codec::planes::{bitmap_len, kept_elements, merge16, merge32};
use crate::codec::predict::{Past, Pieces, Prediction, Predictions, predict_pieces};
use crate::codec::quantized::{BLOCK, NO_LEVEL, TOO_LARGE, blocks, dequantize, level_count, step_value};
use crate::codec::residual::Residual;
use crate::codec::{Coding, DecodeError, Exponents, Plane};
use crate::dtype::{DType, values, widen};
use crate::float_environment::Exact;
use crate::isa::Isa;
use crate::order::CHUNK;

/// Decodes chunks; reuses its buffers from one to the next.
pub struct Decoder {
    isa: Isa,
    zstd: zstd::bulk::Decompressor<'static>,
    /// Exponents, or multiples, of the payload that was decoded last.
    exponent: Box<[u8]>,
    /// How many of them are exponents that took Huffman decoding.
    expanded: usize,
    bytes: Box<[u8]>,
    words: Vec<u16>,
    distances: Vec<u32>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("isa", &self.isa).finish_non_exhaustive()
    }
}

/// The planes of a payload, cut but not yet merged.
struct Cut<'a> {
    low: &'a [u8],
    high: &'a [u8],
    bitmap: &'a [u8],
}

/// A float32 payload taken apart.
#[derive(Debug)]
pub enum Parts<'a> {
    /// Every bit is zero.
    Zero,
    /// Planes of the kept elements.
    Planes {
        /// The lower 16 bits of each, little endian.
        low: &'a [u8],
        /// Sign and upper mantissa of each.
        high: &'a [u8],
        /// One bit a block of 64 elements, that it is kept; empty where all are.
        bitmap: &'a [u8],
        /// The exponent of each.
        exponents: Bytes<'a>,
    },
    /// Something that [`Decoder::decode`] decodes.
    Other,
}

/// A plane of bytes.
#[derive(Debug)]
pub enum Bytes<'a> {
    /// As they are.
    Plain(&'a [u8]),
    /// In a few bits each.
    Packed(Packed<'a>),
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
            expanded: 0,
            bytes: vec![0; CHUNK].into_boxed_slice(),
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
        let _exact = Exact::new();
        self.expanded = 0;
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

    /// Decodes a chunk of these pieces of which `past` is what came before. Its moments are taken a step further. Returns
    /// how it was predicted; `missed` is told at which elements a replay of the optimizer's step missed by more than two
    /// units of the last place, and the square of it.
    ///
    /// # Errors
    /// The payload does not fit `coding`; `out` and the moments then hold nothing of use.
    pub fn decode_predicted(
        &mut self,
        dtype: DType,
        coding: Coding,
        payload: &[u8],
        (past, pieces): (&mut Past<'_>, Pieces<'_>),
        out: &mut [f32],
        missed: impl FnMut(usize, f64),
    ) -> Result<Predictions, DecodeError> {
        let _exact = Exact::new();
        let predictor = match coding {
            Coding::Delta(_) => {
                let levels = Levels::of(coding, payload, out.len())?;
                self.multiples(&levels, past.x, out)?;
                return Ok(Prediction::PREVIOUS.into());
            }
            Coding::Residual(predictor) => predictor,
            _ => return Err(DecodeError::NotPredicted),
        };
        let counts = (out.len(), pieces.ends.len().max(1));
        let residual = Residual::read_pieces(predictor, dtype, payload, counts)?;
        predict_pieces(self.isa, &residual.predictions, pieces, past, out);
        residual.correct(self.isa, dtype, &mut self.bytes, &mut self.distances, out, missed);
        Ok(residual.predictions)
    }

    /// Whether nothing that the prediction of `n` elements missed is more than rounding, without what came
    /// before.
    pub fn is_rounding(&mut self, residual: &Residual<'_>, n: usize) -> bool {
        residual.is_rounding(self.isa, &mut self.bytes[..n])
    }

    /// Whether a payload of `n` elements in so many pieces that is predicted is one, without what came before.
    ///
    /// # Errors
    /// The payload does not fit `coding`.
    pub fn check_predicted(
        &mut self,
        dtype: DType,
        coding: Coding,
        payload: &[u8],
        (n, pieces): (usize, usize),
    ) -> Result<(), DecodeError> {
        match coding {
            Coding::Delta(_) => self.levels(&Levels::of(coding, payload, n)?),
            Coding::Residual(predictor) => {
                Residual::read_pieces(predictor, dtype, payload, (n, pieces)).map(drop)
            }
            _ => Err(DecodeError::NotPredicted),
        }
    }

    /// Fills `widths` with how far apart the two values are of which one was stored at random, at most:
    /// the error of `values`, which were decoded, is below it and 0 on the average. Returns the sum of the
    /// squares of what was recorded, where it is not that of `values`.
    ///
    /// # Errors
    /// The payload does not fit `coding`.
    pub fn widths(
        coding: Coding,
        payload: &[u8],
        values: &[f32],
        widths: &mut [f32],
    ) -> Result<Option<f64>, DecodeError> {
        let _exact = Exact::new();
        match coding {
            Coding::Quantized(_) | Coding::Delta(_) => {
                let levels = Levels::of(coding, payload, values.len())?;
                let delta = matches!(coding, Coding::Delta(_));
                let blocks = values.chunks(BLOCK).zip(widths.chunks_mut(BLOCK));
                for (step, (values, widths)) in levels.steps.iter().zip(blocks) {
                    let step = step_value(u16::from_le_bytes(*step));
                    if !delta || step == 0.0 {
                        widths.fill(step);
                        continue;
                    }
                    // Both neighbours were rounded to binary32 when the step was added.
                    let (step, least) = (step * (1.0 + 2.0f32.powi(-16)), f32::from_bits(4));
                    for (width, value) in widths.iter_mut().zip(values) {
                        *width = step + value.abs() * 2.0f32.powi(-22) + least;
                    }
                }
                Ok(levels.g2)
            }
            Coding::Rounded { .. } => {
                for (width, value) in widths.iter_mut().zip(values) {
                    // The distance between bfloat16 neighbours, also of the smallest.
                    *width = value.abs() * 2.0f32.powi(-7) + step_value(1);
                }
                Ok(Some(g2_of(payload)?.0))
            }
            _ => {
                widths.fill(0.0);
                Ok(None)
            }
        }
    }

    /// Puts together what is stored in multiples, above `before`.
    fn multiples(&mut self, levels: &Levels<'_>, before: &[f32], out: &mut [f32]) -> Result<(), DecodeError> {
        self.levels(levels)?;
        dequantize(self.isa, levels.steps, &self.exponent[..levels.count], &before[..out.len()], out);
        Ok(())
    }

    /// Decompresses multiples into `self.exponent`.
    fn levels(&mut self, levels: &Levels<'_>) -> Result<(), DecodeError> {
        self.expand(levels.how, levels.frame, levels.count)?;
        if self.exponent[..levels.count].contains(&NO_LEVEL) {
            return Err(DecodeError::Plane("a multiple of -128".to_owned()));
        }
        Ok(())
    }

    /// The exponents of the payload of planes that was decoded last, for [`Self::decode_again`]; empty where they took no
    /// Huffman decoding, and are as soon had once more.
    pub fn exponents(&self) -> &[u8] {
        &self.exponent[..self.expanded]
    }

    /// Decodes a payload that was decoded before, whose `exponents` were kept from then, or are not there.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_again(
        &mut self,
        dtype: DType,
        coding: Coding,
        payload: &[u8],
        exponents: &[u8],
        out: &mut [f32],
    ) -> Result<(), DecodeError> {
        if let (DType::F32, Coding::Planes { exponents: plane, zero_blocks }) = (dtype, coding)
            && !exponents.is_empty()
        {
            let (cut, kept, _) = split(dtype, out.len(), (plane, zero_blocks), payload)?;
            if kept == exponents.len() {
                merge32(self.isa, exponents, cut.high, cut.low, cut.bitmap, out);
                return Ok(());
            }
        }
        self.decode(dtype, coding, payload, out)
    }

    fn decode32(&mut self, coding: Coding, payload: &[u8], out: &mut [f32]) -> Result<(), DecodeError> {
        match coding {
            Coding::Raw => {
                expect_len("raw", payload, out.len() * 4)?;
                values(DType::F32, payload, out);
            }
            Coding::Zero => {
                expect_len("zero", payload, 0)?;
                out.fill(0.0);
            }
            Coding::Absent => return Err(DecodeError::Absent),
            Coding::Residual(_) | Coding::Delta(_) => return Err(DecodeError::Predicted),
            Coding::Quantized(_) => {
                let levels = Levels::of(coding, payload, out.len())?;
                self.multiples(&levels, &ZEROS, out)?;
            }
            Coding::Rounded { exponents, zero_blocks } => {
                let mut words = std::mem::take(&mut self.words);
                words.resize(out.len(), 0);
                let cut = self.cut(DType::BF16, out.len(), (exponents, zero_blocks), g2_of(payload)?.1);
                let merged = cut.map(|cut| {
                    let exponent = &self.exponent[..cut.high.len()];
                    merge16(self.isa, false, exponent, cut.high, cut.bitmap, &mut words);
                    widen(DType::BF16, &words, out);
                });
                self.words = words;
                merged?;
            }
            Coding::Planes { exponents, zero_blocks } => {
                let cut = self.cut(DType::F32, out.len(), (exponents, zero_blocks), payload)?;
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
        match coding {
            Coding::Raw => {
                expect_len("raw", payload, out.len() * 2)?;
                for (o, word) in out.iter_mut().zip(payload.as_chunks::<2>().0) {
                    *o = u16::from_le_bytes(*word);
                }
            }
            Coding::Zero => {
                expect_len("zero", payload, 0)?;
                out.fill(0);
            }
            Coding::Absent => return Err(DecodeError::Absent),
            Coding::Residual(_) | Coding::Delta(_) => return Err(DecodeError::Predicted),
            Coding::Quantized(_) | Coding::Rounded { .. } => {
                return Err(DecodeError::Packed("it is float32's"));
            }
            Coding::Planes { exponents, zero_blocks } => {
                let cut = self.cut(dtype, out.len(), (exponents, zero_blocks), payload)?;
                let exponent = &self.exponent[..cut.high.len()];
                let bytes = dtype == DType::F16 && exponents.how == Exponents::Huffman;
                merge16(self.isa, bytes, exponent, cut.high, cut.bitmap, out);
            }
        }
        Ok(())
    }

    /// Takes a float32 payload of `n` elements apart, for a decoder elsewhere. What only a processor can
    /// decompress is decompressed.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn parts<'p>(
        &'p mut self,
        coding: Coding,
        payload: &'p [u8],
        n: usize,
    ) -> Result<Parts<'p>, DecodeError> {
        match coding {
            Coding::Zero => expect_len("zero", payload, 0).map(|()| Parts::Zero),
            Coding::Planes { exponents, zero_blocks } => {
                let (cut, kept, frame) = split(DType::F32, n, (exponents, zero_blocks), payload)?;
                let exponents = match exponents.how {
                    Exponents::Packed => Bytes::Packed(whole(frame, kept)?),
                    Exponents::Huffman => {
                        self.expand(Exponents::Huffman, frame, kept)?;
                        Bytes::Plain(&self.exponent[..kept])
                    }
                };
                Ok(Parts::Planes { low: cut.low, high: cut.high, bitmap: cut.bitmap, exponents })
            }
            _ => Ok(Parts::Other),
        }
    }

    /// Cuts planes of `n` elements and decompresses the exponents into `self.exponent`.
    fn cut<'p>(
        &mut self,
        dtype: DType,
        n: usize,
        (exponents, zero_blocks): (Plane, bool),
        payload: &'p [u8],
    ) -> Result<Cut<'p>, DecodeError> {
        let (cut, kept, frame) = split(dtype, n, (exponents, zero_blocks), payload)?;
        self.expand(exponents.how, frame, kept)?;
        Ok(cut)
    }

    /// Decompresses a plane of `len` bytes, at most 65,536, into `self.exponent`.
    fn expand(&mut self, how: Exponents, frame: &[u8], len: usize) -> Result<(), DecodeError> {
        let out = &mut self.exponent[..len];
        self.expanded = 0;
        if how == Exponents::Packed {
            whole(frame, len)?.unpack(self.isa, out);
            return Ok(());
        }
        let written =
            self.zstd.decompress_to_buffer(frame, out).map_err(|e| DecodeError::Plane(e.to_string()))?;
        if written != len {
            return Err(DecodeError::Plane(format!("{written} bytes for {len} elements")));
        }
        self.expanded = len;
        Ok(())
    }
}

/// Cuts planes of `n` elements. Returns them, how many elements they hold, and their exponents' frame.
fn split(
    dtype: DType,
    n: usize,
    (exponents, zero_blocks): (Plane, bool),
    payload: &[u8],
) -> Result<(Cut<'_>, usize, &[u8]), DecodeError> {
    let bitmap_len = if zero_blocks { bitmap_len(n) } else { 0 };
    let short = |expected| DecodeError::Length { codec: "planes", found: payload.len(), expected };
    let split = payload.len().checked_sub(bitmap_len).ok_or_else(|| short(bitmap_len))?;
    let (body, bitmap) = payload.split_at(split);
    let kept = if zero_blocks { kept_elements(bitmap, n).ok_or(DecodeError::Bitmap)? } else { n };
    let raw_len = kept * (dtype.size() - 1);
    let expected = raw_len + exponents.len as usize;
    if body.len() != expected || kept > CHUNK {
        return Err(short(expected + bitmap_len));
    }
    let (raw, frame) = body.split_at(raw_len);
    let (low, high) = raw.split_at(raw_len - kept);
    Ok((Cut { low, high, bitmap }, kept, frame))
}

/// A packed plane of `len` bytes, and nothing after it.
fn whole(frame: &[u8], len: usize) -> Result<Packed<'_>, DecodeError> {
    let mut rest = frame;
    let packed = Packed::take(&mut rest, len)?;
    if rest.is_empty() { Ok(packed) } else { Err(DecodeError::Packed("it is longer than it says")) }
}

/// A payload of multiples, cut but not yet decompressed.
struct Levels<'a> {
    /// The sum of squares, of what has one.
    g2: Option<f64>,
    steps: &'a [[u8; 2]],
    frame: &'a [u8],
    how: Exponents,
    /// Multiples that are stored.
    count: usize,
}

impl<'a> Levels<'a> {
    /// Cuts the payload of what is stored in multiples.
    fn of(coding: Coding, payload: &'a [u8], n: usize) -> Result<Levels<'a>, DecodeError> {
        match coding {
            Coding::Quantized(plane) => {
                let (g2, rest) = g2_of(payload)?;
                Levels::read("quantized", Some(g2), plane, rest, n)
            }
            Coding::Delta(plane) => Levels::read("delta", None, plane, payload, n),
            _ => Err(DecodeError::NotPredicted),
        }
    }

    /// Cuts steps and multiples of `n` elements, at most 65,536.
    fn read(
        codec: &'static str,
        g2: Option<f64>,
        plane: Plane,
        rest: &'a [u8],
        n: usize,
    ) -> Result<Levels<'a>, DecodeError> {
        let expected = 2 * blocks(n) + plane.len as usize;
        if rest.len() != expected || n > CHUNK {
            return Err(DecodeError::Length { codec, found: rest.len(), expected });
        }
        let (steps, frame) = rest.split_at(2 * blocks(n));
        let steps = steps.as_chunks::<2>().0;
        let number = |s: &[u8; 2]| u16::from_le_bytes(*s);
        if let Some(bad) = steps.iter().map(number).find(|s| *s >= TOO_LARGE) {
            return Err(DecodeError::Bound(f64::from(step_value(bad))));
        }
        let count = level_count(steps, n);
        Ok(Levels { g2, steps, frame, how: plane.how, count })
    }
}

/// The sum of squares at the front of a lossy payload, and the rest.
fn g2_of(payload: &[u8]) -> Result<(f64, &[u8]), DecodeError> {
    let short = DecodeError::Length { codec: "lossy", found: payload.len(), expected: 8 };
    let (g2, rest) = payload.split_first_chunk::<8>().ok_or(short)?;
    let g2 = f64::from_le_bytes(*g2);
    if g2.is_finite() && g2.is_sign_positive() { Ok((g2, rest)) } else { Err(DecodeError::Bound(g2)) }
}

fn expect_len(codec: &'static str, payload: &[u8], expected: usize) -> Result<(), DecodeError> {
    if payload.len() == expected {
        Ok(())
    } else {
        Err(DecodeError::Length { codec, found: payload.len(), expected })
    }
}
