//! Storing a run in another way: transcoding it between storage profiles, bit for bit, or to one that
//! loses something, beside it.
//!
//! Owns what goes along, what is compared, and the order: look, write beside, compare, give it the
//! place; steps are written and compared by `transcript`. How directories are exchanged is `run::upkeep::replace`'s, how steps are read
//! `run::read::step_reader`'s; nothing here knows what a vector means.

mod digest;
mod lossy;
mod others;
pub(crate) mod transcript;

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, Tried};
use crate::memory::check_memory;
use crate::pack::digest::Digest;
use crate::pack::lossy::beyond_bounds;
use crate::pack::others::Others;
use crate::pack::transcript::{RankPlan, Storing};
use crate::regular_file;
use crate::run::format::container::Header;
use crate::run::format::manifest::{Manifest, Storage};
use crate::run::format::vector_id::{StreamId, VectorId};
use crate::run::read::step_reader::StepReader;
use crate::run::upkeep::hold::Held;
use crate::run::upkeep::replace::{Replacement, remove_leftovers, whole_path};
use crate::run::write::writer::Profile;
use crate::run::{Access, FINAL, Run, parent};

/// How the new run is stored, and where.
pub(crate) struct Options {
    /// How vectors are stored.
    pub storing: Storing,
    /// What is lost.
    pub storage: Storage,
    /// The new run; `None` where it takes the place of the old one.
    pub out: Option<PathBuf>,
}

/// What a run takes on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Size {
    /// Bytes of the shards that count.
    pub bytes: u64,
    /// The same in bits a parameter and step.
    pub bits: f64,
}

/// What was done.
pub(crate) struct Packed {
    /// What the run took.
    pub before: Size,
    /// What it takes.
    pub after: Size,
    /// Shards, and their bytes, that later attempts superseded as a whole and that did not go along.
    pub superseded: (usize, u64),
    /// Whether damaged files under `bad/` did not go along.
    pub set_aside: bool,
}

/// A run that is about to be transcoded. No process can record it meanwhile.
pub(crate) struct Pack {
    _held: Held,
    run: Run,
    access: Access,
    manifest: Vec<u8>,
    ranks: Vec<RankPlan>,
    options: Options,
    target: PathBuf,
    before: Size,
}

impl Pack {
    /// Holds the run and looks whether it can be transcoded. What an earlier call left is removed.
    ///
    /// # Errors
    /// A process records the run; something that counts is damaged or missing; there is no room for the
    /// new run, or no place.
    pub(crate) fn prepare(path: &Path, access: Access, options: Options) -> Result<Pack> {
        let path = whole_path(path)?;
        let held = Held::take(&path)?;
        let run = Run::open(&path, access).map_err(|e| refuse(&path, e))?;
        let manifest = manifest(&run, &options)?;
        check_beginning(&run)?;
        run.missing().into_iter().next().map_or(Ok(()), |e| Err(refuse(&path, e)))?;
        run.closing_conflict().map_or(Ok(()), Err)?;
        let ranks = run.ranks().map(|rank| RankPlan::of(&run, rank)).collect::<Result<_>>()?;
        let (before, growth) = look_at_shards(&run, options.storing)?;
        let target = place(&run, &options)?;
        remove_leftovers(&target, &manifest)?;
        let others = Others::find(&run)?.bytes;
        let copied = if options.out.is_some() { others } else { 0 };
        check_room(&target, before.bytes + growth + copied)?;
        Ok(Pack { _held: held, run, access, manifest, ranks, options, target, before })
    }

    /// How many pairs of step and chunk are read, from the old run and then from the new one.
    pub(crate) fn cells(&self) -> u64 {
        let chunks = |rank| self.run.table.count_of_rank(rank) as u64;
        let steps = |plan: &RankPlan| plan.end.saturating_sub(self.run.manifest.first_step());
        2 * (0..).zip(&self.ranks).map(|(rank, plan)| steps(plan) * chunks(rank)).sum::<u64>()
    }

    /// Chunks of a step.
    pub(crate) fn chunks(&self) -> u64 {
        self.run.table.len() as u64
    }

    /// Writes the new run, compares it with the old one, and gives it its place. `progress` is told
    /// pairs of step and chunk that were read, and stored bytes.
    ///
    /// # Errors
    /// A vector is damaged, the new run differs, or the disk refuses. The old run is then as it was, and
    /// nothing is left of the new one.
    pub(crate) fn run(self, progress: &dyn Fn(u64, u64)) -> Result<Packed> {
        let new = Replacement::create(&self.target, &self.manifest)?;
        let stored = Manifest { storage: self.options.storage, ..self.run.manifest.clone() };
        let mut digests = Vec::new();
        for (rank, plan) in (0..).zip(&self.ranks) {
            let mut steps = StepReader::new(&self.run, rank)?;
            let to = (new.path(), &stored, rank);
            digests.push(transcript::write(&mut steps, plan, to, self.options.storing, progress)?);
        }
        let after = self.compare(new.path(), &digests, progress)?;
        // Late, since an analysis may have added a table meanwhile.
        Others::find(&self.run)?.put(&self.run.path, new.path(), self.options.out.is_none())?;
        let mode = std::fs::metadata(&self.run.path).tried("read", &self.run.path)?.permissions().mode();
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(new.path(), permissions).tried("write", new.path())?;
        let superseded = self.run.superseded().iter().map(|f| file_size(&f.path)).sum::<Result<u64>>()?;
        let packed = Packed {
            before: self.before,
            after,
            superseded: (self.run.superseded().len(), superseded),
            set_aside: self.run.path.join("bad").exists(),
        };
        if self.options.out.is_some() {
            new.publish()?
        } else {
            new.replace()?
        }
        Ok(packed)
    }

