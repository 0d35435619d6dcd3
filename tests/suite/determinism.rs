//! Equal inputs give equal bytes, however the work is done.

use std::path::Path;

use lpa::{Isa, WriterOptions};

use crate::support::{Ran, fixture, lpa, record};

fn table(run: &Path, isa: &str, extra: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.parquet");
    let ran: Ran = lpa()
        .env("LPA_ISA", isa)
        .args(["analyze", run.to_str().unwrap(), "--group", "*", "--group", "each", "--out"])
        .arg(&out)
        .args(extra)
        .output()
        .unwrap()
        .into();
    assert_eq!(ran.code, 0, "{}", ran.err);
    std::fs::read(out).unwrap()
}

#[test]
fn tables_are_byte_identical_for_threads_instruction_sets_and_access() {
    let dir = tempfile::tempdir().unwrap();
    let large = dir.path().join("large");
    let options = WriterOptions { shard_steps: 5, ..WriterOptions::default() };
    record(&large, &[200_003, 0, 65_536, 1, 130], 12, options);
    for run in [fixture("digits_mlp"), large] {
        let expected = table(&run, "scalar", &["--threads", "1"]);
        for isa in Isa::available() {
            for extra in [&["--threads", "1"][..], &["--threads", "2"], &["--threads", "8"], &["--no-mmap"]] {
                let got = table(&run, isa.name(), extra);
                assert!(got == expected, "{} with {} {extra:?}", run.display(), isa.name());
            }
        }
    }
}

#[test]
fn a_moved_run_gives_the_same_table() {
    let copy = crate::support::Copy::of("digits_mlp");
    let isa = Isa::detect().name();
    assert!(table(&copy.path, isa, &[]) == table(&fixture("digits_mlp"), isa, &[]));
}
