//! Inputs to begin with: what lpa writes, taken apart.

use std::path::Path;
use std::time::Duration;

use lpa::internals::{Encoder, Exponents, Lossy, Noise, Prediction, Predictor, values};
use lpa::serde_json::{Value, from_slice, to_vec_pretty};
use lpa::{DType, Isa, Profile, Step, Writer, WriterOptions};

use crate::files::{ATTEMPT_ID, KINDS, TENSORS, manifest};
use crate::sections::join;
use crate::targets;

/// The inputs that a target begins with.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "manifest" => (0..KINDS).map(|kind| to_vec_pretty(&manifest(kind)).unwrap()).collect(),
        "journal" => journals(),
        "shard" => (0..KINDS).flat_map(shards).collect(),
        "payload" => payloads(),
        "round_trip" => elements(),
        "reference" => targets::reference::seeds(),
        "seal" => vec![join(&[&[9, 1, 0, 0][..], b"PAR1 and columns", b"a footer", b"and its end"])],
        "parts" => targets::parts::seeds(),
        "path" => (0..KINDS).map(path).collect(),
        _ => Vec::new(),
    }
}

/// Numbers in [-1, 1) as bytes of a type, some of them zero.
fn bytes(dtype: DType, n: u64, step: u64, salt: u64) -> Vec<u8> {
    let mut state = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt.wrapping_mul(0xd1b5_4a32_d192_ed03) | 1;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = ((state >> 40) as f32) / (1u32 << 23) as f32 - 1.0;
        if value.abs() < 0.1 { [0; 4] } else { value.to_le_bytes() }
    };
    let mut all = Vec::new();
    for _ in 0..n {
        let word = word();
        all.extend_from_slice(
            &if dtype == DType::F16 { [0x11, 0x2c, 0x34, 0x3c] } else { word }[4 - dtype.size()..],
        );
    }
    all
}

/// Records a run of a kind with so many steps, and more attempts than one where that is worth a look.
pub(crate) fn record(run: &Path, kind: u8, steps: u64) {
    let manifest = manifest(kind);
    let profile = if kind.is_multiple_of(2) { Profile::Fast } else { Profile::Default };
    let age = Duration::from_secs(3600);
    let options =
        WriterOptions { shard_steps: 3, shard_age: age, threads: 1, profile, ..WriterOptions::default() };
    let write = |writer: &mut Writer, end: u64| {
        let rank_sizes = writer.slice_bytes().to_vec();
        let vector = |t: u64, salt: u64| -> Vec<Vec<u8>> {
            let of = |(info, len): (&lpa::TensorInfo, &usize)| {
                bytes(info.dtype, (*len / info.dtype.size()) as u64, if salt == 1 { t / 2 } else { t }, salt)
            };
            manifest.tensors.iter().zip(&rank_sizes).map(of).collect()
        };
        while writer.next_step() < end {
            let t = writer.next_step();
            let (x, g) = (vector(t, 1), vector(t, 2));
            let x: Vec<Option<&[u8]>> = x.iter().map(|v| Some(v.as_slice())).collect();
            let mut g: Vec<Option<&[u8]>> = g.iter().map(|v| Some(v.as_slice())).collect();
            if t == 1 && g.len() > 1 {
                g[1] = None;
            }
            let step = Step {
                iterate: Some(&x),
                streams: &[("grad", &g)],
                scalars: &[("lr/0", 0.01), ("loss", 1.0 / (t + 1) as f64)],
                ..Step::default()
            };
            writer.step(&step).unwrap();
        }
        vector(end, 1)
    };
    let mut writers = vec![Writer::create(run, manifest.clone(), options).unwrap()];
    writers.extend((1..manifest.world).map(|rank| Writer::join(run, rank, options).unwrap()));
    if kind == 6 {
        write(&mut writers[0], 5);
        writers[0].stop().unwrap();
        writers[0] = Writer::resume(run, 0, 2, options).unwrap();
    }
    for writer in &mut writers {
        let last = write(writer, steps);
        let last: Vec<Option<&[u8]>> = last.iter().map(|v| Some(v.as_slice())).collect();
        writer.finish(&last).unwrap();
    }
}

