//! Files appear whole or not at all.
//!
//! A file is written under `tmp/`, flushed to the disk, then renamed to its name without replacing
//! anything, and the directory is flushed. A reader therefore never sees a file that changes.

use std::fs::File;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::error::{Result, Tried};

/// Publishes the finished file `tmp` as `path`. Nothing is replaced: it is an error if `path` exists.
pub(super) fn publish_new(file: &File, tmp: &Path, path: &Path) -> Result<()> {
    file.sync_data().tried("write", tmp)?;
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

/// Flushes the directory that holds `path`, so that the name survives a power loss.
pub fn sync_parent(path: &Path) -> Result<()> {
    let dir = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    File::open(dir).and_then(|d| d.sync_all()).tried("write", dir)
}
