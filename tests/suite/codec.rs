//! What is decoded is what was written, bit for bit, whatever it is.

use lpa::internals::{
    COUPLED, Codec, Coding, Decoder, Encoder, Exponents, FUSED, NESTEROV, Past, Pieces, Plane, Prediction,
    Predictor, Residual, predict, push_bytes, values,
};
use lpa::{DType, Isa};
use proptest::collection::vec;
use proptest::prelude::*;

/// Writes and reads elements in both ways of storing exponents; returns the codec of the first.
fn round_trip(dtype: DType, bytes: &[u8]) -> Codec {
    let packed = round_trip_with(Exponents::Packed, dtype, bytes);
    let codec = round_trip_with(Exponents::Huffman, dtype, bytes);
    assert!(
        codec == packed
            || [codec, packed].iter().all(|c| [Codec::Raw, Codec::Planes, Codec::Packed].contains(c))
    );
    codec
}

fn round_trip_with(exponents: Exponents, dtype: DType, bytes: &[u8]) -> Codec {
    let n = bytes.len() / dtype.size();
    let mut payload = Vec::new();
    let coding = Encoder::new(Isa::detect(), exponents).unwrap().encode(dtype, bytes, &mut payload).unwrap();
    assert!(payload.len() <= bytes.len());
    for isa in Isa::available() {
        let mut decoder = Decoder::new(isa).unwrap();
        let mut wide = vec![0.0f32; n];
        decoder.decode(dtype, coding, &payload, &mut wide).unwrap();
        let mut out = Vec::new();
        push_bytes(dtype, &wide, &mut out);
        assert_eq!(out, bytes, "{dtype} with {}", isa.name());
        // Once more, with the exponents of the first time, without them, and with some that are not its own.
        let kept = decoder.exponents().to_vec();
        for exponents in [&kept[..], &[], &kept[kept.len().min(1)..]] {
            let mut again = vec![1.0f32; n];
            decoder.decode_again(dtype, coding, &payload, exponents, &mut again).unwrap();
            let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
            assert_eq!(bits(&again), bits(&wide), "{dtype} with {}", isa.name());
        }
        if dtype != DType::F16 {
            let pad = if dtype == DType::F32 { 0 } else { 2 };
            let expected: Vec<u8> =
                bytes.chunks(dtype.size()).flat_map(|w| [&[0u8; 2][..pad], w].concat()).collect();
            let got: Vec<u8> = wide.iter().flat_map(|v| v.to_bits().to_le_bytes()).collect();
            assert_eq!(got, expected, "{dtype} widened with {}", isa.name());
        }
    }
    coding.codec()
}

/// Every way to predict.
fn predictions() -> Vec<Prediction> {
    let sgd = [1e-4, 0.9, 1.0, 0.1, 1.0];
    let adam = [0.1, 0.999, 0.001, 1e-3, 0.5, 1e-8, 0.999, 1.0];
    let mut all = vec![Prediction::PREVIOUS, Prediction::new(Predictor::Linear, 0, &[0.9, -1e-4, -0.1])];
    all.extend([0, NESTEROV, FUSED, NESTEROV | FUSED].map(|f| Prediction::new(Predictor::Sgd, f, &sgd)));
    all.extend([0, COUPLED].map(|f| Prediction::new(Predictor::Adam, f, &adam)));
    all
}

/// Words as elements of a type, widened.
fn elements(dtype: DType, words: &[u32]) -> Vec<f32> {
    let mut out = vec![0.0; words.len()];
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()[4 - dtype.size()..].to_vec()).collect();
    values(dtype, &bytes, &mut out);
    out
}

/// The places where a prediction is off by more than two values of its type.
fn far(dtype: DType, values: &[f32], predicted: &[f32]) -> Vec<usize> {
    let number = |v: f32| -> i64 {
        let mut bytes = Vec::new();
        push_bytes(dtype, &[v], &mut bytes);
        let bits = bytes.iter().rev().fold(0i64, |all, b| all << 8 | i64::from(*b));
        let sign = 1i64 << (8 * dtype.size() - 1);
        if bits & sign == 0 { bits } else { -(bits & (sign - 1)) - 1 }
    };
    let all = values.iter().zip(predicted).map(|(v, p)| (number(*v) - number(*p)).abs());
    // Distances go around the circle of all patterns.
    let circle = 1i64 << (8 * dtype.size());
    all.enumerate().filter(|(_, d)| (*d).min(circle - d) > 2).map(|(i, _)| i).collect()
}

/// The sum of the squares of what a prediction is off there.
fn missed(dtype: DType, values: &[f32], predicted: &[f32]) -> f64 {
    let off = |i: usize| f64::from(values[i]) - f64::from(predicted[i]);
    far(dtype, values, predicted).into_iter().map(|i| off(i).powi(2)).sum()
}

