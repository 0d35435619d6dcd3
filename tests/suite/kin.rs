//! Files that are made of the path that they are compared with, and files that are not.

use std::path::{Path, PathBuf};

use lpa::{DType, Manifest, Step, StreamInfo, TensorInfo, Writer, WriterOptions};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

use crate::support::{Ran, Row, number, rows, run, values};

const N: u64 = 3000;
const STEPS: u64 = 240;

/// What moves the iterates.
#[derive(Clone, Copy)]
enum Pull {
    /// Nothing but noise.
    Nowhere,
    /// The origin, with this force.
    Inward(f32),
}

/// A path of SGD.
struct Walk {
    path: PathBuf,
    iterates: Vec<Vec<f32>>,
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Records SGD from a common x_0; iterates at every `every`-th step.
fn walk(path: &Path, salt: u64, lr: f32, pull: Pull, every: u64) -> Walk {
    let stream = StreamInfo { name: "grad".to_owned(), stage: String::new() };
    let tensors = [("a", N / 3), ("b", N - N / 3)].map(|(n, size)| TensorInfo::new(n, &[size], DType::F32));
    let mut manifest = Manifest::new(tensors.to_vec(), vec![stream]).unwrap();
    manifest.optimizer.name = "sgd".to_owned();
    let mut writer = Writer::create(path, manifest, WriterOptions::default()).unwrap();
    let mut x = floats(&values(N, 0, 1));
    let mut iterates = vec![x.clone()];
    for t in 0..STEPS {
        let mut g = floats(&values(N, t, salt));
        if let Pull::Inward(force) = pull {
            g.iter_mut().zip(&x).for_each(|(g, x)| *g += force * x);
        }
        let cut = (N / 3) as usize * 4;
        let (xb, gb) = (bytes(&x), bytes(&g));
        let parts = |b: &'static [u8]| [Some(&b[..cut]), Some(&b[cut..])];
        let (xb, gb) = (parts(xb.leak()), parts(gb.leak()));
        let here = t % every == 0;
        let streams = [("grad", &gb[..])];
        writer
            .step(&Step {
                iterate: here.then_some(&xb[..]),
                streams: if here { &streams } else { &[] },
                scalars: &[("lr/0", f64::from(lr))],
                ..Step::default()
            })
            .unwrap();
        x.iter_mut().zip(&g).for_each(|(x, g)| *x -= lr * g);
        iterates.push(x.clone());
    }
    let last = bytes(&x);
    let cut = (N / 3) as usize * 4;
    writer.finish(&[Some(&last[..cut]), Some(&last[cut..])]).unwrap();
    Walk { path: path.to_owned(), iterates }
}

/// How a file stores its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum As {
    F32,
    F16,
    Bf16,
    /// bfloat16 that was widened again.
    WidenedBf16,
}

/// Rounds to bfloat16, ties to even.
fn bf16(v: f32) -> u16 {
    ((v.to_bits() + 0x7fff + (v.to_bits() >> 16 & 1)) >> 16) as u16
}

/// Rounds to binary16 by arithmetic alone: for values below 65,504 that are no subnormals of it.
fn f16(v: f32) -> u16 {
    let bits = v.to_bits();
    let rounded = bits + 0xfff + (bits >> 13 & 1);
    let exponent = (rounded >> 23 & 0xff) as i32 - 127 + 15;
    if exponent <= 0 {
        // A multiple of 2^-24.
        let units = (v.abs() * 16_777_216.0).round_ties_even() as u16;
        return (bits >> 16 & 0x8000) as u16 | units;
    }
    ((bits >> 16 & 0x8000) | (exponent as u32) << 10 | (rounded >> 13 & 0x3ff)) as u16
}

fn save(path: &Path, values: &[f32], how: As) -> PathBuf {
    let (dtype, bytes): (_, Vec<u8>) = match how {
        As::F32 => (Dtype::F32, bytes(values)),
        As::F16 => (Dtype::F16, values.iter().flat_map(|v| f16(*v).to_le_bytes()).collect()),
        As::Bf16 => (Dtype::BF16, values.iter().flat_map(|v| bf16(*v).to_le_bytes()).collect()),
        As::WidenedBf16 => {
            let wide = |v: &f32| f32::from_bits(u32::from(bf16(*v)) << 16);
            (Dtype::F32, values.iter().flat_map(|v| wide(v).to_le_bytes()).collect())
        }
    };
    let cut = bytes.len() / N as usize * (N / 3) as usize;
    let (a, b) = ([N as usize / 3], [(N - N / 3) as usize]);
    let views = [
        ("a", TensorView::new(dtype, a.to_vec(), &bytes[..cut]).unwrap()),
        ("b", TensorView::new(dtype, b.to_vec(), &bytes[cut..]).unwrap()),
    ];
    serialize_to_file(views, None, path).unwrap();
    path.to_owned()
}

