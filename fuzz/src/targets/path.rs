//! A whole run: manifest, journals, shards and the final iterate, under right hashes. What is analyzed is what is verified.
//!
//! Sections: how (two bytes: what is put right, as of a shard; the kind of the run), the manifest in the place of the
//! kind's, the journals (`%` stands for the manifest's hash), header and data of the final iterate, then the shards.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use lpa::internals::xxh3_64;
use lpa::serde_json::{Value, from_slice, json, to_vec_pretty};
use lpa::{Access, Execution, Manifest, Question, Row, Run, TensorInfo, verify};

use crate::files::{Folder, Parts, RUN_ID, SHARD_SECTIONS, chunks, container, journal, manifest};
use crate::sections::split;
use crate::targets::shard::FIT;
use crate::targets::{alike, ways};

static FOLDER: LazyLock<Folder> = LazyLock::new(Folder::new);
/// Between the journals of two ranks.
pub(crate) const BETWEEN: &str = "\n---\n";
/// Shards of an input that count.
const MOST_SHARDS: usize = 8;
/// What `verify` alone looks at (docs/reliability.md): bytes between payloads, and whether the final iterate, which has a
/// hash of its own, is what the shards hold.
const HARMLESS: [&str; 2] = ["the padding is not zero", "its values are not those of x_"];

/// By attempt of a journal: its id.
fn ids(journal: &str) -> BTreeMap<u64, String> {
    let of = |line: &str| {
        let event: Value = from_slice(line.as_bytes()).ok()?;
        Some((event.get("attempt")?.as_u64()?, event.get("id")?.as_str()?.to_owned()))
    };
    journal.lines().filter_map(of).collect()
}

/// The file of the final iterate as lpa writes it.
fn final_header(manifest: &Manifest, step: u64, id: Option<&String>, data: &[u8]) -> Vec<u8> {
    let mut metadata = json!({
        "format": "lpa-reference", "version": "1", "run_id": RUN_ID, "step": step.to_string(),
        "xxh3": format!("{:016x}", xxh3_64(data)),
    });
    if let Some(id) = id {
        metadata["attempt_id"] = json!(id);
    }
    let mut header = json!({"__metadata__": metadata});
    let mut at = 0;
    for TensorInfo { name, shape, .. } in &manifest.tensors {
        let end = at + 4 * shape.iter().product::<u64>();
        header[name] = json!({"dtype": "F32", "shape": shape, "data_offsets": [at, end]});
        at = end;
    }
    header.to_string().into_bytes()
}

pub(crate) fn run(input: &[u8]) {
    let sections = split(input);
    let section = |i: usize| sections.get(i).copied().unwrap_or_default();
    let [how, kind] = [0, 1].map(|i| section(0).get(i).copied().unwrap_or(0));
    let own = manifest(kind);
    let bytes = if section(1).is_empty() { to_vec_pretty(&own).unwrap() } else { section(1).to_vec() };
    let _ = std::fs::remove_dir_all(FOLDER.at("run"));
    let put = |name: &str, bytes: &[u8]| FOLDER.put(&format!("run/{name}"), bytes);
    put("manifest.json", &bytes);
    std::fs::create_dir_all(FOLDER.at("run/steps")).unwrap();
    let text = String::from_utf8_lossy(section(2)).replace('%', &format!("{:016x}", xxh3_64(&bytes)));
    for (rank, of_rank) in text.split(BETWEEN).enumerate().take(2) {
        let end = if of_rank.ends_with('\n') { "" } else { "\n" };
        put(&format!("journal.r{rank}.jsonl"), &journal(format!("{of_rank}{end}").as_bytes()));
    }
    let ids = ids(&text);
    for shard in sections.get(5..).unwrap_or_default().chunks(SHARD_SECTIONS).take(MOST_SHARDS) {
        let mut parts = Parts::new(shard);
        let Some(path) = parts.path() else { continue };
        if how & FIT != 0 {
            parts.fit(chunks(kind));
        }
        parts.seal();
        put(&path, &parts.file(&own, ids.get(&parts.name[2]).map(String::as_str)));
    }
    let data = section(4);
    if !data.is_empty() {
        let closed = |line: &str| from_slice::<Value>(line.as_bytes()).ok()?.get("final_step")?.as_u64();
        let step = text.lines().find_map(closed).unwrap_or(0);
        let header = match section(3) {
            [] => final_header(&own, step, ids.values().next_back(), data),
            given => {
                let hash = format!("{:016x}", xxh3_64(data));
                String::from_utf8_lossy(given).replacen('%', &hash, 1).into_bytes()
            }
        };
        put("ref/final.safetensors", &container(&header, &[data]));
    }
    let analyzed = alike(ways().map(analyze));
    if let Ok(rows) = analyzed {
        let run = Run::open(&FOLDER.at("run"), Access::default()).expect("it was analyzed");
        let problems: Vec<String> = verify(&run).problems.iter().map(ToString::to_string).collect();
        // The final iterate has a file of its own, so that an analysis needs no shard that holds nothing else.
        let last = run.final_step().map(|t| format!("with steps {t} to {t} is missing"));
        let is_harmless = |p: &String| {
            HARMLESS.iter().any(|h| p.contains(h)) || last.as_ref().is_some_and(|l| p.contains(l))
        };
        let harmful = problems.iter().find(|p| !is_harmless(p));
        assert_eq!(harmful, None, "analyzed, though verify refuses: {rows}");
    }
}

fn analyze(access: Access) -> Result<String, String> {
    let run = Run::open(&FOLDER.at("run"), access).map_err(|e| e.to_string())?;
    let mut text = String::new();
    let keep = |row: &Row<'_>| {
        text.push_str(&format!("{row:?}\n"));
        Ok(())
    };
    let how = Execution { threads: 1, ..Execution::default() };
    Question::default().analyze(&run, &how, || Ok(keep)).map_err(|e| e.to_string())?;
    Ok(text)
}
