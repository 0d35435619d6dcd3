//! `bad/`: damaged files that were set aside, and why.
//!
//! Owns the directory and `reasons.txt` in it. Nothing reads it; a file that was set aside can be
//! put back by hand, since its line says where it was.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::error::{Result, Tried};
use crate::run::directory::inside::Inside;

/// The directory in a run.
const BAD: &str = "bad";
/// A line for each file: its name here, where it was, and why it is here.
const REASONS: &str = "reasons.txt";

/// Checks that a file of a run can be moved into `bad/`. `file` is the path below the run.
///
/// # Errors
/// It is a link, or a link leads to it or to `bad/`.
pub(crate) fn check_movable(run: &Path, file: &Path) -> Result<()> {
    let inside = Inside::run(run)?;
    inside.check(BAD.as_ref())?;
    if inside.has(BAD.as_ref())? {
        Inside::open(run, Path::new(BAD))?.check(REASONS.as_ref())?;
    }
    Inside::open(run, file.parent().unwrap_or(Path::new("")))?.check(file.file_name().unwrap_or_default())
}

/// Moves a file of a run into `bad/` and notes why. `file` is the path below the run, and so is what
/// is returned. The caller holds the run's locks.
///
/// # Errors
/// As [`check_movable`], or the disk refuses.
pub(crate) fn set_aside(run: &Path, file: &Path, why: &str) -> Result<PathBuf> {
    check_movable(run, file)?;
    let bad = Inside::make(run, Path::new(BAD))?;
    let from = Inside::open(run, file.parent().unwrap_or(Path::new("")))?;
    let name = file.file_name().unwrap_or_default();
    let (mut to, mut copies) = (name.to_owned(), 1);
    while bad.has(&to)? {
        copies += 1;
        to = OsString::from(format!("{}.{copies}", name.to_string_lossy()));
    }
    let below = Path::new(BAD).join(&to);
    // The reason first: after a crash a line too many does no harm, a file without one would.
    let line = format!("{} was {}: {why}\n", below.display(), file.display());
    let mut reasons = bad.file(REASONS.as_ref(), OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND)?;
    let written = reasons.write_all(line.as_bytes()).and_then(|()| reasons.sync_all());
    written.tried("write", &bad.path().join(REASONS))?;
    from.rename(name, &bad, &to)?;
    Ok(below)
}
