//! Removing what a run will never read again.
//!
//! Owns what that is: shards without a step that counts, iterates in full of such steps, files of dead writers, directories that
//! are empty then. A shard that is superseded in part stays whole, and so does one whose header does not say that it
//! is what its name says, of this run. Whatever is removed first, and
//! wherever a crash stops it, the run reads the same: no step that counts is in any of these files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, Tried};
use crate::regular_file;
use crate::run::directory::inside::Inside;
use crate::run::directory::publish::parent;
use crate::run::format::container::Header;
use crate::run::format::in_full::{KEYFRAMES, keyframe_path, keyframe_step};
use crate::run::format::journal;
use crate::run::format::shard_name::{ShardFile, is_directory_name};
use crate::run::read::shard::check_header;
use crate::run::upkeep::hold::{Held, being_recorded};
use crate::run::upkeep::leftover::{Leftover, leftovers, remove};
use crate::run::{Access, Run};
use crate::uninterrupted::list;

/// What can be removed from a run.
pub(crate) struct Garbage {
    /// Superseded shards and their sizes.
    pub shards: Vec<(ShardFile, u64)>,
    /// Iterates in full of steps that do not count, by their paths below the run, and their sizes.
    pub in_full: Vec<(PathBuf, u64)>,
    /// Files of dead writers.
    pub leftovers: Vec<Leftover>,
    /// Names of directories of shards in which nothing is left then.
    pub directories: Vec<OsString>,
    /// Why a superseded shard stays: its header is damaged, or not of this run.
    pub foreign: Vec<Error>,
    /// Shards that are superseded in part, and stay.
    pub partly: usize,
    /// Steps of which only superseded shards tell, where the run is not complete.
    pub only_here: Range<u64>,
}

impl Garbage {
    /// Whether there is nothing to remove.
    pub(crate) fn is_empty(&self) -> bool {
        self.shards.is_empty()
            && self.in_full.is_empty()
            && self.leftovers.is_empty()
            && self.directories.is_empty()
    }

    /// How much removing it frees.
    pub(crate) fn bytes(&self) -> u64 {
        let shards = self.shards.iter().map(|(_, bytes)| bytes);
        let in_full = self.in_full.iter().map(|(_, bytes)| bytes);
        shards.chain(in_full).chain(self.leftovers.iter().map(|l| &l.bytes)).sum()
    }
}

/// Looks what can be removed, and changes nothing.
///
/// # Errors
/// A process is recording the run; its manifest, a journal or a shard that counts is damaged; or a
/// shard is missing, so that what an earlier attempt wrote of its steps may be wanted.
pub(crate) fn find_garbage(path: &Path, access: Access) -> Result<Garbage> {
    let run = Run::open(path, access)?;
    if run.is_being_written() {
        return Err(being_recorded(path));
    }
    find(&run, |rank| journal::path(path, rank).exists())
}

/// Removes what [`find_garbage`] would find, and returns it. No recording can start meanwhile.
///
/// # Errors
/// As [`find_garbage`]; then nothing was removed. Or the disk refuses.
pub(crate) fn remove_garbage(path: &Path, access: Access) -> Result<Garbage> {
    let held = Held::take(path)?;
    let run = Run::open(path, access)?;
    let garbage = find(&run, |rank| held.holds(rank))?;
    let mut by_directory: BTreeMap<&Path, Vec<&ShardFile>> = BTreeMap::new();
    for (file, _) in &garbage.shards {
        by_directory.entry(parent(&file.path)).or_default().push(file);
    }
    for (directory, files) in by_directory {
        let inside = Inside::open(path, directory.strip_prefix(path).unwrap_or(directory))?;
        for file in files {
            inside.remove_file(file.name.file_name().as_ref())?;
        }
        inside.sync()?;
    }
    if !garbage.directories.is_empty() {
        let steps = Inside::open(path, Path::new("steps"))?;
        garbage.directories.iter().try_for_each(|name| steps.remove_directory(name))?;
        steps.sync()?;
    }
    if !garbage.in_full.is_empty() {
        let inside = Inside::open(path, Path::new(KEYFRAMES))?;
        let mut names = garbage.in_full.iter().filter_map(|(below, _)| below.file_name());
        names.try_for_each(|name| inside.remove_file(name))?;
        inside.sync()?;
    }
    remove(path, &garbage.leftovers, &held)?;
    Ok(garbage)
}

