//! One shard: header, index, records, vectors, scalars and payloads, of one of several kinds of runs.
//!
//! Sections: what is put right beforehand and the kind of the run (a byte each), then those of a shard.

use std::sync::LazyLock;

use lpa::{Manifest, serde_json};

use crate::files::{ATTEMPT_ID, Folder, KINDS, Parts, attempt, chunks, journal, manifest};
use crate::sections::split;
use crate::targets::{alike, contents, ways};

static FOLDERS: LazyLock<Vec<(Folder, Manifest)>> = LazyLock::new(|| {
    let make = |kind| {
        let (folder, manifest) = (Folder::new(), manifest(kind));
        let bytes = serde_json::to_vec_pretty(&manifest).unwrap();
        folder.put("manifest.json", &bytes);
        let line = journal(format!("{}\n", attempt(&bytes)).as_bytes());
        (0..manifest.world).for_each(|rank| folder.put(&format!("journal.r{rank}.jsonl"), &line));
        (folder, manifest)
    };
    (0..KINDS).map(make).collect()
});

/// What is put right: bit 0, where payloads lie and how long the tables are. Hashes always are.
pub(crate) const FIT: u8 = 1;

pub(crate) fn run(input: &[u8]) {
    let sections = split(input);
    let [how, kind] = [0, 1].map(|i| sections.first().and_then(|s| s.get(i)).copied().unwrap_or(0));
    let (folder, manifest) = &FOLDERS[usize::from(kind % KINDS)];
    let mut parts = Parts::new(sections.get(1..).unwrap_or_default());
    let Some(path) = parts.path() else { return };
    if how & FIT != 0 {
        parts.fit(chunks(kind));
    }
    parts.seal();
    let _ = std::fs::remove_dir_all(folder.at("steps"));
    folder.put(&path, &parts.file(manifest, Some(ATTEMPT_ID)));
    let found = alike(ways().map(|access| contents(&folder.at(""), access)));
    // What is whole by itself can be read; of other ranks, and of an iterate that follows another shard, not all is there.
    if let Ok((problems, vectors)) = found
        && problems.is_empty()
        && parts.name[0] == 0
        && manifest.world == 1
    {
        let absent = |e: &String| e.contains("was not recorded") || e.contains("is not recorded");
        let wrong = vectors.iter().find_map(|v| v.as_ref().err().filter(|e| !absent(e)));
        assert_eq!(wrong, None, "verify finds nothing wrong");
    }
}
