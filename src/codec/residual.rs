//! What a prediction missed, in units of the last place: small integers, packed byte by byte.
//!
//! Values are numbered in their order, so that neighbours differ by 1 whatever their exponent; the
//! numbering is a bijection of all bit patterns, so that NaN payloads and -0.0 come back too.

use crate::codec::DecodeError;
use crate::codec::packed::{Packed, pack};
use crate::codec::predict::{MAX_COEFFICIENTS, Prediction, Predictions, Predictor};
use crate::dtype::{DType, narrow, widen_one};
use crate::isa::{Isa, multi_isa};

// There is no entropy coder. Where the prediction holds all residuals are zero, and a block of 1024 zeros
// takes two bytes; where it does not, they are small numbers that packing stores nearly as well as Huffman
// coding would.
/// Bytes before the coefficients: the number of planes, the predictor's flags, how many others there are.
const HEAD: usize = 4;
/// Distances up to here are rounding: two units of the last place, either way.
const ROUNDING: u32 = 4;
/// Bytes that are looked at together where few are large.
const ROW: usize = 64;

/// A bit pattern's number in the order of values; its own inverse.
#[inline(always)]
fn key32(bits: u32) -> u32 {
    bits ^ ((bits.cast_signed() >> 31).cast_unsigned() >> 1)
}

#[inline(always)]
fn key16(bits: u16) -> u16 {
    bits ^ ((bits.cast_signed() >> 15).cast_unsigned() >> 1)
}

#[inline(always)]
fn zigzag32(difference: u32) -> u32 {
    (difference << 1) ^ (difference.cast_signed() >> 31).cast_unsigned()
}

#[inline(always)]
fn unzigzag32(z: u32) -> u32 {
    (z >> 1) ^ (z & 1).wrapping_neg()
}

#[inline(always)]
fn zigzag16(difference: u16) -> u16 {
    (difference << 1) ^ (difference.cast_signed() >> 15).cast_unsigned()
}

#[inline(always)]
fn unzigzag16(z: u16) -> u16 {
    (z >> 1) ^ (z & 1).wrapping_neg()
}

/// The value that lies `z` away from a predicted one.
#[inline(always)]
fn corrected32(predicted: f32, z: u32) -> f32 {
    f32::from_bits(key32(key32(predicted.to_bits()).wrapping_add(unzigzag32(z))))
}

/// The value that lies `by` further in the direction that the lowest byte of a distance says.
#[inline(always)]
fn further32(value: f32, lowest: u8, by: u32) -> f32 {
    let key = key32(value.to_bits());
    f32::from_bits(key32(if lowest & 1 == 0 { key.wrapping_add(by) } else { key.wrapping_sub(by) }))
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation)]
fn corrected16(dtype: DType, predicted: f32, z: u32) -> f32 {
    // The planes of a 16-bit type hold 16 bits.
    let key = key16(narrow(dtype, predicted)).wrapping_add(unzigzag16(z as u16));
    widen_one(dtype, key16(key))
}

#[inline(always)]
fn distances_body(dtype: DType, values: &[f32], predicted: &[f32], out: &mut [u32]) -> u32 {
    let n = out.len();
    let (values, predicted) = (&values[..n], &predicted[..n]);
    let mut any = 0;
    if dtype == DType::F32 {
        for i in 0..n {
            let difference = key32(values[i].to_bits()).wrapping_sub(key32(predicted[i].to_bits()));
            out[i] = zigzag32(difference);
            any |= out[i];
        }
    } else {
        for i in 0..n {
            let [value, predicted] = [values[i], predicted[i]].map(|v| key16(narrow(dtype, v)));
            out[i] = u32::from(zigzag16(value.wrapping_sub(predicted)));
            any |= out[i];
        }
    }
    any
}

multi_isa! {
    /// How far each value of `dtype` is from its prediction, as what is stored: 0, then one way, then the other.
    /// Returns the bits that any of them has.
    pub(super) fn distances(dtype: DType, values: &[f32], predicted: &[f32], out: &mut [u32]) -> u32
    => portable distances_body, avx2 distances_body, avx512 distances_body
}

