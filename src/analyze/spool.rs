//! Rows of numbers of one length that are written once and read again: in memory while they are
//! few, then in a file without a name.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::{SpooledTempFile, spooled_tempfile_in};

use crate::error::{Result, Tried};

/// Bytes that are kept in memory.
const IN_MEMORY: usize = 1 << 20;

/// Records of `words` numbers of 64 bits.
#[derive(Debug)]
pub(crate) struct Spool {
    file: SpooledTempFile,
    directory: PathBuf,
    words: usize,
    bytes: Vec<u8>,
}

impl Spool {
    /// Empty; a file, if one is needed, goes to `directory`.
    pub(crate) fn new(words: usize, directory: &Path) -> Spool {
        let file = spooled_tempfile_in(IN_MEMORY, directory);
        Spool { file, directory: directory.to_owned(), words, bytes: Vec::new() }
    }

    /// Appends a record. All are written before the first is read.
    ///
    /// # Errors
    /// The disk is full.
    pub(crate) fn push(&mut self, record: &[u64]) -> Result<()> {
        debug_assert_eq!(record.len(), self.words);
        self.bytes.clear();
        self.bytes.extend(record.iter().flat_map(|w| w.to_le_bytes()));
        self.file.write_all(&self.bytes).tried("write intermediate sums to", &self.directory)
    }

    /// Reads a record into `out`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn read(&mut self, index: usize, out: &mut Vec<u64>) -> Result<()> {
        self.bytes.resize(self.words * 8, 0);
        let offset = index as u64 * self.words as u64 * 8;
        let read =
            self.file.seek(SeekFrom::Start(offset)).and_then(|_| self.file.read_exact(&mut self.bytes));
        read.tried("read intermediate sums from", &self.directory)?;
        out.clear();
        out.extend(self.bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_in_any_order_from_memory_and_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        for records in [3, 2000] {
            let mut spool = Spool::new(500, dir.path());
            for i in 0..records {
                spool.push(&[i; 500]).unwrap();
            }
            let mut out = Vec::new();
            for i in [records - 1, 0, 1] {
                spool.read(usize::try_from(i).unwrap(), &mut out).unwrap();
                assert_eq!(out, [i; 500]);
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left under a name");
    }
}
