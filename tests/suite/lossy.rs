//! What is stored with loss: errors are within their widths, and results depend on nothing but the run.

use std::path::Path;

use lpa::internals::{Codec, Coding, Decoder, Encoder, Exponents, Lossy, Noise, Past, Pieces};
use lpa::{
    Access, DType, Elements, Isa, Manifest, Precision, Profile, Run, Slice, Step, Storage, Vector, Writer,
    WriterOptions,
};
use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::{fixture, lpa, manifest, run, values};

/// One of the three ways to lose something, in one of the two ways to store what is left.
#[derive(Clone, Copy, Debug)]
struct Way {
    codec: Codec,
    exponents: Exponents,
}

fn ways() -> Vec<Way> {
    let codecs = [Codec::Quantized, Codec::Delta, Codec::Rounded];
    let all = [Exponents::Huffman, Exponents::Packed].into_iter();
    all.flat_map(|exponents| codecs.map(|codec| Way { codec, exponents })).collect()
}

fn encode(way: Way, values: &[f32], before: &[f32], seed: u64) -> Option<(Coding, Vec<u8>, Vec<f32>)> {
    let mut encoder = Encoder::new(Isa::detect(), way.exponents).unwrap();
    let (mut payload, mut decoded) = (Vec::new(), vec![0.0; values.len()]);
    let noise = Noise { seed, step: 3, stream: 1, chunk: 0 };
    let lossy = Lossy { values, noise, decoded: &mut decoded };
    let coding = match way.codec {
        Codec::Quantized => encoder.encode_quantized(lossy, 2.5, &mut payload),
        Codec::Delta => encoder.encode_delta(lossy, before, &mut payload),
        _ => encoder.encode_rounded(lossy, 2.5, &mut payload),
    };
    coding.unwrap().map(|coding| (coding, payload, decoded))
}

fn decode(
    isa: Isa,
    coding: Coding,
    payload: &[u8],
    before: &[f32],
) -> Result<Vec<f32>, lpa::internals::DecodeError> {
    let mut decoder = Decoder::new(isa).unwrap();
    let mut out = vec![f32::NAN; before.len()];
    if coding.follows() {
        let (mut m, mut v) = (Vec::new(), Vec::new());
        let mut past = Past { x: before, before, g: before, momentum: &mut m, second: &mut v };
        decoder.decode_predicted(
            DType::F32,
            coding,
            payload,
            (&mut past, Pieces::default()),
            &mut out,
            |_, _| {},
        )?;
    } else {
        decoder.decode(DType::F32, coding, payload, &mut out)?;
    }
    Ok(out)
}