/// The prediction that was corrected by `z`.
#[inline(always)]
fn predicted32(value: f32, z: u32) -> f32 {
    f32::from_bits(key32(key32(value.to_bits()).wrapping_sub(unzigzag32(z))))
}

#[inline(always)]
fn correct_bytes_body(distances: &[u8], out: &mut [f32], far: &mut Vec<usize>) {
    let rows = distances[..out.len()].chunks(ROW).zip(out.chunks_mut(ROW));
    for (r, (distances, out)) in rows.enumerate() {
        let mut most = 0;
        for (out, &z) in out.iter_mut().zip(distances) {
            *out = corrected32(*out, u32::from(z));
            most = most.max(z);
        }
        // Most rows have none that is far, which is found out all at once.
        if u32::from(most) > ROUNDING {
            let is_far = |&(_, &z): &(usize, &u8)| u32::from(z) > ROUNDING;
            far.extend(distances.iter().enumerate().filter(is_far).map(|(i, _)| r * ROW + i));
        }
    }
}

multi_isa! {
    /// Corrects predictions by the lowest bytes of distances. Appends the places of those that are more than
    /// rounding.
    fn correct_bytes(distances: &[u8], out: &mut [f32], far: &mut Vec<usize>)
    => portable correct_bytes_body, avx2 correct_bytes_body, avx512 correct_bytes_body
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation)]
fn plane_body(distances: &[u32], shift: u32, out: &mut [u8]) {
    let distances = &distances[..out.len()];
    for (out, &z) in out.iter_mut().zip(distances) {
        // The byte that the plane holds.
        *out = (z >> shift) as u8;
    }
}

multi_isa! {
    fn plane(distances: &[u32], shift: u32, out: &mut [u8])
    => portable plane_body, avx2 plane_body, avx512 plane_body
}

/// Appends the payload for values that lie `distances` away from what `predictions` make; `any` has the bits that any of
/// them has.
pub(super) fn encode(
    isa: Isa,
    predictions: &Predictions,
    (distances, any): (&[u32], u32),
    bytes: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    let planes = (u32::BITS - any.leading_zeros()).div_ceil(8);
    put_head(predictions, planes, out);
    bytes.resize(distances.len(), 0);
    for p in 0..planes {
        plane(isa, distances, 8 * p, bytes);
        pack(isa, bytes, out);
    }
}

/// Appends what stands before the planes of a payload, of which there are so many.
pub(crate) fn put_head(predictions: &Predictions, planes: u32, out: &mut Vec<u8>) {
    // At most 4.
    let Predictions { first, others, of } = predictions;
    out.extend([u8::try_from(planes).unwrap_or(4), first.flags]);
    // Fewer than pieces, of which a chunk has at most 65,536.
    out.extend(u16::try_from(others.len()).unwrap_or(u16::MAX).to_le_bytes());
    let count = first.predictor.coefficients();
    for prediction in std::iter::once(first).chain(others) {
        out.extend(prediction.coefficients[..count].iter().flat_map(|c| c.to_le_bytes()));
    }
    out.extend(of.iter().flat_map(|number| number.to_le_bytes()));
}

/// A payload whose lengths were checked.
#[derive(Debug)]
pub struct Residual<'a> {
    /// How the values are predicted.
    pub predictions: Predictions,
    /// The bytes of the distances, lowest first; none where all are 0.
    pub planes: Vec<Packed<'a>>,
}

