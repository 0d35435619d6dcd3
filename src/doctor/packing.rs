//! Whether a device makes the CPU's payloads of chunks: of every size, kind of value and way to be stored.

use std::sync::Arc;

use crate::codec::{Coding, Encoder, Exponents};
use crate::cuda::{Device, Packer, Result};
use crate::doctor::conformance::Check;
use crate::dtype::{DType, push_bytes};
use crate::isa::Isa;

/// Sizes around the edges of rows, blocks of zeros, groups and blocks of exponents; and the one of which planes with
/// equal exponents take as much as the elements.
const SIZES: [usize; 20] =
    [0, 1, 6, 31, 32, 33, 63, 64, 65, 255, 256, 257, 1023, 1024, 1025, 2047, 2049, 4095, 4096, 4097];
/// Those around the end of a chunk.
const LARGE: [usize; 2] = [65_535, 65_536];
/// How many exponents a width reaches, and some that no one does.
const SPREADS: [u32; 10] = [1, 2, 3, 8, 9, 16, 33, 64, 128, 250];

/// What the elements of a chunk are like.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Values {
    /// All bits are zero.
    Zeros,
    /// Zeros of both signs, and here and there a bit.
    SignedZeros,
    /// Many blocks are zero, and others nearly.
    ZeroBlocks,
    /// Below the least exponent, so that blocks look like blocks of zeros.
    Subnormal,
    /// Bits of no structure.
    Random,
    /// The same, but for a block of zeros in the middle.
    RandomAroundZeros,
    /// Infinities and NaNs of all kinds.
    NotFinite,
    /// As gradients are: exponents fall off from the largest.
    Gradient,
    /// The same with some exponents far away on both sides.
    Outliers,
    /// A few small exponents, and one far above.
    Apart,
    /// So many exponents, all as frequent.
    Spread(u32),
    /// The same, one after the other.
    Cycle(u32),
}

/// Random bits.
struct Bits(u64);

impl Bits {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = (self.0 ^ self.0 >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The upper half of it.
        u32::try_from(mixed >> 32).unwrap_or(0)
    }
}

/// Kinds of values, each with the sizes of its chunks. `thorough` takes all of every size; else the large ones take
/// turns, and are not of exponents alone.
fn cases(thorough: bool) -> Vec<(Values, Vec<usize>)> {
    let alone = [
        Values::Zeros,
        Values::SignedZeros,
        Values::ZeroBlocks,
        Values::Subnormal,
        Values::Random,
        Values::RandomAroundZeros,
        Values::NotFinite,
        Values::Gradient,
        Values::Outliers,
        Values::Apart,
    ];
    let spreads = SPREADS.into_iter().flat_map(|of| [Values::Spread(of), Values::Cycle(of)]);
    let large = |number: usize| match number {
        _ if thorough => &LARGE[..],
        number if number < alone.len() => &LARGE[number % 2..][..1],
        _ => &[],
    };
    let sizes = |number| SIZES.iter().chain(large(number)).copied().collect();
    alone.into_iter().chain(spreads).enumerate().map(|(number, kind)| (kind, sizes(number))).collect()
}

impl Values {
    /// Element `i` of `n`, of which the mantissa and the sign are random where nothing is said of them.
    fn element(self, i: usize, n: usize, random: &mut Bits) -> f32 {
        let (bits, draw) = (random.next(), random.next());
        let of_exponent = |exponent: u32| bits & 0x807f_ffff | exponent << 23;
        // The halves are fewer with each further one.
        let falling = 120 - draw.trailing_zeros().min(100);
        f32::from_bits(match self {
            Values::Zeros => 0,
            Values::SignedZeros => (bits & 1) << 31 | u32::from(draw.is_multiple_of(1000)),
            Values::ZeroBlocks if i / 64 % 5 < 2 => 0,
            Values::ZeroBlocks if i / 64 % 5 == 2 => u32::from(i % 64 == 63),
            Values::ZeroBlocks => of_exponent(falling),
            Values::Subnormal => bits & 0x807f_ffff,
            Values::RandomAroundZeros if i / 64 == n / 128 => 0,
            Values::Random | Values::RandomAroundZeros => bits,
            Values::NotFinite if draw.is_multiple_of(7) => bits & 0x8000_0000 | 0x7f80_0000,
            Values::NotFinite => of_exponent(255),
            Values::Gradient => of_exponent(falling),
            Values::Outliers if draw.is_multiple_of(11) => of_exponent(draw >> 8 & 0xff),
            Values::Outliers => of_exponent(falling),
            Values::Apart if draw.is_multiple_of(50) => of_exponent(200),
            Values::Apart => of_exponent(100 + draw % 6),
            Values::Spread(of) => of_exponent(2 + draw % of),
            Values::Cycle(of) => of_exponent(2 + u32::try_from(i).unwrap_or(0) % of),
        })
    }

