//! The reference iterate: what stands for the minimiser.
//!
//! Owns how references are named, found, made and read. A reference is float32 by parameter name,
//! mapped and never copied as a whole; averages of iterates are made once and kept beside the
//! output. What is computed against a reference is not known here.

mod average;
mod file;
mod in_full;
mod kin;
mod locate;
mod mixture;
pub(crate) mod names;
mod other;
mod own;
mod recognise;
mod rename;
mod spec;
mod stale;
mod values;
pub(crate) mod weights;

use std::path::{Path, PathBuf};

use crate::dtype::{DType, round};
use crate::error::{Error, Result};
pub(crate) use crate::reference::in_full::check_in_full;
pub(crate) use crate::reference::kin::Distances;
pub(crate) use crate::reference::kin::Kin;
pub(crate) use crate::reference::own::Cache;
use crate::reference::own::resolve;
pub(crate) use crate::reference::own::{check_final, final_fault};
pub(crate) use crate::reference::recognise::Recognised;
pub use crate::reference::rename::Rename;
pub(crate) use crate::reference::spec::is_there;
use crate::reference::spec::{Found, find};
pub use crate::reference::spec::{OwnReference, ReferenceSpec};
use crate::reference::values::Values;
use crate::reference::weights::Weights;
use crate::run::format::chunk::{Chunk, Piece};
use crate::run::format::vector_id::StreamId;
use crate::run::read::catalog::Catalog;
use crate::run::read::chunk_reader::Reader;
use crate::run::read::trajectory::Trajectory;
use crate::run::read::window::{Ahead, Window};
use crate::run::{Run, parent};

/// A reference iterate.
#[derive(Debug)]
pub(crate) struct Reference {
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
    /// What the other run has in common with this one.
    pub common: Common,
    /// How near it lies to the path that it is no iterate of.
    pub kin: Option<Kin>,
    /// It changes when the training goes on.
    pub provisional: bool,
    /// What the user should know.
    pub notes: Vec<String>,
    /// The run that it comes from, where that is another one.
    pub run_id: Option<String>,
    /// The type that it was rounded to, where that is coarser than the run's.
    pub rounded: Option<DType>,
    /// By tensor: the square of what that can have moved it by; nothing where it was not.
    roundings: Vec<f64>,
    /// Names of a file that are no tensor's of the run.
    others: Vec<String>,
    /// Where it lies, for a name that tells it from others.
    place: Option<Named>,
    values: Values,
    /// How far the values can be off, where iterates were stored with loss.
    widths: Option<Values>,
    /// It is an average of iterates.
    averaged: bool,
}

/// What a path has in common with the run that a reference comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Common {
    /// Nothing that is known.
    Nothing,
    /// Updates, up to this step. Whether those are in the reference is not asked.
    Steps(u64),
    /// The first gradient, and so the minibatch that it is of, if not all of them: their noise is in both paths.
    Batches,
}

impl Common {
    /// Whether what a step's gradient put into the reference is not known because of it.
    pub(crate) fn clouds(self, step: u64) -> bool {
        match self {
            Common::Nothing => false,
            Common::Steps(last) => step < last,
            Common::Batches => true,
        }
    }
}

