//! Why a disk is full that seems to have room.

use std::io::{Error, ErrorKind};
use std::path::Path;

use rustix::fs::statvfs;

/// Free bytes from which on a disk seems to have room.
const ROOM: u64 = 64 << 20;

/// Free inodes below which a disk is full: what failed may have given some back.
const FEW: u64 = 16;

/// An error of writing to `path`, with what `df` does not show where that is the reason.
pub(crate) fn explained(path: &Path, error: Error) -> Error {
    if error.kind() != ErrorKind::StorageFull {
        return error;
    }
    let place = |p: &Path| statvfs(if p.as_os_str().is_empty() { Path::new(".") } else { p }).ok();
    let Some(of) = path.ancestors().find_map(place) else { return error };
    let free = of.f_bavail.saturating_mul(of.f_frsize);
    // File systems that make inodes as they need them have none to count.
    let why = match () {
        () if of.f_files > 0 && of.f_favail < FEW => {
            let (taken, all) = (of.f_files - of.f_favail, of.f_files);
            format!("{taken} of {all} inodes are taken (df -i): there are too many files")
        }
        () if free >= ROOM => {
            format!("though {} MB are free: by a quota, or a limit of the directory's", free / 1_000_000)
        }
        () => return error,
    };
    Error::new(error.kind(), format!("{error}, {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_that_has_room_is_explained() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("not/yet/there");
        let full = || Error::from(rustix::io::Errno::NOSPC);
        let of = statvfs(folder.path()).unwrap();
        let said = explained(&path, full());
        assert_eq!(said.kind(), ErrorKind::StorageFull);
        assert!(said.to_string().starts_with(&full().to_string()));
        let has_room = (of.f_files == 0 || of.f_favail >= FEW) && of.f_bavail * of.f_frsize >= ROOM;
        assert_eq!(said.to_string().contains("are free: by a quota"), has_room);
        let other = Error::from(rustix::io::Errno::IO);
        assert_eq!(explained(&path, other).to_string(), Error::from(rustix::io::Errno::IO).to_string());
    }
}