    /// Reads the new run and compares it with what was read of the old one.
    fn compare(&self, new: &Path, digests: &[Digest], progress: &dyn Fn(u64, u64)) -> Result<Size> {
        let unreadable = |e: Error| {
            self.fault(format!("the new run cannot be read back ({e}). Check the disk, then try again."))
        };
        let run = Run::open(new, self.access).map_err(unreadable)?;
        for (rank, (digest, old)) in (0..).zip(digests.iter().zip(&self.ranks)) {
            let found = transcript::difference(&run, rank, digest, old, progress).map_err(unreadable)?;
            found.map_or(Ok(()), |what| Err(self.bug(&what)))?;
        }
        if run.steps() != self.run.steps() || run.final_step() != self.run.final_step() {
            return Err(self.bug("where the run ends"));
        }
        if run.final_step().is_some() {
            self.compare_final(new)?;
        }
        if !self.options.storage.is_exact()
            && let Some(VectorId { step, stream }) =
                beyond_bounds(&self.run, &run, &|bytes| progress(0, bytes)).map_err(unreadable)?
        {
            let name = run.manifest.stream_name(stream);
            return Err(self.bug(&format!("the {name} of step {step}, within what its codec may lose,")));
        }
        Ok(look_at_shards(&run, self.options.storing).map_err(unreadable)?.0)
    }

    /// The file of the final iterate is made from the shards. A different one in the old run is damaged.
    fn compare_final(&self, new: &Path) -> Result<()> {
        let (made, old) = (new.join(FINAL), self.run.path.join(FINAL));
        if !old.exists() {
            return Ok(());
        }
        // Whatever is wrong with its header, it is not what the shards give; and each has the id of its attempt.
        if final_values(&old).ok() == Some(final_values(&made)?) {
            return Ok(());
        }
        Err(self.fault(format!(
            "{FINAL} is not the final iterate of the shards. `lpa recover` makes it again; then try again."
        )))
    }

    fn bug(&self, what: &str) -> Error {
        self.fault(format!(
            "in the new run, {what} would not be the same. This is a fault of lpa; please report it."
        ))
    }

    fn fault(&self, what: String) -> Error {
        Error::Write { path: self.run.path.clone(), what: format!("nothing was changed, because {what}") }
    }
}

/// The error for a run that is not whole: damage has to be dealt with first.
pub(crate) fn refuse(run: &Path, e: Error) -> Error {
    let what = match e {
        Error::Damaged { path, place, what } => {
            let path = path.strip_prefix(run).unwrap_or(&path).display();
            format!("{path} is damaged{place}: {what}")
        }
        Error::MissingShard { first, last, rank, .. } => {
            format!("the shard of rank {rank} with steps {first} to {last} is missing")
        }
        other => return other,
    };
    let what = format!(
        "nothing was changed, because {what}. Restore it from a copy; `lpa verify` lists all damage, and \
         `lpa recover` puts in order what a crash left."
    );
    Error::Write { path: run.to_owned(), what }
}

/// A new run begins where its manifest says.
///
/// # Errors
/// The run begins elsewhere.
pub(crate) fn check_beginning(run: &Run) -> Result<()> {
    let said = run.manifest.first_step();
    let Some(rank) = run.ranks().find(|&rank| run.first_of_rank(rank) != said) else {
        return Ok(());
    };
    let first = run.first_of_rank(rank);
    let what =
        format!("rank {rank} begins with step {first}, the manifest with step {said}; nothing was changed");
    Err(Error::Write { path: run.path.clone(), what })
}

/// The bytes of the new run's manifest: those of the old one, but for what is lost.
fn manifest(run: &Run, options: &Options) -> Result<Vec<u8>> {
    let (old, bytes) = Manifest::read(&run.path)?;
    let refused = |what: &str| Err(Error::Write { path: run.path.clone(), what: what.to_owned() });
    if !old.storage.is_exact() {
        return refused(
            "it is stored with loss already, and storing it anew would lose more. Take the run that it was made \
             from; nothing was changed",
        );
    }
    if options.storage.is_exact() {
        return Ok(bytes);
    }
    if options.out.is_none() {
        return refused(
            "what is lost does not come back, so the run is kept. Name the new run by --out; nothing was changed",
        );
    }
    let no_json = |e: serde_json::Error| Error::Write { path: run.path.clone(), what: e.to_string() };
    let mut value: serde_json::Value = serde_json::from_slice(&bytes).map_err(no_json)?;
    value["storage"] = serde_json::json!(options.storage);
    let bytes = serde_json::to_vec_pretty(&value).map_err(no_json)?;
    let new = Manifest { storage: options.storage, ..old };
    new.check().map_err(|what| Error::Write { path: run.path.clone(), what })?;
    Ok(bytes)
}