impl<'a> Residual<'a> {
    /// Takes a payload of `n` elements of one piece apart.
    ///
    /// # Errors
    /// It does not fit its predictor, type and count.
    pub fn read(
        predictor: Predictor,
        dtype: DType,
        payload: &'a [u8],
        n: usize,
    ) -> Result<Residual<'a>, DecodeError> {
        Residual::read_pieces(predictor, dtype, payload, (n, 1))
    }

    /// The same of several pieces.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn read_pieces(
        predictor: Predictor,
        dtype: DType,
        payload: &'a [u8],
        (n, pieces): (usize, usize),
    ) -> Result<Residual<'a>, DecodeError> {
        let of_one = 4 * predictor.coefficients();
        let short = |expected| DecodeError::Length { codec: "residual", found: payload.len(), expected };
        let (head, rest) = payload.split_first_chunk::<HEAD>().ok_or_else(|| short(HEAD + of_one))?;
        let (planes, flags) = (usize::from(head[0]), head[1]);
        let others = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let known = others == 0 || (predictor.moments() > 0 && others < pieces);
        if planes > dtype.size() || flags & !predictor.flags() != 0 || !known {
            return Err(DecodeError::Packed("its head says what this version does not know"));
        }
        let of_pieces = if others > 0 { 2 * pieces } else { 0 };
        let len = of_one * (others + 1);
        let (coefficients, rest) = rest.split_at_checked(len).ok_or_else(|| short(HEAD + len + of_pieces))?;
        let (of, mut rest) = rest.split_at_checked(of_pieces).ok_or_else(|| short(HEAD + len + of_pieces))?;
        let prediction = |own: &[u8]| {
            let mut coefficients = [0.0; MAX_COEFFICIENTS];
            for (c, bytes) in coefficients.iter_mut().zip(own.as_chunks::<4>().0) {
                *c = f32::from_le_bytes(*bytes);
            }
            Prediction { predictor, flags, coefficients }
        };
        let (first, more) = coefficients.split_at(of_one);
        let others: Vec<Prediction> = more.chunks(of_one.max(1)).map(prediction).collect();
        let of: Vec<u16> = of.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
        if of.iter().any(|number| usize::from(*number) > others.len()) {
            return Err(DecodeError::Packed("it names a prediction that is not there"));
        }
        let planes = (0..planes).map(|_| Packed::take(&mut rest, n)).collect::<Result<_, _>>()?;
        if !rest.is_empty() {
            return Err(DecodeError::Packed("it is longer than it says"));
        }
        Ok(Residual { predictions: Predictions { first: prediction(first), others, of }, planes })
    }

    /// Turns predictions into values. `bytes` and `distances` are scratch. Where the prediction is a replay of the
    /// optimizer's step, `missed` is told where it missed by more than rounding, and the square of that: what others
    /// miss says nothing, and is nearly everything.
    pub(super) fn correct(
        &self,
        isa: Isa,
        dtype: DType,
        bytes: &mut [u8],
        distances: &mut Vec<u32>,
        out: &mut [f32],
        mut missed: impl FnMut(usize, f64),
    ) {
        let bytes = &mut bytes[..out.len()];
        let tells = self.predictions.first.predictor.moments() > 0;
        match (&self.planes[..], dtype) {
            ([], DType::F32) => {}
            // Nearly all predictions hold.
            ([only], DType::F32) if only.is_sparse() => {
                for (at, z) in only.patches() {
                    let predicted = out[at];
                    out[at] = corrected32(predicted, u32::from(z));
                    if tells && u32::from(z) > ROUNDING {
                        missed(at, square(out[at], predicted));
                    }
                }
            }
            // Few are further away than a byte can say.
            ([lowest, higher @ ..], DType::F32) if tells && higher.iter().all(Packed::is_sparse) => {
                lowest.unpack(isa, bytes);
                let mut further: Vec<usize> =
                    higher.iter().flat_map(Packed::patches).map(|(at, _)| at).collect();
                further.sort_unstable();
                further.dedup();
                let further = Far::among(further, out);
                let mut far = Vec::new();
                correct_bytes(isa, bytes, out, &mut far);
                for &at in far.iter().filter(|at| !further.has(**at)) {
                    missed(at, square(out[at], predicted32(out[at], u32::from(bytes[at]))));
                }
                for (p, plane) in higher.iter().enumerate() {
                    for (at, byte) in plane.patches() {
                        out[at] = further32(out[at], bytes[at], u32::from(byte) << (8 * p + 7));
                    }
                }
                further.missed(out, missed);
            }
            (planes, _) => {
                distances.clear();
                distances.resize(out.len(), 0);
                for (p, packed) in planes.iter().enumerate() {
                    packed.unpack(isa, bytes);
                    add_plane(isa, bytes, 8 * p, distances);
                }
                let is_far = |&(_, &z): &(usize, &u32)| z > ROUNDING;
                let all = if tells { &distances[..] } else { &[] };
                let far = Far::among(all.iter().enumerate().filter(is_far).map(|(i, _)| i).collect(), out);
                correct_wide(isa, dtype, distances, out);
                far.missed(out, missed);
            }
        }
    }

    /// Whether nothing that the prediction missed is more than rounding. `bytes` is scratch, as long as the
    /// chunk.
    pub(super) fn is_rounding(&self, isa: Isa, bytes: &mut [u8]) -> bool {
        self.planes.iter().enumerate().all(|(p, plane)| {
            let most = if p == 0 { ROUNDING } else { 0 };
            if plane.is_sparse() {
                return plane.patches().all(|(_, z)| u32::from(z) <= most);
            }
            plane.unpack(isa, bytes);
            bytes.iter().all(|&z| u32::from(z) <= most)
        })
    }
}

