//! Files of a run that are not lpa's: tables, references, notes. They go along as they are.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, Tried};
use crate::run::directory::MANIFEST;
use crate::run::format::journal;
use crate::run::format::shard_name::{ShardName, is_directory_name};
use crate::run::{FINAL, Run};
use crate::uninterrupted;
use crate::uninterrupted::list;

/// What is in a run besides what lpa recorded. Paths are below the run.
pub(super) struct Others {
    directories: Vec<PathBuf>,
    files: Vec<PathBuf>,
    /// Bytes of the files.
    pub(super) bytes: u64,
}

impl Others {
    /// Looks through the directory of `run`. What is under `tmp/` and `bad/` does not go along.
    ///
    /// # Errors
    /// It cannot be read, or has something that cannot be copied.
    pub(super) fn find(run: &Run) -> Result<Others> {
        let mut all = Others { directories: Vec::new(), files: Vec::new(), bytes: 0 };
        let mut rest = vec![PathBuf::new()];
        while let Some(directory) = rest.pop() {
            let path = run.path.join(&directory);
            for entry in list(&path).tried("list", &path)? {
                let below = directory.join(entry.file_name());
                let kind = entry.file_type().tried("read", &entry.path())?;
                if is_own(run, &below) {
                    continue;
                }
                if is_directory_of_shards(&below) && run.path.join(&below).is_dir() {
                    // Through a link too: the new run has a directory in its place.
                    rest.push(below);
                } else if kind.is_dir() {
                    all.directories.push(below.clone());
                    rest.push(below);
                } else if kind.is_file() || kind.is_symlink() {
                    all.bytes += entry.metadata().tried("read", &entry.path())?.len();
                    all.files.push(below);
                } else {
                    let what = "it is neither a file nor a directory, and cannot go along; nothing was \
                                changed. Move it to another place first.";
                    return Err(Error::Write { path: entry.path(), what: what.to_owned() });
                }
            }
        }
        Ok(all)
    }

    /// Puts them into the directory `to`: under a second name of the same file where `link` is set and
    /// the file system can, else as copies.
    ///
    /// # Errors
    /// One cannot be read, or the disk refuses.
    pub(super) fn put(&self, from: &Path, to: &Path, link: bool) -> Result<()> {
        for directory in &self.directories {
            let into = to.join(directory);
            std::fs::create_dir_all(&into).tried("create", &into)?;
        }
        for file in &self.files {
            let (from, into) = (from.join(file), to.join(file));
            if let Some(directory) = into.parent() {
                std::fs::create_dir_all(directory).tried("create", directory)?;
            }
            if !(link && std::fs::hard_link(&from, &into).is_ok()) {
                copy(&from, &into)?;
            }
        }
        let changed = self.files.iter().chain(&self.directories).filter_map(|path| path.parent());
        let changed: std::collections::BTreeSet<&Path> = changed.collect();
        for directory in changed {
            let path = to.join(directory);
            File::open(&path).and_then(|d| d.sync_all()).tried("write", &path)?;
        }
        Ok(())
    }
}

/// The first of what lpa recorded, by path below the run, that is a link; `None` where nothing is.
pub(super) fn first_link(run: &Run) -> Option<PathBuf> {
    let mut all: Vec<PathBuf> = [MANIFEST, "steps", "ref", FINAL].map(PathBuf::from).to_vec();
    let below = |path: &Path| path.strip_prefix(&run.path).unwrap_or(path).to_owned();
    for rank in run.ranks() {
        all.push(below(&journal::path(&run.path, rank)));
        for file in run.segments(rank).iter().map(|s| &s.file.path) {
            all.extend(file.parent().map(below));
            all.push(below(file));
        }
    }
    all.into_iter().find(|path| std::fs::symlink_metadata(run.path.join(path)).is_ok_and(|m| m.is_symlink()))
}

/// Whether lpa wrote it and it is made anew, or does not go along.
fn is_own(run: &Run, below: &Path) -> bool {
    let name = below.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let depth = below.components().count();
    let journals = || run.ranks().any(|rank| journal::path(&run.path, rank).ends_with(name));
    match depth {
        1 => ["tmp", "bad", MANIFEST].contains(&name) || (name.starts_with("journal.r") && journals()),
        2 => below == Path::new(FINAL) && run.final_step().is_some(),
        3 => {
            let shard = ShardName::parse(name);
            shard.is_some_and(|s| below == Path::new("steps").join(s.directory()).join(s.file_name()))
        }
        _ => false,
    }
}

/// `steps`, `ref` and what the shards lie in: the writer makes those that it needs.
fn is_directory_of_shards(below: &Path) -> bool {
    let name = below.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    ["steps", "ref"].map(Path::new).contains(&below)
        || (below.parent() == Some(Path::new("steps")) && is_directory_name(name))
}

/// Copies a file with its permissions and time, or makes the same link.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let meta = std::fs::symlink_metadata(from).tried("read", from)?;
    if meta.is_symlink() {
        let target = std::fs::read_link(from).tried("read", from)?;
        return std::os::unix::fs::symlink(target, to).tried("create", to);
    }
    uninterrupted::copy(from, to).tried("copy to", to)?;
    let file = File::open(to).tried("open", to)?;
    let time = meta.modified().map_or(Ok(()), |time| file.set_modified(time));
    time.and_then(|()| file.sync_all()).tried("write", to)
}