/// The sections of a shard.
fn taken_apart(file: &Path) -> Vec<Vec<u8>> {
    let name = file.file_name().unwrap().to_str().unwrap();
    let numbers: Vec<u64> = name
        .split(|c: char| !c.is_ascii_digit())
        .filter(|n| !n.is_empty())
        .map(|n| n.parse().unwrap())
        .collect();
    let whole = std::fs::read(file).unwrap();
    let end = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    let header: Value = from_slice(&whole[8..end]).unwrap();
    let mut sections = vec![numbers.iter().take(4).flat_map(|n| n.to_le_bytes()).collect(), Vec::new()];
    for (tensor, _) in TENSORS {
        let offset = |i: usize| end + header[tensor]["data_offsets"][i].as_u64().unwrap_or(0) as usize;
        // The table follows from the manifest.
        sections.push(if tensor == "table" { Vec::new() } else { whole[offset(0)..offset(1)].to_vec() });
    }
    sections
}

/// The shards of a run, in the order of their names.
fn shard_files(run: &Path) -> Vec<std::path::PathBuf> {
    let mut all: Vec<_> =
        std::fs::read_dir(run.join("steps/000000")).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

fn shards(kind: u8) -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    record(&run, kind, 5);
    let input = |file: &std::path::PathBuf| {
        let mut parts = taken_apart(file);
        // All are shown as of the first attempt.
        parts[0][16] = 1;
        join(&[vec![vec![targets::shard::FIT, kind]], parts].concat())
    };
    shard_files(&run).iter().map(input).collect()
}

/// The lines of a journal without their hashes, as of the manifest that stands for `%`.
fn lines(run: &Path, rank: u32) -> String {
    let text = std::fs::read_to_string(run.join(format!("journal.r{rank}.jsonl"))).unwrap();
    let mut all = String::new();
    for line in text.lines() {
        let mut event: Value = from_slice(line.as_bytes()).unwrap();
        let event = event.as_object_mut().unwrap();
        event.remove("xxh3");
        let begin = if event.remove("after").is_some() { ">" } else { "" };
        for (key, value) in [("manifest_xxh3", "%".into()), ("time_unix_s", 0.into())] {
            if event.contains_key(key) {
                event.insert(key.to_owned(), value);
            }
        }
        if let Some(number) =
            event.get("attempt").and_then(Value::as_u64).filter(|_| event.contains_key("id"))
        {
            event.insert("id".to_owned(), format!("{number:016x}").into());
        }
        all.push_str(&format!("{begin}{}\n", Value::Object(event.clone())));
    }
    all
}

fn path(kind: u8) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    record(&run, kind, 5);
    let mut journal = lines(&run, 0);
    if manifest(kind).world == 2 {
        journal = format!("{}{}{}", journal.trim_end(), targets::path::BETWEEN, lines(&run, 1));
    }
    let whole = std::fs::read(run.join("ref/final.safetensors")).unwrap();
    let data = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    let how = vec![targets::shard::FIT, kind];
    let mut sections = vec![how, Vec::new(), journal.into_bytes(), Vec::new(), whole[data..].to_vec()];
    shard_files(&run).iter().for_each(|file| sections.extend(taken_apart(file)));
    join(&sections)
}

