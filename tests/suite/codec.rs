//! What is decoded is what was written, bit for bit, whatever it is.

use lpa::codec::{Codec, Decoder, Encoder};
use lpa::dtype::DType;
use lpa::isa::Isa;
use proptest::collection::vec;
use proptest::prelude::*;

fn round_trip(dtype: DType, bytes: &[u8]) -> Codec {
    let n = bytes.len() / dtype.size();
    let mut payload = Vec::new();
    let coding = Encoder::new(Isa::detect()).unwrap().encode(dtype, bytes, &mut payload).unwrap();
    assert!(payload.len() <= bytes.len());
    for isa in Isa::available() {
        let mut decoder = Decoder::new(isa).unwrap();
        let mut out = Vec::new();
        decoder.decode_bytes(dtype, n, coding, &payload, &mut out).unwrap();
        assert_eq!(out, bytes, "{dtype} with {}", isa.name());
        if dtype != DType::F16 {
            let mut wide = vec![0.0f32; n];
            decoder.decode(dtype, coding, &payload, &mut wide).unwrap();
            let pad = if dtype == DType::F32 { 0 } else { 2 };
            let expected: Vec<u8> =
                bytes.chunks(dtype.size()).flat_map(|w| [&[0u8; 2][..pad], w].concat()).collect();
            let got: Vec<u8> = wide.iter().flat_map(|v| v.to_bits().to_le_bytes()).collect();
            assert_eq!(got, expected, "{dtype} widened with {}", isa.name());
        }
    }
    coding.codec
}

fn dtypes() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::BF16), Just(DType::F16)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_bytes(dtype in dtypes(), words in vec(any::<u32>(), 0..1500)) {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        round_trip(dtype, &bytes[..bytes.len() / dtype.size() * dtype.size()]);
    }

    #[test]
    fn runs_of_zeros_between_values(dtype in dtypes(), runs in vec((0usize..300, 0usize..200, any::<u8>()), 0..12)) {
        let mut bytes = Vec::new();
        for (zeros, values, seed) in runs {
            bytes.extend(std::iter::repeat_n(0, zeros * dtype.size()));
            let value = |i: usize| [(i * 31) as u8, seed, 0x3c, 0x3d];
            bytes.extend((0..values).flat_map(|i| value(i)[..dtype.size()].to_vec()));
        }
        round_trip(dtype, &bytes);
    }

    #[test]
    fn changed_payloads_are_refused_or_decode_to_something(
        at in 0usize..2000, bit in 0u8..8, cut in 0usize..2000, bitmap in any::<bool>(), exponents in 0u32..4000,
    ) {
        // Checksums come first; behind them the decoder must still not trust a length.
        let bytes: Vec<u8> = (0..1000u32).flat_map(|i| (0x3c00_0000 + (i << 18) * (i % 3)).to_le_bytes()).collect();
        let mut payload = Vec::new();
        let mut coding = Encoder::new(Isa::detect()).unwrap().encode(DType::F32, &bytes, &mut payload).unwrap();
        if let Some(byte) = payload.get_mut(at) {
            *byte ^= 1 << bit;
        }
        let mut decoder = Decoder::new(Isa::detect()).unwrap();
        let mut out = vec![0.0; 1000];
        let _ = decoder.decode(DType::F32, coding, &payload, &mut out);
        coding.zero_blocks = bitmap;
        coding.exponent_len = exponents;
        let _ = decoder.decode(DType::F32, coding, &payload[..cut.min(payload.len())], &mut out);
    }
}

#[test]
fn sizes_around_blocks_and_chunks() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for n in [0usize, 1, 2, 31, 63, 64, 65, 127, 128, 129, 4095, 4096, 65_535, 65_536] {
            let value = |i: usize| {
                let word = (i as u32).wrapping_mul(2_654_435_761) >> 12 | 0x3c00_0000;
                word.to_le_bytes()[4 - dtype.size()..].to_vec()
            };
            let mut bytes: Vec<u8> = (0..n).flat_map(value).collect();
            round_trip(dtype, &bytes);
            // Everything but the last element zero, then all zero.
            let end = bytes.len().saturating_sub(dtype.size());
            bytes[..end].fill(0);
            round_trip(dtype, &bytes);
            bytes.fill(0);
            assert_eq!(round_trip(dtype, &bytes), Codec::Zero);
        }
    }
}

#[test]
fn minus_zero_is_not_zero() {
    let mut bytes = vec![0u8; 4 * 65_536];
    bytes[4 * 70_00 + 3] = 0x80;
    assert_eq!(round_trip(DType::F32, &bytes), Codec::Planes);
}
