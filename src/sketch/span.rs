//! What elements add to the dimensions of their tensor.
//!
//! Owns the hot loop, the definition beside it, and how what several threads have is added up. A span is
//! summed in binary32, in the order of its elements; spans are added in float64.

use std::ops::Range;

use crate::dtype::{DType, values, widen_one};
use crate::isa::{Isa, Kind, multi_isa};
use crate::sketch::layout::{Form, Layout, Rows, WORD, drawn};

/// Elements of a tensor that are sketched together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The tensor's number.
    pub tensor: usize,
    /// Of the tensor.
    pub elements: Range<u64>,
}

/// What the elements of one span add to the dimensions of their tensor. It is used again for the next.
#[derive(Clone, Debug, Default)]
pub struct Partial {
    tensor: usize,
    sums: Sums,
    /// By dimension; of a sketch, each block and then what went over its end.
    values: Vec<f32>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Sums {
    /// Elements as they are, from a dimension on.
    Kept {
        first: Option<usize>,
    },
    Blocks(Rows),
    #[default]
    Nothing,
}

impl Partial {
    /// The tensor of the span that was taken last.
    pub(crate) fn tensor(&self) -> usize {
        self.tensor
    }

    /// Takes a span, of which `bytes` are the little-endian elements. Missing ones count as 0.
    pub fn take(&mut self, isa: Isa, layout: &Layout, span: &Span, dtype: DType, bytes: &[u8]) {
        self.begin(layout, span.tensor);
        self.add(isa, span.elements.start, dtype, bytes);
    }

    /// Begins with another span, of a tensor.
    pub(crate) fn begin(&mut self, layout: &Layout, tensor: usize) {
        self.tensor = tensor;
        self.values.clear();
        self.sums = match layout.form(tensor) {
            Form::Exact => Sums::Kept { first: None },
            Form::Sketched(rows) => {
                self.values.resize(rows.blocks * (rows.width + WORD), 0.0);
                Sums::Blocks(rows)
            }
        };
    }

    /// Adds elements of the span from number `at` of the tensor on, which is not before those that were added.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn add(&mut self, isa: Isa, at: u64, dtype: DType, bytes: &[u8]) {
        match &mut self.sums {
            Sums::Nothing => {}
            Sums::Kept { first } => {
                // A tensor that is kept has no more elements than there are dimensions; some may be missing before these.
                let held = (at as usize).saturating_sub(*first.get_or_insert(at as usize));
                self.values.resize(held + bytes.len() / dtype.size(), 0.0);
                values(dtype, bytes, &mut self.values[held..]);
            }
            Sums::Blocks(rows) => {
                let (rows, sums) = (*rows, &mut self.values[..]);
                match (isa.kind(), dtype) {
                    (Kind::Scalar, _) => by_definition(dtype, rows, at, bytes, sums),
                    (_, DType::F32) => sketch(isa, F32, rows, at, bytes, sums),
                    (_, DType::BF16) => sketch(isa, BF16, rows, at, bytes, sums),
                    (_, DType::F16) => sketch(isa, F16, rows, at, bytes, sums),
                }
            }
        }
    }

    /// Adds it to the dimensions of its tensor.
    pub(crate) fn add_to(&self, dimensions: &mut [f64]) {
        match self.sums {
            Sums::Nothing => {}
            Sums::Kept { first } => {
                for (sum, &v) in dimensions[first.unwrap_or(0)..].iter_mut().zip(&self.values) {
                    *sum += f64::from(v);
                }
            }
            Sums::Blocks(Rows { width, .. }) => {
                for (sums, from) in dimensions.chunks_mut(width).zip(self.values.chunks(width + WORD)) {
                    let (block, over) = from.split_at(width);
                    for (sum, &v) in sums.iter_mut().zip(block) {
                        *sum += f64::from(v);
                    }
                    for (sum, &v) in sums.iter_mut().zip(over) {
                        *sum += f64::from(v);
                    }
                }
            }
        }
    }
}

/// The elements of a type.
trait Elements: Copy {
    const SIZE: usize;
    /// The first [`WORD`] of `bytes`.
    fn word(self, bytes: &[u8]) -> [f32; WORD];
    /// As many as there are, fewer than [`WORD`], from number `first` on; the others are 0.
    fn some(self, first: usize, bytes: &[u8]) -> [f32; WORD];
}