    fn chunk(self, n: usize) -> Vec<f32> {
        let mut random = Bits(n as u64);
        (0..n).map(|i| self.element(i, n, &mut random)).collect()
    }
}

/// Compares what a device makes of chunks with what the encoder does.
///
/// # Errors
/// The device fails.
pub(crate) fn check_payloads(
    device: &Arc<Device>,
    isa: Isa,
    thorough: bool,
    found: &mut Check,
) -> Result<()> {
    let mut packer = Packer::new(Arc::clone(device), SIZES.len() + LARGE.len())?;
    for (kind, sizes) in cases(thorough) {
        let chunks: Vec<Vec<f32>> = sizes.iter().map(|&n| kind.chunk(n)).collect();
        let all = packer.upload(&chunks.concat())?;
        let mut at = 0;
        let views: Vec<_> = sizes
            .iter()
            .map(|n| {
                at += n;
                all.slice(at - n..at)
            })
            .collect();
        packer.pack(&views)?;
        for (values, (coding, payload)) in chunks.iter().zip(packer.payloads()?) {
            let Some((right, expected)) = encoded(isa, values) else { return Ok(()) };
            if (coding, payload) == (right, expected.as_slice()) {
                found.bytes += payload.len() as u64;
                continue;
            }
            let at = payload.iter().zip(&expected).position(|(got, right)| got != right);
            found.different = Some(format!(
                "{kind:?}, {} elements: the device packs them as {coding:?} in {} bytes where {right:?} in {} is right, \
                 and byte {at:?} is the first that differs",
                values.len(),
                payload.len(),
                expected.len()
            ));
            return Ok(());
        }
    }
    Ok(())
}

/// How the encoder codes a chunk, and its payload; nothing if there is no encoder.
fn encoded(isa: Isa, values: &[f32]) -> Option<(Coding, Vec<u8>)> {
    let (mut elements, mut payload) = (Vec::new(), Vec::new());
    push_bytes(DType::F32, values, &mut elements);
    let mut encoder = Encoder::new(isa, Exponents::Packed).ok()?;
    let coding = encoder.encode(DType::F32, &elements, &mut payload).ok()?;
    Some((coding, payload))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::codec::{Bytes, Decoder, Parts};

    /// Of each chunk what makes a difference in how it is stored.
    #[test]
    fn chunks_are_stored_in_every_way() {
        let mut met = BTreeSet::new();
        for (kind, sizes) in cases(false) {
            for n in sizes {
                let values = kind.chunk(n);
                let (coding, payload) = encoded(Isa::detect(), &values).unwrap();
                let mut decoder = Decoder::new(Isa::detect()).unwrap();
                let name = coding.codec().name();
                let Ok(Parts::Planes { high, bitmap, exponents: Bytes::Packed(packed), .. }) =
                    decoder.parts(coding, &payload, n)
                else {
                    let some = values.chunks(64).any(|block| block.iter().all(|v| v.to_bits() == 0));
                    met.insert(format!("{name}, blocks of zeros: {some}"));
                    continue;
                };
                met.insert(format!("{name}, blocks left out: {}", !bitmap.is_empty()));
                for (block, [width, _]) in packed.heads.iter().enumerate() {
                    let is_whole = high.len() >= (block + 1) * 1024;
                    met.insert(format!("width {width}, whole: {is_whole}"));
                }
                met.insert(format!("patches: {}", !packed.patches.is_empty()));
            }
        }
        // Raw, zero and packed with blocks of zeros and without them (zeros have one, but for the chunk that is
        // empty), nine widths of both kinds of blocks, and patches or none.
        assert_eq!(met.len(), 2 * 3 + 2 * 9 + 2, "{met:#?}");
    }
}
