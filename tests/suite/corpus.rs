//! The inputs that fuzzing has found to take different ways through lpa, once more: what they must not do is in
//! `fuzz/src/targets`.

use std::path::Path;
use std::time::{Duration, Instant};

/// What an input of some kilobytes may take, on any machine.
const MOST: Duration = Duration::from_secs(20);

fn replay(name: &str) {
    let target = lpa_fuzz::target(name).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut inputs: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    for input in &inputs {
        let begin = Instant::now();
        let bytes = std::fs::read(input).unwrap();
        if std::panic::catch_unwind(|| (target.run)(&bytes)).is_err() {
            panic!("{} breaks a promise", input.display());
        }
        assert!(begin.elapsed() < MOST, "{} takes {:?}", input.display(), begin.elapsed());
    }
    let seeds = lpa_fuzz::seeds::of(name);
    seeds.iter().for_each(|seed| (target.run)(seed));
    assert!(inputs.len() >= seeds.len(), "{} inputs", inputs.len());
}

macro_rules! targets {
    ($($name:ident)*) => { $(#[test] fn $name() { replay(stringify!($name)); })* };
}
targets!(manifest journal shard payload round_trip reference seal parts path);

#[test]
fn every_target_is_replayed() {
    let named =
        ["manifest", "journal", "shard", "payload", "round_trip", "reference", "seal", "parts", "path"];
    assert_eq!(lpa_fuzz::TARGETS.map(|t| t.name), named);
}
