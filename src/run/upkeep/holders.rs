//! Who holds a journal: the processes of this machine that have it open for writing.
//!
//! A process that is forked from a training (PyTorch's data loaders) goes on holding its locks when the training is
//! killed. Owns finding it; nothing depends on whether it is found.

use std::fs::{DirEntry, File, Metadata, read_dir, read_to_string};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A sentence that names the other processes of this machine that have one of the files open for writing; empty where
/// none can be seen.
pub(crate) fn holders(files: &[&File]) -> String {
    let files: Vec<Metadata> = files.iter().filter_map(|f| f.metadata().ok()).collect();
    let Ok(processes) = read_dir("/proc") else { return String::new() };
    let mut found: Vec<(u32, String)> = processes
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry)))
        .filter(|(id, entry)| *id != std::process::id() && descriptors(&entry.path(), &files) > 0)
        .map(|(id, entry)| (id, read_to_string(entry.path().join("comm")).unwrap_or_default()))
        .collect();
    if found.is_empty() {
        return String::new();
    }
    found.sort_unstable();
    let named: Vec<String> = found.iter().map(|(id, name)| format!("{id} ({})", name.trim_end())).collect();
    format!(" It is process {}; end it if a training that was killed has left it behind.", named.join(", "))
}

/// Whether this process has a file open for writing by another descriptor too.
pub(crate) fn is_open_besides(file: &File) -> bool {
    file.metadata().is_ok_and(|file| descriptors(Path::new("/proc/self"), &[file]) > 1)
}

/// How many descriptors a process has by which one of the files is open for writing.
fn descriptors(process: &Path, files: &[Metadata]) -> usize {
    let Ok(open) = read_dir(process.join("fd")) else { return 0 };
    let is = |entry: &DirEntry| {
        let same = |m: Metadata| files.iter().any(|f| (m.dev(), m.ino()) == (f.dev(), f.ino()));
        std::fs::metadata(entry.path()).is_ok_and(same)
            && is_for_writing(&process.join("fdinfo").join(entry.file_name()))
    };
    open.flatten().filter(is).count()
}

/// Whether a file was opened for writing, as the two lowest bits of its flags, in octal, say.
fn is_for_writing(info: &Path) -> bool {
    let text = read_to_string(info).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|f| u32::from_str_radix(f.trim(), 8).ok()).is_some_and(|f| f & 3 != 0)
}
