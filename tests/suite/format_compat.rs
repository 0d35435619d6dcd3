//! Files of every version of the format are read for ever. The expected values are computed from
//! the formulas of `fixtures/frozen.py`, written down here a second time.

use std::collections::BTreeMap;

use lpa::internals::{Codec, Coding, Exponents, Plane, Predictor};
use lpa::{Access, Run, Vector};

use crate::support::fixture;

const SIZES: [u64; 8] = [0, 1, 63, 64, 65, 65_535, 65_536, 65_537];
const PACKED_SIZES: [u64; 12] = [0, 1, 31, 32, 33, 255, 256, 257, 1023, 1024, 1025, 2500];
const ABSENT: [u64; 4] = [32, 64, 257, 65_537];
const PREDICTED: [u64; 4] = [1, 65, 1025, 2500];
const SHARED: [u64; 7] = [1, 64, 0, 65, 960, 300, 1025];
const SPECIAL: [(&str, [u32; 10]); 3] = [
    (
        "f32",
        [
            0x7fc0_0000,
            0x7f80_0001,
            0xffc1_2345,
            0x7f80_0000,
            0xff80_0000,
            0x8000_0000,
            1,
            0x807f_ffff,
            0x0080_0000,
            0x7f7f_ffff,
        ],
    ),
    ("bf16", [0x7fc0, 0x7f81, 0xffc1, 0x7f80, 0xff80, 0x8000, 1, 0x807f, 0x0080, 0x7f7f]),
    ("f16", [0x7e00, 0x7c01, 0xfe12, 0x7c00, 0xfc00, 0x8000, 1, 0x83ff, 0x0400, 0x7bff]),
];

struct Words {
    name: &'static str,
    special: [u32; 10],
    mantissa: u32,
    sign: u32,
}

impl Words {
    fn all() -> Vec<Words> {
        let bits = |name| match name {
            "f32" => (23, 31),
            "bf16" => (7, 15),
            _ => (10, 15),
        };
        SPECIAL
            .iter()
            .map(|&(name, special)| Words { name, special, mantissa: bits(name).0, sign: bits(name).1 })
            .collect()
    }

    fn spread(&self, i: u64, _n: u64) -> u32 {
        let exponent = ((i * 37 + 11) & 255) as u32;
        if self.name == "f16" {
            return exponent << 8 | ((i * 3) & 255) as u32;
        }
        ((i >> 3 & 1) as u32) << self.sign | exponent << self.mantissa | ((i * 3) & 127) as u32
    }

    fn narrow(&self, i: u64, _n: u64) -> u32 {
        match self.special.get(i as usize) {
            Some(&special) => special,
            None => {
                ((10 + i * i % 5) as u32) << self.mantissa | (i * 40_503) as u32 & ((1 << self.mantissa) - 1)
            }
        }
    }

    fn sparse(&self, i: u64, n: u64) -> u32 {
        if i == n - 1 {
            1 << self.sign
        } else if (i / 64).is_multiple_of(3) {
            self.narrow(i, n)
        } else {
            0
        }
    }

    fn bytes(&self, n: u64, word: impl Fn(&Self, u64, u64) -> u32) -> Vec<u8> {
        let size = if self.name == "f32" { 4 } else { 2 };
        (0..n).flat_map(|i| word(self, i, n).to_le_bytes()[..size].to_vec()).collect()
    }
}

fn zero(_: &Words, _: u64, _: u64) -> u32 {
    0
}

