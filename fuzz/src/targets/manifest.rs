//! `manifest.json`, as it is.

use std::sync::LazyLock;

use lpa::serde_json::{Value, from_slice};
use lpa::{Access, Run, serde_json};

use crate::files::{Folder, attempt, journal};
use crate::targets::{alike, ways};

static FOLDER: LazyLock<Folder> = LazyLock::new(|| {
    let folder = Folder::new();
    std::fs::create_dir(folder.at("steps")).unwrap();
    folder
});

const MOST_ELEMENTS: f64 = (1u64 << 32) as f64;

/// The elements of all tensors, about.
fn elements(manifest: &[u8]) -> f64 {
    let Ok(manifest) = from_slice::<Value>(manifest) else { return 0.0 };
    let shape = |tensor: &Value| {
        let shape = tensor.get("shape")?.as_array()?;
        Some(shape.iter().filter_map(Value::as_f64).product::<f64>())
    };
    manifest.get("tensors").and_then(Value::as_array).into_iter().flatten().filter_map(shape).sum()
}

/// A manifest is refused in one line, or comes back when it is written again.
pub(crate) fn run(input: &[u8]) {
    let put = |bytes: &[u8]| {
        FOLDER.put("manifest.json", bytes);
        FOLDER.put("journal.r0.jsonl", &journal(format!("{}\n", attempt(bytes)).as_bytes()));
    };
    // Chunks are listed when a run is opened, so that a trillion parameters take what they take (docs/reliability.md).
    if elements(input) > MOST_ELEMENTS {
        return;
    }
    put(input);
    let open = |access: Access| match Run::open(&FOLDER.at(""), access) {
        Ok(run) => Ok((run.manifest().clone(), run.chunks().chunks().len(), run.steps(), run.missing().len())),
        Err(e) => Err(e.to_string()),
    };
    match alike(ways().map(open)) {
        Ok((manifest, chunks, ..)) => {
            put(&serde_json::to_vec_pretty(&manifest).unwrap());
            let (again, as_many, ..) = open(Access::default()).expect("what was written is read");
            assert_eq!(again, manifest);
            assert_eq!(as_many, chunks);
        }
        Err(line) => assert!(!line.is_empty()),
    }
}
