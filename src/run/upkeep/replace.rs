//! A run that takes the place of another: whole, or not at all.
//!
//! Owns the names beside a run under which a draft and what was replaced lie, the order in which they
//! change, and what is done with those that a crash left. A draft gets the run's name only once it is
//! whole, so a run under its own name is whole at any moment, and what lies beside it is not needed.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::error::{Error, Result, Tried};
use crate::regular_file;
use crate::run::directory::MANIFEST;
use crate::run::directory::beside::{DRAFT, REPLACED, beside};
use crate::run::directory::publish::{parent, sync_parent};
use crate::run::upkeep::hold::Held;
use crate::uninterrupted::{list, remove_all};

/// The whole path of a run. Where a crash came between the two renamings of a replacement, what was to
/// be replaced gets its name back first.
///
/// # Errors
/// A process is at work there, or the disk refuses.
pub(crate) fn whole_path(path: &Path) -> Result<PathBuf> {
    if let Ok(whole) = path.canonicalize() {
        return Ok(whole);
    }
    let (Ok(directory), Some(name)) = (parent(path).canonicalize(), path.file_name()) else {
        return Ok(path.to_owned());
    };
    let target = directory.join(name);
    let replaced = beside(&target, REPLACED);
    if replaced.join(MANIFEST).exists() {
        let _held = Held::take(&replaced)?;
        rename_new(&replaced, &target).tried("rename", &replaced)?;
        sync_parent(&target)?;
    }
    Ok(target)
}

/// Removes what a crash left beside `target` while a run with this manifest was written there. The
/// caller holds the run.
///
/// # Errors
/// Something else has the name, a process is at work on it, or it cannot be removed.
pub(crate) fn remove_leftovers(target: &Path, manifest: &[u8]) -> Result<()> {
    for path in [DRAFT, REPLACED].map(|purpose| beside(target, purpose)) {
        if std::fs::symlink_metadata(&path).is_err() {
            continue;
        }
        if !is_leftover(&path, manifest) {
            let what = "it is in the way, and is not what an interrupted lpa pack of this run left. Move it \
                        to another place, or remove it.";
            return Err(Error::Write { path, what: what.to_owned() });
        }
        // Another process may still be removing what it has replaced.
        let _held = match Held::take(&path) {
            Ok(held) => Some(held),
            Err(Error::Write { .. }) => {
                let what = "another lpa pack is at work here; nothing was changed. Wait until it ends.";
                return Err(Error::Write { path, what: what.to_owned() });
            }
            Err(_) => None,
        };
        remove(&path)?;
    }
    Ok(())
}

/// Whether a directory is a draft of the run with this manifest, or that run. The manifest is the first
/// file of a draft, and the last one to be removed.
fn is_leftover(path: &Path, manifest: &[u8]) -> bool {
    let directory = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    let same = || regular_file::read(&path.join(MANIFEST)).is_ok_and(|bytes| bytes == manifest);
    let begun = || list(path).is_ok_and(|entries| entries.iter().all(|e| e.file_name() == MANIFEST));
    directory && (same() || begun())
}

/// Removes a run, the manifest last: until then it can be told what is left.
fn remove(path: &Path) -> Result<()> {
    let gone = |result: std::io::Result<()>| match result {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    let removed = || -> std::io::Result<()> {
        let (mut journals, mut last) = (Vec::new(), None);
        let entries = match list(path) {
            // The process that had replaced it was faster.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let name = entry.file_name();
            match (name.to_string_lossy(), entry.file_type()?.is_dir()) {
                (n, false) if n == MANIFEST => last = Some(entry.path()),
                // Their locks keep others away.
                (n, false) if n.starts_with("journal.") => journals.push(entry.path()),
                (_, false) => gone(std::fs::remove_file(entry.path()))?,
                (_, true) => gone(remove_all(&entry.path()))?,
            }
        }
        journals.into_iter().chain(last).try_for_each(|file| gone(std::fs::remove_file(file)))?;
        gone(std::fs::remove_dir(path))
    };
    removed().tried("remove", path)?;
    sync_parent(path)
}

fn rename_new(from: &Path, to: &Path) -> std::result::Result<(), Errno> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A directory is renamed over an empty one at most.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if !to.exists() => rustix::fs::rename(from, to),
        other => other,
    }
}

/// A run that is being written beside the place that it will take. One that is dropped leaves nothing.
pub(crate) struct Replacement {
    draft: PathBuf,
    target: PathBuf,
    /// What has the draft's name is no draft any more.
    done: bool,
}

