//! Vectors that wait in a file without a name: too many to be held.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Result, Tried};

/// A file without a name. Any thread may write and read any place of it.
pub(crate) struct VectorFile {
    file: File,
    directory: PathBuf,
}

impl VectorFile {
    /// Empty, in `directory`.
    ///
    /// # Errors
    /// That cannot be written.
    pub(crate) fn new(directory: &Path) -> Result<VectorFile> {
        let file = tempfile::tempfile_in(directory).tried("write intermediate results to", directory)?;
        Ok(VectorFile { file, directory: directory.to_owned() })
    }

    /// Puts vectors one after the other, from an element of the file on. `bytes` is working memory.
    ///
    /// # Errors
    /// The disk is full.
    pub(crate) fn put<'v>(
        &self,
        at: u64,
        vectors: impl Iterator<Item = &'v [f32]>,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        bytes.clear();
        vectors.for_each(|v| bytes.extend(v.iter().flat_map(|v| v.to_le_bytes())));
        let written = self.file.write_all_at(bytes, at * size_of::<f32>() as u64);
        written.tried("write intermediate results to", &self.directory)
    }

    /// Reads vectors back that were put there.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn read<'v>(
        &self,
        at: u64,
        vectors: impl Iterator<Item = &'v mut [f32]>,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        let mut at = at * size_of::<f32>() as u64;
        for vector in vectors {
            bytes.resize(size_of_val(vector), 0);
            self.file.read_exact_at(bytes, at).tried("read intermediate results from", &self.directory)?;
            at += bytes.len() as u64;
            let numbers = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
            vector.iter_mut().zip(numbers).for_each(|(v, number)| *v = number);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_come_back_from_their_places() {
        let directory = tempfile::tempdir().unwrap();
        let file = VectorFile::new(directory.path()).unwrap();
        let (a, b, mut bytes) = ([1.5f32, -0.0], [f32::MIN_POSITIVE, f32::INFINITY, 3.0], Vec::new());
        file.put(7, [&b[..], &a].into_iter(), &mut bytes).unwrap();
        file.put(0, [&a[..]].into_iter(), &mut bytes).unwrap();
        let (mut x, mut y) = ([0.0; 3], [0.0; 2]);
        file.read(7, [&mut x[..], &mut y].into_iter(), &mut bytes).unwrap();
        assert_eq!((x.map(f32::to_bits), y.map(f32::to_bits)), (b.map(f32::to_bits), a.map(f32::to_bits)));
        assert!(file.read(11, [&mut x[..]].into_iter(), &mut bytes).is_err(), "beyond its end");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
