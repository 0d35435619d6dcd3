//! Holding a run still: the locks of all its journals, so that no process records meanwhile.
//!
//! Owns taking the locks, refusing where a process records, and what only who holds them may do to
//! a journal. What else is done under them is not known here.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Error, Result, Tried};
use crate::regular_file;
use crate::run::directory::inside::Inside;
use crate::run::format::journal;
use crate::run::format::manifest::Manifest;
use crate::run::upkeep::holders::holders;
use crate::uninterrupted::retry_on_intr;

/// A reader that looks whether the run is being written holds a lock for a moment; processes that a
/// killed training has forked (PyTorch's data loaders) hold it until they notice, after 5 s.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_millis(50);
/// A file that was locked is looked for under its name so often; some file systems cannot tell.
pub(crate) const MOST_TRIES: u32 = 3;

/// The locks of a run, held until this is dropped.
#[derive(Debug)]
pub struct Held {
    run: PathBuf,
    /// By rank; `None` where the rank has no journal.
    journals: Vec<Option<File>>,
}

impl Held {
    /// Takes the lock of every rank's journal.
    ///
    /// # Errors
    /// It is no run, a process is recording it, or the file system has no locks.
    pub fn take(run: &Path) -> Result<Held> {
        let deadline = Instant::now() + PATIENCE;
        let mut tries = 0;
        loop {
            let held = Held::take_named(run, deadline)?;
            tries += 1;
            // `lpa pack` may have put another run in the place of this one meanwhile.
            let named = |(rank, journal)| is_named(journal, &journal::path(run, rank));
            let there = (0..).zip(&held.journals).filter_map(|(rank, j)| Some((rank, j.as_ref()?)));
            if there.into_iter().all(named) || tries == MOST_TRIES {
                return Ok(held);
            }
        }
    }

    fn take_named(run: &Path, deadline: Instant) -> Result<Held> {
        let (manifest, _) = Manifest::read(run)?;
        let mut journals = Vec::new();
        for rank in 0..manifest.world {
            let path = journal::path(run, rank);
            journals.push(match regular_file::open_as(&path, OpenOptions::new().read(true).write(true)) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
                other => Some(other.tried("open", &path)?),
            });
        }
        for journal in journals.iter().flatten() {
            lock(journal, run, deadline)?;
        }
        Ok(Held { run: run.to_owned(), journals })
    }

    /// Whether the lock of `rank` is held. A rank without a journal has none, and may begin to record.
    pub fn holds(&self, rank: u32) -> bool {
        self.journals.get(rank as usize).is_some_and(Option::is_some)
    }

    /// How many bytes follow the first `whole_len` of a journal, if they can be cut off.
    ///
    /// # Errors
    /// There are some, and it is a link.
    pub(crate) fn torn(&self, rank: u32, whole_len: u64) -> Result<u64> {
        let Some(journal) = self.journals.get(rank as usize).and_then(Option::as_ref) else {
            return Ok(0);
        };
        let path = journal::path(&self.run, rank);
        let torn = journal.metadata().tried("read", &path)?.len().saturating_sub(whole_len);
        if torn > 0 {
            Inside::run(&self.run)?.check(path.file_name().unwrap_or_default())?;
        }
        Ok(torn)
    }

    /// Cuts off what follows the first `whole_len` bytes of a journal, and returns how many bytes
    /// that were.
    ///
    /// # Errors
    /// It is a link, or the disk refuses.
    pub(crate) fn cut_journal(&self, rank: u32, whole_len: u64) -> Result<u64> {
        let Some(journal) = self.journals.get(rank as usize).and_then(Option::as_ref) else {
            return Ok(0);
        };
        let path = journal::path(&self.run, rank);
        let torn = self.torn(rank, whole_len)?;
        if torn > 0 {
            journal.set_len(whole_len).and_then(|()| journal.sync_all()).tried("write", &path)?;
        }
        Ok(torn)
    }
}

fn lock(journal: &File, run: &Path, deadline: Instant) -> Result<()> {
    wait_for_lock(journal, deadline).map_err(|e| match e {
        Errno::WOULDBLOCK => being_recorded(run),
        e => {
            let what = format!(
                "whether a process is recording here cannot be known, since the file system has no locks \
                 ({e}). Copy the run to a local disk first."
            );
            Error::Write { path: run.to_owned(), what }
        }
    })
}

/// Takes the lock of a journal, for which it waits up to `deadline`: then the error is `WOULDBLOCK`.
pub(crate) fn wait_for_lock(journal: &File, deadline: Instant) -> std::result::Result<(), Errno> {
    loop {
        match retry_on_intr(|| flock(journal, FlockOperation::NonBlockingLockExclusive)) {
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
}

/// Whether `path` is still the name of an open file.
pub(crate) fn is_named(file: &File, path: &Path) -> bool {
    let (open, named) = (file.metadata(), std::fs::metadata(path));
    open.is_ok_and(|o| named.is_ok_and(|n| (o.dev(), o.ino()) == (n.dev(), n.ino())))
}

/// The error for a run that may not be changed now.
pub(crate) fn being_recorded(run: &Path) -> Error {
    let journals: Vec<File> =
        (0..).map_while(|rank| regular_file::open(&journal::path(run, rank)).ok()).collect();
    let by = holders(&journals.iter().collect::<Vec<_>>());
    let what = format!("a process is recording here; nothing was changed. Wait until it ends.{by}");
    Error::Write { path: run.to_owned(), what }
}