/// The frozen runs of a type, in the two ways of storing exponents, with their codec and sizes.
fn stored(words: &Words) -> [(Run, Codec, &'static [u64]); 2] {
    let all = [("", Codec::Planes, &SIZES[..]), ("-fast", Codec::Packed, &PACKED_SIZES[..])];
    all.map(|(suffix, codec, sizes)| {
        let path = fixture(&format!("format/v1-{}{suffix}", words.name));
        (Run::open(&path, Access::default()).unwrap(), codec, sizes)
    })
}

#[test]
fn version_1_decodes_to_the_same_bits() {
    for words in Words::all() {
        for (run, _, sizes) in stored(&words) {
            let expect = |step: u64, stream: &str, word: fn(&Words, u64, u64) -> u32, absent: &[u64]| {
                let mut vector = Vector::open(&run, step, stream).unwrap();
                for (i, &n) in sizes.iter().enumerate() {
                    let mut bytes = Vec::new();
                    let there = vector.tensor(i, &mut bytes).unwrap();
                    assert_eq!(there, !absent.contains(&n), "{} {stream} {step} n{n}", words.name);
                    if there {
                        assert!(bytes == words.bytes(n, word), "{} {stream} {step} n{n}", words.name);
                    }
                }
            };
            expect(0, "iterate", Words::spread, &[]);
            expect(0, "grad", Words::narrow, &[]);
            expect(1, "iterate", Words::sparse, &[]);
            expect(1, "grad", zero, &ABSENT);
            expect(2, "iterate", zero, &[]);
        }
    }
}

/// The compressed plane of what was stored with loss.
fn plane(coding: Coding) -> Plane {
    match coding {
        Coding::Quantized(plane) | Coding::Delta(plane) | Coding::Rounded { exponents: plane, .. } => plane,
        other => panic!("{other:?} is not lossy"),
    }
}

/// How often each codec and predictor was used in a run, and how many chunks have a bitmap.
fn used(run: &Run) -> (BTreeMap<Codec, usize>, BTreeMap<Option<Predictor>, usize>, usize) {
    let (mut codecs, mut predictors, mut bitmaps) = (BTreeMap::new(), BTreeMap::new(), 0);
    for segment in run.segments(0) {
        let shard = run.open_shard(&segment.file).unwrap();
        for record in (0..shard.vectors().len()).flat_map(|v| shard.records(v)) {
            *codecs.entry(record.coding.codec()).or_insert(0) += 1;
            *predictors.entry(record.coding.predictor()).or_insert(0) += 1;
            let bitmap = matches!(
                record.coding,
                Coding::Planes { zero_blocks: true, .. } | Coding::Rounded { zero_blocks: true, .. }
            );
            bitmaps += usize::from(bitmap);
        }
    }
    (codecs, predictors, bitmaps)
}

#[test]
fn the_frozen_files_hold_every_codec_for_every_type() {
    for words in Words::all() {
        for (run, coded, _) in stored(&words) {
            let (codecs, _, bitmaps) = used(&run);
            let all = [Codec::Raw, Codec::Zero, Codec::Absent, coded];
            assert!(all.iter().all(|c| codecs.contains_key(c)), "{}: {codecs:?}", words.name);
            assert!(bitmaps >= 3, "{}: {bitmaps}", words.name);
        }
    }
}

/// Whether a tensor, by number, has no gradient at a step.
type Rests = fn(usize, i64) -> bool;

/// Iterates and gradients as `heavy_ball` in `fixtures/frozen.py` makes them, all numbers whole.
fn heavy_ball(i: i64, t: i64, rests: impl Fn(i64) -> bool) -> (f64, f64) {
    let (mut x, mut m) = (((i * 7919) % 4096 + 1) * 512, 0i64);
    let gradient = |t: i64| (i * 31 + t * 17) % 256 - 128;
    for s in (0..t).filter(|s| !rests(*s)) {
        m = m.div_euclid(2) + 32 * gradient(s);
        x -= m;
    }
    (x as f64 / 512.0, gradient(t) as f64)
}

/// As `steady` there.
fn steady(i: i64, t: i64, rests: impl Fn(i64) -> bool) -> (f64, f64) {
    let (sign, moved) = (1 - 2 * (i % 2), (0..t).filter(|s| !rests(*s)).count());
    let x = ((i * 7919) % 4096 + 1) as f64 / 256.0 - (sign * moved as i64) as f64 / 1024.0;
    (x, sign as f64 / (1 << (i % 4)) as f64)
}

/// The pattern of a value in a type, with the changes of `nudged` there.
fn nudged(words: &Words, value: f64, i: u64, t: u32) -> u32 {
    if let Some(special) = i.checked_sub(1000).and_then(|at| words.special.get(at as usize)) {
        return *special;
    }
    let bits = match words.name {
        "f32" => (value as f32).to_bits(),
        "bf16" => (value as f32).to_bits() >> 16,
        _ => u32::from(half::f16::from_f64(value).to_bits()),
    };
    if i.is_multiple_of(97) { bits + t } else { bits }
}

/// Compares a run of six steps with the path of its optimizer.
fn follows(name: &str, keys: &[(&str, u64)], rests: Rests) -> Run {
    let run = Run::open(&fixture(&format!("format/v1-{name}")), Access::default()).unwrap();
    for step in 0..6u32 {
        for stream in ["iterate", "grad"] {
            if (step, stream) == (5, "grad") {
                continue;
            }
            let mut vector = Vector::open(&run, u64::from(step), stream).unwrap();
            for (tensor, &(dtype, n)) in keys.iter().enumerate() {
                let words = Words::all().into_iter().find(|w| w.name == dtype).unwrap();
                let rests = |t: i64| rests(tensor, t);
                let word = |_: &Words, i: u64, _: u64| {
                    let at = (i as i64, i64::from(step));
                    let adam = name.ends_with("adam");
                    let (x, g) = if adam { steady(at.0, at.1, rests) } else { heavy_ball(at.0, at.1, rests) };
                    let (value, t) = if stream == "iterate" { (x, step) } else { (g, 0) };
                    nudged(&words, value, i, t)
                };
                let (mut bytes, there) =
                    (Vec::new(), stream == "iterate" || !rests(i64::from(step)) || n == 0);
                let found = vector.tensor(tensor, &mut bytes).unwrap();
                assert_eq!(
                    (found, vector.is_absent(tensor).unwrap()),
                    (there, !there),
                    "{name} {step} {tensor}"
                );
                assert!(!there || bytes == words.bytes(n, word), "{name} {stream} {step} {dtype} {n}");
            }
        }
    }
    run
}

#[test]
fn predicted_iterates_decode_to_the_same_bits() {
    let keys: Vec<_> = Words::all().into_iter().flat_map(|w| PREDICTED.map(|n| (w.name, n))).collect();
    for (name, predictor) in
        [("sgd", Predictor::Sgd), ("linear", Predictor::Linear), ("adam", Predictor::Adam)]
    {
        let (_, predictors, _) = used(&follows(name, &keys, |_, _| false));
        assert!(predictors.get(&Some(predictor)).is_some_and(|n| *n >= 12), "{name}: {predictors:?}");
    }
}

#[test]
fn small_tensors_in_one_chunk_decode_to_the_same_bits_and_are_absent_one_by_one() {
    let keys: Vec<_> = SHARED.into_iter().flat_map(|n| ["f32", "bf16"].map(|dtype| (dtype, n))).collect();
    for (name, predictor) in [("shared-sgd", Predictor::Sgd), ("shared-adam", Predictor::Adam)] {
        let run = follows(name, &keys, |tensor, t| (tensor as i64 + t) % 4 == 0);
        // Those of 1,025 elements have chunks of their own.
        assert_eq!(run.chunks().chunks().len(), 4, "{name}");
        let (_, predictors, _) = used(&run);
        assert!(predictors.get(&Some(predictor)).is_some_and(|n| *n >= 5), "{name}: {predictors:?}");
        let shard = run.open_shard(&run.segments(0)[0].file).unwrap();
        let some = (0..shard.vectors().len()).flat_map(|v| shard.records(v)).filter(|r| r.some_absent);
        // At an even step those of one type, at an odd one those of the other.
        assert_eq!(some.count(), 5, "{name}");
    }
}

/// As `multiples` in `fixtures/frozen.py`.
fn multiples(i: i64, t: i64, still: i64) -> i64 {
    let k = if i % 256 == 0 { 127 } else { (i * 31 + t * 17) % 255 - 127 };
    if i / 256 % 3 == still { 0 } else { k }
}

#[test]
fn lossy_vectors_decode_to_the_same_bits() {
    const SIZES: [i64; 5] = [1, 255, 256, 257, 2500];
    let runs = [
        ("int8", &[Codec::Quantized, Codec::Delta][..], false),
        ("int8-fast", &[Codec::Quantized, Codec::Delta], true),
        ("bf16", &[Codec::Rounded], false),
        ("bf16-fast", &[Codec::Rounded], true),
    ];
    for (name, lossy, is_packed) in runs {
        let run = Run::open(&fixture(&format!("format/v1-lossy-{name}")), Access::default()).unwrap();
        let (codecs, ..) = used(&run);
        assert!(lossy.iter().all(|c| codecs.get(c).is_some_and(|n| *n >= 4)), "{name}: {codecs:?}");
        for segment in run.segments(0) {
            let shard = run.open_shard(&segment.file).unwrap();
            let records = (0..shard.vectors().len()).flat_map(|v| shard.records(v));
            let mut lossy = records.filter(|r| r.coding.is_lossy());
            assert!(lossy.all(|r| (plane(r.coding).how == Exponents::Packed) == is_packed), "{name}");
        }
        for step in 0..4i64 {
            for stream in ["iterate", "grad"].into_iter().take(if step == 3 { 1 } else { 2 }) {
                let mut vector = Vector::open(&run, step as u64, stream).unwrap();
                let tensors = [4, 2].into_iter().flat_map(|size| SIZES.map(|n| (size, n)));
                for (tensor, (size, n)) in tensors.enumerate() {
                    // Streams that are quantized are float32 whatever the tensor's type.
                    let wide = size == 4 || (stream == "grad" && name.starts_with("int8"));
                    let value = |i: i64| match stream {
                        "grad" => multiples(i, step, 1) as f64 / 1024.0,
                        _ => {
                            let start = ((i * 7919) % 4096 + 1) * 8;
                            (start + (0..step).map(|s| multiples(i, s, 2)).sum::<i64>()) as f64 / 4096.0
                        }
                    };
                    let bits = |i: i64| {
                        let bits = (value(i) as f32).to_bits();
                        let cut = if size == 2 { bits & 0xffff_0000 } else { bits };
                        if wide { cut.to_le_bytes().to_vec() } else { cut.to_le_bytes()[2..].to_vec() }
                    };
                    let mut bytes = Vec::new();
                    assert!(vector.tensor(tensor, &mut bytes).unwrap());
                    let expected: Vec<u8> = (0..n).flat_map(bits).collect();
                    assert!(bytes == expected, "{name} {stream} {step}, {size} bytes, {n}");
                }
            }
        }
    }
}