/// Errors are within the widths that a reader computes, and every instruction set reads the same.
fn check(values: &[f32], before: &[f32], seed: u64) {
    for way in ways() {
        let Some((coding, payload, decoded)) = encode(way, values, before, seed) else {
            let finite = values.iter().chain(before).all(|v| v.abs() < 1e38);
            assert!(!finite, "{way:?}: nothing was stored");
            continue;
        };
        assert_eq!(coding.codec(), way.codec);
        for isa in Isa::available() {
            let read = decode(isa, coding, &payload, before).unwrap();
            let same = read.iter().zip(&decoded).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{way:?} with {}", isa.name());
        }
        let mut widths = vec![f32::NAN; values.len()];
        let g2 = Decoder::widths(coding, &payload, &decoded, &mut widths).unwrap();
        assert_eq!(g2, (way.codec != Codec::Delta).then_some(2.5), "{way:?}");
        for i in 0..values.len() {
            let error = (f64::from(values[i]) - f64::from(decoded[i])).abs();
            assert!(error <= f64::from(widths[i]), "{way:?} at {i}: {} {}", values[i], decoded[i]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn values_of_any_bits(words in vec(any::<[u32; 2]>(), 0..600), seed in any::<u64>()) {
        let column = |c: usize| words.iter().map(|w| f32::from_bits(w[c])).collect::<Vec<f32>>();
        check(&column(0), &column(1), seed);
    }

    #[test]
    fn values_of_one_scale(
        words in vec((-1e3f32..1e3, -1e-3f32..1e-3), 1..1200),
        scale in prop_oneof![Just(1.0f32), Just(1e-30), Just(1e-40), Just(1e30), Just(0.0)],
        seed in any::<u64>(),
    ) {
        let before: Vec<f32> = words.iter().map(|(v, _)| v * scale).collect();
        let values: Vec<f32> = words.iter().map(|(v, by)| (v + by) * scale).collect();
        check(&values, &before, seed);
    }

    #[test]
    fn damaged_payloads_are_refused_or_read_and_nothing_else(
        seed in any::<u64>(),
        cut in any::<prop::sample::Index>(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let values: Vec<f32> = (0..700).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect();
        let before = vec![1.0; 700];
        for way in ways() {
            let (coding, mut payload, _) = encode(way, &values, &before, seed).unwrap();
            for (at, byte) in &changes {
                let at = at.index(payload.len());
                payload[at] = *byte;
            }
            let _ = decode(Isa::detect(), coding, &payload, &before);
            let mut widths = vec![0.0; 700];
            let _ = Decoder::widths(coding, &payload, &values, &mut widths);
            payload.truncate(cut.index(payload.len()));
            prop_assert!(decode(Isa::detect(), coding, &payload, &before).is_err());
        }
    }
}

#[test]
fn nothing_and_nothing_but_zeros() {
    for n in [0, 1, 256, 300] {
        check(&vec![0.0; n], &vec![0.0; n], 1);
        check(&vec![-0.0; n], &vec![1.0; n], 1);
    }
}

const BOTH: Storage = Storage { gradients: Precision::Int8, iterates: Precision::Int8 };

fn with_loss(sizes: &[u64], storage: Storage) -> Manifest {
    let mut m = manifest(sizes);
    m.storage = storage;
    m
}

/// Iterate and gradient of a step, by tensor.
type Vectors = (Vec<Vec<u8>>, Vec<Vec<u8>>);

/// A path of small steps along drawn gradients, as bytes of tensors with these sizes.
fn path(sizes: &[u64], step: u64) -> Vectors {
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let bytes = |v: Vec<f32>| -> Vec<u8> { v.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let of = |i: usize| {
        let mut x = floats(&values(sizes[i], 0, i as u64));
        for s in 1..=step {
            let moved = floats(&values(sizes[i], s, 100 + i as u64));
            x.iter_mut().zip(moved).for_each(|(x, m)| *x += 1e-2 * m);
        }
        (bytes(x), values(sizes[i], step, 200 + i as u64))
    };
    (0..sizes.len()).map(of).unzip()
}

fn slices_of<'a>(all: &'a [Vec<u8>], cut: impl Fn(usize, &'a [u8]) -> &'a [u8]) -> Vec<Option<&'a [u8]>> {
    all.iter().enumerate().map(|(i, b)| Some(cut(i, b))).collect()
}

/// Records the path; each rank gives the part of every tensor that `cut` takes.
fn record_part<'a>(
    writer: &mut Writer,
    steps: &'a [Vectors],
    cut: impl Fn(usize, &'a [u8]) -> &'a [u8] + Copy,
) {
    let (last, before) = steps.split_last().unwrap();
    for (x, g) in before {
        let (x, g) = (slices_of(x, cut), slices_of(g, cut));
        let streams: [(&str, &Elements<'_>); 1] = [("grad", &g)];
        writer.step(&Step { iterate: Some(&x), streams: &streams, ..Step::default() }).unwrap();
    }
    writer.finish(&slices_of(&last.0, cut)).unwrap();
}

fn recorded(
    storage: Storage,
    sizes: &[u64],
    steps: u64,
    options: WriterOptions,
) -> (TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("run");
    let all: Vec<_> = (0..=steps).map(|s| path(sizes, s)).collect();
    let mut writer = Writer::create(&at, with_loss(sizes, storage), options).unwrap();
    record_part(&mut writer, &all, |_, b| b);
    (dir, at)
}

fn tensor(run: &Run, step: u64, stream: &str, tensor: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert!(Vector::open(run, step, stream).unwrap().tensor(tensor, &mut bytes).unwrap());
    bytes
}

#[test]
fn tables_do_not_depend_on_threads_instruction_sets_or_access() {
    let options = WriterOptions { shard_steps: 5, ..WriterOptions::default() };
    let (_dir, at) = recorded(BOTH, &[70_003, 0, 1, 130], 12, options);
    let table = |isa: Isa, extra: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out.parquet");
        let mut command = lpa();
        command.env("LPA_ISA", isa.name()).arg("analyze").arg(&at).arg("--quiet").arg("--out").arg(&out);
        command.args(["--group", "*", "--group", "each", "--stream", "grad", "--stream", "update"]);
        command.args(["--ref", "final", "--ref", "step:5", "--ref", "mean:3..9"]).args(extra);
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        std::fs::read(out).unwrap()
    };
    let expected = table(Isa::detect(), &["--threads", "1"]);
    for isa in Isa::available() {
        for extra in [&["--threads", "1"][..], &["--threads", "2"], &["--threads", "8"], &["--no-mmap"]] {
            assert!(table(isa, extra) == expected, "{} {extra:?}", isa.name());
        }
    }
}

#[test]
fn ranks_round_as_one_does() {
    let sizes = [150_000];
    let all: Vec<_> = (0..=3).map(|s| path(&sizes, s)).collect();
    let dir = tempfile::tempdir().unwrap();
    let one = dir.path().join("one");
    let m = with_loss(&sizes, BOTH);
    let mut writer = Writer::create(&one, m.clone(), WriterOptions::default()).unwrap();
    record_part(&mut writer, &all, |_, b| b);
    let two = dir.path().join("two");
    let middle = 65_536u64;
    let slices = [(0, middle, 0), (middle, sizes[0], 1)].map(|(begin, end, rank)| Slice {
        tensor: 0,
        begin,
        end,
        rank,
    });
    let m = Manifest { world: 2, slices: slices.to_vec(), ..m };
    let mut first = Writer::create(&two, m, WriterOptions::default()).unwrap();
    let mut second = Writer::join(&two, 1, WriterOptions::default()).unwrap();
    let at = 4 * middle as usize;
    record_part(&mut first, &all, |_, b| &b[..at]);
    record_part(&mut second, &all, |_, b| &b[at..]);
    let [one, two] = [one, two].map(|p| Run::open(&p, Access::default()).unwrap());
    for step in 0..=3 {
        assert!(tensor(&one, step, "iterate", 0) == tensor(&two, step, "iterate", 0), "x_{step}");
    }
    assert!(tensor(&one, 2, "grad", 0) == tensor(&two, 2, "grad", 0));
    assert!(tensor(&one, 2, "iterate", 0) != all[2].0[0], "nothing was lost");
    assert!(tensor(&one, 3, "iterate", 0) == all[3].0[0], "the final iterate lost something");
}

#[test]
fn a_resumed_recording_goes_on_from_what_a_reader_sees() {
    let sizes = [3000];
    let all: Vec<_> = (0..=40).map(|s| path(&sizes, s)).collect();
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("run");
    let mut writer = Writer::create(&at, with_loss(&sizes, BOTH), WriterOptions::default()).unwrap();
    for (x, g) in &all[..20] {
        let (x, g) = (slices_of(x, |_, b| b), slices_of(g, |_, b| b));
        writer.step(&Step { iterate: Some(&x), streams: &[("grad", &g)], ..Step::default() }).unwrap();
    }
    writer.stop().unwrap();
    let mut writer = Writer::resume(&at, 0, 15, WriterOptions::default()).unwrap();
    record_part(&mut writer, &all[15..], |_, b| b);
    let run = Run::open(&at, Access::default()).unwrap();
    for step in [14, 15, 16, 30, 40u64] {
        let read = tensor(&run, step, "iterate", 0);
        let far = |(a, b): (&[u8; 4], &[u8; 4])| (f32::from_le_bytes(*a) - f32::from_le_bytes(*b)).abs();
        let apart = read.as_chunks::<4>().0.iter().zip(all[step as usize].0[0].as_chunks::<4>().0).map(far);
        // The largest step is 1e-2, and 127 levels reach it twice.
        assert!(apart.fold(0.0, f32::max) < 2.1e-2 / 127.0, "x_{step}");
    }
}

#[test]
fn what_would_be_wrong_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let coarse = Storage { iterates: Precision::Bf16, ..Storage::default() };
    let refused = |storage: Storage, options: WriterOptions| {
        let at = dir.path().join("refused");
        Writer::create(&at, with_loss(&[4], storage), options).err().unwrap().to_string()
    };
    let err = refused(coarse, WriterOptions::default());
    assert!(err.contains("bf16") && err.contains("RSI would be wrong"), "{err}");
    let err = refused(BOTH, WriterOptions { predict: false, ..WriterOptions::default() });
    assert!(err.contains("predict"), "{err}");
    let mut m = with_loss(&[4], coarse);
    m.tensors[0].dtype = DType::BF16;
    // A model that is bfloat16 itself loses nothing by it.
    Writer::create(&dir.path().join("bf16"), m, WriterOptions::default()).unwrap();

    let fixture = fixture("digits_mlp");
    let out = dir.path().join("out");
    let (fixture, out_arg) = (fixture.to_str().unwrap(), out.to_str().unwrap());
    for (args, said) in [
        (vec!["pack", fixture, "--gradients", "int8"], "does not come back"),
        (vec!["pack", fixture, "--iterates", "bf16", "--out", out_arg], "RSI would be wrong"),
        (vec!["pack", fixture, "--iterates", "int8", "--no-predict", "--out", out_arg], "predict"),
    ] {
        let ran = run(&args);
        assert_eq!(ran.code, 1, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(said) && ran.err.lines().count() == 1, "{args:?}: {}", ran.err);
        assert!(!Path::new(out_arg).exists());
    }
    let ran = run(&["pack", fixture, "--gradients", "int8", "--iterates", "int8", "--out", out_arg]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("every error within its bounds"), "{}", ran.out);
    let ran = run(&["pack", out_arg, "--profile", "fast"]);
    assert!(ran.code == 1 && ran.err.contains("with loss already"), "{}", ran.err);
    assert_eq!(run(&["verify", out_arg]).code, 0);
}

#[test]
fn a_run_that_does_not_say_what_it_has_lost_is_refused() {
    let copy = crate::support::Copy::of("format/v1-lossy-int8");
    for key in ["gradients", "iterates"] {
        let (lossy, exact) = (format!("\"{key}\": \"int8\""), format!("\"{key}\": \"exact\""));
        copy.edit("manifest.json", |text| text.replace(&lossy, &exact));
        let ran = run(&["verify", copy.arg()]);
        assert!(ran.code == 1 && (ran.err + &ran.out).contains("the manifest does not say"), "{key}");
        copy.edit("manifest.json", |text| text.replace(&exact, &lossy));
    }
}

#[test]
fn a_fast_run_of_the_same_loss_is_smaller_than_an_exact_one() {
    let size = |storage, profile| {
        let options = WriterOptions { profile, ..WriterOptions::default() };
        let (_dir, at) = recorded(storage, &[30_000], 20, options);
        let run = Run::open(&at, Access::default()).unwrap();
        let files = run.segments(0).iter().map(|s| std::fs::metadata(&s.file.path).unwrap().len());
        files.sum::<u64>() as f64 * 8.0 / (30_000.0 * 20.0)
    };
    let exact = size(Storage::default(), Profile::Default);
    let (small, fast) = (size(BOTH, Profile::Default), size(BOTH, Profile::Fast));
    // Uniform values fill all 255 levels, so nothing is left for an entropy coder.
    assert!(exact > 40.0 && small < 20.0 && fast < 20.0, "{exact} {small} {fast}");
}
