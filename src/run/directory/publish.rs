//! Files appear whole or not at all.
//!
//! A file of a run is written under `tmp/`, flushed to the disk, then renamed to its name without
//! replacing anything, and the directory is flushed. A reader therefore never sees a file that
//! changes. A result that may be written again is a [`Draft`] beside its place until it is whole.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, linkat, open, renameat_with};
use rustix::io::Errno;
use tempfile::NamedTempFile;

use crate::error::{Error, Result, Tried};
use crate::regular_file;
use crate::uninterrupted::{list, retry_on_intr};

/// Publishes the finished file `tmp` as `path`. Nothing is replaced: it is an error if `path` exists.
pub(crate) fn publish_new(file: &File, tmp: &Path, path: &Path) -> Result<()> {
    file.sync_data().tried("write", tmp)?;
    name_new(tmp, path)
}

/// Gives the file `tmp`, which was flushed, the name `path`. Nothing is replaced: it is an error if `path` exists.
pub(crate) fn name_new(tmp: &Path, path: &Path) -> Result<()> {
    match renameat_with(CWD, tmp, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        // File systems without the flag (NFS among them) have hard links, which never replace.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            std::fs::hard_link(tmp, path).tried("publish", path)?;
            std::fs::remove_file(tmp).tried("remove", tmp)?;
        }
        Err(e) => return Err(e).tried("publish", path),
    }
    sync_parent(path)
}

/// The directory that holds `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Flushes the directory that holds `path`, so that the name survives a power loss.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let dir = parent(path);
    File::open(dir).and_then(|d| d.sync_all()).tried("write", dir)
}

/// An empty file under a name of its own in `dir`, readable by whom the umask lets.
pub(crate) fn unique_file(dir: &Path, prefix: &str) -> std::io::Result<NamedTempFile> {
    let permissions = Permissions::from_mode(0o666);
    tempfile::Builder::new().prefix(prefix).suffix(".tmp").permissions(permissions).tempfile_in(dir)
}

/// A file that is being written beside its place and then takes it, replacing what is there. A
/// draft that is dropped leaves nothing.
pub(crate) struct Draft {
    tmp: Unpublished,
    path: PathBuf,
}

/// A file that does not have its name yet.
enum Unpublished {
    /// It has none at all, so that nothing is left of it however this process ends.
    Unnamed(File),
    /// Where the file system has only files with names.
    Named(NamedTempFile),
}

impl Unpublished {
    fn create(directory: &Path, prefix: &str) -> std::io::Result<Unpublished> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let unnamed = retry_on_intr(|| open(directory, flags, Mode::from_raw_mode(0o666))).map(File::from);
        Ok(match unnamed {
            Ok(file) if Path::new(&descriptor(&file)).exists() => Unpublished::Unnamed(file),
            _ => Unpublished::Named(unique_file(directory, prefix)?),
        })
    }

    fn file(&self) -> &File {
        match self {
            Unpublished::Unnamed(file) => file,
            Unpublished::Named(file) => file.as_file(),
        }
    }

    /// Gives it its name, in place of what has it.
    fn persist(self, path: &Path, prefix: &str) -> std::io::Result<()> {
        match self {
            Unpublished::Named(file) => file.persist(path).map(drop).map_err(|e| e.error),
            Unpublished::Unnamed(file) => {
                let source = descriptor(&file);
                let link = |name: &Path| {
                    linkat(CWD, &source, CWD, name, AtFlags::SYMLINK_FOLLOW).map_err(std::io::Error::from)
                };
                if link(path).is_ok() {
                    return Ok(());
                }
                // Only renaming replaces, so it has another name for a moment.
                let named =
                    tempfile::Builder::new().prefix(prefix).suffix(".tmp").make_in(parent(path), link);
                match named {
                    Ok(named) => named.persist(path).map(drop).map_err(|e| e.error),
                    // A system that lets no open file have a name gets a copy that has one.
                    Err(_) => copy(&file, unique_file(parent(path), prefix)?, path),
                }
            }
        }
    }
}

/// Writes what is in a file to another one, which takes a place.
fn copy(mut from: &File, to: NamedTempFile, path: &Path) -> std::io::Result<()> {
    from.rewind()?;
    std::io::copy(&mut from, &mut to.as_file())?;
    to.as_file().sync_all()?;
    to.persist(path).map(drop).map_err(|e| e.error)
}

