//! Changing what is below a run, and nothing that lies elsewhere.
//!
//! Owns the rule that links below a run are followed for reading only: somebody else may have put them
//! there, or they lead to another disk whose files others use too. The run's own path may be a link.
//! Directories are opened one below the other, so that none can become a link meanwhile.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fsync, mkdirat, openat, statat, unlinkat};
use rustix::io::Errno;

use crate::error::{Error, Result, Tried};
use crate::uninterrupted::retry_on_intr;

/// What a directory is opened with.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory of a run, to which no link below the run leads.
pub(crate) struct Inside {
    directory: OwnedFd,
    path: PathBuf,
}

impl Inside {
    /// The run itself, by a link or not.
    ///
    /// # Errors
    /// There is no such directory.
    pub(crate) fn run(run: &Path) -> Result<Inside> {
        let directory =
            retry_on_intr(|| rustix::fs::open(run, DIRECTORY, Mode::empty())).tried("open", run)?;
        Ok(Inside { directory, path: run.to_owned() })
    }

    /// The directory `below` a run.
    ///
    /// # Errors
    /// It is not there, or a link leads there.
    pub(crate) fn open(run: &Path, below: &Path) -> Result<Inside> {
        names(below).iter().try_fold(Inside::run(run)?, |at, name| at.enter(name))
    }

    /// The same, made where it is not there.
    ///
    /// # Errors
    /// A link leads there, or the disk refuses.
    pub(crate) fn make(run: &Path, below: &Path) -> Result<Inside> {
        let names = names(below);
        names.iter().try_fold(Inside::run(run)?, |at, name| {
            match mkdirat(&at.directory, name, Mode::from_raw_mode(0o777)) {
                Ok(()) => at.sync()?,
                // Another process may have made it, and not have flushed it yet.
                Err(Errno::EXIST) if Some(name) == names.last() => at.sync()?,
                Err(Errno::EXIST) => {}
                Err(e) => return Err(e).tried("create", &at.path.join(name)),
            }
            at.enter(name)
        })
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn enter(self, name: &OsStr) -> Result<Inside> {
        let path = self.path.join(name);
        match retry_on_intr(|| openat(&self.directory, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())) {
            Ok(directory) => Ok(Inside { directory, path }),
            Err(_) if self.kind(name)? == Some(FileType::Symlink) => Err(link(&path)),
            Err(e) => Err(e).tried("open", &path),
        }
    }

    /// What has a name here; `None` where nothing has.
    fn kind(&self, name: &OsStr) -> Result<Option<FileType>> {
        match statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e).tried("read", &self.path.join(name)),
        }
    }

    /// Whether something has a name here.
    ///
    /// # Errors
    /// That cannot be known.
    pub(crate) fn has(&self, name: &OsStr) -> Result<bool> {
        Ok(self.kind(name)?.is_some())
    }

    /// Checks that a name here is no link.
    ///
    /// # Errors
    /// It is.
    pub(crate) fn check(&self, name: &OsStr) -> Result<()> {
        match self.kind(name)? {
            Some(FileType::Symlink) => Err(link(&self.path.join(name))),
            _ => Ok(()),
        }
    }

    /// Opens a file for writing, as `how` says.
    ///
    /// # Errors
    /// It is a link, or the disk refuses.
    pub(crate) fn file(&self, name: &OsStr, how: OFlags) -> Result<File> {
        let flags = how | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match retry_on_intr(|| openat(&self.directory, name, flags, Mode::from_raw_mode(0o666))) {
            Ok(file) => Ok(File::from(file)),
            Err(Errno::LOOP) => Err(link(&self.path.join(name))),
            Err(e) => Err(e).tried("open", &self.path.join(name)),
        }
    }

    /// Removes a file, or finds that it is gone.
    ///
    /// # Errors
    /// It is a link, or the disk refuses.
    pub(crate) fn remove_file(&self, name: &OsStr) -> Result<()> {
        self.check(name)?;
        self.remove(name, AtFlags::empty())
    }

    /// Removes an empty directory, or finds that it is gone.
    ///
    /// # Errors
    /// It is none, it is not empty, or the disk refuses.
    pub(crate) fn remove_directory(&self, name: &OsStr) -> Result<()> {
        self.remove(name, AtFlags::REMOVEDIR)
    }

    fn remove(&self, name: &OsStr, how: AtFlags) -> Result<()> {
        match unlinkat(&self.directory, name, how) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e).tried("remove", &self.path.join(name)),
        }
    }

    /// Gives a file here another name in `to`, where nothing has it.
    ///
    /// # Errors
    /// It is a link, or the disk refuses.
    pub(crate) fn rename(&self, name: &OsStr, to: &Inside, new: &OsStr) -> Result<()> {
        self.check(name)?;
        rustix::fs::renameat(&self.directory, name, &to.directory, new)
            .tried("move", &self.path.join(name))?;
        to.sync()?;
        self.sync()
    }

    /// Flushes the directory, so that its names survive a power loss.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn sync(&self) -> Result<()> {
        retry_on_intr(|| fsync(&self.directory)).tried("write", &self.path)
    }
}

/// The names that lead from a run to what is below it.
fn names(below: &Path) -> Vec<OsString> {
    let name = |c: Component<'_>| match c {
        Component::Normal(name) => Some(name.to_owned()),
        _ => None,
    };
    below.components().filter_map(name).collect()
}

/// The error for a link below a run.
fn link(path: &Path) -> Error {
    let what = "it is a link, and below a run lpa reads through links but neither writes nor removes anything. Put \
                in its place what it leads to; or put the whole run there, and make a link to that.";
    Error::Write { path: path.to_owned(), what: what.to_owned() }
}
