//! The CUDA backend without a GPU: the kernels as they are, run on the CPU by a stand-in driver
//! (`kernels/emulated`), under lpa's real code for the GPU.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use lpa::internals::xxh3_64;
use lpa::{Writer, WriterOptions};

use crate::path;
use crate::prediction::{Training, Unusual};
use crate::support::{Copy, Ran, fixture, lpa, record};

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

/// What the driver is made of.
const PARTS: [&str; 11] = [
    "pack.cu",
    "packed.cuh",
    "planes.cuh",
    "predict.cuh",
    "residual.cu",
    "step.cuh",
    "sums.cu",
    "vectors.cuh",
    "walk.cu",
    "emulated/cuda.h",
    "emulated/driver.cpp",
];

/// Builds the stand-in driver from the kernels in `source`, where it was not built from the same ones before, and
/// returns the directory where it lies.
fn build(source: &Path, name: &str) -> PathBuf {
    let flags = "-std=c++20 -O1 -Wall -Wno-unknown-pragmas -Werror -ffp-contract=off -fPIC -shared -fvisibility=hidden";
    let processor = if cfg!(target_arch = "x86_64") { "-march=x86-64-v3" } else { "" };
    let flags: Vec<&str> = flags.split(' ').chain([processor]).filter(|flag| !flag.is_empty()).collect();
    let parts = PARTS.iter().flat_map(|part| std::fs::read(source.join(part)).unwrap());
    let bytes: Vec<u8> = parts.chain(flags.concat().into_bytes()).collect();
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated").join(name);
    let directory = all.join(format!("{:016x}", xxh3_64(&bytes)));
    let library = directory.join("libcuda.so");
    if library.exists() {
        return directory;
    }
    let _ = std::fs::remove_dir_all(&all);
    std::fs::create_dir_all(&directory).unwrap();
    let unfinished = directory.join("unfinished.so");
    let done = Command::new("g++")
        .args(flags)
        .arg(source.join("emulated/driver.cpp"))
        .arg("-o")
        .arg(&unfinished)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::fs::rename(unfinished, library).unwrap();
    directory
}

/// Where the stand-in driver of the kernels lies.
fn driver() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build(&kernels(), "sound"))
}

fn emulated(driver: &Path, variables: &[(&str, &str)], args: &[&str]) -> Ran {
    lpa().env("LD_LIBRARY_PATH", driver).envs(variables.iter().copied()).args(args).output().unwrap().into()
}

/// The table of an analysis on the emulated device.
fn table(run: &Path, variables: &[(&str, &str)], extra: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.parquet");
    let args = ["analyze", run.to_str().unwrap(), "--quiet", "--out", out.to_str().unwrap()];
    let ran = emulated(driver(), variables, &[&args, extra].concat());
    assert_eq!(ran.code, 0, "{}: {}", run.display(), ran.err);
    std::fs::read(out).unwrap()
}