/// What is stored of `values` brings them back, whatever the past holds, and the moments go on alike.
fn predicted_round_trip(dtype: DType, values: &[f32], x: &[f32], before: &[f32], g: &[f32]) {
    let n = values.len();
    for prediction in predictions() {
        let mut encoder = Encoder::new(Isa::detect(), Exponents::Huffman).unwrap();
        let (mut m, mut v, mut p) = (g.to_vec(), x.to_vec(), vec![0.0; n]);
        predict(
            Isa::detect(),
            &prediction,
            &mut Past { x, before, g, momentum: &mut m, second: &mut v },
            &mut p,
        );
        let mut payload = Vec::new();
        let coding = encoder.encode_residual(dtype, &prediction.into(), values, &p, &mut payload);
        Decoder::new(Isa::detect()).unwrap().check_predicted(dtype, coding, &payload, (n, 1)).unwrap();
        for isa in Isa::available() {
            let (mut m2, mut v2, mut out) = (g.to_vec(), x.to_vec(), vec![0.0; n]);
            let mut past = Past { x, before, g, momentum: &mut m2, second: &mut v2 };
            let mut decoder = Decoder::new(isa).unwrap();
            let (one, mut found) = (Pieces::default(), 0.0);
            let add = |_, square| found += square;
            decoder.decode_predicted(dtype, coding, &payload, (&mut past, one), &mut out, add).unwrap();
            // What others miss is not the optimizer's.
            let replays = prediction.predictor.moments() > 0;
            let missed = if replays { missed(dtype, values, &p) } else { 0.0 };
            let same = (found - missed).abs() <= 1e-12 * missed
                || (found.is_nan() && missed.is_nan())
                || found.to_bits() == missed.to_bits();
            assert!(same, "{dtype} {prediction:?} with {}: {} {missed}", isa.name(), found);
            let residual = Residual::read(coding.predictor().unwrap(), dtype, &payload, n).unwrap();
            assert_eq!(
                decoder.is_rounding(&residual, n),
                far(dtype, values, &p).is_empty(),
                "{dtype} {prediction:?}"
            );
            let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
            assert_eq!(bits(&out), bits(values), "{dtype} {prediction:?} with {}", isa.name());
            // A NaN of a moment is the processor's; it makes no prediction.
            let same = |a: &[f32], b: &[f32]| {
                a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
            };
            assert!(same(&m2, &m) && same(&v2, &v), "{dtype} {prediction:?} with {}", isa.name());
        }
    }
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
    fn predicted_values_of_any_bits(dtype in dtypes(), words in vec(any::<[u32; 4]>(), 0..400)) {
        let column = |c: usize| elements(dtype, &words.iter().map(|w| w[c]).collect::<Vec<_>>());
        predicted_round_trip(dtype, &column(0), &column(1), &column(2), &column(3));
    }

    #[test]
    fn predicted_values_near_the_prediction(
        dtype in dtypes(), n in 1usize..3000, every in 1usize..200, by in 0u32..70_000,
    ) {
        let word = |i: usize, salt: u32| (i as u32).wrapping_mul(2_654_435_761).wrapping_add(salt) >> 9 | 0x3c00_0000;
        let words = |salt: u32| (0..n).map(|i| word(i, salt)).collect::<Vec<u32>>();
        let x = words(1);
        let moved: Vec<u32> =
            x.iter().enumerate().map(|(i, w)| if i % every == 0 { w ^ by } else { *w }).collect();
        let [values, x, before, g] = [&moved, &x, &words(2), &words(3)].map(|w| elements(dtype, w));
        predicted_round_trip(dtype, &values, &x, &before, &g);
    }

    #[test]
    fn changed_payloads_are_refused_or_decode_to_something(
        at in 0usize..2000, bit in 0u8..8, cut in 0usize..2000, bitmap in any::<bool>(), exponents in 0u32..4000,
        how in prop_oneof![Just(Exponents::Huffman), Just(Exponents::Packed)], predicted in 0usize..8,
    ) {
        // Checksums come first; behind them the decoder must still not trust a length.
        let bytes: Vec<u8> = (0..1000u32).flat_map(|i| (0x3c00_0000 + (i << 18) * (i % 3)).to_le_bytes()).collect();
        let mut payload = Vec::new();
        let mut encoder = Encoder::new(Isa::detect(), how).unwrap();
        let coding = encoder.encode(DType::F32, &bytes, &mut payload).unwrap();
        if let Some(byte) = payload.get_mut(at) {
            *byte ^= 1 << bit;
        }
        let mut decoder = Decoder::new(Isa::detect()).unwrap();
        let mut out = vec![0.0; 1000];
        let _ = decoder.decode(DType::F32, coding, &payload, &mut out);
        let coding = Coding::Planes { exponents: Plane { how, len: exponents }, zero_blocks: bitmap };
        let _ = decoder.decode(DType::F32, coding, &payload[..cut.min(payload.len())], &mut out);

        let mut x = vec![0.0; 1000];
        values(DType::F32, &bytes, &mut x);
        let zeros = vec![0.0; 1000];
        payload.clear();
        let prediction = predictions()[predicted];
        let coding = encoder.encode_residual(DType::F32, &prediction.into(), &x, &zeros, &mut payload);
        if let Some(byte) = payload.get_mut(at) {
            *byte ^= 1 << bit;
        }
        for payload in [&payload[..], &payload[..cut.min(payload.len())]] {
            let (mut m, mut v) = (zeros.clone(), zeros.clone());
            let mut past = Past { x: &x, before: &x, g: &x, momentum: &mut m, second: &mut v };
            let _ = decoder.decode_predicted(DType::F32, coding, payload, (&mut past, Pieces::default()), &mut out, |_, _| {});
        }
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
