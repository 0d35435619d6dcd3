//! What the sources may know of each other.

use std::path::{Path, PathBuf};

/// The sources below `src`, without their unit tests.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut rest: Vec<PathBuf> = vec![root.clone()];
    while let Some(path) = rest.pop() {
        if path.is_dir() {
            rest.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
            found.push((path.strip_prefix(&root).unwrap().display().to_string(), code));
        }
    }
    found.sort();
    assert!(found.len() > 100);
    found
}

/// Whoever decodes or encodes is told the instruction set by a run's `Access` or a writer's options, whose defaults
/// detect it; else `LPA_ISA` would not reach it.
#[test]
fn the_instruction_set_is_handed_down() {
    let detecting = sources().into_iter().filter(|(_, code)| code.contains("Isa::detect()"));
    let detecting: Vec<String> = detecting.map(|(path, _)| path).collect();
    // The bench of `lpa doctor` compares what is there.
    assert_eq!(detecting, ["isa.rs", "reduce/cuda/bench.rs", "run/mod.rs", "run/writer.rs"]);
}