#[test]
fn every_kernel_gives_the_bits_of_the_cpu_in_any_order_of_warps() {
    let ran = emulated(driver(), &[], &["doctor"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("all equal bit for bit"), "{}", ran.out);
    // In another order; and what measures their speed runs too, on little memory.
    let variables = [("LPA_EMULATED_SEED", "20"), ("LPA_EMULATED_MEMORY", "70000000")];
    let ran = emulated(driver(), &variables, &["doctor", "--bench"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("all equal bit for bit"), "{}", ran.out);
    let rows = ran
        .out
        .lines()
        .filter(|l| l.starts_with("| `") || l.starts_with("| copy") || l.starts_with("| payloads"));
    assert_eq!(rows.count(), 11, "{}", ran.out);
}

#[test]
fn tables_are_byte_identical_to_the_cpus() {
    // The lanes of many processors would not fit on the device.
    let two = ["--threads", "2"];
    let all = ["--group", "*", "--group", "each"];
    let mut runs: Vec<PathBuf> =
        std::fs::read_dir(fixture("format")).unwrap().map(|e| e.unwrap().path()).collect();
    runs.push(fixture("digits_mlp"));
    for run in runs {
        for extra in
            [&all[..], &["--ref", "final", "--ref", "step:1", "--stream", "update", "--stream", "grad"]]
        {
            let expected = table(&run, &[], &[extra, &two, &["--backend", "cpu"]].concat());
            let got = table(&run, &[], &[extra, &two, &["--backend", "cuda"]].concat());
            assert!(got == expected, "{} with {extra:?}", run.display());
        }
    }
}

/// The kernels that an analysis launches, and its table, which is the CPU's.
fn launched(run: &Path, extra: &[&str]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let extra = [&["--threads", "2"], extra].concat();
    let expected = table(run, &[], &[&extra[..], &["--backend", "cpu"]].concat());
    let variables = [("LPA_EMULATED_LOG", log.to_str().unwrap())];
    let got = table(run, &variables, &[&extra[..], &["--backend", "cuda"]].concat());
    assert!(got == expected, "{} with {extra:?}", run.display());
    let names: BTreeSet<String> = std::fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect();
    names.into_iter().collect()
}

#[test]
fn what_the_device_can_decode_it_decodes() {
    let run = fixture("digits_mlp");
    assert_eq!(launched(&run, &[]), ["walk_f32"]);
    // Every other step, so that batches end where they may, and a keyframe among them.
    assert_eq!(launched(&run, &["--steps", "1..220:2"]), ["walk_f32"]);
    assert_eq!(launched(&run, &["--steps", "100..200:7", "--stream", "grad_wd"]), ["walk_f32"]);
    let many = ["--ref", "final", "--ref", "step:3", "--stream", "grad", "--stream", "grad_wd"];
    assert_eq!(launched(&run, &many), ["pairs_f32", "walk_f32"]);
    assert_eq!(launched(&fixture("format/v1-bf16"), &[]), ["step_bf16"]);
    // What the path is not made of meets a later iterate.
    assert_eq!(launched(&run, &["--stream", "update"]), ["lags_f32", "step_f32"]);
}

#[test]
fn runs_of_every_optimizer_are_decoded_across_batches() {
    let dir = tempfile::tempdir().unwrap();
    let record = |name: &str, optimizer, steps: u64| {
        let run = dir.path().join(name);
        let mut training = Training::new(optimizer);
        let options = WriterOptions { shard_steps: 5, ..WriterOptions::default() };
        let mut writer = Writer::create(&run, training.manifest(), options).unwrap();
        for t in 0..steps {
            // A tensor without a gradient, a gap, and a gradient that was not recorded.
            let (absent, no_iterate, no_gradient) = ((10..12).contains(&t), t == 30, t == 40);
            training.step(&mut writer, Unusual { absent, no_iterate, no_gradient, ..Unusual::default() });
        }
        training.finish(&mut writer);
        run
    };
    for (optimizer, other) in [("sgd", "adamw"), ("adamw", "sgd"), ("lion", "adamw")] {
        let run = record(optimizer, optimizer, 48);
        // Its gradients are not in another run's end, so none meets later iterates.
        let control = record(&format!("beside {optimizer}"), other, 3);
        let control = ["--ref", &format!("{}:final", control.display())];
        for extra in [
            &[][..],
            &["--steps", "0..48:3"],
            &["--stream", "update", "--stream", "grad", "--stream", "grad_wd"],
        ] {
            assert_eq!(launched(&run, &[&control, extra].concat()), ["walk_f32"], "{optimizer}");
        }
    }
}

#[test]
fn departures_from_the_optimizer_are_the_cpus() {
    let dir = tempfile::tempdir().unwrap();
    for inexact in [false, true] {
        let path = dir.path().join(format!("{inexact}"));
        // Of which only the values tell, so that they have to be had.
        path::with_a_few_values_put_back(&path, path::Making { inexact, ..path::Making::default() });
        let names = launched(&path, &["--group", "*", "--group", "each"]);
        assert!(names.contains(&"walk_f32".to_owned()), "{names:?}");
        let ran = emulated(driver(), &[], &["analyze", path.to_str().unwrap(), "--backend", "cuda"]);
        assert!(ran.out.contains("note: at least"), "{}", ran.out);
    }
}

#[test]
fn many_references_and_little_memory_change_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    record(
        &run,
        &[200_003, 0, 65_536, 1, 130],
        10,
        WriterOptions { shard_steps: 5, ..WriterOptions::default() },
    );
    let references: Vec<String> = (0..11)
        .flat_map(|k| ["--ref".to_owned(), if k == 0 { "final".to_owned() } else { format!("step:{k}") }])
        .collect();
    let mut extra: Vec<&str> = references.iter().map(String::as_str).collect();
    extra.extend(["--threads", "1", "--stream", "grad", "--stream", "update"]);
    let expected = table(&run, &[], &[&extra[..], &["--backend", "cpu"]].concat());
    extra.extend(["--backend", "cuda"]);
    // All references fit; the buffers of two lanes leave room for five at a time, as 125 MB would for none; two
    // devices share the work.
    for (variables, devices) in [
        (&[][..], &[][..]),
        (&[("LPA_EMULATED_MEMORY", "128500000")], &[]),
        (&[("LPA_EMULATED_DEVICES", "2")], &["--device", "0", "--device", "1"]),
    ] {
        let got = table(&run, variables, &[&extra[..], devices].concat());
        assert!(got == expected, "{variables:?} {devices:?}");
    }
}

#[test]
fn auto_takes_the_gpu_where_it_pays_and_goes_on_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let path = run.to_str().unwrap();
    let made =
        emulated(driver(), &[], &["simulate", "random-walk", path, "--dim", "1000000", "--steps", "40"]);
    assert_eq!(made.code, 0, "{}", made.err);
    let streams = ["grad", "update", "grad_wd"].map(|s| format!("--stream={s}"));
    let many: Vec<String> = (1..40).map(|k| format!("--ref=step:{k}")).chain(streams).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let ask = |variables: &[(&str, &str)], extra: &[&str]| {
        let args = ["analyze", path, "--format", "csv", "--threads", "2"];
        let ran = emulated(driver(), variables, &[&args, extra].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        (ran.out, ran.err)
    };
    // With one reference the GPU is not touched, so it cannot fail.
    let (_, said) = ask(&[("LPA_EMULATED_LOST", "1")], &[]);
    assert_eq!(said, "");
    let (expected, _) = ask(&[], &[&many[..], &["--backend", "cpu"]].concat());
    for (variable, value, why) in [
        ("LPA_EMULATED_VERSION", "11040", "the NVIDIA driver supports CUDA 11.4"),
        ("LPA_EMULATED_MEMORY", "90000000", "CUDA device 0 has 85 MiB free"),
        ("LPA_EMULATED_LOST", "1", "CUDA device 0 failed to"),
    ] {
        let (got, said) = ask(&[(variable, value)], &many);
        assert!(said.starts_with(&format!("note: the CPU does the sums: {why}")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(got == expected, "{variable}");
    }
}

#[test]
fn what_is_wrong_with_a_gpu_is_said_in_one_line_and_leaves_nothing() {
    let run = fixture("digits_mlp");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.parquet");
    let args =
        ["analyze", run.to_str().unwrap(), "--quiet", "--backend", "cuda", "--out", out.to_str().unwrap()];
    type Case = (&'static [(&'static str, &'static str)], &'static [&'static str], &'static str);
    let cases: [Case; 7] = [
        (&[("LPA_EMULATED_VERSION", "11040")], &[], "CUDA 11.8 (driver 520) or newer is needed"),
        (&[("LPA_EMULATED_DEVICES", "0")], &[], "there is no CUDA device 0"),
        (&[], &["--device", "3"], "there is no CUDA device 3: the driver knows 1"),
        (&[("LPA_EMULATED_MEMORY", "90000000")], &["--threads", "2"], "has 85 MiB free, and at least"),
        (&[("LPA_EMULATED_LOST", "1")], &[], "an illegal memory access was encountered"),
        (&[("LPA_EMULATED_LOST", "7")], &[], "an illegal memory access was encountered"),
        (&[("LPA_EMULATED_LOST", "20")], &["--threads", "1"], "an illegal memory access was encountered"),
    ];
    for (variables, extra, said) in cases {
        let ran = emulated(driver(), variables, &[&args[..], extra].concat());
        assert_eq!(ran.code, 3, "{variables:?}: {}", ran.err);
        assert!(ran.err.contains(said), "{variables:?}: {}", ran.err);
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{variables:?}");
    }
    let ran: Ran = lpa().args(args).env_remove("LD_LIBRARY_PATH").output().unwrap().into();
    if !ran.out.contains("device 0") && ran.code != 0 {
        assert!(ran.err.contains("there is no NVIDIA driver here"), "{}", ran.err);
    }
    let ran =
        emulated(driver(), &[], &["analyze", run.to_str().unwrap(), "--backend", "cpu", "--device", "0"]);
    assert_eq!((ran.code, ran.err.lines().count()), (2, 1), "{}", ran.err);
}

#[test]
fn a_gpu_that_cannot_be_had_is_refused_though_the_table_is_there() {
    let copy = Copy::of("digits_mlp");
    let analyze = |variables: &[(&str, &str)], extra: &[&str]| {
        emulated(driver(), variables, &[&["analyze", copy.arg()], extra].concat())
    };
    assert_eq!(analyze(&[], &[]).code, 0);
    let table = std::fs::read(copy.path.join("metrics.parquet")).unwrap();
    for (variables, extra, code, said) in [
        (&[][..], &["--backend", "cpu", "--device", "0"][..], 2, "--backend cpu does not use"),
        (&[], &["--device", "3"], 3, "there is no CUDA device 3"),
        (&[("LPA_EMULATED_DEVICES", "0")], &["--backend", "cuda"], 3, "there is no CUDA device 0"),
        (&[("LPA_EMULATED_VERSION", "11040")], &["--backend", "cuda"], 3, "driver 520) or newer is needed"),
    ] {
        let ran = analyze(variables, extra);
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{extra:?}: {}", ran.err);
        assert!(ran.err.contains(said) && ran.err.lines().count() == 1, "{extra:?}: {}", ran.err);
    }
    for extra in [&["--backend", "cuda"][..], &["--device", "0"], &["--backend", "cpu"], &[]] {
        let ran = analyze(&[], extra);
        assert!(ran.code == 0 && ran.out.contains("is up to date"), "{extra:?}: {}{}", ran.out, ran.err);
    }
    assert!(std::fs::read(copy.path.join("metrics.parquet")).unwrap() == table);
}

#[test]
fn the_doctor_says_what_is_there() {
    let ran = emulated(driver(), &[("LPA_EMULATED_VERSION", "11040")], &["doctor"]);
    assert_eq!(ran.code, 0);
    assert!(ran.out.contains("update the driver"), "{}", ran.out);
    let ran = emulated(driver(), &[("LPA_EMULATED_LOST", "3")], &["doctor"]);
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("device 0: CUDA device 0 failed"), "{}", ran.out);
    assert!(ran.err.contains("lpa analyze --backend cpu does without"), "{}", ran.err);
}

/// Faults that a kernel could have: the file, what stands there, and what would.
const FAULTS: [(&str, &str, &str, &str); 77] = [
    (
        "a barrier less before patches",
        "walk.cu",
        "if (head.patch < after.patch) {\n            __syncwarp();",
        "if (head.patch < after.patch) {",
    ),
    (
        "a barrier less after patches",
        "walk.cu",
        "staged[p.values + q];\n            __syncwarp();",
        "staged[p.values + q];",
    ),
    (
        "a barrier less between ticks",
        "walk.cu",
        "begin += WARPS * GROUP;\n        __syncthreads();",
        "begin += WARPS * GROUP;",
    ),
    (
        "a barrier less before the first sum",
        "walk.cu",
        "sums[k][s + own][lane()] = 0;\n    __syncthreads();",
        "sums[k][s + own][lane()] = 0;",
    ),
    (
        "a round less",
        "walk.cu",
        "rounds = (elements + WARPS * GROUP - 1) / (WARPS * GROUP)",
        "rounds = (elements + WARPS * GROUP - 1) / (WARPS * GROUP) - 1",
    ),
    ("a gradient that is not written", "walk.cu", "if (o.writes & WRITE_G)", "if (false)"),
    ("an iterate that is not written", "walk.cu", "if (o.writes & WRITE_NEXT)", "if (false)"),
    ("a second moment that stays", "walk.cu", "if (has_second) store", "if (false) store"),
    ("warps too close to each other", "walk.cu", "ticks = max(count, WARPS)", "ticks = count"),
    ("other patches", "walk.cu", "staged[p.values + q]", "staged[p.values]"),
    (
        "upper bits lost",
        "walk.cu",
        "for (unsigned b = 4; b < count; b++)",
        "for (unsigned b = 8; b < count; b++)",
    ),
    (
        "the base of another group",
        "walk.cu",
        "head = after, after = heads[group + 2]",
        "after = heads[group + 2]",
    ),
    ("one group of two", "walk.cu", "after = heads[group + 2], out += GROUP", "after = heads[group + 2]"),
    (
        "zero blocks misplaced",
        "walk.cu",
        "__popc(kept & ((1u << block) - 1)) * ZERO_BLOCK",
        "block * ZERO_BLOCK",
    ),
    ("no Nesterov", "predict.cuh", "nesterov = !PLAIN && (flags & NESTEROV)", "nesterov = false"),
    (
        "momentum fused the other way",
        "predict.cuh",
        "!PLAIN && (flags & FUSED)",
        "!PLAIN && !(flags & FUSED)",
    ),
    ("one plane of several", "walk.cu", "z[row] |= (unsigned)bytes", "z[row] = (unsigned)bytes"),
    ("predictions that are no number", "predict.cuh", "predicted != predicted ?", "predicted < predicted ?"),
    ("no iterate before the last", "predict.cuh", "before = next[row];", "before = x;"),
    ("an iterate that is held too long", "walk.cu", "if (o.x != h.x_at) load", "if (h.x_at == NOWHERE) load"),
    ("a momentum that is held too long", "walk.cu", "if (h.momentum_at == o.to)", "if (false)"),
    ("a momentum that is lost", "walk.cu", "h.momentum_at != NOWHERE) store", "false) store"),
    ("wrong shuffle", "vectors.cuh", "__shfl_down_sync(ALL, v, half)", "__shfl_up_sync(ALL, v, half)"),
    (
        "other tree",
        "vectors.cuh",
        "half = LANES / 2; half > 0; half /= 2",
        "half = 1; half < LANES; half *= 2",
    ),
    ("no infinities", "vectors.cuh", "if ((v.bits & 0x7c00) == 0x7c00)", "if (false)"),
    ("rounded twice", "vectors.cuh", "__fma_rn(t.weight_decay, x, g)", "t.weight_decay * x + g"),
    ("not fused", "step.cuh", "acc[5] = __fma_rn(s, d, acc[5]);", "acc[5] += s * d;"),
    (
        "wrong stride",
        "sums.cu",
        "*next = vectors + t.next * stride;\n    const T* init",
        "*next = vectors + t.next * n;\n    const T* init",
    ),
    (
        "no tail of steps",
        "sums.cu",
        "for (; i < end; i += LANES) step_row",
        "for (; i < begin; i += LANES) step_row",
    ),
    ("no tail of pairs", "sums.cu", "if (i < end) pair_rows", "if (i < begin) pair_rows"),
    ("no tail of lags", "sums.cu", "if (i < end) lag_rows", "if (i < begin) lag_rows"),
    (
        "lanes that leave",
        "sums.cu",
        "unsigned i = begin + lane();\n    // Rows",
        "unsigned i = begin + lane();\n    if (i >= end) return;\n    // Rows",
    ),
    ("beyond the last", "sums.cu", "first_term + j < count && first + k < reference_count", "true"),
    (
        "a neighbour's reference",
        "sums.cu",
        "r[k] = references + min(first + k, reference_count - 1) * reference_stride;\n    double acc[PAIR",
        "r[k] = references + (first + k) * reference_stride;\n    double acc[PAIR",
    ),
    (
        "a barrier less after finding what is stored",
        "pack.cu",
        "from[rank - first] = lane() * 32 + __ffs(rest) - 1;\n    __syncwarp();",
        "from[rank - first] = lane() * 32 + __ffs(rest) - 1;",
    ),
    (
        "a barrier less before counts are read",
        "packed.cuh",
        "counts[value] += __popc(same);\n            __syncwarp();",
        "counts[value] += __popc(same);",
    ),
    (
        "a barrier less after counts are added up",
        "packed.cuh",
        "own[k] = up_to += own[k];\n    __syncwarp();",
        "own[k] = up_to += own[k];",
    ),
    ("marks beyond the last block", "pack.cu", "lane() * 32 < blocks ? marks[lane()] : 0", "marks[lane()]"),
    (
        "half of a block of zeros",
        "pack.cu",
        "if (i + LANES < chunk.n) any |= chunk.elements[i + LANES];",
        "if (i + LANES < chunk.n) any |= 0;",
    ),
    (
        "zeros without their sign",
        "pack.cu",
        "if (__ballot_sync(ALL, any != 0))",
        "if (__ballot_sync(ALL, any << 1))",
    ),
    ("a last block that is whole", "pack.cu", "& 1 ? blocks * ZERO_BLOCK - n : 0", "& 1 ? 0 : 0"),
    (
        "the sample of another row",
        "packed.cuh",
        "value = is_there ? rows[k] >> 8 * row & 0xff",
        "value = is_there ? rows[k] >> 8 * (is_whole ? 1 : row) & 0xff",
    ),
    (
        "a sample of a block that is not whole",
        "packed.cuh",
        "bool is_whole = len == PACKED",
        "bool is_whole = len >= GROUP",
    ),
    (
        "a sample that stands for itself",
        "packed.cuh",
        "most = sum(not_most), stride = SAMPLE",
        "most = sum(not_most)",
    ),
    ("windows below the least", "packed.cuh", "least = sum(lower), most", "most"),
    ("windows above the most", "packed.cuh", "most = sum(not_most), stride", "stride"),
    (
        "of equal windows the highest",
        "packed.cuh",
        "inside * VALUES + (VALUES - 1 - top));\n        }\n        found = largest(found);",
        "inside * VALUES + top);\n        }\n        found = largest(found), found += VALUES - 1 - 2 * (found % VALUES);",
    ),
    ("of equal sizes the last", "packed.cuh", "if (size < best)", "if (size <= best)"),
    (
        "a window too narrow",
        "packed.cuh",
        "top >= window ? counts[top - window] : 0",
        "top >= window ? counts[top - window + 1] : 0",
    ),
    ("patches of two bytes", "packed.cuh", "PATCH_BYTES = 3", "PATCH_BYTES = 2"),
    (
        "words of whole groups",
        "packed.cuh",
        "(len % GROUP + LANES - 1) / LANES * width + 7) / 8",
        "(len % GROUP + GROUP - 1) / GROUP * 8 * width + 7) / 8",
    ),
    (
        "bits that are not cut",
        "packed.cuh",
        "below(chosen.base, value) & mask)",
        "below(chosen.base, value) & (mask | 0xff))",
    ),
    (
        "rows one bit too close",
        "packed.cuh",
        "<< row * chosen.width;",
        "<< row * (chosen.width - (row == 7));",
    ),
    (
        "bits beyond the end",
        "packed.cuh",
        "if (is_there) packed |= (unsigned long long)(below(chosen.base, value) & mask)",
        "packed |= (unsigned long long)((is_there ? below(chosen.base, value) : 0xff) & mask)",
    ),
    (
        "the words of another block",
        "packed.cuh",
        "if (k < block) words_before += of_block",
        "if (k <= block) words_before += of_block",
    ),
    (
        "patches in the order of lanes",
        "packed.cuh",
        "__popc(patched & lower_lanes())",
        "__popc(patched & ~lower_lanes()) - 1",
    ),
    (
        "patches without a place of their own",
        "packed.cuh",
        "cursor.patch += __popc(patched);",
        "cursor.patch += patched != 0;",
    ),
    ("positions within a block", "packed.cuh", "2 * q, begin + i, 2)", "2 * q, begin % PACKED + i, 2)"),
    (
        "a payload that is not shorter",
        "pack.cu",
        "l.end + bitmap_len >= 4 * chunk.n",
        "l.end + bitmap_len > 4 * chunk.n",
    ),
    ("a bitmap that costs nothing", "pack.cu", "l.end + bitmap_len >= 4 * chunk.n", "l.end >= 4 * chunk.n"),
    (
        "elements that are stored, for all",
        "pack.cu",
        "if (i < chunk.n) ((unsigned*)out)[i]",
        "if (i < m) ((unsigned*)out)[i]",
    ),
    ("a neighbour's bitmap", "pack.cu", "marks[k / 4] >> 8 * (k % 4)", "marks[0] >> 8 * (k % 4)"),
    ("a sign lost", "pack.cu", "(bits[k] >> 24 & 0x80)", "(bits[k] >> 24 & 0x40)"),
    ("an iterate that stays", "residual.cu", "store(value, len, of.x + begin);", ""),
    ("a momentum that stays", "residual.cu", "store(momentum, len, of.momentum + begin);", ""),
    ("a second moment that is not stored", "residual.cu", "if (has_second) store", "if (false) store"),
    (
        "the second moment of another rule",
        "residual.cu",
        "has_second = of.rule == ADAM",
        "has_second = of.rule == SGD",
    ),
    (
        "values that are not numbered",
        "residual.cu",
        "key(__float_as_uint(value[row]))",
        "__float_as_uint(value[row])",
    ),
    ("distances one way", "residual.cu", "moved << 1 ^ (unsigned)((int)moved >> 31)", "moved << 1"),
    (
        "the bits of one lane",
        "residual.cu",
        "v |= __shfl_down_sync(ALL, v, half)",
        "v = __shfl_down_sync(ALL, v, half)",
    ),
    ("the bits of the last blocks", "residual.cu", "some |= any[k]", "some = any[k]"),
    ("planes too few", "residual.cu", "some >>= 8", "some >>= 9"),
    (
        "another byte to choose by",
        "residual.cu",
        "(distances[i] >> 8 * plane & 0xff)",
        "(distances[i] & 0xff)",
    ),
    (
        "another byte to write",
        "residual.cu",
        "distances[begin + i] >> 8 * plane & 0xff",
        "distances[begin + i] & 0xff",
    ),
    (
        "planes above each other",
        "residual.cu",
        "PACKED_BLOCKS, l.end, n, block)",
        "PACKED_BLOCKS, 0, n, block)",
    ),
    (
        "what was chosen for another plane",
        "residual.cu",
        "chosen[plane * PACKED_BLOCKS + block]",
        "chosen[block]",
    ),
    (
        "nothing said of what holds",
        "residual.cu",
        "if (planes == 0 && plane == 0",
        "if (planes > 4 && plane == 0",
    ),
];

#[test]
fn faults_in_the_kernels_are_found() {
    let faulty = |(name, file, there, instead): (&str, &str, &str, &str)| {
        let dir = tempfile::tempdir().unwrap();
        for part in PARTS {
            let text = std::fs::read_to_string(kernels().join(part)).unwrap();
            let to = dir.path().join(part);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            let text = if part == file {
                assert_eq!(text.matches(there).count(), 1, "{name}: {there}");
                text.replace(there, instead)
            } else {
                text
            };
            std::fs::write(to, text).unwrap();
        }
        let driver = build(dir.path(), &name.replace(' ', "_"));
        let ran = emulated(&driver, &[], &["doctor"]);
        assert_ne!(ran.code, 0, "{name} was not found");
        let how = if ran.code < 0 { "stopped" } else { "other sums" };
        eprintln!("{name}: {how}: {}", ran.err.lines().next().unwrap_or(""));
    };
    // All of them take a quarter of an hour.
    let every = if std::env::var_os("LPA_TORTURE").is_some() { 1 } else { 3 };
    let some: Vec<_> = FAULTS.iter().step_by(every).copied().collect();
    // Two at a time.
    let (left, right) = some.split_at(some.len() / 2);
    std::thread::scope(|scope| {
        scope.spawn(|| left.iter().copied().for_each(faulty));
        scope.spawn(|| right.iter().copied().for_each(faulty));
    });
}