fn mean(iterates: &[Vec<f32>]) -> Vec<f32> {
    let of = |i: usize| iterates.iter().map(|x| f64::from(x[i])).sum::<f64>() / iterates.len() as f64;
    (0..iterates[0].len()).map(|i| of(i) as f32).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
}

fn analyze(walk: &Walk, file: &Path, extra: &[&str]) -> Ran {
    let out = file.with_extension("parquet");
    let arguments = ["analyze", walk.path.to_str().unwrap(), "--ref", file.to_str().unwrap(), "--out"];
    let ran = run(&[&arguments[..], &[out.to_str().unwrap()], extra].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    ran
}

/// The verdict in one line.
fn verdict(ran: &Ran) -> String {
    let text = ran.out.split_once("Verdict").unwrap().1;
    text.split("\nnote").next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The rows without the name of the reference.
fn nameless(walk: &Walk, reference: &str) -> Vec<Row> {
    let mut all = rows(&walk.path, &["--ref", reference]);
    all.iter_mut().for_each(|r| drop(r.remove("reference")));
    all
}

#[test]
fn an_iterate_in_any_precision_is_that_iterate() {
    let dir = tempfile::tempdir().unwrap();
    let walk = walk(&dir.path().join("run"), 7, 0.01, Pull::Nowhere, 1);
    let expected = nameless(&walk, "step:90");
    for how in [As::F32, As::F16, As::Bf16, As::WidenedBf16] {
        let file = save(&dir.path().join(format!("{how:?}.safetensors")), &walk.iterates[90], how);
        assert!(nameless(&walk, file.to_str().unwrap()) == expected, "{how:?}");
        let ran = analyze(&walk, &file, &[]);
        let rounded = match how {
            As::F32 => " is x_90 of this run\n".to_owned(),
            As::F16 => " is x_90 of this run in F16; what is measured".to_owned(),
            As::Bf16 | As::WidenedBf16 => " is x_90 of this run in BF16; what is measured".to_owned(),
        };
        assert!(ran.err.contains(&rounded), "{how:?}: {}", ran.err);
        assert!(ran.out.contains(&format!("{how:?}.safetensors (x_90), stream")), "{how:?}: {}", ran.out);
        assert!(!verdict(&ran).contains("point to"), "{how:?}: {}", verdict(&ran));
    }
}

#[test]
fn the_end_in_another_precision_is_measured_as_it_was_recorded() {
    let dir = tempfile::tempdir().unwrap();
    // Steps are far smaller than what bfloat16 can tell apart.
    let walk = walk(&dir.path().join("run"), 7, 1e-7, Pull::Nowhere, 1);
    let file = save(&dir.path().join("end.safetensors"), &walk.iterates[STEPS as usize], As::Bf16);
    assert!(nameless(&walk, file.to_str().unwrap()) == nameless(&walk, "final"));
    let ran = analyze(&walk, &file, &[]);
    assert!(ran.err.contains("is x_240 of this run in BF16 (where x_"), "{}", ran.err);
}

#[test]
fn what_lies_on_the_path_is_not_judged() {
    let dir = tempfile::tempdir().unwrap();
    let every = walk(&dir.path().join("every"), 7, 0.01, Pull::Nowhere, 1);
    let some = walk(&dir.path().join("some"), 7, 0.01, Pull::Nowhere, 10);
    let inward = walk(&dir.path().join("inward"), 7, 0.02, Pull::Inward(1.0), 1);
    let x = &every.iterates;
    let mut beside = x[90].clone();
    beside.iter_mut().enumerate().for_each(|(i, v)| *v += if i % 2 == 0 { 1e-3 } else { -1e-3 });
    let picked: Vec<Vec<f32>> = [130, 157, 184, 211, 238].map(|t| x[t].clone()).to_vec();
    let ema = (1..x.len())
        .fold(x[0].clone(), |e, t| e.iter().zip(&x[t]).map(|(e, x)| 0.98 * e + 0.02 * x).collect());
    let cases: [(&str, &Walk, Vec<f32>, As, &str); 8] = [
        ("between", &some, x[95].clone(), As::F32, "between the recorded x_90 and x_100"),
        ("between16", &some, x[95].clone(), As::F16, "between the recorded x_90 and x_100"),
        ("beside", &every, beside, As::F32, "lies within a step or so of this path"),
        ("mean", &every, mean(&x[60..180]), As::F32, "is a weighted mean of iterates of this run"),
        ("mean16", &every, mean(&x[60..180]), As::Bf16, "is a weighted mean of iterates of this run"),
        ("picked", &every, mean(&picked), As::F32, "is a weighted mean of iterates of this run"),
        ("ema", &every, ema, As::F32, "is a weighted mean of iterates of this run"),
        (
            "settled",
            &inward,
            mean(&inward.iterates[150..]),
            As::F32,
            "is a weighted mean of iterates of this run",
        ),
    ];
    for (name, walk, values, how, kin) in cases {
        let file = save(&dir.path().join(format!("{name}.safetensors")), &values, how);
        let ran = analyze(walk, &file, &[]);
        assert!(verdict(&ran).starts_with(": none, since the file "), "{name}: {}", verdict(&ran));
        assert!(
            verdict(&ran).contains(kin) && ran.err.contains(kin),
            "{name}: {} {}",
            verdict(&ran),
            ran.err
        );
        for row in rows(&walk.path, &["--ref", file.to_str().unwrap()]) {
            for column in
                ["own", "cos_own", "cos_excess", "rsi_excess", "lolr_ratio", "cos_walk", "t_excess", "z"]
            {
                assert_eq!(number(&row, column), None, "{name}: {column} at {}", row["step"]);
            }
            assert!(number(&row, "cos").is_some());
        }
    }
}

#[test]
fn what_is_not_made_of_the_path_is_judged() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str, salt, lr, pull| walk(&dir.path().join(name), salt, lr, pull, 1);
    let free = [7, 8].map(|salt| of(&format!("free{salt}"), salt, 0.01, Pull::Nowhere));
    // Both end next to the origin, many times nearer to each other than either has come.
    let bound = [7, 8].map(|salt| of(&format!("bound{salt}"), salt, 0.02, Pull::Inward(1.0)));
    let [a, b] = &bound;
    let end = STEPS as usize;
    assert!(distance(&a.iterates[end], &b.iterates[end]) < 0.3 * distance(&a.iterates[0], &a.iterates[end]));
    for (name, [walk, control]) in [("free", &free), ("bound", &bound)] {
        let x = &control.iterates;
        for (what, values, how) in [
            ("end", x[end].clone(), As::F32),
            ("end16", x[end].clone(), As::Bf16),
            ("middle", x[end / 2].clone(), As::F32),
            ("mean", mean(&x[150..]), As::F32),
        ] {
            let file = save(&dir.path().join(format!("{name}-{what}.safetensors")), &values, how);
            let ran = analyze(walk, &file, &[]);
            let expected = if name == "free" {
                "cannot be told from directions"
            } else {
                "the gradients point to the reference"
            };
            // What bfloat16 tells apart may be much of the distance.
            if how == As::Bf16 && verdict(&ran).contains("none, where trust has ended") {
                continue;
            }
            assert!(verdict(&ran).contains(expected), "{name} {what}: {}{}", verdict(&ran), ran.err);
            assert!(verdict(&ran).contains("counts only if nothing of this run went into the file"));
            assert!(ran.err.is_empty(), "{}", ran.err);
        }
        let file = save(&dir.path().join("again.safetensors"), &x[end], As::F32);
        for row in rows(&walk.path, &["--ref", file.to_str().unwrap()]) {
            assert_eq!((number(&row, "own"), number(&row, "cos_excess")), (Some(0.0), number(&row, "cos")));
        }
    }
}

#[test]
fn trust_counts_what_the_reference_was_rounded_by() {
    let dir = tempfile::tempdir().unwrap();
    let [walk, control] = [7, 8].map(|s| walk(&dir.path().join(s.to_string()), s, 1e-2, Pull::Nowhere, 1));
    let end = &control.iterates[STEPS as usize];
    for (how, unit) in
        [(As::F32, 0.0), (As::Bf16, 1.0 / 256.0), (As::WidenedBf16, 1.0 / 256.0), (As::F16, 1.0 / 2048.0)]
    {
        let file = save(&dir.path().join(format!("{how:?}.safetensors")), end, how);
        let all = rows(&walk.path, &["--ref", file.to_str().unwrap()]);
        for (row, x) in all.iter().zip(&walk.iterates) {
            let zero = vec![0.0; x.len()];
            let rounding = distance(x, &zero) / 2f64.powi(24) + unit * distance(end, &zero);
            let expected = distance(x, end) / rounding;
            let got = number(row, "ulp_ratio").unwrap();
            // The norm of the rounded end is that of the end to a part of a thousand.
            assert!((got / expected - 1.0).abs() < 2e-3, "{how:?} at {}: {got} {expected}", row["step"]);
            assert_eq!(row["low_precision"] == "true", got < 1000.0);
            // It is true wherever the distance is off by more than it says.
            let off = (number(row, "dist").unwrap() / distance(x, end) - 1.0).abs();
            assert!(off <= 1e-3 || row["low_precision"] == "true", "{how:?}: {off}");
        }
        let words = if unit > 0.0 {
            "roundings of the iterates and of the reference, which is"
        } else {
            "the rounding of the iterates."
        };
        let ran = analyze(&walk, &file, &[]);
        assert!(ran.out.contains(words), "{how:?}: {}", ran.out);
    }
}
