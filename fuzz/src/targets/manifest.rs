//! `manifest.json`, as it is.

use std::sync::LazyLock;

use lpa::{Access, Run, serde_json};

use crate::files::{Folder, attempt, journal};
use crate::targets::{alike, ways};

static FOLDER: LazyLock<Folder> = LazyLock::new(|| {
    let folder = Folder::new();
    std::fs::create_dir(folder.at("steps")).unwrap();
    folder
});

/// A manifest is refused in one line, or comes back when it is written again.
pub(crate) fn run(input: &[u8]) {
    let put = |bytes: &[u8]| {
        FOLDER.put("manifest.json", bytes);
        FOLDER.put("journal.r0.jsonl", &journal(format!("{}\n", attempt(bytes)).as_bytes()));
    };
    put(input);
    let open = |access: Access| match Run::open(&FOLDER.at(""), access) {
        Ok(run) => Ok((run.manifest().clone(), run.steps(), run.missing().len())),
        Err(e) => Err(e.to_string()),
    };
    match alike(ways().map(open)) {
        Ok((manifest, ..)) => {
            put(&serde_json::to_vec_pretty(&manifest).unwrap());
            let (again, ..) = open(Access::default()).expect("what was written is read");
            assert_eq!(again, manifest);
        }
        Err(line) => assert!(!line.is_empty()),
    }
}
