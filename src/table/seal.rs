//! A table's hash of itself: whether it is as it was written, bit for bit.
//!
//! The last of lpa's metadata, of a fixed length: the hash of all bytes of the file, with zeros in its own place. So it
//! finds damage and what other programs change; it is no defence against who wants to deceive. Knows Parquet so far as
//! to find the footer, and the footer so far as to find this key.

use std::fs::File;
use std::io::{Error, Result};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::hash::Xxh3;

/// The key of the metadata.
pub(crate) const KEY: &str = "lpa.seal";
/// What stands there until the hash is known: as many digits.
pub(super) const BLANK: &str = "0000000000000000";
/// How the footer writes what comes after a key: the second field of two, a text of 16 bytes.
const THEN: [u8; 2] = [0x18, 16];
/// The end of a Parquet file: the length of its footer, and its mark.
const END: u64 = 8;
/// What is looked at of a file that has no readable footer.
const LAST: u64 = 1 << 20;
/// Bytes that are read at a time.
const PIECE: usize = 1 << 18;

/// What a table's hash of itself says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// It is as lpa wrote it.
    Whole,
    /// It is not.
    Broken,
    /// There is none: it was written by another program, or by lpa before there were seals.
    Absent,
}

/// Puts the hash into a file that has been written with [`BLANK`] in its place.
///
/// # Errors
/// It is not there, or the disk refuses.
pub(super) fn put(file: &File) -> Result<()> {
    let at = find(file)?.ok_or_else(|| Error::other("the footer has no place for a hash"))?;
    let hash = hash(file, at)?;
    file.write_all_at(format!("{hash:016x}").as_bytes(), at)
}

/// Looks at all bytes of a table.
///
/// # Errors
/// It cannot be read.
pub fn look(file: &File) -> Result<Seal> {
    let Some(at) = find(file)? else { return Ok(Seal::Absent) };
    let mut found = [0; BLANK.len()];
    file.read_exact_at(&mut found, at)?;
    let is_whole = found == format!("{:016x}", hash(file, at)?).as_bytes();
    Ok(if is_whole { Seal::Whole } else { Seal::Broken })
}

/// The footer of a Parquet file, and where it begins; nothing where there is none.
fn footer(file: &File) -> Result<(u64, Vec<u8>)> {
    let size = file.metadata()?.len();
    let Some(at) = size.checked_sub(END) else { return Ok((0, Vec::new())) };
    let mut len = [0; 4];
    file.read_exact_at(&mut len, at)?;
    let Some(begin) = at.checked_sub(u64::from(u32::from_le_bytes(len))) else { return Ok((0, Vec::new())) };
    Ok((begin, bytes(file, begin..at)?))
}

/// The last bytes of a file, of which a footer is usually a part.
///
/// # Errors
/// It cannot be read.
pub(super) fn end(file: &File) -> Result<Vec<u8>> {
    let size = file.metadata()?.len();
    bytes(file, size.saturating_sub(LAST)..size)
}

fn bytes(file: &File, range: Range<u64>) -> Result<Vec<u8>> {
    let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len)?;
    bytes.resize(len, 0);
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

/// Where the hash lies in the file.
fn find(file: &File) -> Result<Option<u64>> {
    let (begin, footer) = footer(file)?;
    let pattern = [KEY.as_bytes(), &THEN].concat();
    // Names and metadata of others may hold anything; lpa's own key comes after all of them.
    let last = footer.windows(pattern.len()).rposition(|w| w == pattern);
    let at = last.map(|at| at + pattern.len()).filter(|at| at + BLANK.len() <= footer.len());
    Ok(at.map(|at| begin + at as u64))
}

/// The hash of a file, with zeros where `at` says.
fn hash(file: &File, at: u64) -> Result<u64> {
    let size = file.metadata()?.len();
    let all = usize::try_from(size).unwrap_or(PIECE);
    let (mut hash, mut piece, mut from) = (Xxh3::default(), vec![0; all.min(PIECE)], 0);
    while from < size {
        let len = (size - from).min(PIECE as u64);
        let bytes = &mut piece[..usize::try_from(len).unwrap_or(PIECE)];
        file.read_exact_at(bytes, from)?;
        for (place, zero) in (at..).zip(BLANK.bytes()) {
            if let Some(byte) = place.checked_sub(from).and_then(|i| bytes.get_mut(usize::try_from(i).ok()?))
            {
                *byte = zero;
            }
        }
        hash.update(bytes);
        from += len;
    }
    Ok(hash.digest())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A file that ends as a table does, whose footer says these things.
    fn table(footer: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        let len = u32::try_from(footer.len()).unwrap().to_le_bytes();
        file.write_all(&[b"PAR1, and columns", footer, &len, b"PAR1"].concat()).unwrap();
        file
    }

    fn sealed() -> Vec<u8> {
        [b"other".as_slice(), KEY.as_bytes(), &THEN, BLANK.as_bytes(), b"rest"].concat()
    }

    #[test]
    fn a_table_is_whole_until_any_byte_differs() {
        let file = table(&sealed());
        assert_eq!(look(&file).unwrap(), Seal::Broken, "before it is sealed");
        put(&file).unwrap();
        assert_eq!(look(&file).unwrap(), Seal::Whole);
        let size = file.metadata().unwrap().len();
        for at in 0..size {
            for bit in 0..8 {
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
                assert_ne!(look(&file).unwrap(), Seal::Whole, "bit {bit} of byte {at}");
                file.write_all_at(&byte, at).unwrap();
            }
        }
        assert_eq!(look(&file).unwrap(), Seal::Whole);
    }

    #[test]
    fn what_looks_like_a_seal_in_other_metadata_is_none() {
        let file = table(&[sealed(), sealed()].concat());
        put(&file).unwrap();
        assert_eq!(look(&file).unwrap(), Seal::Whole);
    }

    #[test]
    fn what_has_no_seal_is_told() {
        for footer in [b"".as_slice(), b"lpa.sea", &[KEY.as_bytes(), &THEN, b"0"].concat()] {
            assert_eq!(look(&table(footer)).unwrap(), Seal::Absent);
            assert!(put(&table(footer)).is_err());
        }
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(look(&file).unwrap(), Seal::Absent);
        file.write_all(b"short").unwrap();
        assert_eq!(look(&file).unwrap(), Seal::Absent);
        file.write_all(&[0xff; 32]).unwrap();
        assert_eq!(look(&file).unwrap(), Seal::Absent, "a footer longer than the file");
    }
}