/// Where a reference comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
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
    pub(crate) fn is_control(&self) -> bool {
        self.origin == Origin::Run { same_start: Some(true) } && self.common == Common::Nothing
    }

    /// What names of tables have of it, where it is not the final iterate.
    pub(crate) fn described(&self, as_named: &ReferenceSpec) -> Option<String> {
        match as_named {
            ReferenceSpec::Own(OwnReference::Final) => None,
            ReferenceSpec::Own(own) => Some(own.to_string()),
            // Files of many places have the same name.
            ReferenceSpec::Path(_) => {
                Some(format!("{}-{}", self.name.trim_end_matches(".safetensors"), self.xxh3))
            }
        }
    }

    /// Whether it was given as a file.
    pub(crate) fn is_file(&self) -> bool {
        self.place.is_some() && self.run_id.is_none()
    }

    /// Whether the reference has this tensor.
    pub(crate) fn has(&self, tensor: usize) -> bool {
        self.values.has(tensor)
    }

    /// The square of what rounding to a type coarser than the run's can have moved a tensor by.
    pub(crate) fn rounding2(&self, tensor: usize) -> f64 {
        self.roundings.get(tensor).copied().unwrap_or(0.0)
    }

    /// The same of all tensors.
    pub(crate) fn roundings2(&self) -> f64 {
        self.roundings.iter().sum()
    }

    /// Reads the values of a chunk into `out`, which has the chunk's length.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn chunk(&self, chunk: &Chunk, buffer: &mut Vec<u8>, out: &mut [f32]) -> Result<()> {
        self.values.chunk(chunk, buffer, out)
    }

    /// The same of a piece.
    ///
    /// # Errors
    /// As [`Self::chunk`].
    pub(crate) fn piece(&self, piece: &Piece, buffer: &mut Vec<u8>, out: &mut [f32]) -> Result<()> {
        self.values.piece(piece, buffer, out)
    }

    /// Whether its values may be off.
    pub(crate) fn is_lossy(&self) -> bool {
        self.widths.is_some()
    }

    /// Whether its values were rounded once more after what was lost: an average's.
    pub(crate) fn is_rounded(&self) -> bool {
        self.widths.is_some() && self.averaged
    }

    /// Reads how far the values of a chunk can be off into `out`, besides by rounding.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn widths(&self, chunk: &Chunk, buffer: &mut Vec<u8>, out: &mut [f32]) -> Result<()> {
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

/// Opens the references that `specs` name, in their order; one that is named twice is there once. `renames` are of
/// the tensors of those that are not the run's own.
/// Averages that `cache` does not hold yet are made.
///
/// # Errors
/// One is not there, is damaged, or is a reference for another model.
pub(crate) fn open(
    run: &Run,
    catalog: &Catalog,
    specs: &[ReferenceSpec],
    renames: &[Rename],
    cache: &Cache,
) -> Result<Vec<Reference>> {
    let mut own = Vec::new();
    for spec in specs {
        if let ReferenceSpec::Own(o) = spec {
            own.push(resolve(run, catalog, o)?);
        }
    }
    let mut own = own::open(run, catalog, own, cache)?.into_iter().map(|(r, _)| r);
    let mut all: Vec<Reference> = Vec::new();
    for spec in specs {
        let reference = match spec {
            ReferenceSpec::Own(_) => own.next(),
            ReferenceSpec::Path(text) => Some(open_path(run, catalog, text, renames, cache)?),
        };
        if let Some(r) =
            reference.filter(|r| all.iter().all(|known| known.name != r.name || known.xxh3 != r.xxh3))
        {
            all.push(r);
        }
    }
    tell_apart(run, &mut all)?;
    Ok(all)
}

/// The references that are to a companion of a run, which took the same steps, what `references` are to the run: those
/// that are made of its iterates; and the number of each of `references` among them.
///
/// # Errors
/// As [`open`].
pub(crate) fn of_companion(
    companion: &Run,
    catalog: &Catalog,
    references: &[Reference],
    cache: &Cache,
) -> Result<(Vec<Reference>, Vec<Option<usize>>)> {
    let (mut resolved, mut numbers) = (Vec::new(), Vec::new());
    for r in references {
        let own = match r.origin {
            Origin::Own => r.name.parse().ok(),
            Origin::File | Origin::Run { .. } => {
                r.step.filter(|_| r.kin.is_none()).map(|s| ReferenceSpec::Own(OwnReference::Step(s)))
            }
        };
        numbers.push(match own.filter(|_| r.weights != Weights::None) {
            Some(ReferenceSpec::Own(own)) => {
                resolved.push(resolve(companion, catalog, &own)?);
                Some(resolved.len() - 1)
            }
            _ => None,
        });
    }
    let opened = own::open(companion, catalog, resolved, cache)?;
    Ok((opened.into_iter().map(|(r, _)| r).collect(), numbers))
}

/// The name of a reference that lies somewhere: the last parts of its path.
#[derive(Debug)]
struct Named {
    path: PathBuf,
    /// So many parts.
    parts: usize,
    /// And what of it.
    what: Option<String>,
}

impl Named {
    /// What lies at `path`; of a run, `what`. Every checkpoint has files of some names, so these come with their
    /// directory's.
    fn new(path: &Path, what: Option<String>) -> Named {
        let full = |p: &Path| p.canonicalize().unwrap_or_else(|_| p.to_owned());
        // A file may be a link to a store of blobs, whose names say nothing.
        let path = match path.file_name() {
            Some(name) if !path.is_dir() => full(parent(path)).join(name),
            _ => full(path),
        };
        let stem = path.file_name().map(|n| n.to_string_lossy().split('.').next().unwrap_or("").to_owned());
        let anyones = stem.is_some_and(|s| ANYONES.contains(&s.as_str())) && !path.is_dir();
        Named { path, parts: if anyones { 2 } else { 1 }, what }
    }
}