/// Opens every shard that counts. Also returns by how many bytes the new run may be larger, as far as
/// can be told.
///
/// # Errors
/// A shard is damaged or cannot be read.
pub(crate) fn look_at_shards(run: &Run, storing: Storing) -> Result<(Size, u64)> {
    let (mut bytes, mut growth, mut elements) = (0, 0, 0.0);
    for rank in run.ranks() {
        let slices = || run.table.slices_of(rank);
        let parameters: u64 = slices().map(|(_, elements)| elements).sum();
        let size = |tensor: usize| run.manifest.tensors[tensor].dtype.size() as u64;
        let raw: u64 = slices().map(|(tensor, elements)| elements * size(tensor)).sum();
        let what = format!("two vectors of {parameters} elements");
        check_memory(8 * parameters, &what, "Do it on a machine with more")?;
        elements += parameters as f64 * (run.end_of_rank(rank) - run.first_of_rank(rank)) as f64;
        for segment in run.segments(rank) {
            let shard = run.open_shard(&segment.file).map_err(|e| refuse(&run.path, e))?;
            bytes += file_size(&segment.file.path)?;
            let predicted = |v: &&VectorId| {
                v.stream == StreamId::Iterate
                    && (segment.first..=segment.last).contains(&v.step)
                    && shard.keyframe(v.step).is_some_and(|from| from < v.step)
            };
            if !storing.predict {
                growth += shard.vectors().iter().filter(predicted).count() as u64 * raw;
            }
        }
    }
    if storing.profile == Profile::Fast {
        // What packed exponents take more than entropy-coded ones.
        growth += bytes / 25;
    }
    // Of sketches the parameters that they stand for.
    let elements = elements * run.manifest.parameters() as f64 / run.manifest.elements().max(1) as f64;
    let bits = if elements > 0.0 { bytes as f64 * 8.0 / elements } else { 0.0 };
    Ok((Size { bytes, bits }, growth))
}

fn file_size(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).tried("read", path)?.len())
}

/// The error for a place that cannot be taken.
fn refused(path: &Path, what: &str) -> Result<PathBuf> {
    Err(Error::Write { path: path.to_owned(), what: format!("{what}; nothing was changed") })
}

/// The whole path of the new run.
fn place(run: &Run, options: &Options) -> Result<PathBuf> {
    if let Some(out) = &options.out {
        return new_place(out, &[run]);
    }
    match others::first_link(run) {
        Some(below) => {
            let what = format!(
                "a part of it lies elsewhere ({} is a link). Name a new run by --out",
                below.display()
            );
            refused(&run.path, &what)
        }
        None => Ok(run.path.clone()),
    }
}

/// The whole path of a new run, which nothing has and which is in none of `runs`.
///
/// # Errors
/// It is no such path.
pub(crate) fn new_place(out: &Path, runs: &[&Run]) -> Result<PathBuf> {
    if std::fs::symlink_metadata(out).is_ok() {
        return refused(out, "there is something already. Choose another place for the new run");
    }
    let Some(name) = out.file_name() else {
        return refused(out, "this is no name for a new run");
    };
    let directory = parent(out).canonicalize().tried("open", parent(out))?;
    if runs.iter().any(|run| directory.starts_with(&run.path)) {
        return refused(out, "this lies in the run itself. Choose another place for the new run");
    }
    Ok(directory.join(name))
}

/// Checks that `needed` bytes are free where `target` will be.
///
/// # Errors
/// They are not.
pub(crate) fn check_room(target: &Path, needed: u64) -> Result<()> {
    let directory = parent(target);
    let free = rustix::fs::statvfs(directory).tried("look at", directory)?;
    let free = free.f_bavail.saturating_mul(free.f_frsize);
    if free >= needed {
        return Ok(());
    }
    let what = format!(
        "the new run may need {} MB beside the old one, and {} MB are free; nothing was changed. Make room, \
         or write it to another disk by --out.",
        needed.div_ceil(1_000_000),
        free / 1_000_000
    );
    Err(Error::Write { path: directory.to_owned(), what })
}

/// The step of a file of a final iterate, and its values as they lie there.
fn final_values(path: &Path) -> Result<(Option<String>, Vec<u8>)> {
    let mut file = regular_file::open(path).tried("open", path)?;
    let header = Header::read(&file, path)?;
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(header.bytes.len() as u64))
        .and_then(|_| file.read_to_end(&mut bytes))
        .tried("read", path)?;
    Ok((header.value("step").map(str::to_owned), bytes))
}
