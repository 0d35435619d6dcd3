//! The reference iterate: what stands for the minimiser.
//!
//! Owns how references are named, found, made and read. A reference is float32 by parameter name,
//! mapped and never copied as a whole; averages of iterates are made once and kept beside the
//! output. What is computed against a reference is not known here.

mod average;
mod other;
mod own;
mod spec;
mod values;
pub mod weights;

use std::path::{Path, PathBuf};

pub use self::own::Cache;
pub use self::own::final_fault;
use self::own::{open_final, resolve};
use self::spec::{Found, find};
pub use self::spec::{Own, Spec};
use self::values::{Files, Names, Values, files_of};
use self::weights::Weights;
use crate::codec::Decoder;
use crate::dtype::round;
use crate::error::{Error, Result, Tried};
use crate::isa::Isa;
use crate::run::catalog::Catalog;
use crate::run::chunk::Chunk;
use crate::run::container::Header;
use crate::run::manifest::ITERATE;
use crate::run::reference_file::{LOSSY, REFERENCE_FORMAT};
use crate::run::trajectory::{Source, Trajectory};
use crate::run::window::Window;
use crate::run::{Access, Run};

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
    /// Steps whose updates the other run shares with this one: whether they are in it is not asked.
    pub shared: u64,
    /// It changes when the training goes on.
    pub provisional: bool,
    /// Something that the user should know.
    pub note: Option<String>,
    values: Values,
    /// How far the values can be off, where iterates were stored with loss.
    widths: Option<Values>,
    /// It is an average of iterates.
    averaged: bool,
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
    /// Whether it comes from another path from the same x_0.
    pub fn is_control(&self) -> bool {
        self.origin == Origin::Run { same_start: Some(true) } && self.shared == 0
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

    /// Whether its values may be off.
    pub fn is_lossy(&self) -> bool {
        self.widths.is_some()
    }

    /// Whether its values were rounded once more after what was lost: an average's.
    pub fn is_rounded(&self) -> bool {
        self.widths.is_some() && self.averaged
    }

    /// Reads how far the values of a chunk can be off into `out`, besides by rounding.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn widths(&self, chunk: &Chunk, buffer: &mut Vec<u8>, out: &mut [f32]) -> Result<()> {
        let Some(widths) = &self.widths else {
            out.fill(0.0);
            return Ok(());
        };
        widths.chunk(chunk, buffer, out)?;
        // Widths of averages were rounded themselves.
        for width in out.iter_mut().filter(|w| **w != 0.0) {
            *width = *width * (1.0 + 1e-6) + f32::from_bits(1);
        }
        Ok(())
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
    let mut own = own::open(run, catalog, own, cache, access)?.into_iter().map(|(r, _)| r);
    let mut all: Vec<Reference> = Vec::new();
    for spec in specs {
        let reference = match spec {
            Spec::Own(_) => own.next(),
            Spec::Path(text) => Some(open_path(run, catalog, text, cache, access)?),
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

fn open_path(run: &Run, catalog: &Catalog, text: &str, cache: &Cache, access: Access) -> Result<Reference> {
    let refuse = |what| Error::Reference { path: PathBuf::from(text), what };
    match find(text).map_err(refuse)? {
        Found::Files(path) => open_files(run, catalog, &path, cache, access),
        Found::Run(path, own) => other::open(run, catalog, &path, &own, cache, access),
    }
}

/// The last part of a path, as a name.
fn last_part(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    full.file_name().map_or_else(|| "reference".to_owned(), |n| n.to_string_lossy().into_owned())
}

fn open_files(run: &Run, catalog: &Catalog, path: &Path, cache: &Cache, access: Access) -> Result<Reference> {
    let refuse = |what: String| Error::Reference { path: path.to_owned(), what };
    let files = Files::open(&files_of(path)?, access.mmap, Names::Unwrapped).map_err(|e| match e {
        Error::Damaged { path, what, .. } => {
            Error::Reference { path, what: format!("it is no safetensors file, or damaged: {what}") }
        }
        other => other,
    })?;
    let (claimed, made) = claims(run, &files.headers[0]);
    let lossy = files.headers.iter().any(|h| h.value(LOSSY).is_some());
    if made {
        let what = "it was made from this run; name it as mean:A..B or ema:BETA instead";
        return Err(refuse(what.to_owned()));
    }
    let (values, stripped) = files.into_values(run)?;
    if !(0..run.manifest.tensors.len()).any(|t| values.has(t)) {
        let names: Vec<&str> = run.manifest.tensors.iter().take(3).map(|t| t.name.as_str()).collect();
        return Err(refuse(format!("it has none of the run's tensors ({}, ...)", names.join(", "))));
    }
    let xxh3 = values.xxh3(run)?;
    // It must not pass for something independent, nor be believed what it is not any more.
    let (mut step, mut is_stored) = (None, false);
    for s in claimed.into_iter().chain(run.final_step()) {
        if step.is_none() && catalog.has_iterate(s) {
            match likeness(run, &values, s)? {
                Likeness::Same => (step, is_stored) = (Some(s), true),
                // Of a run that was stored with loss it says that it is the iterate as it was.
                Likeness::Within if claimed == Some(s) && !lossy => step = Some(s),
                Likeness::Within | Likeness::Other => {}
            }
        }
    }
    if lossy && step.is_none() {
        let what = "its values were stored with loss, and how far they are off is not in the file. Name the run \
                    itself: RUN:step:N";
        return Err(refuse(what.to_owned()));
    }
    // What is stored with loss is off by as much as it is there.
    let widths = match step {
        Some(s) if is_stored && run.manifest.loses(0) => {
            let resolved = vec![resolve(run, catalog, &Own::Step(s))?];
            own::open(run, catalog, resolved, cache, access)?.pop().and_then(|(r, _)| r.widths)
        }
        _ => None,
    };
    let note = match (step, stripped) {
        (Some(s), _) => Some(format!("{} is x_{s} of this run", path.display())),
        (None, Some(prefix)) => {
            Some(format!("names in {} begin with '{prefix}', which was left out", path.display()))
        }
        (None, None) => None,
    };
    Ok(Reference {
        name: last_part(path),
        step,
        xxh3,
        weights: step.map_or(Weights::None, |s| Weights::Equal(vec![s])),
        origin: if step.is_some() { Origin::Own } else { Origin::File },
        shared: 0,
        provisional: false,
        note,
        values,
        widths,
        averaged: false,
    })
}

/// What a file says of itself: the step of this run that it is, and whether it is another vector made
/// from this run.
fn claims(run: &Run, header: &Header) -> (Option<u64>, bool) {
    if header.value("run_id") != Some(run.manifest.run_id.as_str()) {
        return (None, false);
    }
    let reference = header.value("format") == Some(REFERENCE_FORMAT);
    let step = header.value("step").and_then(|s| s.parse().ok());
    let iterate = reference || header.value("stream") == Some(ITERATE);
    (step.filter(|_| iterate), reference && step.is_none())
}

/// How near values are to a recorded iterate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Likeness {
    /// They are the same, bit for bit.
    Same,
    /// They are no further than what was lost.
    Within,
    /// They are others.
    Other,
}

/// How near values are to a recorded iterate, in all tensors that are there, rounded to their types.
fn likeness(run: &Run, values: &Values, step: u64) -> Result<Likeness> {
    let window = Window::open(run, &[step], false)?;
    let mut decoder = Decoder::new(Isa::detect()).tried("start the decoder for", &run.path)?;
    let (mut buffer, mut file, mut r) = (Vec::new(), Vec::new(), Vec::new());
    let (mut trajectory, mut widths) = (Trajectory::new(1), Vec::new());
    let mut found = Likeness::Same;
    for chunk in run.table.chunks() {
        let Some(dtype) = values.dtype(chunk.tensor) else { continue };
        let (decoder, file) = (&mut decoder, &mut file);
        let mut source = Source { run, window: &window, chunk, decoder, file, bytes: 0 };
        trajectory.clear();
        let x = trajectory.recorded(step, &mut source)?;
        r.resize(chunk.len, 0.0);
        values.chunk(chunk, &mut buffer, &mut r)?;
        if x.iter().zip(&r).all(|(x, r)| round(dtype, *x).to_bits() == r.to_bits()) {
            continue;
        }
        widths.resize(chunk.len, 0.0);
        source.widths(step, 0, x, &mut widths)?;
        if !x.iter().zip(&r).zip(&widths).all(|((x, r), w)| (x - r).abs() <= *w) {
            return Ok(Likeness::Other);
        }
        found = Likeness::Within;
    }
    Ok(found)
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
        let empty = |t: usize| run.manifest.tensors[t].elements() == 0;
        let lacking: Vec<usize> = wanted.into_iter().filter(|&t| !r.has(t) && !empty(t)).collect();
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
