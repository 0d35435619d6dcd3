//! References that are kept and that no question finds any more: the same one is another, since the path has grown.
//!
//! Owns which files these are; knows nothing of how references are made.

use std::fs::DirEntry;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::regular_file;
use crate::run::Run;
use crate::run::format::container::Header;
use crate::uninterrupted::list;

/// Another analysis may have made a file and be about to open it; none takes so long between.
const OPENED_WITHIN: Duration = Duration::from_secs(3600);

/// Removes what the file `kept`, just made, has superseded: files of this run and reference beside it. What cannot be
/// removed, or may be in use, stays for the next time.
pub(super) fn remove_superseded(run: &Run, kept: &Path) {
    let Some((folder, name)) = kept.parent().zip(reference(kept)) else { return };
    for path in list(folder).unwrap_or_default().iter().map(DirEntry::path) {
        if path != kept && reference(&path) == Some(name) && is_of(run, &path).unwrap_or(false) {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// The name of the reference in the name of a file: `last` of `last-0123456789abcdef.safetensors`, or of that of its
/// widths.
fn reference(path: &Path) -> Option<&str> {
    let (name, rest) = path.file_name()?.to_str()?.rsplit_once('-')?;
    let (key, end) = rest.split_once('.')?;
    let is_key = key.len() == 16 && key.bytes().all(|b| b.is_ascii_hexdigit());
    (is_key && ["safetensors", "widths.safetensors"].contains(&end)).then_some(name)
}

/// Whether a file was made of this run, and some time ago.
fn is_of(run: &Run, path: &Path) -> std::io::Result<bool> {
    let file = regular_file::open(path)?;
    let age = SystemTime::now().duration_since(file.metadata()?.modified()?).unwrap_or_default();
    let header = Header::read(&file, path).map_err(std::io::Error::other)?;
    Ok(age > OPENED_WITHIN && header.value("run_id") == Some(run.manifest.run_id.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_of_which_reference_it_is() {
        let of = |name: &str| reference(Path::new(name)).map(str::to_owned);
        assert_eq!(of("a/mean-0..5-0123456789abcdef.safetensors").as_deref(), Some("mean-0..5"));
        assert_eq!(of("last-0123456789abcdef.widths.safetensors").as_deref(), Some("last"));
        for other in
            ["last.safetensors", "my-model.safetensors", "x-0123456789abcdef.pt", "final-0123.safetensors"]
        {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