fn find(run: &Run, dead: impl Fn(u32) -> bool) -> Result<Garbage> {
    check_whole(run)?;
    let (mut shards, mut foreign) = (Vec::new(), Vec::new());
    let mut inside: Option<Inside> = None;
    for file in run.superseded() {
        let directory = parent(&file.path);
        let at = match inside.take().filter(|i| i.path() == directory) {
            Some(at) => at,
            None => Inside::open(&run.path, directory.strip_prefix(&run.path).unwrap_or(directory))?,
        };
        at.check(file.name.file_name().as_ref())?;
        inside = Some(at);
        match check_header(file, &run.manifest) {
            Ok(()) => {
                let bytes = std::fs::metadata(&file.path).tried("read", &file.path)?.len();
                shards.push((file.clone(), bytes));
            }
            Err(e) if e.is_damage() => foreign.push(e),
            Err(e) => return Err(e),
        }
    }
    let segments = || run.all_segments();
    let counted = run.steps().end;
    let written = shards.iter().map(|(file, _)| file.name.last + 1).max().unwrap_or(0);
    let complete = run.final_step().is_some();
    Ok(Garbage {
        directories: left_empty(&run.path, &shards)?,
        in_full: superseded_in_full(run)?,
        foreign,
        leftovers: leftovers(&run.path, dead)?,
        partly: segments().filter(|s| s.last < s.file.name.last).count(),
        only_here: if complete { 0..0 } else { counted..written.max(counted) },
        shards,
    })
}

/// The iterates in full of which no step that counts is. A file with another header stays, whoever put it there.
fn superseded_in_full(run: &Run) -> Result<Vec<(PathBuf, u64)>> {
    let directory = run.path.join(KEYFRAMES);
    if run.manifest.sketch.is_none() || !directory.exists() {
        return Ok(Vec::new());
    }
    let counting: BTreeSet<u64> = run.keyframes_in_full()?.into_iter().map(|(step, _)| step).collect();
    let mut all = Vec::new();
    for entry in list(&directory).tried("list", &directory)? {
        let path = entry.path();
        let step = entry.file_name().to_str().and_then(keyframe_step);
        let Some(step) = step.filter(|step| !counting.contains(step)) else { continue };
        Inside::open(&run.path, Path::new(KEYFRAMES))?.check(&entry.file_name())?;
        let header = regular_file::open(&path).ok().and_then(|file| Header::read(&file, &path).ok());
        if header.is_some_and(|h| h.value("step") == Some(step.to_string().as_str())) {
            all.push((keyframe_path(step), entry.metadata().tried("read", &path)?.len()));
        }
    }
    all.sort();
    Ok(all)
}

/// Checks that every step that counts can be read, as far as headers and indices tell.
fn check_whole(run: &Run) -> Result<()> {
    let refuse = |what: &str, of: String| Error::Write {
        path: run.path.clone(),
        what: format!(
            "nothing was removed, because a shard that counts is {what}: {of}. What an earlier attempt \
             recorded of these steps may be wanted; restore the shard from a copy first."
        ),
    };
    match run.missing().into_iter().next() {
        None => {}
        Some(Error::MissingShard { first, last, rank, .. }) => {
            return Err(refuse("missing", format!("rank {rank}, steps {first} to {last}")));
        }
        Some(other) => return Err(other),
    }
    for segment in run.all_segments() {
        match run.open_shard(&segment.file) {
            Ok(_) => {}
            Err(Error::Damaged { path, place, what }) => {
                return Err(refuse("damaged", format!("{}{place}, {what}", path.display())));
            }
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

/// The directories of shards that hold nothing but `shards`.
fn left_empty(run: &Path, shards: &[(ShardFile, u64)]) -> Result<Vec<OsString>> {
    let removed: BTreeSet<&Path> = shards.iter().map(|(file, _)| file.path.as_path()).collect();
    let steps = run.join("steps");
    let mut all = Vec::new();
    for entry in list(&steps).tried("list", &steps)? {
        let (directory, name) = (entry.path(), entry.file_name());
        // A link is none.
        let is_directory = entry.file_type().tried("read", &directory)?.is_dir();
        if !is_directory || !name.to_str().is_some_and(is_directory_name) {
            continue;
        }
        let mut stays = false;
        for entry in list(&directory).tried("list", &directory)? {
            let path = entry.path();
            stays |= !removed.contains(path.as_path());
        }
        if !stays {
            all.push(name);
        }
    }
    all.sort();
    Ok(all)
}