/// What files of weights are called everywhere.
const ANYONES: [&str; 4] = ["model", "adapter_model", "pytorch_model", "diffusion_pytorch_model"];

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<_> = self.path.iter().filter(|p| *p != "/").map(|p| p.to_string_lossy()).collect();
        let shown = all[all.len().saturating_sub(self.parts)..].join("/");
        f.write_str(if shown.is_empty() { "reference" } else { &shown })?;
        self.what.as_ref().map_or(Ok(()), |what| write!(f, ":{what}"))
    }
}

/// Gives references that would have the same name more of their paths.
fn tell_apart(run: &Run, all: &mut [Reference]) -> Result<()> {
    loop {
        let alike = |r: &Reference| all.iter().filter(|other| other.name == r.name).count() > 1;
        let unclear: Vec<usize> = (0..all.len()).filter(|&i| alike(&all[i])).collect();
        let Some(&first) = unclear.first() else {
            return Ok(());
        };
        let mut longer = false;
        for i in unclear {
            let r = &mut all[i];
            if let Some(place) = &mut r.place {
                place.parts += 1;
                longer |= place.to_string() != r.name;
                r.name = place.to_string();
            }
        }
        if !longer {
            let what =
                format!("two references would be called '{}'; rename one of the files", all[first].name);
            return Err(Error::NotFound { path: run.path.clone(), what });
        }
    }
}

fn open_path(
    run: &Run,
    catalog: &Catalog,
    text: &str,
    renames: &[Rename],
    cache: &Cache,
) -> Result<Reference> {
    let missing = |what| Error::NotFound { path: PathBuf::from(text), what };
    match find(text).map_err(missing)? {
        Found::Files(path) => file::open(run, catalog, &path, renames, cache),
        Found::Run(path, own) => other::open(run, catalog, (&path, &own), renames, cache),
    }
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
    let window = Window::open(run, &[step], Ahead::Nothing)?;
    let mut reader = Reader::new(run)?;
    let (mut buffer, mut r) = (Vec::new(), Vec::new());
    let (mut trajectory, mut widths) = (Trajectory::new(1), Vec::new());
    let mut found = Likeness::Same;
    for chunk in run.table.chunks() {
        if !chunk.pieces.iter().any(|p| values.has(p.tensor)) {
            continue;
        }
        let mut source = reader.at(run, &window, chunk);
        trajectory.clear();
        let x = trajectory.recorded(step, &mut source)?;
        r.resize(chunk.len, 0.0);
        values.chunk(chunk, &mut buffer, &mut r)?;
        let of = |p: &Piece| Some((p.range(), values.dtype(p.tensor)?));
        let pieces = || chunk.pieces.iter().filter_map(of);
        let same = |x: f32, r: f32, dtype| round(dtype, x).to_bits() == r.to_bits();
        if pieces().all(|(at, dtype)| x[at.clone()].iter().zip(&r[at]).all(|(x, r)| same(*x, *r, dtype))) {
            continue;
        }
        widths.resize(chunk.len, 0.0);
        source.widths(step, StreamId::Iterate, x, &mut widths)?;
        if !pieces().flat_map(|(at, _)| at).all(|i| (x[i] - r[i]).abs() <= widths[i]) {
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
pub(crate) fn check_cover(run: &Run, references: &[Reference], groups: &[crate::group::Group]) -> Result<()> {
    for r in references {
        let mut wanted: Vec<usize> = groups.iter().flat_map(|g| g.tensors.iter().copied()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let empty = |t: usize| run.manifest.tensors[t].elements() == 0;
        let lacking: Vec<usize> = wanted.into_iter().filter(|&t| !r.has(t) && !empty(t)).collect();
        if let Some(&first) = lacking.first() {
            let what = format!(
                "the reference '{}' lacks {} of the tensors asked for, first '{}'{}. Name those that it has by --group.",
                r.name,
                lacking.len(),
                run.manifest.tensors[first].name,
                names::instead(&r.others)
            );
            return Err(Error::NotFound { path: run.path.clone(), what });
        }
    }
    Ok(())
}