impl Replacement {
    /// Starts a run that will be `target`, with its manifest.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn create(target: &Path, manifest: &[u8]) -> Result<Replacement> {
        let draft = beside(target, DRAFT);
        std::fs::create_dir(&draft).tried("create", &draft)?;
        let all = Replacement { draft, target: target.to_owned(), done: false };
        let path = all.draft.join(MANIFEST);
        let written = std::fs::File::create_new(&path).and_then(|mut file| {
            std::io::Write::write_all(&mut file, manifest)?;
            file.sync_all()
        });
        written.tried("write", &path)?;
        for sub in ["steps", "ref", "tmp"] {
            let path = all.draft.join(sub);
            std::fs::create_dir(&path).tried("create", &path)?;
        }
        sync_parent(&path)?;
        sync_parent(&all.draft)?;
        Ok(all)
    }

    /// Where it is written.
    pub(crate) fn path(&self) -> &Path {
        &self.draft
    }

    /// Gives it its name, which nothing has.
    ///
    /// # Errors
    /// Something has it, or the disk refuses.
    pub(crate) fn publish(mut self) -> Result<()> {
        rename_new(&self.draft, &self.target).tried("create", &self.target)?;
        self.done = true;
        sync_parent(&self.target)
    }

    /// Gives it the name of the run that it replaces, and removes that. The caller holds that run.
    ///
    /// # Errors
    /// The file system does not let it be renamed; or what was replaced cannot be removed.
    pub(crate) fn replace(self) -> Result<()> {
        match renameat_with(CWD, &self.draft, CWD, &self.target, RenameFlags::EXCHANGE) {
            Ok(()) => self.remove_old(DRAFT),
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => self.replace_in_two(),
            Err(e) => Err(self.stuck(e)),
        }
    }

    /// The same where directories cannot be exchanged.
    fn replace_in_two(self) -> Result<()> {
        let replaced = beside(&self.target, REPLACED);
        rename_new(&self.target, &replaced).map_err(|e| self.stuck(e))?;
        if let Err(e) = rename_new(&self.draft, &self.target) {
            // If this fails too, the next call does it.
            let _ = rename_new(&replaced, &self.target);
            return Err(self.stuck(e));
        }
        self.remove_old(REPLACED)
    }

    fn stuck(&self, e: Errno) -> Error {
        let what = format!(
            "the directory cannot be replaced here ({e}); nothing was changed. Write the new run to another \
             place by --out."
        );
        Error::Write { path: self.target.clone(), what }
    }

    fn remove_old(mut self, purpose: &str) -> Result<()> {
        self.done = true;
        sync_parent(&self.target)?;
        let old = beside(&self.target, purpose);
        remove(&old).map_err(|e| Error::Write {
            path: self.target.clone(),
            what: format!("the new run is in place and whole, but not all of the old one is removed: {e}"),
        })
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.done {
            // What is left is removed by the next call.
            let _ = remove(&self.draft);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::format::manifest::Manifest;

    fn run(path: &Path, note: &str) -> Vec<u8> {
        let bytes = serde_json::to_vec(&Manifest::new(vec![], vec![]).unwrap()).unwrap();
        std::fs::create_dir_all(path.join("steps/000000")).unwrap();
        std::fs::write(path.join(MANIFEST), &bytes).unwrap();
        std::fs::write(path.join("steps/000000/note"), note).unwrap();
        bytes
    }

    fn note(path: &Path) -> String {
        std::fs::read_to_string(path.join("steps/000000/note")).unwrap()
    }

    fn draft(target: &Path, manifest: &[u8]) -> Replacement {
        let draft = Replacement::create(target, manifest).unwrap();
        std::fs::create_dir(draft.path().join("steps/000000")).unwrap();
        std::fs::write(draft.path().join("steps/000000/note"), "new").unwrap();
        draft
    }

    #[test]
    fn a_run_is_replaced_in_either_way_and_nothing_is_left_beside_it() {
        for way in [Replacement::replace, Replacement::replace_in_two] {
            let dir = tempfile::tempdir().unwrap();
            let target = dir.path().join("run");
            let manifest = run(&target, "old");
            drop(draft(&target, &manifest));
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
            way(draft(&target, &manifest)).unwrap();
            assert_eq!(note(&target), "new");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn where_a_crash_came_between_two_renamings_the_old_run_gets_its_name_back() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("run");
        let manifest = run(&target, "old");
        let new = draft(&target, &manifest);
        std::fs::rename(&target, beside(&target, REPLACED)).unwrap();
        std::mem::forget(new);
        assert_eq!(whole_path(&target).unwrap(), target.canonicalize().unwrap());
        assert_eq!(note(&target), "old");
        remove_leftovers(&target, &manifest).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn only_what_is_of_this_run_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("run");
        let manifest = run(&target, "old");
        for purpose in [DRAFT, REPLACED] {
            let other = beside(&target, purpose);
            run(&other, "another run");
            assert!(remove_leftovers(&target, &manifest).unwrap_err().to_string().contains("in the way"));
            assert_eq!(note(&other), "another run");
            std::fs::remove_file(other.join(MANIFEST)).unwrap();
            assert!(remove_leftovers(&target, &manifest).is_err());
            std::fs::remove_dir_all(other.join("steps")).unwrap();
            // Empty, with a torn manifest, and the run with what is left of it.
            remove_leftovers(&target, &manifest).unwrap();
            std::fs::create_dir(&other).unwrap();
            std::fs::write(other.join(MANIFEST), &manifest[..9]).unwrap();
            remove_leftovers(&target, &manifest).unwrap();
            std::fs::create_dir(&other).unwrap();
            std::fs::write(other.join(MANIFEST), &manifest).unwrap();
            std::fs::write(other.join("left"), "").unwrap();
            remove_leftovers(&target, &manifest).unwrap();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }
}
