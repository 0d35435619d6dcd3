//! Calls of the system that a signal can end without an error of theirs, made again until they are done.
//!
//! `std` does so for files, and neither for directories and copies nor does `rustix` for anything. A training has signals of
//! its own: timers of profilers, children that end, a scheduler's warning.

use std::fs::{DirEntry, File, read_dir, remove_dir_all};
use std::io::{ErrorKind, Result};
use std::path::Path;

pub(crate) use rustix::io::retry_on_intr;

/// What a directory holds.
///
/// # Errors
/// There is none, or it cannot be read.
pub(crate) fn list(directory: &Path) -> Result<Vec<DirEntry>> {
    loop {
        // A listing that was interrupted cannot go on where it was.
        match read_dir(directory).and_then(Iterator::collect) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Copies a file, and flushes the copy; its name is the caller's to flush.
///
/// # Errors
/// One cannot be read, or the other written.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    loop {
        match std::fs::copy(from, to) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Ok(_) => return File::open(to)?.sync_all(),
            Err(e) => return Err(e),
        }
    }
}

/// Removes a directory and all that is in it.
///
/// # Errors
/// It is not there, or cannot be removed.
pub(crate) fn remove_all(directory: &Path) -> Result<()> {
    loop {
        match remove_dir_all(directory) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_listed_whole() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        let mut names: Vec<_> = list(folder.path()).unwrap().iter().map(DirEntry::file_name).collect();
        names.sort();
        assert_eq!(names, ["a", "b"]);
        let none = folder.path().join("none");
        assert_eq!(list(&none).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(copy(&none, &folder.path().join("c")).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(remove_all(&none).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
