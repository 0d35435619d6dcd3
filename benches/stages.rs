//! Speed of each stage on one core, on normal values, as GB of float32 a second.

#![allow(clippy::expect_used, clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::print_stdout)]

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use lpa::internals::{
    Ahead, Coding, Decoder, Direction, Encoder, Exponents, Layout, Lossy, Noise, Partial, Past, Pieces,
    Prediction, Predictor, Reader, ReferenceWidths, SEED, Sizes, Sketch, Trajectory, Vectors, Widths, Window,
    predict, push_bytes, reference_sums, step_sums, three_reference_sums, xxh3_64,
};
use lpa::{Access, DType, Isa, Run};

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

/// ns an element of what takes `gbs` GB/s of `bytes` an element.
fn ns(bytes: f64, gbs: f64) -> f64 {
    bytes / gbs
}

/// The speed of a plain float32 reduction of three vectors in the second-level cache, by which machines
/// are compared.
fn triple() -> f64 {
    let [g, x, r] = [1, 2, 3].map(|s| normal(s, 1.0)[..16_384].to_vec());
    best(12 * 16_384, || {
        black_box(plain_sums(black_box(&g), &x, &r));
    })
}

/// Decodes every gradient and iterate of a run on one thread, in the order of an analysis; ns a parameter
/// and step.
fn decoding(path: &Path) -> f64 {
    let run = Run::open(path, Access::default()).expect("it is a run");
    let steps: Vec<u64> = run.steps().collect();
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        let window = Window::open(&run, &steps, Ahead::All).expect("its shards open");
        let (mut reader, mut trajectory) = (Reader::new(&run).expect("zstd starts"), Trajectory::new(1));
        for chunk in run.chunks().chunks() {
            let mut source = reader.at(&run, &window, chunk);
            trajectory.clear();
            for &step in &steps {
                black_box(trajectory.reach(step, &mut source).expect("it decodes"));
            }
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    best * 1e9 / (run.manifest().parameters() * steps.len() as u64) as f64
}

fn main() {
    if let Some(path) = std::env::args().skip(1).find(|a| !a.starts_with('-')) {
        return println!("decoding alone, one thread: {:.2} ns", decoding(Path::new(&path)));
    }
    let isa = Isa::detect();
    println!("{}: three float32 sums of three vectors {:.1} GB/s", isa.name(), triple());
    let [a, b, c] = [1, 2, 3].map(|s| normal(s, 1.0)[..16_384].to_vec());
    let v = Vectors { g: &a, x: &b, next: &b, init: &b };
    let exact = best(12 * 16_384, || {
        black_box(reference_sums(isa, Direction::Stored, black_box(&v), &c));
    });
    println!("the same in float64 as lpa sums, and one more: {exact:.1} GB/s");
    let [g, x, next, init, r] = [1e-3, 0.02, 0.02, 0.02, 0.02].map(|s| normal((s * 1e6) as u64, s));
    let bytes: Vec<u8> = g.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut out = vec![0.0; N];
    for exponents in [Exponents::Huffman, Exponents::Packed] {
        let mut encoder = Encoder::new(isa, exponents).expect("zstd starts");
        let mut payload = Vec::new();
        let coding = encoder.encode(DType::F32, &bytes, &mut payload).expect("it encodes");
        let bits = payload.len() as f64 * 8.0 / N as f64;
        let encode = best(4 * N, || {
            payload.clear();
            encoder.encode(DType::F32, &bytes, &mut payload).expect("it encodes");
        });
        let hash = best(4 * N, || {
            black_box(xxh3_64(black_box(&payload)));
        });
        println!("{exponents:?}: {bits:.2} bits of 32, encode {encode:.2} GB/s, xxh3 {hash:.0} GB/s");
        for isa in Isa::available() {
            let mut decoder = Decoder::new(isa).expect("zstd starts");
            let decode =
                best(4 * N, || decoder.decode(DType::F32, coding, &payload, &mut out).expect("it decodes"));
            let reduced = best(4 * N, || {
                decoder.decode(DType::F32, coding, &payload, &mut out).expect("it decodes");
                let v = Vectors { g: &out, x: &x, next: &x, init: &x };
                black_box(reference_sums(isa, Direction::Stored, &v, &r));
            });
            println!(
                "  {:9} decode {decode:6.2} GB/s, {:.3} ns; with three sums {reduced:.2} GB/s; a step {:.0} million \
                 parameters a second",
                isa.name(),
                ns(4.0, decode),
                1e3 / ns(4.0, step(isa, (&mut encoder, coding, &payload), [&g, &x, &init, &r]))
            );
        }
    }
    lossy(isa, [&g, &x, &init, &r]);
    let v = Vectors { g: &g, x: &x, next: &next, init: &init };
    for isa in Isa::available() {
        let sums = best(4 * N, || {
            black_box(step_sums(isa, black_box(&v), &r));
        });
        let further = best(12 * N, || {
            black_box(three_reference_sums(isa, Direction::Stored, black_box(&v), [&r, &next, &init]));
        });
        println!(
            "{:9} 8 sums {:.3} ns, a further reference {:.3} ns",
            isa.name(),
            ns(4.0, sums),
            ns(4.0, further)
        );
        let sgd = Prediction::new(Predictor::Sgd, 0, &[5e-4, 0.9, 1.0, 0.1, 1.0]);
        let adam = Prediction::new(Predictor::Adam, 0, &[0.1, 0.999, 1e-3, 1e-3, 0.5, 1e-8, 0.999, 1.0]);
        let linear = Prediction::new(Predictor::Linear, 0, &[0.9, -1e-4, -0.1]);
        for prediction in [Prediction::PREVIOUS, linear, sgd, adam] {
            let (mut m, mut s) = (vec![0.0; N], vec![1.0; N]);
            let speed = best(4 * N, || {
                let mut past = Past { x: &x, before: &init, g: &g, momentum: &mut m, second: &mut s };
                predict(isa, &prediction, &mut past, &mut out);
            });
            println!("{:9} predict {:9} {:.3} ns", isa.name(), prediction.predictor.name(), ns(4.0, speed));
        }
    }
    for dtype in [DType::F32, DType::BF16] {
        sketching(isa, dtype);
    }
}

/// The stages of a gradient with loss: 8 bits and bfloat16, and the spreads of its sums.
fn lossy(isa: Isa, [g, x, init, r]: [&[f32]; 4]) {
    let noise = Noise { seed: 1, step: 2, stream: 1, chunk: 3 };
    let (mut decoded, mut payload, mut widths) = (vec![0.0; N], Vec::new(), vec![0.0; N]);
    let mut decoder = Decoder::new(isa).expect("zstd starts");
    for exponents in [Exponents::Huffman, Exponents::Packed] {
        let mut encoder = Encoder::new(isa, exponents).expect("zstd starts");
        for name in ["int8", "bf16"] {
            let mut encode = |payload: &mut Vec<u8>| {
                payload.clear();
                let lossy = Lossy { values: g, noise, decoded: &mut decoded };
                let coding = match name {
                    "int8" => encoder.encode_quantized(lossy, 1.0, payload),
                    _ => encoder.encode_rounded(lossy, 1.0, payload),
                };
                coding.expect("it encodes").expect("all is finite")
            };
            let coding = encode(&mut payload);
            let bits = payload.len() as f64 * 8.0 / N as f64;
            let speed = best(4 * N, || {
                encode(&mut payload);
            });
            let decode = best(4 * N, || {
                decoder.decode(DType::F32, coding, &payload, &mut widths).expect("it decodes")
            });
            println!(
                "{exponents:?} {name}: {bits:.2} bits, encode {:.3} ns, decode {:.3} ns",
                ns(4.0, speed),
                ns(4.0, decode)
            );
        }
    }
    let v = Vectors { g, x, next: x, init };
    let mut sizes = Sizes::default();
    let spreads = best(4 * N, || {
        sizes.take(Direction::Stored, &v, &Widths { g: &widths, x: init, next: init });
        black_box(sizes.against(isa, [x, init], ReferenceWidths { values: r, widths: init, rounded: false }));
    });
    println!("spreads of one reference: {:.3} ns", ns(4.0, spreads));
}

/// The speed of a whole step: decode the gradient, predict and decode the next iterate, eight sums.
fn step(
    isa: Isa,
    (encoder, coding, payload): (&mut Encoder, Coding, &[u8]),
    [g, x, init, r]: [&[f32]; 4],
) -> f64 {
    let sgd = Prediction::new(Predictor::Sgd, 0, &[5e-4, 0.9, 1.0, 0.1, 1.0]);
    let (mut m, mut second, mut next, mut out) = (vec![0.0; N], Vec::new(), vec![0.0; N], vec![0.0; N]);
    let mut past = Past { x, before: x, g, momentum: &mut m, second: &mut second };
    predict(isa, &sgd, &mut past, &mut next);
    let mut residual = Vec::new();
    // Every hundredth value is a unit in the last place away.
    let mut values = next.clone();
    values.iter_mut().step_by(100).for_each(|v| *v = v.next_up());
    let predicted = encoder.encode_residual(DType::F32, &sgd.into(), &values, &next, &mut residual);
    let mut decoder = Decoder::new(isa).expect("zstd starts");
    best(4 * N, || {
        decoder.decode(DType::F32, coding, payload, &mut out).expect("it decodes");
        let mut past = Past { x, before: x, g: &out, momentum: &mut m, second: &mut second };
        decoder
            .decode_predicted(
                DType::F32,
                predicted,
                &residual,
                (&mut past, Pieces::default()),
                &mut next,
                |_, _| {},
            )
            .expect("it decodes");
        let v = Vectors { g: &out, x, next: &next, init };
        black_box(step_sums(isa, &v, r));
    })
}

/// Sketches of vectors that no cache holds, beside a plain sum of the same vector, one after the other.
fn sketching(isa: Isa, dtype: DType) {
    const ROUNDS: usize = 9;
    let count = 1u64 << 26;
    let bytes = bytes_of(dtype, &normal(7, 0.02)).repeat((count as usize) / N);
    for dimensions in [1024, 16_384, 65_536, 262_144] {
        let layout = Layout::new(&[count], dimensions, SEED).expect("there is one tensor");
        let (mut sketch, mut partial) = (Sketch::zero(&layout), Partial::default());
        let [mut sums, mut sketches, mut ratios] = [(); 3].map(|()| Vec::new());
        for _ in 0..ROUNDS {
            let start = Instant::now();
            black_box(plain_sum(dtype, black_box(&bytes)));
            let between = Instant::now();
            for span in layout.spans(0, 0..count) {
                let [begin, end] =
                    [span.elements.start, span.elements.end].map(|i| i as usize * dtype.size());
                partial.take(isa, &layout, &span, dtype, &bytes[begin..end]);
                sketch.add(&layout, &partial);
            }
            let seconds = [between - start, between.elapsed()].map(|t| t.as_secs_f64());
            sums.push(seconds[0]);
            sketches.push(seconds[1]);
            ratios.push(seconds[1] / seconds[0]);
        }
        black_box(&sketch);
        let [sum, sketch, ratio] = [sums, sketches, ratios].map(|mut of| {
            of.sort_by(f64::total_cmp);
            of[ROUNDS / 2]
        });
        let each = 1e9 / count as f64;
        println!(
            "{:9} {dtype} out of memory: a plain sum {:.3} ns a value, a sketch in {dimensions} dimensions {:.3} ns; \
             {ratio:.2} times",
            isa.name(),
            sum * each,
            sketch * each
        );
    }
}

fn bytes_of(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_bytes(dtype, &values.iter().map(|&v| cut(dtype, v)).collect::<Vec<_>>(), &mut bytes);
    bytes
}

/// A value of the type near another one.
fn cut(dtype: DType, value: f32) -> f32 {
    if dtype == DType::BF16 { f32::from_bits(value.to_bits() & 0xffff_0000) } else { value }
}

/// A sum in float32, in 64 lanes.
#[inline(always)]
fn sum_body(dtype: DType, bytes: &[u8]) -> f32 {
    let mut lanes = [0.0f32; 64];
    if dtype == DType::F32 {
        for words in bytes.as_chunks::<4>().0.as_chunks::<64>().0 {
            for (lane, &word) in lanes.iter_mut().zip(words) {
                *lane += f32::from_le_bytes(word);
            }
        }
    } else {
        for words in bytes.as_chunks::<2>().0.as_chunks::<64>().0 {
            for (lane, &word) in lanes.iter_mut().zip(words) {
                *lane += f32::from_bits(u32::from(u16::from_le_bytes(word)) << 16);
            }
        }
    }
    lanes.iter().sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn sum_avx2(dtype: DType, bytes: &[u8]) -> f32 {
    sum_body(dtype, bytes)
}

fn plain_sum(dtype: DType, bytes: &[u8]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the features were just detected.
        return unsafe { sum_avx2(dtype, bytes) };
    }
    sum_body(dtype, bytes)
}

/// Sums of g r, g g and r r, in float32, of whole rows of 64.
#[inline(always)]
fn plain_body(g: &[f32], x: &[f32], r: &[f32]) -> [f32; 3] {
    let mut acc = [[0.0f32; 32]; 3];
    for ((g, x), r) in g.as_chunks::<32>().0.iter().zip(x.as_chunks::<32>().0).zip(r.as_chunks::<32>().0) {
        for l in 0..32 {
            let d = x[l] - r[l];
            acc[0][l] = g[l].mul_add(d, acc[0][l]);
            acc[1][l] = g[l].mul_add(g[l], acc[1][l]);
            acc[2][l] = d.mul_add(d, acc[2][l]);
        }
    }
    acc.map(|a| a.iter().sum())
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn plain_avx2(g: &[f32], x: &[f32], r: &[f32]) -> [f32; 3] {
    plain_body(g, x, r)
}

fn plain_sums(g: &[f32], x: &[f32], r: &[f32]) -> [f32; 3] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the features were just detected.
        return unsafe { plain_avx2(g, x, r) };
    }
    plain_body(g, x, r)
}
