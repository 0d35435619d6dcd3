//! The names beside a run under which what is to replace it lies, and what was replaced.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::run::directory::MANIFEST;
use crate::run::directory::publish::parent;

/// A draft; where directories can be exchanged, also what it replaced.
pub(crate) const DRAFT: &str = "lpa-packing";
/// What is replaced, where directories cannot be exchanged.
pub(crate) const REPLACED: &str = "lpa-unpacked";

/// The name beside `target` for a purpose: hidden, so that `runs/*` does not find it.
pub(crate) fn beside(target: &Path, purpose: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".{purpose}"));
    parent(target).join(name)
}

/// Whether a run lacks its name because a crash came between the two renamings of a replacement.
pub(crate) fn was_interrupted(path: &Path) -> bool {
    !path.exists() && beside(path, REPLACED).join(MANIFEST).exists()
}
