//! Speed of each stage on one core, on normal values, as GB of float32 a second.

#![allow(clippy::expect_used, clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;

use lpa::codec::{Decoder, Encoder, Exponents};
use lpa::dtype::DType;
use lpa::hash::xxh3_64;
use lpa::isa::Isa;
use lpa::reduce::Direction;
use lpa::reduce::cpu::{Vectors, reference_sums, step_sums};

const N: usize = 65_536;

/// Normal values by the Box-Muller transform of a linear congruential generator.
fn normal(seed: u64, scale: f64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    let value =
        |_| ((-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos() * scale) as f32;
    (0..N).map(value).collect()
}

/// The best of many runs, in GB/s for `bytes` a run.
fn best(bytes: usize, mut run: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..400 {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    bytes as f64 / best / 1e9
}

fn main() {
    let [g, x, next, init, r] = [1e-3, 0.02, 0.02, 0.02, 0.02].map(|s| normal((s * 1e6) as u64, s));
    let bytes: Vec<u8> = g.iter().flat_map(|v| v.to_le_bytes()).collect();
    for exponents in [Exponents::Huffman, Exponents::Packed] {
        let mut encoder = Encoder::new(Isa::detect(), exponents).expect("zstd starts");
        let mut payload = Vec::new();
        let coding = encoder.encode(DType::F32, &bytes, &mut payload).expect("it encodes");
        println!("stored: {:.2} bits of 32", payload.len() as f64 * 8.0 / N as f64);
        let gbs = best(4 * N, || {
            payload.clear();
            encoder.encode(DType::F32, &bytes, &mut payload).expect("it encodes");
        });
        println!("encode            {gbs:7.2} GB/s");
        println!(
            "xxh3 of payload   {:7.2} GB/s",
            best(4 * N, || {
                black_box(xxh3_64(black_box(&payload)));
            })
        );
        let v = Vectors { g: &g, x: &x, next: &next, init: &init };
        for isa in Isa::available() {
            let mut decoder = Decoder::new(isa).expect("zstd starts");
            let mut out = vec![0.0; N];
            let decode =
                best(4 * N, || decoder.decode(DType::F32, coding, &payload, &mut out).expect("it decodes"));
            let sums = best(20 * N, || {
                black_box(step_sums(isa, black_box(&v), &r));
            });
            // Of a further reference only its own vector is new.
            let further = best(4 * N, || {
                black_box(reference_sums(isa, Direction::Stored, black_box(&v), &r));
            });
            println!(
                "{:9} decode {decode:7.2} GB/s   8 sums of 5 vectors {sums:7.2} GB/s   further reference {:5.3} ns",
                isa.name(),
                4.0 / further
            );
        }
    }
}
