//! References that are files: one, several with an index, or a folder of them.
//!
//! Sections: how (a byte: 0 the file, 1 its index, 2 the folder, 3 a folder without an index; 4 the header is put right),
//! then header and data of two files, the index, and a rename.

use std::path::PathBuf;
use std::sync::LazyLock;

use lpa::serde_json::{Value, from_slice, json};
use lpa::{Access, Execution, Question, ReferenceSpec, Rename, Row, Run};

use crate::files::{Folder, container};
use crate::sections::split;
use crate::seeds::record;
use crate::targets::{alike, ways};

static FOLDER: LazyLock<Folder> = LazyLock::new(|| {
    let folder = Folder::new();
    record(&folder.at("run"), 0, 3);
    folder
});

/// The data as long as the header calls for.
fn fitted(header: &[u8], data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    let Ok(Value::Object(tensors)) = from_slice::<Value>(header) else { return data };
    let end = |tensor: &Value| tensor.get("data_offsets")?.get(1)?.as_u64();
    let needed = tensors.values().filter_map(end).max().unwrap_or(0);
    data.resize(needed.min(1 << 16) as usize, 0);
    data
}

pub(crate) fn run(input: &[u8]) {
    let sections = split(input);
    let section = |i: usize| sections.get(i).copied().unwrap_or_default();
    let how = section(0).first().copied().unwrap_or(0);
    let _ = std::fs::remove_dir_all(FOLDER.at("files"));
    let put = |name: &str, header: &[u8], data: &[u8]| {
        let data = if how & 4 == 0 { data.to_vec() } else { fitted(header, data) };
        FOLDER.put(&format!("files/{name}"), &container(header, &[&data]));
    };
    put("a.safetensors", section(1), section(2));
    if how & 3 != 0 {
        put("b.safetensors", section(3), section(4));
    }
    if how & 3 != 3 {
        FOLDER.put("files/model.safetensors.index.json", section(5));
    }
    let path: PathBuf = FOLDER.at(match how & 3 {
        0 => "files/a.safetensors",
        1 => "files/model.safetensors.index.json",
        _ => "files",
    });
    let renames: Vec<Rename> =
        std::str::from_utf8(section(6)).ok().and_then(|r| r.parse().ok()).into_iter().collect();
    let rows = |access: Access| -> Result<String, String> {
        let run = Run::open(&FOLDER.at("run"), access).unwrap();
        let question = Question {
            references: vec![ReferenceSpec::Path(path.to_string_lossy().into_owned())],
            renames: renames.clone(),
            ..Question::default()
        };
        let mut text = String::new();
        let keep = |row: &Row<'_>| {
            text.push_str(&format!("{row:?}\n"));
            Ok(())
        };
        let how = Execution { threads: 1, ..Execution::default() };
        question.analyze(&run, &how, || Ok(keep)).map_err(|e| e.to_string())?;
        Ok(text)
    };
    drop(alike(ways().map(rows)));
}

/// A file with the run's tensors.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let tensor = |n: u64, begin: u64, dtype: &str, size: u64| json!({"dtype": dtype, "shape": [n], "data_offsets": [begin, begin + size * n]});
    let bytes = |n: usize| (0..n).map(|i| (i * 37) as u8 & 0x3f).collect::<Vec<u8>>();
    let text = |v: Value| v.to_string().into_bytes();
    let both = text(
        json!({"__metadata__": {"format": "pt"}, "t0": tensor(5, 0, "F32", 4), "t1": tensor(3, 20, "F32", 4)}),
    );
    let half = text(json!({"module.t0": tensor(5, 0, "BF16", 2), "module.t1": tensor(3, 10, "BF16", 2)}));
    let (one, other) =
        (text(json!({"t0": tensor(5, 0, "F32", 4)})), text(json!({"t1": tensor(3, 0, "F16", 2)})));
    let index = text(
        json!({"metadata": {"total_size": 26}, "weight_map": {"t0": "a.safetensors", "t1": "b.safetensors"}}),
    );
    let own = text(json!({
        "__metadata__": {"format": "lpa-reference", "version": "1", "run_id": crate::files::RUN_ID, "step": "3"},
        "t0": tensor(5, 0, "F32", 4), "t1": tensor(3, 20, "F32", 4)
    }));
    let input = |how: u8, parts: &[&[u8]]| crate::sections::join(&[&[&[how][..]], parts].concat());
    vec![
        input(0, &[&both, &bytes(32)]),
        input(4, &[&half, &bytes(16), b"", b"", b"", b"module.="]),
        input(1, &[&one, &bytes(20), &other, &bytes(6), &index]),
        input(2, &[&one, &bytes(20), &other, &bytes(6), &index]),
        input(3, &[&one, &bytes(20), &other, &bytes(6), b""]),
        input(4, &[&own, &bytes(32)]),
    ]
}
