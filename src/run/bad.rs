//! `bad/`: damaged files that were set aside, and why.
//!
//! Owns the directory and `reasons.txt` in it. Nothing reads it; a file that was set aside can be
//! put back by hand, since its line says where it was.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::publish::sync_parent;
use crate::error::{Result, Tried};

/// The directory in a run.
const BAD: &str = "bad";
/// A line for each file: its name here, where it was, and why it is here.
const REASONS: &str = "reasons.txt";

/// Moves a file of a run into `bad/` and notes why. `file` is the path below the run, and so is what
/// is returned. The caller holds the run's locks.
///
/// # Errors
/// The disk refuses.
pub(crate) fn set_aside(run: &Path, file: &Path, why: &str) -> Result<PathBuf> {
    let directory = run.join(BAD);
    if !directory.exists() {
        std::fs::create_dir(&directory).tried("create", &directory)?;
        sync_parent(&directory)?;
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let mut to = Path::new(BAD).join(&*name);
    let mut copies = 1;
    while run.join(&to).exists() {
        copies += 1;
        to = Path::new(BAD).join(format!("{name}.{copies}"));
    }
    // The reason first: after a crash a line too many does no harm, a file without one would.
    let reasons = directory.join(REASONS);
    let line = format!("{} was {}: {why}\n", to.display(), file.display());
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&reasons)
        .and_then(|mut f| f.write_all(line.as_bytes()).and_then(|()| f.sync_all()))
        .tried("write", &reasons)?;
    let (from, into) = (run.join(file), run.join(&to));
    std::fs::rename(&from, &into).tried("move", &from)?;
    sync_parent(&into)?;
    sync_parent(&from)?;
    Ok(to)
}
