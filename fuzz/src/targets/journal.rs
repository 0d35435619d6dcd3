//! A rank's journal, each line under a hash that is right: what it says of attempts, and which of some shards count.

use std::fmt::Write;
use std::sync::LazyLock;

use lpa::internals::Journal;
use lpa::{Access, Run, serde_json};

use crate::files::{Folder, journal, manifest, put};
use crate::targets::{alike, ways};

/// Shards that are there: first and last step, attempt, rank.
const SHARDS: [[u64; 4]; 8] = [
    [0, 2, 1, 0],
    [3, 5, 1, 0],
    [6, 8, 1, 0],
    [3, 4, 2, 0],
    [5, 9, 2, 0],
    [0, 4, 1, 1],
    [5, 7, 1, 1],
    [3, 9, 2, 1],
];

static FOLDER: LazyLock<Folder> = LazyLock::new(|| {
    let folder = Folder::new();
    folder.put("manifest.json", &serde_json::to_vec_pretty(&manifest(5)).unwrap());
    for [first, last, attempt, rank] in SHARDS {
        let name = format!("steps/000000/s{first:010}-{last:010}.a{attempt}.r{rank}.safetensors");
        put(&folder.at(&name), b"");
    }
    folder
});

/// The second rank's journal is that of the first, or what follows a line that is `---`.
pub(crate) fn run(input: &[u8]) {
    let between = b"\n---\n";
    let cut = input.windows(between.len()).position(|w| w == between);
    let (first, second) = cut.map_or((input, input), |at| (&input[..=at], &input[at + between.len()..]));
    let (first, second) = (journal(first), journal(second));
    FOLDER.put("journal.r0.jsonl", &first);
    FOLDER.put("journal.r1.jsonl", &second);
    let read = || Journal::read(&FOLDER.at(""), 0).map_err(|e| e.to_string());
    let told = |journal: Journal| {
        let (attempts, checkpoints) = (journal.attempts(), journal.checkpoints());
        (journal.events.clone(), journal.whole_len, attempts, checkpoints, journal.dropped())
    };
    let once = alike([read().map(told), read().map(told)]);
    if let Ok((events, whole_len, ..)) = &once {
        assert!(*whole_len <= first.len() as u64);
        // What was understood can be written, and is understood as the same.
        let mut again = String::new();
        for event in events {
            if let Ok(line) = serde_json::to_string(event) {
                writeln!(again, "{line}").unwrap();
            }
        }
        FOLDER.put("journal.r0.jsonl", &journal(again.as_bytes()));
        let (as_read, ..) = read().map(told).expect("what was written is read");
        assert_eq!(&as_read, events);
        FOLDER.put("journal.r0.jsonl", &first);
    }
    let open = |access: Access| match Run::open(&FOLDER.at(""), access) {
        Ok(run) => {
            let missing: Vec<String> = run.missing().iter().map(ToString::to_string).collect();
            let segments: Vec<_> = (0..2).flat_map(|rank| run.segments(rank).to_vec()).collect();
            for pair in segments.windows(2).filter(|w| w[0].file.name.rank == w[1].file.name.rank) {
                assert!(pair[0].last < pair[1].first, "steps that count twice");
            }
            let ends = [run.end_of_rank(0), run.end_of_rank(1)];
            Ok((segments, missing, ends, run.steps(), run.final_step(), run.superseded().to_vec()))
        }
        Err(e) => Err(e.to_string()),
    };
    drop(alike(ways().map(open)));
}