fn journals() -> Vec<Vec<u8>> {
    let attempt = |n: u64, from: u64| {
        format!(
            "{{\"event\":\"attempt\",\"attempt\":{n},\"from_step\":{from},\"manifest_xxh3\":\"0000000000000000\",\
             \"time_unix_s\":1,\"id\":\"{ATTEMPT_ID}\"}}\n"
        )
    };
    let closed =
        |n: u64, step: u64| format!("{{\"event\":\"closed\",\"attempt\":{n},\"final_step\":{step}}}\n");
    let stopped = "{\"event\":\"stopped\",\"attempt\":1,\"next_step\":9}\n";
    let other = "{\"event\":\"checkpoint\",\"step\":3,\"iterate_xxh3\":\"0000000000000007\"}\n\
                 {\"event\":\"dropped\",\"step\":4,\"why\":\"no memory\"}\n{\"event\":\"newer\",\"k\":[1]}\n";
    let between = targets::path::BETWEEN;
    [
        format!("{}{}", attempt(1, 0), closed(1, 8)),
        format!("{}{stopped}{other}{}{}", attempt(1, 0), attempt(2, 3), closed(2, 9)),
        format!("{}{other}{}{between}{}{}", attempt(1, 0), attempt(2, 3), attempt(1, 0), attempt(2, 3)),
        format!("{}!{{\"event\":\"closed\"", attempt(1, 0)),
        format!("{}>{}>{}", attempt(1, 0), attempt(2, 3), closed(2, 9)),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// Payloads of all codecs, each after a head that says so.
fn payloads() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut put = |dtype: u8, codec: u8, bits: u8, pieces: u8, n: usize, payload: &[u8]| {
        let mut head = [0; 16];
        head[..4].copy_from_slice(&[dtype, codec, bits, pieces]);
        head[8..12].copy_from_slice(&(n as u32).to_le_bytes());
        all.push([&head, payload].concat());
    };
    const FITS: u8 = 4;
    for (packed, exponents) in [(0, Exponents::Huffman), (1, Exponents::Packed)] {
        let mut encoder = Encoder::new(Isa::detect(), exponents).unwrap();
        for (number, dtype) in [(0, DType::F32), (1, DType::BF16), (2, DType::F16)] {
            let whole = bytes(dtype, 300, 1, 1);
            let mut holes = whole.clone();
            holes[..130 * dtype.size()].fill(0);
            for (zero_blocks, elements) in [(0, &whole), (2, &holes)] {
                let mut payload = Vec::new();
                encoder.encode(dtype, elements, &mut payload).unwrap();
                put(number, 3, packed | zero_blocks | FITS, 0, 300, &payload);
            }
            put(number, 0, 0, 0, 300, &whole);
        }
        let mut x = vec![0.0; 300];
        values(DType::F32, &bytes(DType::F32, 300, 1, 1), &mut x);
        let before: Vec<f32> = x.iter().map(|v| v * 0.99).collect();
        let noise = Noise { seed: 1, step: 1, stream: 1, chunk: 0 };
        for way in 0..3 {
            let (mut payload, mut decoded) = (Vec::new(), vec![0.0; 300]);
            let lossy = Lossy { values: &x, noise, decoded: &mut decoded };
            let stored = match way {
                0 => encoder.encode_quantized(lossy, 2.5, &mut payload),
                1 => encoder.encode_delta(lossy, &before, &mut payload),
                _ => encoder.encode_rounded(lossy, 2.5, &mut payload),
            };
            stored.unwrap().unwrap();
            put(0, 8 + way, packed | FITS, 0, 300, &payload);
        }
        let coefficients = [0.1, 0.9, 1.0, 0.1, 1.0, 1e-8, 0.99, 1.0];
        for (codec, predictor) in [
            (5, Predictor::Previous),
            (6, Predictor::Linear),
            (7, [Predictor::Adam, Predictor::Sgd][usize::from(packed)]),
        ] {
            let prediction = Prediction::new(predictor, 0, &coefficients[..predictor.coefficients()]);
            let mut payload = Vec::new();
            encoder.encode_residual(DType::F32, &prediction.into(), &x, &before, &mut payload);
            put(0, codec, packed, 3, 300, &payload);
        }
    }
    all
}

/// Elements of all types, each after a head that says what is to be done.
fn elements() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for dtype in 0..3u8 {
        for mode in 0..8u8 {
            for exponents in 0..2u8 {
                let mut head = [0; 48];
                head[..4].copy_from_slice(&[dtype, exponents, mode, mode + exponents]);
                for (place, c) in head[8..40]
                    .as_chunks_mut::<4>()
                    .0
                    .iter_mut()
                    .zip([0.1f32, 0.9, 1.0, 0.1, 1.0, 1e-8, 0.99, 1.0])
                {
                    *place = c.to_le_bytes();
                }
                let kind = [DType::F32, DType::BF16, DType::F16][usize::from(dtype)];
                all.push([&head[..], &bytes(kind, 200, 1, 1)].concat());
            }
        }
    }
    all
}
