//! Tables that stay what they were while they are looked at.
//!
//! Whoever makes a table anew puts it in the place of the old one, at any time. What is read of one in several goes is of
//! one file all the same, as long as somebody has it open. Knows nothing of what is in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Result, Tried};
use crate::regular_file;

/// By path, what was found there, and how many have it open.
static OPENED: Mutex<BTreeMap<PathBuf, (Arc<File>, usize)>> = Mutex::new(BTreeMap::new());

fn all() -> MutexGuard<'static, BTreeMap<PathBuf, (Arc<File>, usize)>> {
    OPENED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A table that is the same file for whoever reads it by this path, as long as this lives.
#[derive(Debug)]
pub(crate) struct Opened(PathBuf);

impl Opened {
    /// Opens what lies at a path now, unless somebody has.
    ///
    /// # Errors
    /// There is no file, or it cannot be read.
    pub(crate) fn new(path: &Path) -> Result<Opened> {
        let mut all = all();
        match all.get_mut(path) {
            Some((_, count)) => *count += 1,
            None => {
                let file = regular_file::open(path).tried("read", path)?;
                drop(all.insert(path.to_owned(), (Arc::new(file), 1)));
            }
        }
        Ok(Opened(path.to_owned()))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let mut all = all();
        if let Some((_, count)) = all.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                drop(all.remove(&self.0));
            }
        }
    }
}

/// The file of a table: what somebody has opened, or what lies there now.
///
/// # Errors
/// There is no file, or it cannot be read.
pub(super) fn file(path: &Path) -> std::io::Result<Arc<File>> {
    let opened = all().get(path).map(|(file, _)| Arc::clone(file));
    opened.map_or_else(|| regular_file::open(path).map(Arc::new), Ok)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_is_opened_stays_until_nobody_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, next) = (folder.path().join("table"), folder.path().join("next"));
        let put =
            |text: &str| std::fs::write(&next, text).and_then(|()| std::fs::rename(&next, &path)).unwrap();
        let found = || {
            let mut byte = [0];
            file(&path).unwrap().read_exact_at(&mut byte, 0).unwrap();
            byte[0]
        };
        put("a");
        let [first, second] = [(); 2].map(|()| Opened::new(&path).unwrap());
        put("b");
        assert_eq!(found(), b'a');
        drop(first);
        assert_eq!(found(), b'a');
        drop(second);
        assert_eq!(found(), b'b');
        assert!(Opened::new(&folder.path().join("none")).is_err());
    }
}
