//! The reference iterate: what stands for the minimiser.
//!
//! Owns how references are named, found, made and read. A reference is float32 by parameter name,
//! mapped and never copied as a whole; averages of iterates are made once and kept beside the
//! output. What is computed against a reference is not known here.

mod average;
mod own;
mod spec;
mod values;
pub mod weights;

use std::fs::File;
use std::path::{Path, PathBuf};

pub use self::own::Cache;
use self::own::{open_final, resolve};
use self::spec::{Found, find};
pub use self::spec::{Own, Spec};
use self::values::{Files, Values, files_of};
use self::weights::Weights;
use crate::error::{Error, Result};
use crate::run::catalog::Catalog;
use crate::run::chunk::Chunk;
use crate::run::manifest::ITERATE;
use crate::run::vector::Vector;
use crate::run::{Access, FINAL, REFERENCE_FORMAT, Run};

/// A reference iterate.
pub struct Reference {
    /// The name that rows carry.
    pub name: String,
    /// The step of the path that it is, where it is one.
    pub step: Option<u64>,
    /// xxh3_64 of its values, for provenance.
    pub xxh3: String,
    /// What iterates of the analyzed run it is made of.
    pub weights: Weights,
    /// Where it comes from.
    pub origin: Origin,
    /// It changes when the training goes on.
    pub provisional: bool,
    /// Something that the user should know.
    pub note: Option<String>,
    values: Values,
}

/// Where a reference comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The analyzed run.
    Own,
    /// A file.
    File,
    /// Another run. If that starts at the same x_0, it is a control.
    Run {
        /// Whether both have the same x_0, bit for bit; `None` where one has not recorded it.
        same_start: Option<bool>,
    },
}

impl Reference {
    /// Whether it comes from a run that starts at the same x_0.
    pub fn is_control(&self) -> bool {
        self.origin == Origin::Run { same_start: Some(true) }
    }

    /// Whether the reference has this tensor.
    pub fn has(&self, tensor: usize) -> bool {
        self.values.has(tensor)
    }

    /// Reads the values of a chunk into `out`, which has the chunk's length.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn chunk(&self, chunk: &Chunk, buffer: &mut Vec<u8>, out: &mut [f32]) -> Result<()> {
        self.values.chunk(chunk, buffer, out)
    }
}

/// Opens the references that `specs` name, in their order; one that is named twice is there once.
/// Averages that `cache` does not hold yet are made.
///
/// # Errors
/// One is not there, is damaged, or is a reference for another model.
pub fn open(
    run: &Run,
    catalog: &Catalog,
    specs: &[Spec],
    cache: &Cache,
    access: Access,
) -> Result<Vec<Reference>> {
    let mut own = Vec::new();
    for spec in specs {
        if let Spec::Own(o) = spec {
            own.push(resolve(run, catalog, o)?);
        }
    }
    let mut own = own::open(run, catalog, own, cache, access)?.into_iter();
    let mut all: Vec<Reference> = Vec::new();
    for spec in specs {
        let reference = match spec {
            Spec::Own(_) => own.next(),
            Spec::Path(text) => Some(open_path(run, text, cache, access)?),
        };
        if let Some(r) =
            reference.filter(|r| all.iter().all(|known| known.name != r.name || known.xxh3 != r.xxh3))
        {
            if all.iter().any(|known| known.name == r.name) {
                let what = format!("two references would be called '{}'; rename one of the files", r.name);
                return Err(Error::NotFound { path: run.path.clone(), what });
            }
            all.push(r);
        }
    }
    Ok(all)
}

/// Checks every byte of a run's final iterate.
///
/// # Errors
/// There is none, or it is damaged.
pub fn check_final(run: &Run, access: Access) -> Result<()> {
    open_final(run, access).map(|_| ())
}

fn open_path(run: &Run, text: &str, cache: &Cache, access: Access) -> Result<Reference> {
    let refuse = |what| Error::Reference { path: PathBuf::from(text), what };
    match find(text).map_err(refuse)? {
        Found::Files(path) => open_files(run, &path, access),
        Found::Run(path, own) => open_other(run, &path, &own, cache, access),
    }
}

/// The last part of a path, as a name.
fn last_part(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    full.file_name().map_or_else(|| "reference".to_owned(), |n| n.to_string_lossy().into_owned())
}

