//! Elements of any bits, encoded and decoded: what is exact comes back bit for bit, what is lossy within its width.
//!
//! The first 48 bytes say how; elements of any number follow, of which 65,536 count.

use lpa::internals::{
    COUPLED, Coding, Decoder, Exponents, FUSED, Lossy, NESTEROV, Noise, Past, Pieces, Prediction, Predictor,
    predict, push_bytes, values,
};
use lpa::{DType, Isa};

use crate::codecs::{decoded, encoded};
use crate::targets::payload::{bits, drawn};

const HEAD: usize = 48;
const CHUNK: usize = 65_536;

/// Bytes: type; exponents; what is done; flags of the predictor; a seed (4); eight coefficients; a step of noise (8).
pub(crate) fn run(input: &[u8]) {
    let Some((head, elements)) = input.split_first_chunk::<HEAD>() else { return };
    let dtype = [DType::F32, DType::BF16, DType::F16][usize::from(head[0] % 3)];
    let exponents = [Exponents::Huffman, Exponents::Packed][usize::from(head[1] % 2)];
    let seed = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let n = (elements.len() / dtype.size()).min(CHUNK);
    let elements = &elements[..n * dtype.size()];
    let mut wide = vec![0.0; n];
    values(dtype, elements, &mut wide);
    let coefficients: Vec<f32> =
        head[8..40].as_chunks::<4>().0.iter().map(|c| f32::from_bits(u32::from_le_bytes(*c))).collect();
    match head[2] % 8 {
        0 | 1 => exact(dtype, exponents, elements),
        2 => predicted(dtype, Prediction::PREVIOUS, &wide, seed),
        3 => predicted(dtype, Prediction::new(Predictor::Linear, 0, &coefficients), &wide, seed),
        4 => predicted(
            dtype,
            Prediction::new(Predictor::Sgd, head[3] & (NESTEROV | FUSED), &coefficients),
            &wide,
            seed,
        ),
        5 => {
            predicted(dtype, Prediction::new(Predictor::Adam, head[3] & COUPLED, &coefficients), &wide, seed)
        }
        _ => {
            let step = u64::from_le_bytes(*head.last_chunk().unwrap());
            let wide: Vec<f32> = elements.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            lossy(head[3], exponents, &wide, (seed, step));
        }
    }
}

fn exact(dtype: DType, exponents: Exponents, elements: &[u8]) {
    let n = elements.len() / dtype.size();
    let mut payload = Vec::new();
    let coding = encoded(exponents, |e| e.encode(dtype, elements, &mut payload)).unwrap();
    assert!(payload.len() <= elements.len(), "stored in more than it takes as it is");
    decoded(|decoder| {
        let mut out = vec![f32::NAN; n];
        decoder.decode(dtype, coding, &payload, &mut out).unwrap();
        let mut bytes = Vec::new();
        push_bytes(dtype, &out, &mut bytes);
        assert_eq!(bytes, elements);
    });
}

/// The past is drawn; or, where the seed says so, near what is to be predicted, so that little is missed.
fn predicted(dtype: DType, prediction: Prediction, wide: &[f32], seed: u32) {
    let n = wide.len();
    let fits = |v: Vec<f32>| {
        let mut bytes = Vec::new();
        push_bytes(dtype, &v, &mut bytes);
        let mut out = vec![0.0; n];
        values(dtype, &bytes, &mut out);
        out
    };
    let near: Vec<f32> = wide.iter().map(|v| f32::from_bits(v.to_bits() ^ (seed >> 16 & 7))).collect();
    let x = fits(if seed & 4 == 0 { near } else { drawn(seed, 1, n) });
    let (before, g) = (fits(drawn(seed, 2, n)), fits(drawn(seed, 3, n)));
    let moments = || (drawn(seed, 4, n), drawn(seed, 5, n));
    let (mut momentum, mut second) = moments();
    let mut missed = vec![0.0; n];
    let mut past = Past { x: &x, before: &before, g: &g, momentum: &mut momentum, second: &mut second };
    predict(Isa::detect(), &prediction, &mut past, &mut missed);
    let mut payload = Vec::new();
    let coding = encoded(Exponents::Huffman, |e| {
        e.encode_residual(dtype, &prediction.into(), wide, &missed, &mut payload)
    });
    decoded(|decoder| {
        let (mut m, mut v) = moments();
        let mut past = Past { x: &x, before: &before, g: &g, momentum: &mut m, second: &mut v };
        let mut out = vec![f32::NAN; n];
        decoder
            .decode_predicted(dtype, coding, &payload, (&mut past, Pieces::default()), &mut out, |_, _| {})
            .unwrap();
        assert_eq!(bits(&out), bits(wide));
        let same = |a: &[f32], b: &[f32]| {
            a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
        };
        assert!(same(&m, &momentum) && same(&v, &second), "moments");
    });
}

fn lossy(way: u8, exponents: Exponents, wide: &[f32], (seed, step): (u32, u64)) {
    let n = wide.len().min(CHUNK);
    let wide = &wide[..n];
    let before: Vec<f32> = match seed & 1 {
        0 => wide.iter().map(|v| v * 1.001).collect(),
        _ => drawn(seed, 1, n),
    };
    let noise = Noise { seed: u64::from(seed), step: step % 10_000_000_000, stream: 1, chunk: 0 };
    let (mut payload, mut seen) = (Vec::new(), vec![f32::NAN; n]);
    let lossy = Lossy { values: wide, noise, decoded: &mut seen };
    let coding = encoded(exponents, |encoder| match way % 3 {
        0 => encoder.encode_quantized(lossy, 2.5, &mut payload),
        1 => encoder.encode_delta(lossy, &before, &mut payload),
        _ => encoder.encode_rounded(lossy, 2.5, &mut payload),
    });
    let Some(coding) = coding.unwrap() else { return };
    decoded(|decoder| {
        let mut out = vec![f32::NAN; n];
        if coding.follows() {
            let (mut m, mut v) = (Vec::new(), Vec::new());
            let mut past = Past { x: &before, before: &before, g: &before, momentum: &mut m, second: &mut v };
            decoder
                .decode_predicted(
                    DType::F32,
                    coding,
                    &payload,
                    (&mut past, Pieces::default()),
                    &mut out,
                    |_, _| {},
                )
                .unwrap();
        } else {
            decoder.decode(DType::F32, coding, &payload, &mut out).unwrap();
        }
        assert_eq!(bits(&out), bits(&seen));
    });
    let mut widths = vec![f32::NAN; n];
    let g2 = Decoder::widths(coding, &payload, &seen, &mut widths).unwrap();
    assert_eq!(g2, (!matches!(coding, Coding::Delta(_))).then_some(2.5));
    for i in 0..n {
        let error = (f64::from(wide[i]) - f64::from(seen[i])).abs();
        assert!(error <= f64::from(widths[i]), "at {i}: {} {} {}", wide[i], seen[i], widths[i]);
    }
}
