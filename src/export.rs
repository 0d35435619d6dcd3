//! One recorded vector as a plain safetensors file, bit for bit and in its own type.

use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result, Tried};
use crate::regular_file;
use crate::run::format::container::{Entry, Header, build_header};
use crate::run::format::manifest::{ITERATE, TensorInfo};
use crate::run::read::vector::Vector;
use crate::run::write::reference_file::{LOSSY, SKETCH};
use crate::run::{Draft, FULL, Run};

/// What of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Its elements.
    Elements,
    /// Its sketch, which is all that a run of sketches has of it.
    Sketch,
}

/// What was exported.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exported {
    /// Tensors in the file.
    pub tensors: usize,
    /// Tensors that are absent at this step, and so not in the file.
    pub absent: usize,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Writes `stream` (or `iterate`) of `step` to `path`.
///
/// # Errors
/// It was not recorded, or not as what is asked for, is damaged, or the disk refuses. Nothing half-written is left.
pub(crate) fn export(run: &Run, (step, stream): (u64, &str), what: What, path: &Path) -> Result<Exported> {
    let not_found = |what: String| Err(Error::NotFound { path: run.path.clone(), what });
    match (run.manifest.sketch, what) {
        (Some(_), What::Elements) => {
            let full = run.path.join(FULL);
            let end = match run.in_full(step)?.filter(|_| stream == ITERATE) {
                Some(file) => format!("x_{step} as it is lies in {}; ", file.display()),
                None if full.exists() => format!("The final iterate as it is lies in {}; ", full.display()),
                None => String::new(),
            };
            return not_found(format!(
                "the run holds sketches, of which vectors cannot be had back. {end}--sketch writes the sketch of a vector"
            ));
        }
        (None, What::Sketch) => {
            return not_found("the run holds vectors and no sketches; leave out --sketch".to_owned());
        }
        (Some(_), What::Sketch) | (None, What::Elements) => {}
    }
    let mut vector = Vector::open(run, step, stream)?;
    let id = vector.stream();
    if path.exists() && !is_export(path) {
        let source = std::io::Error::other("there is a file that is no export of lpa's; choose another name");
        return Err(Error::Io { action: "write", path: path.to_owned(), source });
    }
    let draft = Draft::create(path)?;
    // The header comes first and must say which tensors follow.
    let mut present: Vec<(usize, &TensorInfo)> = Vec::new();
    for (i, info) in run.manifest.tensors.iter().enumerate() {
        if !vector.is_absent(i)? {
            present.push((i, info));
        }
    }
    let entries: Vec<Entry<'_>> = present
        .iter()
        .map(|(i, t)| Entry {
            name: &t.name,
            dtype: run.manifest.dtype_of(id, *i).name(),
            shape: t.shape.clone(),
            len: t.elements() * run.manifest.dtype_of(id, *i).size() as u64,
        })
        .collect();
    // Versions of transformers before 5 open no file that does not say of which framework it is.
    let mut metadata = vec![
        ("format", "pt".to_owned()),
        ("run_id", run.manifest.run_id.clone()),
        ("step", step.to_string()),
        ("stream", stream.to_owned()),
    ];
    if vector.is_lossy() {
        metadata.push((LOSSY, "true".to_owned()));
    }
    if let Some(sketch) = run.manifest.sketch {
        metadata.push((SKETCH, sketch.to_string()));
    }
    let mut file = draft.file();
    file.write_all(&build_header(&metadata, &entries)).tried("write", path)?;
    let mut values = Vec::new();
    for (i, _) in &present {
        values.clear();
        vector.tensor(*i, &mut values)?;
        file.write_all(&values).tried("write", path)?;
    }
    let bytes = draft.commit()?;
    let tensors = present.len();
    Ok(Exported { tensors, absent: run.manifest.tensors.len() - tensors, bytes })
}

/// Whether a file is one that [`export`] wrote, which may be written again.
fn is_export(path: &Path) -> bool {
    let header = regular_file::open(path).ok().and_then(|file| Header::read(&file, path).ok());
    header.is_some_and(|h| h.value("run_id").is_some() && h.value("stream").is_some())
}
