//! What of a folder a loss of power leaves: what was flushed before, and as little as may be of the rest.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{
    create_dir_all, metadata, read, read_dir, remove_dir_all, remove_file, symlink_metadata, write,
};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What becomes of what was not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Names and data are as they were flushed last.
    All,
    /// Names are there, and of the data what was flushed last.
    Data,
    /// Names and lengths are there, with zeros for the data.
    Zeros,
}

/// A file or a folder, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    inode: u64,
    is_folder: bool,
}

/// What was flushed of a folder and all below it.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    files: HashMap<u64, Vec<u8>>,
    folders: HashMap<u64, BTreeMap<OsString, Entry>>,
}

fn entries(folder: &Path) -> BTreeMap<OsString, Entry> {
    let entry = |e: std::fs::DirEntry| {
        let meta = symlink_metadata(e.path()).ok()?;
        Some((e.file_name(), Entry { inode: meta.ino(), is_folder: meta.is_dir() }))
    };
    read_dir(folder).into_iter().flatten().flatten().filter_map(entry).collect()
}

impl Disk {
    /// All that is there was flushed.
    pub fn of(root: &Path) -> Disk {
        let mut disk = Disk { root: root.to_owned(), files: HashMap::new(), folders: HashMap::new() };
        let mut rest = vec![root.to_owned()];
        while let Some(path) = rest.pop() {
            disk.flush(&path);
            rest.extend(read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
        }
        disk
    }

    /// A file's data, or a folder's names, were flushed.
    pub fn flush(&mut self, path: &Path) {
        let Ok(meta) = metadata(path) else { return };
        if meta.is_dir() {
            self.folders.insert(meta.ino(), entries(path));
        } else {
            self.files.insert(meta.ino(), read(path).unwrap_or_default());
        }
    }

    /// A file or folder is new, whatever had its number before.
    pub fn make(&mut self, path: &Path) {
        if let Ok(meta) = metadata(path) {
            self.files.remove(&meta.ino());
            self.folders.remove(&meta.ino());
        }
    }

    /// The power is lost.
    pub fn lose(&self, how: Lost) {
        if how == Lost::All {
            let root = metadata(&self.root).unwrap().ino();
            let mut left = BTreeMap::new();
            self.collect(root, Path::new(""), &mut left);
            for name in entries(&self.root).into_keys() {
                let path = self.root.join(name);
                drop(if path.is_dir() { remove_dir_all(&path) } else { remove_file(&path) });
            }
            for (path, data) in left {
                match data {
                    Some(data) => write(self.root.join(path), data).unwrap(),
                    None => create_dir_all(self.root.join(path)).unwrap(),
                }
            }
            return;
        }
        let mut rest = vec![self.root.clone()];
        while let Some(folder) = rest.pop() {
            for (name, Entry { inode, is_folder }) in entries(&folder) {
                let path = folder.join(name);
                if is_folder {
                    rest.push(path);
                    continue;
                }
                let len = metadata(&path).map_or(0, |m| m.len()) as usize;
                let mut data = self.files.get(&inode).cloned().unwrap_or_default();
                if how == Lost::Zeros {
                    data.resize(len, 0);
                }
                write(&path, data).unwrap();
            }
        }
    }

    /// What is left below a folder, in order: files with their data, and folders.
    fn collect(&self, folder: u64, at: &Path, left: &mut BTreeMap<PathBuf, Option<Vec<u8>>>) {
        for (name, entry) in self.folders.get(&folder).into_iter().flatten() {
            let path = at.join(name);
            if entry.is_folder {
                left.insert(path.clone(), None);
                self.collect(entry.inode, &path, left);
            } else {
                left.insert(path, Some(self.files.get(&entry.inode).cloned().unwrap_or_default()));
            }
        }
    }
}

#[test]
fn what_was_not_flushed_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write(at("old"), b"old").unwrap();
    let mut disk = Disk::of(folder.path());
    write(at("old"), b"longer").unwrap();
    write(at("new"), b"new").unwrap();
    disk.make(&at("new"));
    let text = |name: &str| read(at(name)).ok();
    disk.lose(Lost::Zeros);
    assert_eq!((text("old"), text("new")), (Some(b"old\0\0\0".to_vec()), Some(b"\0\0\0".to_vec())));
    disk.lose(Lost::Data);
    assert_eq!((text("old"), text("new")), (Some(b"old".to_vec()), Some(Vec::new())));
    write(at("new"), b"new").unwrap();
    disk.flush(&at("new"));
    disk.lose(Lost::Data);
    assert_eq!(text("new"), Some(b"new".to_vec()), "its data was flushed");
    disk.lose(Lost::All);
    assert_eq!((text("old"), text("new")), (Some(b"old".to_vec()), None), "its name was not");
}