/// Where an open file can be found by path.
fn descriptor(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

impl Draft {
    /// Starts a file that will be `path`.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(crate) fn create(path: &Path) -> Result<Draft> {
        remove_leftovers(path);
        let tmp = Unpublished::create(parent(path), &Draft::prefix(path)).tried("write", path)?;
        Ok(Draft { tmp, path: path.to_owned() })
    }

    /// What the names of its drafts begin with.
    fn prefix(path: &Path) -> String {
        format!(".{}.", path.file_name().unwrap_or_default().to_string_lossy())
    }

    /// The file to write to.
    pub(crate) fn file(&self) -> &File {
        self.tmp.file()
    }

    /// The place that the file will take.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes the file and gives it its name. Returns its size.
    ///
    /// # Errors
    /// The disk refuses, or the directory was moved. What had the name before is then still there.
    pub(crate) fn commit(self) -> Result<u64> {
        let file = self.tmp.file();
        file.sync_all().tried("write", &self.path)?;
        let size = file.metadata().tried("write", &self.path)?.len();
        self.tmp
            .persist(&self.path, &Draft::prefix(&self.path))
            .tried("write", &self.path)
            .map_err(|e| unless_moved(&self.path, e))?;
        sync_parent(&self.path)?;
        Ok(size)
    }
}

/// Removes drafts of a file whose writers were killed where files cannot be without a name: what is older than an hour.
pub(crate) fn remove_leftovers(path: &Path) {
    const HOUR: Duration = Duration::from_secs(3600);
    let prefix = Draft::prefix(path);
    for entry in list(parent(path)).unwrap_or_default() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_old = || entry.metadata().ok()?.modified().ok()?.elapsed().ok().map(|age| age > HOUR);
        if name.starts_with(&prefix) && name.ends_with(".tmp") && is_old() == Some(true) {
            // Another process may remove it at the same time.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// What went wrong with a file whose directory was there; that it is not any more, where that is why.
pub(crate) fn unless_moved(path: &Path, error: Error) -> Error {
    match error {
        Error::Io { source, .. } if source.kind() == ErrorKind::NotFound && !parent(path).is_dir() => {
            let what = "its directory was moved or removed meanwhile; nothing is left half-written. Do the same again when \
                        nobody moves it";
            // The machine is at fault, not what was asked for.
            let source = std::io::Error::new(ErrorKind::StaleNetworkFileHandle, what);
            Error::Io { action: "write", path: path.to_owned(), source }
        }
        other => other,
    }
}

/// Checks that a draft can take a place before there is something to write: that it can be written, and that there is
/// nothing but an older file of its kind (a `figure`, say), which has `mark` near its beginning.
///
/// # Errors
/// It cannot, or there is something else.
pub(crate) fn check_place(path: &Path, kind: &str, mark: &str) -> Result<()> {
    let refused = |source: std::io::Error| Err(source).tried("write", path);
    if let Ok(there) = std::fs::symlink_metadata(path)
        && !(there.is_file() && is_marked(path, mark))
    {
        let what = format!("there is a file that is no {kind} of lpa's; choose another name by --out");
        return refused(std::io::Error::other(what));
    }
    tempfile::tempfile_in(parent(path)).map_or_else(refused, |_| Ok(()))
}

fn is_marked(path: &Path, mark: &str) -> bool {
    let mut head = Vec::new();
    let read = regular_file::open(path).and_then(|file| file.take(256).read_to_end(&mut head));
    read.is_ok() && head.windows(mark.len()).any(|w| w == mark.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_draft_takes_its_place_or_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table");
        let names = || -> Vec<_> {
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        for text in ["first", "a second one"] {
            let draft = Draft::create(&path).unwrap();
            draft.file().write_all(text.as_bytes()).unwrap();
            drop(Draft::create(&path).unwrap());
            assert_eq!(draft.commit().unwrap(), text.len() as u64);
            assert_eq!((std::fs::read_to_string(&path).unwrap(), names().len()), (text.to_owned(), 1));
        }
        // As where an open file can have no name.
        let from = tempfile::tempfile().unwrap();
        (&from).write_all(b"copied").unwrap();
        copy(&from, unique_file(folder.path(), ".table.").unwrap(), &path).unwrap();
        assert_eq!((std::fs::read_to_string(&path).unwrap(), names().len()), ("copied".to_owned(), 1));
    }

    #[test]
    fn old_drafts_of_a_file_are_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let old = std::time::SystemTime::now() - Duration::from_secs(3700);
        for (name, modified) in [
            (".part-0001.sums.abcdef.tmp", Some(old)),
            (".part-0001.sums.ghijkl.tmp", None),
            (".part-0002.sums.abcdef.tmp", Some(old)),
            ("part-0001.sums", Some(old)),
            (".part-0001.sums.notes", Some(old)),
        ] {
            let file = File::create(directory.path().join(name)).unwrap();
            modified.into_iter().for_each(|time| file.set_modified(time).unwrap());
        }
        drop(Draft::create(&directory.path().join("part-0001.sums")).unwrap());
        let names = std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name());
        let mut names: Vec<String> = names.map(|n| n.into_string().unwrap()).collect();
        names.sort();
        let left = [".part-0001.sums.ghijkl.tmp", ".part-0001.sums.notes", ".part-0002.sums.abcdef.tmp"];
        assert_eq!(names, [&left[..], &["part-0001.sums"]].concat());
    }
}
