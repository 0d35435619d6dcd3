//! Files of every version of the format are read for ever. The expected values are computed from
//! the formulas of `fixtures/frozen.py`, written down here a second time.

use std::collections::BTreeMap;

use lpa::codec::Codec;
use lpa::run::vector::Vector;
use lpa::run::{Access, Run};

use crate::support::fixture;

const SIZES: [u64; 8] = [0, 1, 63, 64, 65, 65_535, 65_536, 65_537];
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

#[test]
fn version_1_decodes_to_the_same_bits() {
    for words in Words::all() {
        let run = Run::open(&fixture(&format!("format/v1-{}", words.name)), Access::default()).unwrap();
        let expect = |step: u64, stream: &str, word: fn(&Words, u64, u64) -> u32, absent: &[u64]| {
            let mut vector = Vector::open(&run, step, stream).unwrap();
            for (i, &n) in SIZES.iter().enumerate() {
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
        expect(1, "grad", zero, &[64, 65_537]);
        expect(2, "iterate", zero, &[]);
    }
}

#[test]
fn the_frozen_files_hold_every_codec_for_every_type() {
    for words in Words::all() {
        let run = Run::open(&fixture(&format!("format/v1-{}", words.name)), Access::default()).unwrap();
        let mut seen = BTreeMap::new();
        let mut bitmaps = 0;
        for segment in run.segments(0) {
            let shard = run.open_shard(&segment.file, false).unwrap();
            for v in 0..shard.vectors().len() {
                for record in shard.records(v) {
                    *seen.entry(record.coding.codec).or_insert(0) += 1;
                    bitmaps += usize::from(record.coding.zero_blocks);
                }
            }
        }
        let all = [Codec::Raw, Codec::Zero, Codec::Absent, Codec::Planes];
        assert!(all.iter().all(|c| seen.contains_key(c)), "{}: {seen:?}", words.name);
        assert!(bitmaps >= 3, "{}: {bitmaps}", words.name);
    }
}