#[derive(Clone, Copy)]
struct F32;
#[derive(Clone, Copy)]
struct BF16;
#[derive(Clone, Copy)]
struct F16;

macro_rules! elements {
    ($name:ident, $size:literal, $of:expr) => {
        impl Elements for $name {
            const SIZE: usize = $size;
            #[inline(always)]
            fn word(self, bytes: &[u8]) -> [f32; WORD] {
                let words = &bytes.as_chunks::<$size>().0[..WORD];
                std::array::from_fn(|i| $of(words[i]))
            }
            #[inline(always)]
            fn some(self, first: usize, bytes: &[u8]) -> [f32; WORD] {
                let mut out = [0.0; WORD];
                for (out, &word) in out[first..].iter_mut().zip(bytes.as_chunks::<$size>().0) {
                    *out = $of(word);
                }
                out
            }
        }
    };
}

elements!(F32, 4, f32::from_le_bytes);
elements!(BF16, 2, |word| widen_one(DType::BF16, u16::from_le_bytes(word)));
elements!(F16, 2, |word| widen_one(DType::F16, u16::from_le_bytes(word)));

/// Element by element: what the other is tested against.
fn by_definition(dtype: DType, rows: Rows, begin: u64, bytes: &[u8], sums: &mut [f32]) {
    for (at, element) in (begin..).zip(bytes.chunks_exact(dtype.size())) {
        let mut value = [0.0];
        values(dtype, element, &mut value);
        let row = rows.row(at / rows.width as u64);
        // What is left is below the width.
        #[allow(clippy::cast_possible_truncation)]
        let column = (at % rows.width as u64) as usize;
        let (word, within) = (column / WORD, column % WORD);
        let negative = drawn(row.key, word as u64) >> within & 1 == 1;
        let place = ((word * WORD + row.shift) & (rows.width - 1)) + within;
        sums[row.block * (rows.width + WORD) + place] += if negative { -value[0] } else { value[0] };
    }
}

/// Bytes that are asked for before they are needed.
const AHEAD: usize = 4096;

#[inline(always)]
fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        let at = line.as_ptr().wrapping_add(AHEAD);
        // SAFETY: nothing is read, whatever the address; the hint is part of the baseline.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// Adds a word, with the signs that the bits say.
#[inline(always)]
#[allow(clippy::cast_possible_truncation)]
fn add(word: &[f32; WORD], signs: u64, to: &mut [f32; WORD]) {
    // The halves of the signs.
    for (half, signs) in [signs as u32, (signs >> 32) as u32].into_iter().enumerate() {
        for bit in 0..WORD / 2 {
            let at = half * (WORD / 2) + bit;
            let sign = (signs << (31 - bit)) & 0x8000_0000;
            to[at] += f32::from_bits(word[at].to_bits() ^ sign);
        }
    }
}

// A word that is rotated over the end of its block goes on in what lies behind it, so that none is cut in two.
#[inline(always)]
#[allow(clippy::cast_possible_truncation)]
fn sketch_body<E: Elements>(of: E, rows: Rows, begin: u64, bytes: &[u8], sums: &mut [f32]) {
    let words = rows.width / WORD;
    // Of the first word only what the span has of it.
    let mut within = (begin % WORD as u64) as usize;
    let mut number = begin / WORD as u64;
    let mut rest = bytes;
    while !rest.is_empty() {
        let row = rows.row(number / words as u64);
        let block = &mut sums[row.block * (rows.width + WORD)..][..rows.width + WORD];
        for word in (number % words as u64) as usize..words {
            let place = (word * WORD + row.shift) & (rows.width - 1);
            let Some(to) = block[place..].first_chunk_mut::<WORD>() else { return };
            let signs = drawn(row.key, word as u64);
            let length = ((WORD - within) * E::SIZE).min(rest.len());
            if length == WORD * E::SIZE {
                prefetch(&rest[..length]);
                add(&of.word(rest), signs, to);
            } else {
                add(&of.some(within, &rest[..length]), signs, to);
                within = 0;
            }
            rest = &rest[length..];
            number += 1;
            if rest.is_empty() {
                return;
            }
        }
    }
}

multi_isa! {
    fn sketch<E: Elements>(of: E, rows: Rows, begin: u64, bytes: &[u8], sums: &mut [f32])
    => portable sketch_body, avx2 sketch_body, avx512 sketch_body
}