/// The square of what a prediction missed.
fn square(value: f32, predicted: f32) -> f64 {
    (f64::from(value) - f64::from(predicted)).powi(2)
}

/// Elements whose prediction missed by more than rounding, and the predictions.
struct Far(Vec<(usize, f32)>);

impl Far {
    fn among(places: Vec<usize>, predicted: &[f32]) -> Far {
        Far(places.into_iter().map(|at| (at, predicted[at])).collect())
    }

    /// Whether an element is among them.
    fn has(&self, at: usize) -> bool {
        self.0.binary_search_by_key(&at, |(at, _)| *at).is_ok()
    }

    /// Tells the square of what was missed of each.
    fn missed(&self, values: &[f32], mut missed: impl FnMut(usize, f64)) {
        self.0.iter().for_each(|&(at, predicted)| missed(at, square(values[at], predicted)));
    }
}

#[inline(always)]
fn add_plane_body(bytes: &[u8], shift: usize, distances: &mut [u32]) {
    for (z, &byte) in distances.iter_mut().zip(bytes) {
        *z |= u32::from(byte) << shift;
    }
}

multi_isa! {
    fn add_plane(bytes: &[u8], shift: usize, distances: &mut [u32])
    => portable add_plane_body, avx2 add_plane_body, avx512 add_plane_body
}

#[inline(always)]
fn correct_wide_body(dtype: DType, distances: &[u32], out: &mut [f32]) {
    for (out, &z) in out.iter_mut().zip(distances) {
        *out = if dtype == DType::F32 { corrected32(*out, z) } else { corrected16(dtype, *out, z) };
    }
}

multi_isa! {
    fn correct_wide(dtype: DType, distances: &[u32], out: &mut [f32])
    => portable correct_wide_body, avx2 correct_wide_body, avx512 correct_wide_body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_numbered_one_after_the_other() {
        let order =
            [f32::NEG_INFINITY, -1.0, -f32::MIN_POSITIVE, -1e-45, -0.0, 0.0, 1e-45, 1.0, f32::INFINITY];
        let keys: Vec<i32> = order.iter().map(|v| key32(v.to_bits()).cast_signed()).collect();
        assert!(keys.windows(2).all(|w| w[0] < w[1]), "{keys:?}");
        assert_eq!(key32((-0.0f32).to_bits()).cast_signed(), -1);
        for bits in [0, 1, 0x8000_0000, 0x7fc0_1234, 0xff80_0001, u32::MAX] {
            assert_eq!(key32(key32(bits)), bits);
            assert_eq!(unzigzag32(zigzag32(bits)), bits);
        }
        for bits in [0u16, 1, 0x8000, 0x7c01, 0xffff] {
            assert_eq!(key16(key16(bits)), bits);
            assert_eq!(unzigzag16(zigzag16(bits)), bits);
        }
        assert_eq!([0u32, 1, u32::MAX, 2].map(zigzag32), [0, 2, 1, 4]);
    }
}
