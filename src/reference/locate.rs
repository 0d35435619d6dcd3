//! Which files a path stands for that a user gave as a reference.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, Tried};
use crate::reference::names::listed;
use crate::regular_file;
use crate::uninterrupted::list;

/// Names of files that say nothing of what is in them: every checkpoint has one.
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// What files end in that `lpa.reference` of the Python module converts, and what they are.
const CONVERTED: [(&str, &str); 9] = [
    ("pt", PYTORCH),
    ("pth", PYTORCH),
    ("ckpt", PYTORCH),
    ("bin", PYTORCH),
    ("tar", PYTORCH),
    ("npz", "an archive of NumPy"),
    ("h5", "a file of Keras"),
    ("hdf5", "a file of Keras"),
    ("keras", "a file of Keras"),
];
const PYTORCH: &str = "a PyTorch file, which is a program and no data";
/// What of a directory says that it is such a checkpoint.
const MARKERS: [(&str, &str); 7] = [
    (".metadata", "a checkpoint of torch.distributed.checkpoint"),
    ("_METADATA", "a checkpoint of Orbax"),
    ("manifest.ocdbt", "a checkpoint of Orbax"),
    ("pytorch_model.bin", PYTORCH),
    (PYTORCH_INDEX, PYTORCH),
    ("adapter_model.bin", PYTORCH),
    ("mp_rank_00_model_states.pt", "a checkpoint of DeepSpeed"),
];
const PYTORCH_INDEX: &str = "pytorch_model.bin.index.json";
/// What is not read, and what to do.
const UNREAD: [(&str, &str); 4] = [
    ("distcp", "a part of a checkpoint of torch.distributed.checkpoint. Name its directory"),
    ("gguf", "a GGUF file, which is made for inference. Name the checkpoint that it was made of"),
    ("msgpack", "a file of Flax. Restore it, and save the parameters by safetensors.flax"),
    ("pkl", "a pickle, which is a program. Load it if you trust it, and save the weights as safetensors"),
];

/// Safetensors files, and what says in which of them a tensor is.
pub(super) struct Located {
    pub(super) files: Vec<PathBuf>,
    pub(super) index: Option<Index>,
}

/// An index of files (`model.safetensors.index.json`).
pub(super) struct Index {
    pub(super) path: PathBuf,
    /// By tensor: which of the files.
    pub(super) places: BTreeMap<String, usize>,
}

impl Located {
    /// A single file.
    pub(super) fn file(path: &Path) -> Located {
        Located { files: vec![path.to_owned()], index: None }
    }
}

/// The files that a path stands for. In a directory they are what `from_pretrained` of transformers loads
/// (4.57 and 5.24): a single file, else the files of an index.
///
/// # Errors
/// It is something else; the text says how to convert it.
pub(super) fn locate(path: &Path) -> Result<Located> {
    if path.is_dir() {
        return directory(path);
    }
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    let of = |kinds: &[(&'static str, &'static str)]| {
        kinds.iter().find(|(e, _)| *e == extension).map(|(_, what)| *what)
    };
    if path.file_name().is_some_and(|name| name == PYTORCH_INDEX) {
        return Err(converted(path, PYTORCH));
    }
    if let Some(what) = of(&CONVERTED) {
        return Err(converted(path, what));
    }
    if let Some(what) = of(&UNREAD) {
        return Err(Error::Reference { path: path.to_owned(), what: format!("it is {what}") });
    }
    if extension == "json" { sharded(path) } else { Ok(Located::file(path)) }
}

fn directory(path: &Path) -> Result<Located> {
    let (index, single) = (path.join(INDEX), path.join(SINGLE));
    if single.is_file() {
        return Ok(Located::file(&single));
    }
    if index.is_file() {
        return sharded(&index);
    }
    let mut names = Vec::new();
    let mut folders = vec![path.to_owned()];
    for entry in list(path).tried("read", path)? {
        if entry.path().is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        } else {
            folders.push(entry.path());
        }
    }
    names.sort_unstable();
    let of = |extension: &str| -> Vec<&String> {
        names.iter().filter(|n| Path::new(n).extension().is_some_and(|e| e == extension)).collect()
    };
    let what = match of("safetensors").as_slice() {
        // An adapter, or a variant such as model.fp16.safetensors.
        [only] => return Ok(Located::file(&path.join(only))),
        [] => {
            // FSDP in accelerate, and Orbax, have the model in a directory of its own.
            let marked = |folder: &PathBuf| MARKERS.iter().find(|(m, _)| folder.join(m).exists());
            if let Some((_, what)) = folders.iter().find_map(marked) {
                return Err(converted(path, what));
            }
            let there = CONVERTED.iter().chain(&UNREAD).find_map(|(e, _)| of(e).first().copied());
            match there {
                Some(file) => format!(
                    "the directory holds neither a run nor a {SINGLE}. Name the file that is meant, such as {}",
                    path.join(file).display()
                ),
                None => format!("the directory holds neither a run nor a {SINGLE}"),
            }
        }
        several => format!(
            "the directory holds neither a run nor a {SINGLE}, but {}. Name the file that is meant",
            listed(several)
        ),
    };
    Err(Error::Reference { path: path.to_owned(), what })
}

/// How to convert a checkpoint that is no safetensors file.
fn converted(path: &Path, kind: &str) -> Error {
    let call = format!("import lpa; lpa.reference({}, \"reference.safetensors\")", python_string(path));
    let what = format!("it is {kind}. Convert it: python -c '{}'", call.replace('\'', r"'\''"));
    Error::Reference { path: path.to_owned(), what }
}

/// A path as a string of Python.
fn python_string(path: &Path) -> String {
    let mut out = String::from("\"");
    for c in path.to_string_lossy().chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out + "\""
}

/// The files that an index lists.
fn sharded(path: &Path) -> Result<Located> {
    #[derive(serde::Deserialize)]
    struct Parsed {
        weight_map: BTreeMap<String, String>,
    }
    let refuse = |what: String| Error::Reference { path: path.to_owned(), what };
    let bytes = regular_file::read(path).tried("read", path)?;
    let parsed: Parsed =
        serde_json::from_slice(&bytes).map_err(|e| refuse(format!("no index of safetensors files ({e})")))?;
    let mut names: Vec<String> = parsed.weight_map.values().cloned().collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Err(refuse("the index lists no files".to_owned()));
    }
    let files: Vec<PathBuf> = names.iter().map(|n| path.with_file_name(n)).collect();
    let lacking: Vec<&String> =
        names.iter().zip(&files).filter(|(_, f)| !f.exists()).map(|(n, _)| n).collect();
    if !lacking.is_empty() {
        return Err(refuse(format!(
            "the index lists files that are not there: {}. It is left from an older checkpoint, or the copy is not \
             whole. Name the file that is meant",
            listed(&lacking)
        )));
    }
    let place = |name: &String| names.binary_search(name).unwrap_or(0);
    let places = parsed.weight_map.iter().map(|(tensor, name)| (tensor.clone(), place(name))).collect();
    Ok(Located { files, index: Some(Index { path: path.to_owned(), places }) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_pasted_whatever_the_path() {
        let text = converted(Path::new("/a b/it's $x \"q\" \\ `c`.pt"), PYTORCH).to_string();
        let expected = r#"python -c 'import lpa; lpa.reference("/a b/it'\''s $x \"q\" \\ `c`.pt", "reference.safetensors")'"#;
        assert!(text.ends_with(expected), "{text}");
    }
}
