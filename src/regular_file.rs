//! Files as they are opened for reading: regular ones.
//!
//! Owns the rule that what stands in the place of a file is looked at before it is read: a pipe would be waited for, and
//! a device read, for ever. Knows nothing of what files hold.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a file for reading.
///
/// # Errors
/// There is none, it is something else, or the system refuses.
pub(crate) fn open(path: &Path) -> Result<File> {
    open_as(path, OpenOptions::new().read(true))
}

/// Opens a file as `how` says.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_as(path: &Path, how: &mut OpenOptions) -> Result<File> {
    // Opening a pipe waits for its other end, unless it is told not to; for files that means nothing.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let opened = how.custom_flags(flags).open(path);
    // A pipe that nobody reads, or a socket, cannot be opened at all, which would be said in other words.
    let kind = match &opened {
        Ok(file) => file.metadata(),
        Err(_) => std::fs::metadata(path),
    };
    let other = kind.ok().map(|m| m.file_type()).filter(|t| !t.is_file()).map(|t| match () {
        () if t.is_fifo() => "a pipe",
        () if t.is_socket() => "a socket",
        () if t.is_dir() => "a directory",
        () => "a device",
    });
    match other {
        Some(other) => {
            Err(Error::new(ErrorKind::InvalidInput, format!("it is {other}, where a file is expected")))
        }
        None => opened,
    }
}

/// Reads a file.
///
/// # Errors
/// As [`open`].
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let mut file = open(path)?;
    let len = file.metadata()?.len();
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(usize::try_from(len).unwrap_or(usize::MAX))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), b"text").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("device")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
            .unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert_eq!(read(&at("file")).unwrap(), b"text");
        assert_eq!(read(&at("link")).unwrap(), b"text");
        assert_eq!(read(&at("none")).unwrap_err().kind(), ErrorKind::NotFound);
        for (name, kind) in
            [("device", "a device"), ("pipe", "a pipe"), ("socket", "a socket"), (".", "a directory")]
        {
            let error = read(&at(name)).unwrap_err();
            assert_eq!(error.to_string(), format!("it is {kind}, where a file is expected"));
        }
        let writing = open_as(&at("pipe"), OpenOptions::new().write(true));
        assert!(writing.unwrap_err().to_string().contains("a pipe"));
    }
}