fn open_files(run: &Run, path: &Path, access: Access) -> Result<Reference> {
    let refuse = |what: String| Error::Reference { path: path.to_owned(), what };
    let files = Files::open(&files_of(path)?, access.mmap)?;
    let stripped = files
        .stripped
        .map(|p| format!("the names in {} begin with '{p}', which was left out", path.display()));
    let header = &files.headers[0];
    // A file that lpa wrote from this run says so; it must not pass for something independent.
    let ours = header.value("run_id") == Some(run.manifest.run_id.as_str());
    let of_iterate =
        header.value("stream") == Some(ITERATE) || header.value("format") == Some(REFERENCE_FORMAT);
    let mut step = header.value("step").and_then(|s| s.parse().ok()).filter(|_| ours && of_iterate);
    if ours && step.is_none() {
        let what = "it was made from this run; name it as final, step:N, mean:A..B or ema:BETA instead";
        return Err(refuse(what.to_owned()));
    }
    let values = files.into_values(run)?;
    if !(0..run.manifest.tensors.len()).any(|t| values.has(t)) {
        let names: Vec<&str> = run.manifest.tensors.iter().take(3).map(|t| t.name.as_str()).collect();
        return Err(refuse(format!("it has none of the run's tensors ({}, ...)", names.join(", "))));
    }
    let xxh3 = values.xxh3(run)?;
    if let Some(last) = run.final_step()
        && final_xxh3(run).is_some_and(|h| h == xxh3)
    {
        step = Some(last);
    }
    let note = step.map(|s| format!("{} is x_{s} of this run", path.display())).or(stripped);
    Ok(Reference {
        name: last_part(path),
        step,
        xxh3,
        weights: step.map_or(Weights::None, |s| Weights::Equal(vec![s])),
        origin: if step.is_some() { Origin::Own } else { Origin::File },
        provisional: false,
        note,
        values,
    })
}

/// The hash that the final iterate's file claims for its values.
fn final_xxh3(run: &Run) -> Option<String> {
    let path = run.path.join(FINAL);
    let file = File::open(&path).ok()?;
    let header = crate::run::container::Header::read(&file, &path).ok()?;
    header.value("xxh3").map(str::to_owned)
}

/// Opens a reference of another run.
fn open_other(run: &Run, path: &Path, own: &Own, cache: &Cache, access: Access) -> Result<Reference> {
    let other = Run::open(path, access)?;
    let catalog = Catalog::read(&other, false)?;
    let resolved = resolve(&other, &catalog, own)?;
    let mut made = own::open(&other, &catalog, vec![resolved], cache, access)?;
    let Some(opened) = made.pop() else {
        return Err(Error::NotFound { path: path.to_owned(), what: format!("there is no {own}") });
    };
    if other.manifest.run_id == run.manifest.run_id {
        return Ok(opened);
    }
    let file = own::path(&other, own, opened.step, cache)?;
    let values = Files::open(&[file], access.mmap)?.into_values(run)?;
    Ok(Reference {
        name: format!("{}:{}", last_part(path), opened.name),
        step: None,
        xxh3: values.xxh3(run)?,
        weights: Weights::None,
        origin: Origin::Run { same_start: same_start(run, &other)? },
        provisional: opened.provisional,
        note: None,
        values,
    })
}

/// Whether two runs start at the same iterate, bit for bit.
fn same_start(a: &Run, b: &Run) -> Result<Option<bool>> {
    let open = |run| match Vector::open(run, 0, ITERATE) {
        Err(Error::NotFound { .. }) => Ok(None),
        other => other.map(Some),
    };
    let (Some(mut left), Some(mut right)) = (open(a)?, open(b)?) else {
        return Ok(None);
    };
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for (i, info) in a.manifest.tensors.iter().enumerate() {
        let same = |t: &crate::run::manifest::TensorInfo| t.name == info.name && t.dtype == info.dtype;
        let Some(j) = b.manifest.tensors.iter().position(same) else {
            return Ok(Some(false));
        };
        x.clear();
        y.clear();
        left.tensor(i, &mut x)?;
        right.tensor(j, &mut y)?;
        if x != y {
            return Ok(Some(false));
        }
    }
    Ok(Some(true))
}

/// Checks that every tensor of `groups` is in every reference.
///
/// # Errors
/// A file lacks one.
pub fn check_cover(run: &Run, references: &[Reference], groups: &[crate::group::Group]) -> Result<()> {
    for r in references {
        let mut wanted: Vec<usize> = groups.iter().flat_map(|g| g.tensors.iter().copied()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let lacking: Vec<usize> = wanted.into_iter().filter(|&t| !r.has(t)).collect();
        if let Some(&first) = lacking.first() {
            let what = format!(
                "the reference '{}' lacks {} of the tensors asked for, first '{}'. Name those that it has by --group.",
                r.name,
                lacking.len(),
                run.manifest.tensors[first].name
            );
            return Err(Error::NotFound { path: run.path.clone(), what });
        }
    }
    Ok(())
}
